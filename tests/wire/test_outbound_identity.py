"""For whom we speak to next hops: `xclient`, `xforward`, `proxy_protocol` of targets.

The oracle is our own server on the other side, a second listener of the same gateway, which knows what it was told and says so in
its Received field; behind it stands a next hop that keeps what comes. What only a peer that misbehaves shows is scripted.
"""

from __future__ import annotations

from mailgate.smtp.proxy_protocol import Family, Header, HeaderParser
from mailgate.testing.client import RawClient, connect
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.script import HANG, Step, say
from tests.support.scenario import SMTP, SimulatedCase

INNER = "tcp://127.0.0.1:2525"
FULL = "xclient {\naddr client_ip\nname client_name\nport client_port\nhelo helo\nlogin auth_user\nproto protocol\n}"
TRUST = "xclient {\ntrust 127.0.0.0/8\n}"
CONFIG = """\
local_domains y.test
target.{kind} inner {{
    targets {inner}
    {target}
}}
smtp tcp://127.0.0.1:25 {{
    tls off
    xclient {{
        trust 127.0.0.0/8
    }}
    xforward {{
        trust 127.0.0.0/8
    }}
    {front}
    deliver_to &inner
}}
{kind} {at} {{
    {listener}
    deliver_to smtp {hop} {{
        tls disabled
    }}
}}
"""


class _Identity(SimulatedCase):
    def chain(
        self, target: str, listener: str = TRUST, *, kind: str = "smtp", inner: str = INNER, front: str = "", at: str = INNER
    ) -> WholeGateway:
        self.outer = self.hop()
        text = CONFIG.format(
            kind=kind, target=target, listener=listener, hop=self.outer.endpoint, inner=inner, front=front, at=at
        )
        return self.gateway(text)

    def visitor(self, xclient: bytes = b"", source: str = "127.0.0.9") -> RawClient:
        client = self.reactor.run(connect(self.reactor, SMTP, source=source))
        client.patience = 3600.0
        self.reactor.run(client.reply())
        if xclient:
            self.assertEqual(b"220", self.ask(client, b"XCLIENT " + xclient)[:3])
        self.ask(client, b"EHLO visitor.test")
        return client

    def mail(self, client: RawClient, rcpt: bytes = b"b@y.test") -> bytes:
        replies = self.deliver(client, rcpt)
        return replies[1] if replies[1][:1] != b"2" else replies[-1]

    def inner_trace(self, number: int = -1) -> str:
        """What our inner server wrote of its client, on one line."""
        content = self.outer.transactions[number].content.decode("latin-1")
        return content.partition("\r\n\tid ")[0].replace("\r\n\t", " ")


