"""`reverse_lookup`, `reverse_lookup_timeout`, `resolver`: the client's name, in a whole gateway on a simulated network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mailgate.dns.system import Hosts
from mailgate.testing.client import RawClient, connect
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.names import Action, MemoryNames
from mailgate.testing.network import adapters_for
from mailgate.testing.nexthop import NextHop
from tests.support.scenario import SMTP, SimulatedCase

CLIENT = "192.0.2.7"
PTR = "7.2.0.192.in-addr.arpa"


class ReverseLookupTests(SimulatedCase):
    def start(self, *lines: str) -> NextHop:
        self.names = MemoryNames(self.reactor)
        hop = self.hop()
        inner = "\n".join(lines)
        route = f"deliver_to smtp {hop.endpoint} {{\n tls disabled\n }}"
        text = f"hostname gateway.test\nsmtp {SMTP} {{\n tls off\n{inner}\n{route}\n}}\n"
        hosts = Hosts({"store1": ("10.9.9.9",)}, {"10.9.9.9": "store1"})
        adapters = replace(adapters_for(self.reactor), resolver=self.names.resolver(hosts=hosts))
        self.running = WholeGateway(text, adapters, self.directory)
        self.reactor.run(self.running.start())
        return hop

    def greet(self, source: str = CLIENT) -> tuple[RawClient, float]:
        """A connected client, and how long its greeting took."""
        client = self.reactor.run(connect(self.reactor, SMTP, source=source))
        client.patience = 60.0
        before = self.reactor.seconds()
        greeting = self.reactor.run(client.reply(), limit=60)
        self.assertEqual(greeting[:3], b"220")
        return client, self.reactor.seconds() - before

    def received(self, hop: NextHop, source: str = CLIENT) -> str:
        """What Received says of the client."""
        client, _ = self.greet(source)
        self.ask(client, b"EHLO client.test")
        self.assertEqual(self.deliver(client, b"b@y.test")[-1][:3], b"250")
        content: bytes = hop.transactions[-1].content
        return content.decode().split("(", 1)[1].split(")", 1)[0]

    def test_a_verified_name_is_the_default(self) -> None:
        hop = self.start()
        self.names.add(PTR, "PTR", "liar.example.net.", "Mail.example.org.")
        self.names.add("mail.example.org", "A", "192.0.2.6", CLIENT)
        self.names.add("liar.example.net", "A", "198.51.100.1")
        self.assertEqual(self.received(hop), f"mail.example.org [{CLIENT}]")

    def test_a_name_without_this_address_is_none(self) -> None:
        hop = self.start("reverse_lookup verify")
        self.names.add(PTR, "PTR", "liar.example.net.")
        self.names.add("liar.example.net", "A", "198.51.100.1")
        self.assertEqual(self.received(hop), f"unknown [{CLIENT}]")

    def test_yes_takes_it_as_it_stands(self) -> None:
        hop = self.start("reverse_lookup yes")
        self.names.add(PTR, "PTR", "liar.example.net.")
        self.assertEqual(self.received(hop), f"liar.example.net [{CLIENT}]")
        self.assertEqual(self.names.asked("liar.example.net"), 0)

    def test_no_asks_nothing(self) -> None:
        hop = self.start("reverse_lookup no")
        self.names.add(PTR, "PTR", "mail.example.org.")
        self.assertEqual(self.received(hop), f"unknown [{CLIENT}]")
        self.assertEqual(self.names.queries, [])

    def test_ipv6(self) -> None:
        hop = self.start()
        reverse = "7.0.0.0." + "0.0.0.0." * 5 + "8.b.d.0.1.0.0.2.ip6.arpa"
        self.names.add(reverse, "PTR", "six.example.org.")
        self.names.add("six.example.org", "AAAA", "2001:db8:0::7")
        self.assertEqual(self.received(hop, "2001:db8::7"), "six.example.org [IPv6:2001:db8::7]")
        self.assertEqual(self.names.asked("six.example.org", "A"), 0)

    def test_names_that_need_no_asking(self) -> None:
        hop = self.start()
        self.assertEqual(self.received(hop, "127.0.0.1"), "localhost [127.0.0.1]")
        self.assertEqual(self.received(hop, "10.9.9.9"), "store1 [10.9.9.9]")
        self.assertEqual(self.names.queries, [])

    def test_a_name_that_is_no_host_name(self) -> None:
        hop = self.start("reverse_lookup yes")
        self.names.add(PTR, "PTR", "x\\032\\(evil\\).example.org.")
        self.assertEqual(self.received(hop), f"unknown [{CLIENT}]")

    def test_the_greeting_waits_for_the_timeout_and_no_longer(self) -> None:
        self.start()
        self.names.script(PTR, "PTR", Action.SILENCE)
        _, waited = self.greet()
        self.assertTrue(1.5 <= waited < 1.6, waited)

    def test_reverse_lookup_timeout(self) -> None:
        self.start("reverse_lookup_timeout 300ms")
        self.names.script(PTR, "PTR", Action.SILENCE)
        _, waited = self.greet()
        self.assertTrue(0.3 <= waited < 0.4, waited)

    def test_a_failing_lookup_refuses_nobody(self) -> None:
        hop = self.start()
        for action in (Action.SERVFAIL, Action.BOGUS, Action.ANSWER):
            self.names.script(PTR, "PTR", action)
            self.assertEqual(self.received(hop), f"unknown [{CLIENT}]")
            self.reactor.settle(120)

    def test_a_client_that_leaves_meanwhile(self) -> None:
        self.start()
        self.names.script(PTR, "PTR", Action.SILENCE)
        client: Any = self.reactor.run(connect(self.reactor, SMTP, source=CLIENT))
        self.reactor.run(client.close())
        self.reactor.settle(10)

    def test_when_client_name(self) -> None:
        self.start(' when client_name == "mail.example.org" {\n reject 554 5.7.1 "known"\n }')
        self.names.add(PTR, "PTR", "mail.example.org.")
        self.names.add("mail.example.org", "A", CLIENT)
        client, _ = self.greet()
        self.ask(client, b"EHLO client.test")
        replies = self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>")
        self.assertEqual(replies[-1][:9], b"554 5.7.1")
