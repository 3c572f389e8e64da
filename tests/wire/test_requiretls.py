"""REQUIRETLS (RFC 8689) through the whole gateway: offered where every way out enforces it, and then passed on or refused."""

from __future__ import annotations

import email
import email.policy
from dataclasses import replace
from typing import Any

from mailgate.modules.target.maildir import MaildirTarget
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.names import MemoryNames
from mailgate.testing.network import adapters_for
from mailgate.testing.nexthop import NextHop
from mailgate.testing.tls import TrustingClient
from tests.support.certificates import authority, leaf
from tests.support.ledger import message
from tests.support.scenario import SMTP, SimulatedCase, statuses

NAME = "next.test"
PLAIN = (b"PIPELINING", b"8BITMIME", b"ENHANCEDSTATUSCODES")
SECURE = (*PLAIN, b"REQUIRETLS")
SENDER = b"<a@x.test>"


class RequireTlsCase(SimulatedCase):
    def target(self, name: str, *hops: NextHop) -> str:
        self.reactor.hosts[NAME] = "127.0.0.1"
        targets = " ".join(f"tcp://{NAME}:{hop.port}" for hop in hops)
        return f"target.smtp {name} {{\n targets {targets}\n tls_client {{\n  root_ca {authority().path}\n }}\n}}\n"

    def listener(self, route: str, more: str = "") -> str:
        certificate = leaf("gateway.test")
        return (
            f"smtp {SMTP} {{\n tls file {certificate.chain_path} {certificate.key_path}\n reverse_lookup no\n{more}\n"
            f" destination y.test {{\n  {route}\n }}\n default_destination {{\n  reject\n }}\n}}\n"
        )

    def stage(self, *hops: NextHop) -> Any:
        self.gateway(self.target("next", *hops) + self.listener("deliver_to &next"))
        return self.secured()

    def secured(self) -> Any:
        client = self.client()
        self.assertNotIn(b"REQUIRETLS", self.ask(client, b"EHLO client.test"))
        self.reactor.run(client.secure(TrustingClient("gateway.test")))
        return client

    def send(self, client: Any, parameter: bytes = b" REQUIRETLS") -> bytes:
        self.assertIn(b"REQUIRETLS", self.ask(client, b"EHLO client.test"))
        for line in (b"MAIL FROM:" + SENDER + parameter, b"RCPT TO:<b@y.test>", b"DATA"):
            reply = self.ask(client, line)
            if reply[:1] not in b"23":
                return reply
        client.send(message("secret") + b".\r\n")
        return self.reactor.run(client.reply(), limit=60)

    def secure_hop(self, extensions: tuple[bytes, ...] = SECURE) -> NextHop:
        return self.hop(extensions=extensions, tls=leaf(NAME).server)


class EndpointTests(RequireTlsCase):
    def test_goes_on_over_authenticated_tls(self) -> None:
        hop = self.secure_hop()
        self.assertEqual(self.send(self.stage(hop))[:3], b"250")
        self.assertEqual((hop.transactions[0].secure, hop.transactions[0].mail), (True, SENDER + b" REQUIRETLS"))

    def test_the_next_endpoint_where_one_does_not_do_it(self) -> None:
        makers = {
            "without the keyword": lambda: self.secure_hop(PLAIN),
            "without TLS": lambda: self.hop(extensions=SECURE),
            "with a certificate nobody knows": lambda: self.hop(extensions=SECURE, tls=leaf("other.test").server),
        }
        for name, make in makers.items():
            with self.row(name):
                first, second = make(), self.secure_hop()
                self.assertEqual(self.send(self.stage(first, second))[:3], b"250")
                self.assertEqual((first.mail_count, len(second.transactions)), (0, 1))

    def test_refused_where_none_does(self) -> None:
        for name, status, make in (
            ("no keyword", b"550 5.7.30", lambda: self.secure_hop(PLAIN)),
            ("no TLS", b"550 5.7.10", lambda: self.hop(extensions=SECURE)),
        ):
            for count in (1, 2):
                with self.row(f"{name}, {count} endpoints"):
                    hops = [make() for _ in range(count)]
                    self.assertEqual(statuses([self.send(self.stage(*hops))]), [status])
                    self.assertEqual([hop.mail_count for hop in hops], [0] * count)

    def test_what_one_message_asks_for_says_nothing_against_an_endpoint(self) -> None:
        hop = self.hop(extensions=PLAIN)
        client = self.stage(hop)
        for _ in range(4):
            self.assertEqual(statuses([self.send(client)]), [b"550 5.7.10"])
            client = self.secured()
        self.assertEqual(self.send(client, b"")[:3], b"250")
        assert self.running is not None
        self.assertEqual(self.running.logged("endpoint.down"), [])

    def test_not_refused_for_good_while_another_is_down(self) -> None:
        first, second = self.secure_hop(PLAIN), self.secure_hop()
        self.reactor.refuse("127.0.0.1", second.port)
        client = self.stage(first, second)
        self.assertEqual(statuses([self.send(client)]), [b"451 4.4.1"])
        self.assertEqual(statuses([self.send(self.secured())]), [b"451 4.4.1"])