class XClient(_Identity):
    def test_the_inner_server_knows_the_client(self) -> None:
        self.chain(FULL)
        client = self.visitor(b"ADDR=192.0.2.7 NAME=client.test LOGIN=alice")
        self.assertEqual(b"250", self.mail(client)[:3])
        self.assertEqual("Received: from visitor.test (client.test [192.0.2.7]) by gateway.test with ESMTPA", self.inner_trace())

    def test_what_there_is_not_is_unavailable(self) -> None:
        running = self.chain(FULL)
        self.mail(self.visitor(b"ADDR=IPV6:2001:db8::7"))
        lines = running.logged("session.xclient")
        for field in ("addr=2001:db8::7", "name=unavailable", "login=unavailable", "helo=visitor.test", "proto=ESMTP"):
            self.assertIn(field, lines[-1])

    def test_the_client_may_no_more_than_itself(self) -> None:
        self.chain(FULL, TRUST + "\nrelay_from 127.0.0.0/8", front="relay_from 0.0.0.0/0")
        self.assertEqual(b"550 5.7.1", self.mail(self.visitor(b"ADDR=192.0.2.7"), b"b@elsewhere.test")[:9])
        self.assertEqual(b"250", self.mail(self.visitor(), b"b@elsewhere.test")[:3])

    def test_clients_never_share_a_connection(self) -> None:
        running = self.chain(FULL)
        for number in (7, 8, 7, 8):
            self.mail(self.visitor(b"ADDR=192.0.2.%d NAME=c%d.test PORT=1" % (number, number)))
            self.assertIn(f"(c{number}.test [192.0.2.{number}])", self.inner_trace())
        told = [line for line in running.logged("session.xclient") if "helo=" in line]
        self.assertEqual(2, len(told))

    def test_lmtp(self) -> None:
        self.chain(FULL, kind="lmtp")
        client = self.visitor(b"ADDR=192.0.2.7")
        self.assertEqual(b"250", self.mail(client)[:3])
        self.assertIn("[192.0.2.7]) by gateway.test with LMTP", self.inner_trace())

    def test_literals_and_expressions(self) -> None:
        self.chain('xclient {\naddr 198.51.100.9\nhelo (lower(helo))\nname "client_name.example"\nlogin (lower(helo))\n}')
        self.mail(self.visitor())
        self.assertEqual(
            "Received: from visitor.test (client_name.example [198.51.100.9]) by gateway.test with ESMTPA", self.inner_trace()
        )

    def test_a_next_hop_that_does_not_offer_it(self) -> None:
        self.chain(FULL, "")
        self.assertEqual(b"451 4.7.0", self.mail(self.visitor())[:9])
        self.assertEqual([], self.outer.transactions)

    def test_unless_that_is_not_required(self) -> None:
        self.chain(FULL + "\nxclient_required no", "")
        self.assertEqual(b"250", self.mail(self.visitor(b"ADDR=192.0.2.7"))[:3])
        self.assertIn("[127.0.0.1]", self.inner_trace())

    def test_attributes_that_are_not_offered(self) -> None:
        for required, answer, said in (("yes", b"451", []), ("no", b"250", [b"XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7"])):
            extensions = (b"PIPELINING", b"8BITMIME", b"XCLIENT NAME ADDR")
            hop = self.hop(extensions=extensions)
            self.chain(f"{FULL}\nxclient_required {required}", inner=hop.endpoint)
            self.assertEqual(answer, self.mail(self.visitor(b"ADDR=192.0.2.7"))[:3])
            commands = hop.connections[0].commands
            self.assertEqual(said, [line for line in commands if line.startswith(b"XCLIENT")])
            self.assertEqual(1 + len(said), sum(line.startswith(b"EHLO") for line in commands))
            self.reactor.run(self.running.stop(), limit=600)  # type: ignore[union-attr]

    def test_what_it_thinks_of_the_client_says_nothing_of_the_endpoint(self) -> None:
        running = self.chain(FULL, TRUST + "\nrefuse_clients 192.0.2.0/24")
        for _ in range(5):
            self.assertEqual(b"451 4.7.0", self.mail(self.visitor(b"ADDR=192.0.2.7"))[:9])
        self.assertEqual([], running.logged("endpoint.down"))
        self.assertEqual(b"250", self.mail(self.visitor(b"ADDR=198.51.100.7"))[:3])


