"""`route` of target.remote: other hosts than the recipient's own, by expression, also by what became of earlier attempts."""

from __future__ import annotations

from mailgate.outbound.next_hop import is_next_hop
from mailgate.testing.names import Action, MemoryNames
from tests.outbound.test_dane import key_digest
from tests.outbound.test_remote import QueuedCase
from tests.support.certificates import leaf
from tests.support.scenario import codes, statuses


class RouteTests(QueuedCase):
    def test_the_hosts_of_another_domain(self) -> None:
        relay = self.host("mx.relay.test", "192.0.2.1")
        self.mx("relay.test", "10 mx.relay.test.")
        self.mx("d.test", "0 .")
        self.direct("route relay.test")
        self.assertEqual(codes(self.send(b"a@d.test", b"b@nowhere.test"))[-1], b"250")
        self.assertEqual([one.recipients for one in relay.transactions], [[b"<a@d.test>", b"<b@nowhere.test>"]])
        self.assertEqual(self.names.asked("d.test"), 0)

    def test_written_as_an_endpoint(self) -> None:
        for route in ("mx://relay.test", '{\n if rcpt_domain == "e.test" then e.test\n else mx://relay.test\n}'):
            with self.row(route):
                self.names = MemoryNames(self.reactor)
                relay = self.host("mx.relay.test", "192.0.2.1")
                self.mx("relay.test", "10 mx.relay.test.")
                self.direct(f"route {route}")
                self.assertEqual(codes(self.send(b"a@d.test"))[-1], b"250")
                self.assertEqual((len(relay.transactions), self.names.asked("relay.test", "MX")), (1, 1))
        for wrong in ("mx://[mx.relay.test]", "mx://relay.test:25", "mx://", "tcp://relay.test"):
            self.assertFalse(is_next_hop(wrong), wrong)

    def test_one_host_and_one_address(self) -> None:
        for hop in ("[mx.relay.test]", "[192.0.2.1]"):
            with self.row(hop):
                self.names = MemoryNames(self.reactor)
                relay = self.host("mx.relay.test", "192.0.2.1")
                self.mx("mx.relay.test", "10 other.test.")
                self.direct(f"route {hop}")
                self.assertEqual(codes(self.send(b"a@d.test"))[-1], b"250")
                self.assertEqual((len(relay.transactions), self.names.asked("mx.relay.test", "MX")), (1, 0))

    def test_by_recipient(self) -> None:
        relay, own = self.host("mx.relay.test", "192.0.2.1"), self.host("d.test", "192.0.2.2")
        self.direct('route {\n if rcpt_domain == "e.test" then [mx.relay.test]\n else (rcpt_domain)\n}')
        for recipient in (b"a@e.test", b"a@d.test"):
            self.assertEqual(codes(self.send(recipient))[-1], b"250")
        self.assertEqual((len(relay.transactions), len(own.transactions)), (1, 1))

    def test_by_retry_num_behind_a_queue(self) -> None:
        own, backup = self.host("d.test", "192.0.2.1", listens=False), self.host("mx.backup.test", "192.0.2.2")
        self.mx("backup.test", "10 mx.backup.test.")
        self.queued("route {\n if retry_num >= 2 then backup.test\n else (rcpt_domain)\n}")
        self.assertEqual(codes(self.send(b"u@d.test"))[-1], b"250")
        self.reactor.settle(900)
        self.assertEqual(self.connects(), ["192.0.2.1", "192.0.2.1", "192.0.2.2"])
        self.assertEqual((len(own.transactions), len(backup.transactions)), (0, 1))

    def test_that_it_leads_nowhere_is_no_reason_to_refuse_for_good(self) -> None:
        for hop, expected in (
            ("nowhere.test", b"451 4.4.4"),
            ("null.test", b"451 4.4.4"),
            ("self.test", b"451 4.4.4"),
            ("[nowhere.test]", b"451 4.4.4"),
            ("[127.0.0.1]", b"451 4.4.4"),
            ("servfail.test", b"451 4.4.3"),
            ("(sender)", b"451 4.3.0"),
        ):
            with self.row(hop):
                self.names = MemoryNames(self.reactor)
                self.mx("null.test", "0 .")
                self.mx("self.test", "10 gateway.test.")
                self.names.script("servfail.test", "MX", Action.SERVFAIL)
                self.direct(f"route {hop}")
                self.assertEqual(statuses(self.send(b"a@d.test")[:2])[-1], expected)
                self.assertEqual(self.connects(), [])

    def test_the_policies_are_those_of_the_next_hop(self) -> None:
        relay = self.host("mx.relay.test", "192.0.2.1", tls=leaf("other.test").server)
        self.names.add("_25._tcp.mx.relay.test", "TLSA", f"3 1 1 {key_digest(leaf('other.test'))}")
        self.direct("route [mx.relay.test]", "tls dane_require")
        self.assertEqual(codes(self.send(b"a@d.test"))[-1], b"250")
        self.assertIn('verified="TLSA', self.attempts()[0])
        self.assertEqual(len(relay.transactions), 1)