class OfferTests(RequireTlsCase):
    """It is announced, within TLS, where no way out could pass it on unprotected."""

    def offered(self, route: str, more: str = "") -> bool:
        self.gateway(more + self.listener(route))
        reply = self.ask(self.secured(), b"EHLO client.test")
        return b"REQUIRETLS" in reply

    def queue(self, target: str) -> str:
        return f"target.queue kept {{\n target {target}\n bounce {{\n  deliver_to &kept\n }}\n}}\n"

    def test_final_delivery_and_what_enforces_it(self) -> None:
        store = f"maildir {self.directory}/mail"
        for route, more in (
            (f"deliver_to {store}", ""),
            ("deliver_to &kept", self.queue(store)),
            (f"deliver_to {store}\n copy_to &kept", self.queue(store)),
        ):
            with self.row(f"{route} {more}"):
                self.assertTrue(self.offered(route, more))

    def test_not_where_one_way_out_does_not(self) -> None:
        self.patch(MaildirTarget, "enforces_requiretls", False)
        for route, more in (
            (f"deliver_to maildir {self.directory}/mail", ""),
            ("deliver_to &kept", self.queue(f"maildir {self.directory}/mail")),
        ):
            with self.row(route):
                self.assertFalse(self.offered(route, more))
                client = self.secured()
                self.ask(client, b"EHLO client.test")
                self.assertEqual(self.ask(client, b"MAIL FROM:<a@x.test> REQUIRETLS")[:3], b"555")


class QueueTests(RequireTlsCase):
    def queued(self, hop: NextHop, back: NextHop) -> Any:
        self.gateway(
            self.target("next", hop)
            + self.target("back", back)
            + "target.queue kept {\n target &next\n bounce {\n  deliver_to &back\n }\n}\n"
            + self.listener("deliver_to &kept", "reports &kept")
        )
        return self.secured()

    def test_kept_and_passed_on(self) -> None:
        hop, back = self.secure_hop(), self.secure_hop()
        self.assertEqual(self.send(self.queued(hop, back))[:3], b"250")
        self.reactor.settle(5)
        self.assertEqual((hop.transactions[0].secure, hop.transactions[0].mail), (True, SENDER + b" REQUIRETLS"))

    def test_a_report_is_protected_as_the_message_was(self) -> None:
        hop, back = self.secure_hop(PLAIN), self.secure_hop()
        self.assertEqual(self.send(self.queued(hop, back), b" REQUIRETLS RET=FULL")[:3], b"250")
        self.reactor.settle(5)
        (report,) = back.transactions
        self.assertEqual((report.secure, report.mail), (True, b"<> REQUIRETLS"))
        parsed: Any = email.message_from_bytes(report.content, policy=email.policy.default)
        parts = list(parsed.iter_parts())
        self.assertEqual(parts[1].get_payload()[1]["Status"], "5.7.30")
        self.assertEqual(parts[2].get_content_type(), "text/rfc822-headers")

    def test_a_report_that_could_not_be_protected_is_not_sent(self) -> None:
        hop, back = self.secure_hop(PLAIN), self.secure_hop(PLAIN)
        self.assertEqual(self.send(self.queued(hop, back))[:3], b"250")
        self.reactor.settle(5)
        self.assertEqual(back.mail_count, 0)
        assert self.running is not None
        self.assertEqual(len(self.running.logged("message.undeliverable")), 1)


class RemoteTests(RequireTlsCase):
    """Only to hosts that nobody can have slipped in: proved by DNSSEC, or named by an enforced MTA-STS policy."""

    def sent(self, *, secure: bool) -> tuple[bytes, NextHop]:
        names = MemoryNames(self.reactor, secure=secure)
        names.add("y.test", "MX", f"10 {NAME}.")
        names.add(NAME, "A", "192.0.2.1")
        hop = NextHop(extensions=SECURE, tls=leaf(NAME).server).listen(self.reactor, port=25, interface="192.0.2.1")
        self.hops.append(hop)
        text = f"hostname gateway.test\n{self.listener(f'deliver_to remote {{ tls_client {{ root_ca {authority().path} }} }}')}"
        adapters = replace(adapters_for(self.reactor), resolver=names.resolver())
        self.running = WholeGateway(text, adapters, self.directory)
        self.reactor.run(self.running.start())
        return statuses([self.send(self.secured())])[0], hop

    def test_where_dnssec_proves_the_hosts(self) -> None:
        heard, hop = self.sent(secure=True)
        self.assertEqual((heard[:3], hop.transactions[0].mail), (b"250", SENDER + b" REQUIRETLS"))

    def test_not_where_nothing_does(self) -> None:
        heard, hop = self.sent(secure=False)
        self.assertEqual((heard, hop.connections), (b"550 5.7.10", []))
