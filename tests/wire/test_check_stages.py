"""Every stage of a check on the wire: when it is asked, what its refusal does, and that its states are closed once."""

from __future__ import annotations

import base64
from typing import Any

from mailgate.config.diagnostics import render
from mailgate.message.envelope import Session
from mailgate.net.waiting import begin
from mailgate.pipeline.explain import Explanation, Question, explain, read_address
from mailgate.pipeline.lookup import WITHOUT_IO, Lookups
from mailgate.registry import build
from mailgate.testing.client import RawClient, connect
from mailgate.testing.tls import TrustingClient
from tests.support.checks import install
from tests.support.scenario import SMTP, SimulatedCase, codes

IMPLICIT = "tls://127.0.0.1:465"
ANN = base64.b64encode(b"\0ann\0s3cret")


class StageTests(SimulatedCase):
    def setUp(self) -> None:
        super().setUp()
        self.notes = install(self)

    def checked(self, *lines: str, check: str = "scripted", listener: str = "") -> Any:
        """A gateway with one check of these lines."""
        block = "".join(f"            {line}\n" for line in lines)
        return self.gateway(
            "auth.static users {\n    entry ann s3cret\n}\n"
            f"smtp {SMTP} {IMPLICIT} {{\n    tls self_signed\n    auth &users\n    insecure_auth yes\n    reverse_lookup no\n"
            f"{listener}"
            f"    check {{\n        {check} {{\n{block}        }}\n    }}\n    discard\n}}\n"
        )

    def open(self, endpoint: str = SMTP, source: str = "192.0.2.1") -> tuple[RawClient, bytes]:
        tls = TrustingClient() if endpoint.startswith("tls") else None
        client = self.reactor.run(connect(self.reactor, endpoint, source=source, tls=tls))
        return client, self.reactor.run(client.reply())

    def stages(self) -> list[str]:
        return [stage for stage, _ in self.notes]

    def test_all_of_them_in_their_order(self) -> None:
        self.checked()
        client = self.client()
        self.reactor.run(client.secure(TrustingClient()))
        self.say(client, b"EHLO client.test", b"AUTH PLAIN " + ANN)
        self.assertEqual(codes(self.deliver(client, b"b@y.test", b"c@y.test"))[-1], b"250")
        self.reactor.run(client.quit())
        self.reactor.settle(1)
        expected = [
            ("open", "127.0.0.1"),
            ("connection", "127.0.0.1"),
            ("tls", "TLS1.3"),
            ("auth", "ann"),
            ("sender", "sender@client.test"),
            ("rcpt", "b@y.test"),
            ("rcpt", "c@y.test"),
            ("body", "session"),
            ("close", "message"),
            ("close", "127.0.0.1"),
        ]
        self.assertEqual(self.notes, expected)

    def test_connection(self) -> None:
        self.checked('on connection 554 5.7.1 "not you"')
        client, greeting = self.open()
        self.assertEqual(greeting, b"554 5.7.1 not you")
        self.reactor.run(client.wait_closed())
        self.reactor.settle(1)
        self.assertEqual(self.stages(), ["open", "connection", "close"])

    def test_connection_that_breaks(self) -> None:
        self.expect_clean_log = False
        running = self.checked("break connection")
        self.assertRegex(self.open()[1], rb"^421 4\.3\.0 Internal error, incident [0-9a-f]+")
        self.assertIn("connection broke", running.log_text)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_tls_from_the_first_byte(self) -> None:
        self.checked('on tls 554 5.7.1 "no such TLS"')
        self.assertEqual(self.open(IMPLICIT)[1], b"554 5.7.1 no such TLS")

    def test_tls_by_starttls_answers_each_mail(self) -> None:
        self.checked('on tls 550 5.7.1 "no such TLS"')
        client = self.client()
        self.reactor.run(client.secure(TrustingClient()))
        self.assertEqual(self.ask(client, b"EHLO client.test")[:3], b"250")
        for _ in range(2):
            self.assertEqual(self.ask(client, b"MAIL FROM:<a@x.test>"), b"550 5.7.1 no such TLS")
        self.assertEqual(self.ask(client, b"NOOP")[:3], b"250")

    def test_tls_by_starttls_closes_with_421(self) -> None:
        self.checked('on tls 421 4.7.1 "not with that"')
        client = self.client()
        self.reactor.run(client.secure(TrustingClient()))
        self.assertEqual(self.reactor.run(client.reply()), b"421 4.7.1 not with that")
        self.reactor.run(client.wait_closed())

    def test_auth(self) -> None:
        self.checked('on auth 535 5.7.8 "not from there"', listener="    auth_required yes\n")
        client = self.client()
        self.assertEqual(self.ask(client, b"AUTH PLAIN " + ANN), b"535 5.7.8 not from there")
        self.assertEqual(self.ask(client, b"MAIL FROM:<a@x.test>")[:3], b"530")
        self.assertEqual(self.stages().count("auth"), 1)

    def test_sender_rcpt_and_body(self) -> None:
        table = [
            ("sender", [b"250", b"550", b"503"]),
            ("rcpt", [b"250", b"550", b"503"]),
            ("body", [b"250", b"250", b"354", b"550"]),
        ]
        for stage, expected in table:
            with self.row(stage):
                self.checked(f'on {stage} 550 5.7.1 "no"')
                self.notes.clear()
                self.assertEqual(codes(self.deliver(self.client(), b"b@y.test")), expected)
                self.assertIn(stage, self.stages())

    def test_whatever_breaks_is_451(self) -> None:
        self.expect_clean_log = False
        for stage in ("sender", "rcpt", "body"):
            with self.row(stage):
                self.checked(f"break {stage}")
                self.assertIn(b"451", codes(self.deliver(self.client(), b"b@y.test")))
                self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_xclient_makes_another_clients_states(self) -> None:
        self.checked(listener="    xclient {\n        trust 127.0.0.0/8\n    }\n")
        client = self.client()
        self.assertEqual(self.ask(client, b"XCLIENT ADDR=203.0.113.5 LOGIN=bob")[:3], b"220")
        self.reactor.run(client.quit())
        self.reactor.settle(1)
        expected = [("open", "127.0.0.1"), ("connection", "127.0.0.1"), ("close", "127.0.0.1")]
        second = [("open", "203.0.113.5"), ("connection", "203.0.113.5"), ("auth", "bob"), ("close", "203.0.113.5")]
        self.assertEqual([stage for stage, _ in self.notes], [stage for stage, _ in expected + second])
        self.assertEqual(self.notes[3:], second)

    def test_a_client_that_vanishes(self) -> None:
        self.checked()
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>")
        client.drop(reset=True)
        self.reactor.settle(1)
        self.assertEqual(self.stages()[-2:], ["close", "close"])
        self.assertEqual(self.stages().count("close"), 2)

    def test_only_messages_in_a_nested_block(self) -> None:
        block = "    reroute {\n        check {\n            scripted\n        }\n        discard\n    }\n"
        self.gateway(f"smtp {SMTP} {{\n    tls off\n{block}}}\n")
        self.assertEqual(codes(self.deliver(self.client(), b"b@y.test"))[-1], b"250")
        self.assertEqual([*self.stages(), self.notes[2]], ["sender", "rcpt", "body", "close", ("body", "no session")])


