"""`after_body`: recipients hear 250 at RCPT, and what the content decides is what happens to it.

Everything here goes over the simulated network, with the whole gateway in between.
"""

from __future__ import annotations

from mailgate.testing.gateway import WholeGateway
from mailgate.testing.nexthop import NextHop, Step, say
from tests.support.ledger import message
from tests.support.scenario import LMTP, SMTP, SimulatedCase, codes, statuses

SMALL = message("small")
LARGE = SMALL.replace(b"\r\n\r\n", b"\r\n\r\n" + b"a line\r\n" * 400, 1)
SPAM = b"X-Spam: yes\r\n" + SMALL


class AfterBodyCase(SimulatedCase):
    def listening(
        self, hops: dict[str, NextHop], rules: str, *, listener: str = SMTP, more: str = "", head: str = ""
    ) -> WholeGateway:
        """Targets by name, a queue `name_queue` in front of each, one listener whose `after_body` holds the rules."""
        targets = "".join(
            f"target.{'lmtp' if hop.lmtp else 'smtp'} {name} {{\n    targets {hop.endpoint}\n}}\n"
            f"target.queue {name}_queue {{\n    target &{name}\n    bounce {{\n        discard\n    }}\n}}\n"
            for name, hop in hops.items()
        )
        kind = "lmtp" if listener == LMTP else "smtp"
        return self.gateway(f"{targets}{head}{kind} {listener} {{\n    tls off\n{more}    after_body {{\n{rules}    }}\n}}\n")

    def sent(self, content: bytes, *recipients: bytes, listener: str = SMTP) -> list[bytes]:
        client = self.client(listener)
        replies = self.deliver(client, *(recipients or (b"b@y.test",)), content=content)
        self.reactor.run(client.quit())
        self.reactor.settle(5)
        return replies


class QueueTests(AfterBodyCase):
    def test_by_size_and_header(self) -> None:
        hops = {"fast": self.hop(), "slow": self.hop()}
        self.listening(
            hops,
            '        when header("X-Spam") == "yes" {\n            discard\n        }\n'
            "        when size > 2000 {\n            deliver_to &slow_queue\n        }\n"
            "        deliver_to &fast_queue\n",
        )
        for content, expected in ((SMALL, (1, 0)), (LARGE, (1, 1)), (SPAM, (1, 1)), (SMALL, (2, 1))):
            self.assertEqual(codes(self.sent(content)), [b"250", b"250", b"354", b"250"])
            self.assertEqual(tuple(len(hop.transactions) for hop in hops.values()), expected)

    def test_a_refusal_is_the_answer_to_the_dot(self) -> None:
        hop = self.hop()
        self.listening(
            {"next": hop}, "        when size > 2000 {\n            reject 552 5.3.4\n        }\n        deliver_to &next_queue\n"
        )
        replies = self.sent(LARGE, b"b@y.test", b"c@y.test")
        self.assertEqual(statuses(replies)[-1], b"552 5.3.4")
        self.assertEqual(hop.transactions, [])
        self.assertEqual(codes(self.sent(SMALL))[-1], b"250")
        self.assertEqual(len(hop.transactions), 1)

    def test_recipients_by_rules_of_their_own(self) -> None:
        hops = {"one": self.hop(), "two": self.hop()}
        self.listening(
            hops,
            "        destination one.test {\n            when size > 2000 {\n                discard\n            }\n"
            "            deliver_to &one_queue\n        }\n"
            "        default_destination {\n            deliver_to &two_queue\n        }\n",
        )
        self.sent(SMALL, b"b@one.test", b"c@two.test")
        self.sent(LARGE, b"b@one.test", b"c@two.test")
        self.assertEqual(
            [[one.paths for one in hop.transactions] for hop in hops.values()], [[[b"b@one.test"]], [[b"c@two.test"]] * 2]
        )

    def test_in_lmtp_each_recipient_has_its_answer(self) -> None:
        hop = self.hop()
        self.listening(
            {"next": hop},
            "        destination no.test {\n            reject 550 5.7.1\n        }\n"
            "        default_destination {\n            deliver_to &next_queue\n        }\n",
            listener=LMTP,
        )
        replies = self.sent(SMALL, b"b@y.test", b"c@no.test", b"d@y.test", listener=LMTP)
        self.assertEqual(codes(replies), [b"250"] * 4 + [b"354", b"250", b"550", b"250"])
        self.assertEqual(sorted(path for one in hop.transactions for path in one.paths), [b"b@y.test", b"d@y.test"])

    def test_beside_recipients_that_were_decided_before(self) -> None:
        hops = {"now": self.hop(), "then": self.hop()}
        targets = "".join(f"target.smtp {name} {{\n    targets {hop.endpoint}\n}}\n" for name, hop in hops.items())
        self.gateway(
            f"{targets}target.queue later {{\n    target &then\n    bounce {{\n        discard\n    }}\n}}\n"
            f"smtp {SMTP} {{\n    tls off\n    destination now.test {{\n        deliver_to &now\n    }}\n"
            "    default_destination {\n        after_body {\n"
            '            when header("X-Spam") == "yes" {\n                reject 554 5.7.1\n            }\n'
            "            deliver_to &later\n        }\n    }\n}\n"
        )
        self.assertEqual(codes(self.sent(SMALL, b"a@now.test", b"b@then.test"))[-1], b"250")
        self.assertEqual([len(hop.transactions) for hop in hops.values()], [1, 1])
        self.assertEqual(statuses(self.sent(SPAM, b"a@now.test", b"b@then.test"))[-1], b"554 5.7.1")
        self.assertEqual([len(hop.transactions) for hop in hops.values()], [1, 1], "one answer, for all")

    def test_checks_and_modifiers_and_copies_inside(self) -> None:
        hops = {"next": self.hop(), "log": self.hop()}
        self.listening(
            hops,
            "        modify {\n            replace_rcpt static {\n"
            "                entry team@y.test one@y.test two@y.test\n            }\n        }\n"
            "        check {\n            require_tls {\n                on_fail quarantine\n            }\n        }\n"
            "        deliver_to &next_queue\n        copy_to &log_queue\n",
        )
        self.assertEqual(codes(self.sent(SMALL, b"team@y.test"))[-1], b"250")
        for hop in hops.values():
            self.assertEqual(sorted(path for one in hop.transactions for path in one.paths), [b"one@y.test", b"two@y.test"])
        self.assertIn(b"X-Mailgate-Quarantine: yes\r\n", hops["next"].transactions[0].content)


