"""TLS through the whole gateway: what must never go in clear, and whom we believe (trust page, classes 2 and 3)."""

from __future__ import annotations

from typing import Any

from mailgate.testing.client import connect
from mailgate.testing.nexthop import DROP, GARBAGE, HANG, RESET, NextHop, Step, say
from mailgate.testing.tls import TrustingClient
from tests.support.certificates import authority, leaf
from tests.support.scenario import SMTP, SimulatedCase, codes

NAME = "next.test"


class RequiredTls(SimulatedCase):
    """`require_tls yes`: on an encrypted connection to the right name, or not at all."""

    def required(self, hop: NextHop, more: str = "") -> None:
        self.reactor.hosts[NAME] = "127.0.0.1"
        self.gateway(
            f"target.smtp next {{\n targets tcp://{NAME}:{hop.port}\n require_tls yes\n command_timeout 20s\n{more}\n"
            f" tls_client {{\n  root_ca {authority().path}\n }}\n}}\n"
            f"smtp {SMTP} {{\n tls off\n deliver_to &next\n}}\n"
        )

    def assert_deferred_in_silence(self, hop: NextHop) -> None:
        """The client hears 4xx at RCPT at the latest; the next hop never heard of a sender in clear, nor at all."""
        replies = self.deliver(self.client(), b"r@y.test")
        refused = [reply for reply in replies if reply[:1] in (b"4", b"5") and not reply.startswith(b"503")]
        self.assertEqual(refused[0][:1], b"4", replies)
        self.assertEqual(hop.transactions, [])
        for connection in hop.connections:
            self.assertLessEqual(set(connection.verbs), {b"EHLO", b"STARTTLS", b"QUIT", b""})
            for word in (b"MAIL", b"RCPT", b"DATA", b"AUTH", b"sender@client.test"):
                self.assertNotIn(word, bytes(connection.clear))

    def test_a_next_hop_without_starttls_gets_no_mail_and_the_client_4xx(self) -> None:
        hop = self.hop()
        self.required(hop)
        self.assert_deferred_in_silence(hop)

    def test_a_proper_certificate_passes(self) -> None:
        hop = self.hop(tls=leaf(NAME).server)
        self.required(hop)
        self.assertEqual(codes(self.deliver(self.client(), b"r@y.test")), [b"250", b"250", b"354", b"250"])
        (kept,) = hop.transactions
        self.assertTrue(kept.secure)
        self.assertNotIn(b"MAIL", bytes(hop.connections[0].clear))

    def test_a_wrong_name_does_not(self) -> None:
        hop = self.hop(tls=leaf("other.test").server)
        self.required(hop)
        self.assert_deferred_in_silence(hop)

    def test_an_unknown_authority_does_not(self) -> None:
        hop = self.hop(tls=authority("stranger").issue(NAME).server)
        self.required(hop)
        self.assert_deferred_in_silence(hop)

    def test_a_name_in_the_common_name_only_does_not(self) -> None:
        hop = self.hop(tls=authority().issue("other.test", common_name=NAME).server)
        self.required(hop)
        self.assert_deferred_in_silence(hop)

    def test_every_way_to_spoil_starttls_is_a_deferral(self) -> None:
        actions = {
            "454": say(b"454 4.7.0 not now"),
            "5xx": say(b"502 5.5.1 what"),
            "250": say(b"250 2.0.0 fine"),
            "garbage": GARBAGE,
            "drop": DROP,
            "reset": RESET,
            "hang": HANG,
            "injected": say(b"220 2.0.0 go ahead", b"250 2.0.0 injected"),
            "no handshake": say(b"220 2.0.0 go ahead", then_drop=True),
        }
        for name, action in actions.items():
            with self.row(name):
                hop = self.hop(tls=leaf(NAME).server, script={Step.STARTTLS: action})
                self.required(hop)
                self.assert_deferred_in_silence(hop)

    def test_capabilities_from_before_tls_are_forgotten(self) -> None:
        """A keyword announced in clear only is not used within TLS."""

        def script(step: Step, connection: Any, line: bytes) -> Any:
            if step is Step.HELLO and not connection.tls:
                return say(b"250-next.test", b"250-STARTTLS", b"250 CHUNKING")
            return None

        hop = self.hop(tls=leaf(NAME).server, script=script)
        self.required(hop)
        self.deliver(self.client(), b"r@y.test")
        self.assertEqual([kept.via for kept in hop.transactions], ["DATA"])

    def test_implicit_tls_is_judged_alike(self) -> None:
        for certificate, passes in ((leaf(NAME), True), (leaf("other.test"), False)):
            with self.row(f"passes: {passes}"):
                hop = self.hop(tls=certificate.server, implicit_tls=True)
                self.reactor.hosts[NAME] = "127.0.0.1"
                self.gateway(
                    f"target.smtp next {{\n targets tls://{NAME}:{hop.port}\n"
                    f" tls_client {{\n  root_ca {authority().path}\n }}\n}}\n"
                    f"smtp {SMTP} {{\n tls off\n deliver_to &next\n}}\n"
                )
                if passes:
                    self.assertEqual(codes(self.deliver(self.client(), b"r@y.test"))[-1], b"250")
                else:
                    self.assert_deferred_in_silence(hop)