class LoadTests(SimulatedCase):
    def codes_of(self, check: str) -> list[str]:
        install(self)
        text = (
            f"smtp {SMTP} {{\n    tls off\n    reroute {{\n        check {{\n            {check}\n        }}\n"
            "        reject\n    }\n}\n"
        )
        found = build(text, environment={}).diagnostics
        self.assertTrue(all(diagnostic.span for diagnostic in found), render(found))
        return [diagnostic.code for diagnostic in found if diagnostic.code.endswith("0809")]

    def test_a_check_that_judges_nothing_there_is_an_error(self) -> None:
        self.assertEqual(self.codes_of("scripted_session"), ["E0809"])

    def test_a_check_that_judges_less_there_is_a_warning(self) -> None:
        self.assertEqual(self.codes_of("scripted"), ["W0809"])

    def test_a_filter_that_is_told_to_come_with_the_message_is_right_there(self) -> None:
        place = "milter tcp://127.0.0.1:8891"
        for lines, expected in (
            ("", ["W0809"]),
            ("at_connection yes", ["W0809"]),
            ("at_connection no", []),
            ("on_fail quarantine", []),
        ):
            self.assertEqual(self.codes_of(f"{place} {{\n{lines}\n}}"), expected, lines)


class DryTests(SimulatedCase):
    def explain(self, *lines: str, listener: str = "", **fields: Any) -> Explanation:
        notes = install(self)
        block = "".join(f"            {line}\n" for line in lines)
        text = (
            f"smtp {SMTP} {{\n    tls off\n{listener}    check {{\n        scripted {{\n{block}        }}\n    }}\n"
            "    default_destination {\n        discard\n    }\n}\n"
        )
        configuration = build(text, environment={}).configuration
        assert configuration is not None
        question = Question(read_address("a@x.test"), (read_address("b@y.test"),), **fields)
        with Lookups([], WITHOUT_IO) as lookups:
            found = begin(explain(configuration.listeners[0], question, lookups))
        assert isinstance(found, Explanation)
        self.notes = notes
        return found

    def test_what_is_refused_before_the_greeting_is_the_answer(self) -> None:
        found = self.explain('on connection 554 5.7.1 "not you"')
        self.assertEqual((str(found.sender.reply), found.sender.where), ("554 5.7.1 not you", "<text>:4"))
        self.assertEqual(found.recipients, [])
        self.assertIn("connection: 554 5.7.1 not you", [node.reason for node in found.sender.tree.walk()])
        self.assertEqual([stage for stage, _ in self.notes], ["open", "connection", "close"])

    def test_the_stages_that_the_question_leads_to(self) -> None:
        self.explain(tls=True, auth_user="ann")
        stages = [stage for stage, _ in self.notes]
        self.assertEqual(stages[:5], ["open", "connection", "tls", "auth", "sender"])
        self.assertEqual(stages.count("close"), 2)

    def test_refused_clients(self) -> None:
        refuse = '    refuse_clients 198.51.100.0/24\n    refuse_clients 203.0.113.9 421 4.7.1 "later"\n'
        self.assertEqual(str(self.explain(listener=refuse, ip="203.0.113.9").sender.reply), "421 4.7.1 later")
        self.assertEqual(self.explain(listener=refuse, ip="203.0.113.9").sender.where, "<text>:4")
        self.assertTrue(self.explain(listener=refuse, ip="203.0.113.8").sender.reply.is_success)
        self.assertIsInstance(self.explain(listener=refuse).session, Session)