class FindingsTests(AfterBodyCase):
    def test_what_checks_have_found(self) -> None:
        hops = {"good": self.hop(), "bad": self.hop()}
        for action, condition in (
            ("quarantine", "quarantined"),
            ("quarantine", 'verdict == "quarantine"'),
            ("tag spam", 'verdict == "tag"'),
            ("score 5", "score >= 5"),
        ):
            with self.row(condition):
                hops = {"good": self.hop(), "bad": self.hop()}
                self.listening(
                    hops,
                    f"        when {condition} {{\n            deliver_to &bad_queue\n        }}\n"
                    "        deliver_to &good_queue\n",
                    more=f"    check {{\n        require_tls {{\n            on_fail {action}\n        }}\n    }}\n",
                )
                self.sent(SMALL)
                self.assertEqual([len(hop.transactions) for hop in hops.values()], [0, 1])


class SameTargetTests(AfterBodyCase):
    RULES = '        when header("X-Spam") == "yes" {\n            reject 554 5.7.1\n        }\n        deliver_to &next\n'

    def test_recipients_share_a_transaction(self) -> None:
        hop = self.hop()
        self.listening({"next": hop}, self.RULES)
        self.assertEqual(codes(self.sent(SMALL, b"b@y.test", b"c@y.test")), [b"250", b"250", b"250", b"354", b"250"])
        (transaction,) = hop.transactions
        self.assertEqual(transaction.paths, [b"b@y.test", b"c@y.test"])
        self.assertEqual(statuses(self.sent(SPAM))[-1], b"554 5.7.1")
        self.assertEqual(len(hop.transactions), 1)

    def test_a_recipient_that_it_refuses_refuses_the_message(self) -> None:
        hop = self.hop(script={Step.RCPT: [say(b"250 2.1.5 ok"), say(b"550 5.1.1 nobody")]})
        self.listening({"next": hop}, self.RULES)
        replies = self.sent(SMALL, b"b@y.test", b"c@y.test")
        self.assertEqual(statuses(replies)[-1], b"550 5.1.1")
        self.assertEqual(hop.transactions, [])

    def test_in_lmtp_only_that_recipient(self) -> None:
        hop = self.hop(lmtp=True, script={Step.RCPT: [say(b"250 2.1.5 ok"), say(b"550 5.1.1 nobody")]})
        self.listening({"next": hop}, self.RULES, listener=LMTP)
        replies = self.sent(SMALL, b"b@y.test", b"c@y.test", listener=LMTP)
        self.assertEqual(codes(replies)[-2:], [b"250", b"550"])
        self.assertEqual([one.paths for one in hop.transactions], [[b"b@y.test"]])

    def test_one_answer_each_is_one_recipient_at_a_time(self) -> None:
        hop = self.hop(lmtp=True)
        self.listening({"next": hop}, self.RULES)
        replies = self.sent(SMALL, b"b@y.test", b"c@y.test")
        self.assertEqual(statuses(replies)[1:3], [b"250 2.1.5", b"452 4.5.3"])
        self.assertEqual(codes(replies)[-1], b"250")
        self.assertEqual([one.paths for one in hop.transactions], [[b"b@y.test"]])

    def test_what_a_split_keeps(self) -> None:
        hop = self.hop(lmtp=True, script={Step.DOT: [say(b"250 2.0.0 ok", b"452 4.2.2 full")]})
        self.listening({"next": hop}, self.RULES, more="    on_split queue &next_queue\n")
        self.assertEqual(codes(self.sent(SMALL, b"b@y.test", b"c@y.test"))[-1], b"250")
        self.reactor.settle(600)
        self.assertEqual([one.paths for one in hop.transactions], [[b"b@y.test", b"c@y.test"], [b"c@y.test"]])

    def test_success_is_reported(self) -> None:
        hop, back = self.hop(), self.hop()
        self.listening({"next": hop, "back": back}, self.RULES, more="    reports &back_queue\n")
        running = self.running
        assert running is not None
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test> NOTIFY=SUCCESS", b"DATA")
        self.assertEqual(self.say(client, SMALL + b".")[0][:3], b"250")
        self.reactor.settle(60)
        reports = [line for line in running.logged("report.sent") if "action=relayed" in line]
        self.assertEqual(len(reports), 1, running.log_text)


class GoneTests(AfterBodyCase):
    def test_a_client_that_goes_away_leaves_nothing(self) -> None:
        hop = self.hop()
        self.listening({"next": hop}, SameTargetTests.RULES)
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>", b"DATA")
        client.send(SMALL)
        client.drop()
        self.reactor.settle(5)
        self.assertEqual(hop.transactions, [])
        self.check_alive()