class XForward(_Identity):
    ALL = "xforward {\naddr client_ip\nname client_name\nhelo helo\nident message_id\nproto protocol\nsource REMOTE\n}"
    TRUST = "xforward {\ntrust 127.0.0.0/8\n}"

    def said(self, running: WholeGateway) -> list[str]:
        """What the inner server was told, message by message."""
        return [line for line in running.logged("message.xforward") if "source=REMOTE" in line]

    def test_each_message_says_where_it_comes_from(self) -> None:
        running = self.chain(self.ALL, self.TRUST)
        for number in (7, 8):
            self.assertEqual(b"250", self.mail(self.visitor(b"ADDR=192.0.2.%d NAME=c%d.test" % (number, number)))[:3])
        lines = self.said(running)
        self.assertEqual(2, len(lines))
        for number, line in zip((7, 8), lines, strict=True):
            for field in (f"addr=192.0.2.{number}", f"name=c{number}.test", "helo=visitor.test", "proto=ESMTP", "ident="):
                self.assertIn(field, line)
        self.assertIn("[127.0.0.1]", self.inner_trace())

    def test_one_connection_serves_them_all(self) -> None:
        hop = self.hop(extensions=(b"PIPELINING", b"XFORWARD ADDR SOURCE"))
        self.chain(self.ALL, inner=hop.endpoint)
        for number in (7, 8):
            self.mail(self.visitor(b"ADDR=192.0.2.%d" % number))
        (connection,) = hop.connections
        self.assertEqual(
            [b"XFORWARD SOURCE=REMOTE ADDR=192.0.2.7", b"XFORWARD SOURCE=REMOTE ADDR=192.0.2.8"],
            [line for line in connection.commands if line.startswith(b"XFORWARD")],
        )

    def test_what_the_client_passes_on_is_passed_on(self) -> None:
        running = self.chain(self.ALL, self.TRUST)
        client = self.visitor()
        self.ask(client, b"XFORWARD ADDR=203.0.113.5 HELO=origin.test")
        self.mail(client)
        self.assertIn("addr=203.0.113.5", self.said(running)[0])
        self.assertIn("helo=origin.test", self.said(running)[0])

    def test_not_offered_not_said(self) -> None:
        running = self.chain(self.ALL, "")
        self.assertEqual(b"250", self.mail(self.visitor())[:3])
        self.assertEqual([], running.logged("message.xforward"))

    def test_a_refusal_stops_nothing(self) -> None:
        hop = self.hop(extensions=(b"XFORWARD ADDR",), script={Step.XFORWARD: say(b"501 5.5.4 no")})
        self.chain(self.ALL, inner=hop.endpoint)
        self.assertEqual(b"250", self.mail(self.visitor())[:3])
        self.assertIn(b"XFORWARD ADDR=127.0.0.9", hop.connections[0].commands)


class Proxy(_Identity):
    TRUST = "proxy_protocol {\ntrust 127.0.0.0/8\n}"

    def test_the_inner_server_knows_the_client(self) -> None:
        for version in ("v1", "v2"):
            self.chain(f"proxy_protocol {version}", self.TRUST)
            self.assertEqual(b"250", self.mail(self.visitor(b"ADDR=192.0.2.7"))[:3])
            self.assertIn("[192.0.2.7]) by gateway.test", self.inner_trace())
            self.assertEqual(b"250", self.mail(self.visitor(b"ADDR=IPV6:2001:db8::7"))[:3])
            self.assertIn("[IPv6:2001:db8::7]) by gateway.test", self.inner_trace())
            self.reactor.run(self.running.stop(), limit=600)  # type: ignore[union-attr]

    def test_clients_never_share_a_connection(self) -> None:
        self.chain("proxy_protocol v2", self.TRUST)
        for number in (7, 8, 7):
            self.mail(self.visitor(b"ADDR=192.0.2.%d PORT=1" % number))
            self.assertIn(f"[192.0.2.{number}]", self.inner_trace())

    def test_before_tls(self) -> None:
        """The header goes in front of the handshake, whichever side begins to speak."""
        secured = self.TRUST + "\ntls self_signed"
        for endpoint in ("tls://127.0.0.1:2525", "tcp://127.0.0.1:2525"):
            self.chain("proxy_protocol v2\ntls require", secured, inner=endpoint, at=endpoint)
            self.assertEqual(b"250", self.mail(self.visitor(b"ADDR=192.0.2.7"))[:3])
            self.assertIn("[192.0.2.7]) by gateway.test with ESMTPS", self.inner_trace())
            self.reactor.run(self.running.stop(), limit=600)  # type: ignore[union-attr]

    def test_a_client_without_an_address(self) -> None:
        hop = self.hop(script={Step.BANNER: HANG})
        self.chain("proxy_protocol v2", inner=hop.endpoint)
        client = self.visitor(b"ADDR=[UNAVAILABLE]")
        client.send(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n")
        self.reactor.settle(5)
        self.assertEqual(Header(Family.UNKNOWN), HeaderParser().feed(bytes(hop.connections[0].clear)))

    def test_a_probe_is_our_own(self) -> None:
        running = self.chain(
            "proxy_protocol v2\nhealth {\nprobe 5s\nfailures 1\nbackoff 1s 2s\n}", self.TRUST + "\nquiet_hosts 10.0.0.1"
        )
        self.reactor.settle(30)
        self.assertEqual([], running.logged("endpoint.down"))
        self.assertEqual([], running.logged("proxy.refused"))
        self.assertEqual(b"250", self.mail(self.visitor(b"ADDR=192.0.2.7"))[:3])