class OpportunisticTls(SimulatedCase):
    def test_a_failed_handshake_is_repeated_in_clear_on_a_new_connection(self) -> None:
        hop = self.hop(tls=leaf(NAME).server, script={Step.STARTTLS: [say(b"220 2.0.0 go ahead", then_drop=True)]})
        self.relay(hop)
        self.assertEqual(codes(self.deliver(self.client(), b"r@y.test"))[-1], b"250")
        self.assertGreaterEqual(len(hop.connections), 2)

    def test_it_is_used_where_offered_whoever_it_is(self) -> None:
        hop = self.hop(tls=authority("stranger").issue("whoever.test").server)
        self.relay(hop)
        self.assertEqual(codes(self.deliver(self.client(), b"r@y.test"))[-1], b"250")
        self.assertTrue(hop.transactions[0].secure)


class InboundTls(SimulatedCase):
    def secured(self) -> NextHop:
        hop = self.hop()
        certificate = leaf("gateway.test")
        self.gateway(
            f"target.smtp next {{\n targets {hop.endpoint}\n}}\n"
            f"smtp {SMTP} tls://127.0.0.1:465 {{\n tls file {certificate.chain_path} {certificate.key_path}\n"
            " deliver_to &next\n}\n"
        )
        return hop

    def test_starttls_is_offered_once_and_all_is_forgotten_after_it(self) -> None:
        hop = self.secured()
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>", b"RSET")
        self.assertEqual(self.reactor.run(client.secure(TrustingClient("gateway.test")))[:3], b"220")
        self.assertEqual(self.ask(client, b"MAIL FROM:<a@x.test>")[:3], b"503")
        hello = self.ask(client, b"EHLO client.test")
        self.assertNotIn(b"STARTTLS", hello)
        self.assertEqual(self.ask(client, b"STARTTLS")[:3], b"503")
        self.assertEqual(codes(self.deliver(client, b"r@y.test"))[-1], b"250")
        self.assertIn(b"with ESMTPS", hop.transactions[0].content.replace(b"\r\n\t", b" ").replace(b"\r\n ", b" "))

    def test_bytes_behind_starttls_close_the_connection(self) -> None:
        hop = self.secured()
        client = self.client()
        client.send(b"STARTTLS\r\nMAIL FROM:<evil@x.test>\r\n")
        self.assertEqual(self.reactor.run(client.reply())[:9], b"554 5.5.1")
        self.reactor.run(client.wait_closed())
        self.assertEqual(hop.mail_count, 0)
        assert self.running is not None
        self.assertEqual(len(self.running.logged("protocol.injection")), 1)

    def test_garbage_for_a_handshake_ends_only_that_connection(self) -> None:
        self.secured()
        client = self.client()
        self.ask(client, b"STARTTLS")
        client.send(b"MAIL FROM:<a@x.test>\r\n" * 20)
        self.reactor.run(client.wait_closed(120), limit=130)
        self.check_alive()

    def test_a_client_that_never_shakes_hands_is_closed_in_time(self) -> None:
        self.secured()
        silent = self.reactor.run(connect(self.reactor, "tcp://127.0.0.1:465"))
        self.reactor.run(silent.wait_closed(60), limit=61)
        self.assertEqual(bytes(silent.received), b"")

    def test_implicit_tls(self) -> None:
        hop = self.secured()
        client = self.reactor.run(connect(self.reactor, "tls://127.0.0.1:465", tls=TrustingClient("gateway.test")))
        self.assertEqual(self.reactor.run(client.reply())[:3], b"220")
        replies = self.reactor.run(client.deliver(b"a@x.test", [b"r@y.test"], b"X-Token: t\r\n\r\n", hello=b"EHLO c.test"))
        self.assertEqual(codes(replies)[-1], b"250")
        self.assertEqual(len(hop.transactions), 1)
