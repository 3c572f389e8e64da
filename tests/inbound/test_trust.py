"""The directives `proxy_protocol`, `xclient` and `xforward`: a whole gateway in memory, from the file to the session."""

from __future__ import annotations

from ipaddress import ip_network

from mailgate.inbound.trust import Peers
from mailgate.smtp.proxy_protocol import Family, Header, encode
from mailgate.smtp.xclient import UNKNOWN_ADDRESS
from mailgate.testing.client import RawClient, connect
from mailgate.testing.gateway import Misconfigured, WholeGateway
from tests.support.scenario import SimulatedCase

SMTP = "tcp://127.0.0.1:25"
HELLO = b"EHLO client.test"
CLIENT = encode(Header(Family.TCP4, "192.0.2.7", "198.51.100.1", 40000, 25))
RELAY = """\
smtp tcp://127.0.0.1:25 {{
    {directives}
    relay_from 127.0.0.0/8
    deliver_to smtp {hop} {{
        tls disabled
    }}
}}
"""


class _Trust(SimulatedCase):
    def relaying(self, *directives: str) -> WholeGateway:
        self.next_hop = self.hop()
        text = RELAY.format(directives="\n    ".join(directives), hop=self.next_hop.endpoint)
        return self.gateway("local_domains mx.test\n" + text)

    def begin(self, data: bytes = b"", address: str = SMTP) -> RawClient:
        client = self.reactor.run(connect(self.reactor, address))
        if data:
            client.send(data)
        self.assertEqual(b"220", self.reactor.run(client.reply())[:3])
        return client

    def mail(self, client: RawClient, rcpt: bytes = b"b@elsewhere.test") -> bytes:
        """The answer to the recipient, or to the message."""
        self.ask(client, HELLO)
        replies = self.reactor.run(client.deliver(b"a@x.test", [rcpt], b"Subject: x\r\n\r\n"))
        return replies[1] if replies[1][:1] != b"2" else replies[-1]

    def trace(self) -> bytes:
        return self.next_hop.transactions[-1].content.partition(b"Subject:")[0]


class Proxy(_Trust):
    def test_rules_see_the_client(self) -> None:
        self.relaying("proxy_protocol {", "trust 127.0.0.0/8", "}")
        self.assertEqual(b"550 5.7.1", self.mail(self.begin(CLIENT))[:9])
        self.assertEqual(b"250 2.0.0", self.mail(self.begin(encode(Header(Family.LOCAL))))[:9])

    def test_received_names_it(self) -> None:
        self.relaying("proxy_protocol {", "trust 127.0.0.0/8", "}")
        self.assertEqual(b"250", self.mail(self.begin(CLIENT), b"b@mx.test")[:3])
        self.assertIn(b"[192.0.2.7]", self.trace())

    def test_settings(self) -> None:
        running = self.relaying("proxy_protocol {", "trust 10.0.0.0/8 2001:db8::/32", "required no", "tls accept", "}")
        proxy = running.configuration.listeners[0].trust_settings.proxy
        networks = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
        self.assertEqual((Peers(networks), False, True), (proxy.trusted, proxy.required, proxy.accept_tls))

    def test_a_peer_on_a_unix_socket_is_trusted(self) -> None:
        self.gateway("smtp unix:///run/in.sock {\n proxy_protocol {\n trust 10.0.0.1\n }\n discard\n}\n")
        client = self.begin(CLIENT, "unix:///run/in.sock")
        self.assertEqual(b"250", self.mail(client)[:3])

    def test_trust_must_be_said(self) -> None:
        for text in ("proxy_protocol {\n }", "proxy_protocol {\n required yes\n }", "xclient {\n }", "proxy_protocol 10.0.0.1"):
            with self.assertRaises(Misconfigured):
                self.gateway(f"smtp {SMTP} {{\n {text}\n discard\n}}\n")


class XClient(_Trust):
    def test_the_client_loses_what_the_proxy_may(self) -> None:
        self.relaying("xclient {", "trust 127.0.0.0/8", "}")
        client = self.begin()
        self.assertEqual(b"220 ", self.ask(client, b"XCLIENT ADDR=192.0.2.7 NAME=c.test PORT=1234 HELO=helo.test")[:4])
        self.assertEqual(b"550 5.7.1", self.mail(client)[:9])
        self.assertEqual(b"250", self.mail(client, b"b@mx.test")[:3])
        self.assertIn(b"from helo.test (c.test [192.0.2.7])", self.trace())

    def test_an_unknown_address_is_not_the_proxys(self) -> None:
        self.relaying("xclient {", "trust 127.0.0.0/8", "}")
        for address in (b"[UNAVAILABLE]", b"[TEMPUNAVAIL]"):
            client = self.begin()
            self.ask(client, b"XCLIENT ADDR=" + address)
            self.assertEqual(b"550 5.7.1", self.mail(client)[:9])
            self.mail(client, b"b@mx.test")
            self.assertIn(f"[{UNKNOWN_ADDRESS}]".encode(), self.trace())

    def test_login(self) -> None:
        self.relaying("xclient {", "trust 127.0.0.0/8", "}")
        client = self.begin()
        self.ask(client, b"XCLIENT ADDR=192.0.2.7 LOGIN=alice")
        self.assertEqual(b"250", self.mail(client)[:3])
        self.assertIn(b"with ESMTPA\r\n", self.trace())

    def test_a_failed_command_changes_nothing(self) -> None:
        self.relaying("xclient {", "trust 127.0.0.0/8", "}")
        client = self.begin()
        self.assertEqual(b"501 5.5.4", self.ask(client, b"XCLIENT ADDR=192.0.2.7 LOGIN=alice PORT=x")[:9])
        self.assertEqual(b"250", self.mail(client)[:3])
        self.assertIn(b"[127.0.0.1]", self.trace())
        self.assertIn(b"with ESMTP\r\n", self.trace())

    def test_the_next_client_inherits_nothing(self) -> None:
        self.relaying("xclient {", "trust 127.0.0.0/8", "}")
        client = self.begin()
        self.ask(client, b"XCLIENT ADDR=192.0.2.7 LOGIN=alice NAME=c.test")
        self.assertEqual(b"250", self.mail(client)[:3])
        self.ask(client, b"XCLIENT NAME=d.test")
        self.assertEqual(b"250", self.mail(client)[:3])
        self.assertIn(b"(d.test [127.0.0.1])", self.trace())
        self.assertIn(b"with ESMTP\r\n", self.trace())

    def test_trust_is_judged_on_the_client_of_the_proxy_header(self) -> None:
        self.relaying("proxy_protocol {", "trust 127.0.0.0/8", "}", "xclient {", "trust 127.0.0.0/8", "}")
        client = self.begin(CLIENT)
        self.assertNotIn(b"XCLIENT", self.ask(client, HELLO))
        self.assertEqual(b"550 5.7.0", self.ask(client, b"XCLIENT ADDR=127.0.0.1")[:9])
        self.assertEqual(b"550 5.7.1", self.mail(client)[:9])

    def test_and_never_on_one_that_xclient_has_named(self) -> None:
        self.relaying("xclient {", "trust 127.0.0.1/32", "}", "xforward {", "trust 192.0.2.7", "}")
        client = self.begin()
        self.ask(client, b"XCLIENT ADDR=192.0.2.7")
        self.assertEqual(b"550 5.7.0", self.ask(client, b"XFORWARD ADDR=192.0.2.8")[:9])
        self.assertEqual(b"220", self.ask(client, b"XCLIENT ADDR=192.0.2.9")[:3])

    def test_limits_count_the_client(self) -> None:
        running = self.relaying("xclient {", "trust 127.0.0.0/8", "}", "max_connections_per_ip 1")
        first, second = self.begin(), self.begin()
        self.assertEqual(b"220", self.ask(first, b"XCLIENT ADDR=192.0.2.7")[:3])
        self.assertEqual(b"421 4.7.0", self.ask(second, b"XCLIENT ADDR=192.0.2.7")[:9])
        self.reactor.run(first.quit())
        self.reactor.settle()
        self.assertEqual({}, running.configuration.listeners[0]._sessions.census.per_address)

    def test_logged(self) -> None:
        running = self.relaying("xclient {", "trust 127.0.0.0/8", "}")
        self.ask(self.begin(), b"XCLIENT ADDR=192.0.2.7 NAME=[UNAVAILABLE] LOGIN=a+20b")
        (line,) = running.logged("session.xclient")
        for field in ("peer=127.0.0.1", "addr=192.0.2.7", "name=unavailable", 'login="a b"'):
            self.assertIn(field, line)


class XForward(_Trust):
    def test_recorded_and_never_used(self) -> None:
        running = self.relaying("xforward {", "trust 127.0.0.0/8", "}")
        client = self.begin()
        self.assertIn(b"XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE", self.ask(client, HELLO))
        self.assertEqual(b"250 2.0.0", self.ask(client, b"XFORWARD NAME=c.test ADDR=192.0.2.7 IDENT=4abc SOURCE=REMOTE")[:9])
        self.assertEqual(b"250", self.ask(client, b"MAIL FROM:<a@x.test>")[:3])
        self.assertEqual(b"250", self.ask(client, b"RCPT TO:<b@elsewhere.test>")[:3])
        (line,) = running.logged("message.xforward")
        for field in ("message=", "addr=192.0.2.7", "name=c.test", "ident=4abc", "source=REMOTE"):
            self.assertIn(field, line)
        self.assertEqual(b"354", self.ask(client, b"DATA")[:3])
        self.ask(client, b"Subject: x\r\n\r\n.")
        self.assertIn(b"[127.0.0.1]", self.trace())
        self.assertNotIn(b"192.0.2.7", self.trace())
