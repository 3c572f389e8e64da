"""Parameters and extensions through the whole gateway: what the client asks for, what the next hop announces, what becomes of it.

Each row is one message: what the next hop announces, the client's MAIL and RCPT, the content; then the client's last answer, and
what the next hop was told.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mailgate.testing.nexthop import NextHop, Step, say
from tests.support.scenario import LMTP, SimulatedCase, statuses

ASCII = b"Subject: plain\r\n\r\nHello.\r\n"
LATIN = b"Subject: plain\r\n\r\nGr\xfc\xdfe.\r\n"
UTF8_HEADER = "Subject: Grüße\r\n\r\nHello.\r\n".encode()
UTF8_LOCAL = "zoë@y.test".encode()
UTF8_DOMAIN = "zoe@münchen.example".encode()
A_LABEL = b"zoe@xn--mnchen-3ya.example"
PLAIN = (b"PIPELINING", b"ENHANCEDSTATUSCODES")
EIGHT = (*PLAIN, b"8BITMIME")
UTF8 = (*EIGHT, b"SMTPUTF8")
DSN = (*EIGHT, b"DSN")
SENDER = b"<a@x.test>"


class Row(NamedTuple):
    announced: tuple[bytes, ...]
    mail: bytes
    rcpt: bytes
    content: bytes
    status: bytes
    """Of the client's last answer."""
    told: bytes | None = None
    """What stood behind MAIL FROM: at the next hop; None: no message came there."""
    told_rcpt: bytes | None = None
    logged: str = ""


OK = b"250 2.0.0"
ROWS = {
    "nothing asked, nothing said": Row(UTF8, SENDER, b"<b@y.test>", ASCII, OK, SENDER, b"<b@y.test>"),
    "BODY=8BITMIME goes on": Row(EIGHT, SENDER + b" BODY=8BITMIME", b"<b@y.test>", LATIN, OK, SENDER + b" BODY=8BITMIME"),
    "BODY=7BIT need not": Row(EIGHT, SENDER + b" BODY=7BIT", b"<b@y.test>", ASCII, OK, SENDER),
    "undeclared 8-bit content counts as 8BITMIME": Row(EIGHT, SENDER, b"<b@y.test>", LATIN, OK, SENDER + b" BODY=8BITMIME"),
    "BODY=7BIT that is not": Row(EIGHT, SENDER + b" BODY=7BIT", b"<b@y.test>", LATIN, OK, SENDER + b" BODY=8BITMIME"),
    "8-bit content to a 7-bit hop": Row(PLAIN, SENDER + b" BODY=8BITMIME", b"<b@y.test>", LATIN, b"550 5.6.3"),
    "undeclared 8-bit content to a 7-bit hop": Row(PLAIN, SENDER, b"<b@y.test>", LATIN, b"550 5.6.3"),
    "declared 8-bit that is 7-bit to a 7-bit hop": Row(PLAIN, SENDER + b" BODY=8BITMIME", b"<b@y.test>", ASCII, OK, SENDER),
    "SMTPUTF8 where nothing needs it": Row(UTF8, SENDER + b" SMTPUTF8", b"<b@y.test>", ASCII, OK, SENDER),
    "SMTPUTF8 for a local part": Row(
        UTF8, SENDER + b" SMTPUTF8", b"<" + UTF8_LOCAL + b">", ASCII, OK, SENDER + b" SMTPUTF8", b"<" + UTF8_LOCAL + b">"
    ),
    "SMTPUTF8 for the header section": Row(
        UTF8, SENDER + b" SMTPUTF8", b"<b@y.test>", UTF8_HEADER, OK, SENDER + b" BODY=8BITMIME SMTPUTF8"
    ),
    "a local part to a hop without it": Row(EIGHT, SENDER + b" SMTPUTF8", b"<" + UTF8_LOCAL + b">", ASCII, b"550 5.6.7"),
    "a header section to a hop without it": Row(EIGHT, SENDER + b" SMTPUTF8", b"<b@y.test>", UTF8_HEADER, b"550 5.6.7"),
    "A-labels suffice for a domain": Row(
        EIGHT, SENDER + b" SMTPUTF8", b"<" + UTF8_DOMAIN + b">", ASCII, OK, SENDER, b"<" + A_LABEL + b">"
    ),
    "SIZE with what we add": Row(
        (*EIGHT, b"SIZE 100000"), SENDER + b" SIZE=500", b"<b@y.test>", ASCII, OK, SENDER + b" SIZE=1524"
    ),
    "SIZE that the client did not give": Row((*EIGHT, b"SIZE 100000"), SENDER, b"<b@y.test>", ASCII, OK, SENDER),
    "SIZE to a hop that does not announce it": Row(EIGHT, SENDER + b" SIZE=500", b"<b@y.test>", ASCII, OK, SENDER),
    "SIZE never beyond what is announced": Row(
        (*EIGHT, b"SIZE 1000"), SENDER + b" SIZE=900", b"<b@y.test>", ASCII, OK, SENDER + b" SIZE=1000"
    ),
    "a declared size over the announced limit": Row(
        (*EIGHT, b"SIZE 400"), SENDER + b" SIZE=500", b"<b@y.test>", ASCII, b"552 5.3.4"
    ),
    "an actual size over the announced limit": Row((*EIGHT, b"SIZE 100"), SENDER, b"<b@y.test>", ASCII, b"552 5.3.4"),
    "AUTH= of a client that has not logged in": Row(
        (*EIGHT, b"AUTH PLAIN"), SENDER + b" AUTH=someone", b"<b@y.test>", ASCII, b"555 5.5.4"
    ),
}


class ParametersTest(SimulatedCase):
    def transaction(self, client: Any, row: Row) -> bytes:
        """The last answer that matters."""
        for line in (b"MAIL FROM:" + row.mail, b"RCPT TO:" + row.rcpt, b"DATA"):
            reply = self.ask(client, line)
            if reply[:1] not in b"23":
                return reply
        client.send(row.content + b".\r\n")
        return self.reactor.run(client.reply(), limit=60)

    def check(self, row: Row, hop: NextHop, reply: bytes) -> None:
        self.assertEqual(statuses([reply]), [row.status])
        self.assertEqual([(kept.mail) for kept in hop.transactions], [] if row.told is None else [row.told])
        if row.told_rcpt is not None:
            self.assertEqual(hop.transactions[0].recipients, [row.told_rcpt])
        if row.told is not None:
            self.assertTrue(hop.transactions[0].content.endswith(row.content))

    def test_each_row(self) -> None:
        for name, row in ROWS.items():
            with self.row(name):
                hop = self.hop(extensions=row.announced)
                self.relay(hop)
                self.check(row, hop, self.transaction(self.client(), row))

    def test_the_same_over_lmtp(self) -> None:
        for name, row in ROWS.items():
            with self.row(name):
                hop = self.hop(extensions=row.announced, lmtp=True)
                self.relay(hop)
                self.check(row._replace(status=row.status), hop, self.transaction(self.client(LMTP), row))

    def test_max_line_length(self) -> None:
        for name, limit, status in (("within", 100, OK), ("beyond", 99, b"554 5.6.0")):
            with self.row(name):
                hop = self.hop()
                self.relay(hop, target=f"max_line_length {limit}")
                row = Row(UTF8, SENDER, b"<b@y.test>", b"X-Long: y\r\n\r\n" + b"x" * 100 + b"\r\n", status)
                self.assertEqual(statuses([self.transaction(self.client(), row)]), [status])
                self.assertEqual(len(hop.transactions), int(status == OK))

    def test_binarymime_by_bdat_only(self) -> None:
        for announced, status in (((*EIGHT, b"BINARYMIME", b"CHUNKING"), b"250"), (EIGHT, b"550")):
            with self.row(str(announced)):
                hop = self.hop(extensions=announced)
                self.relay(hop)
                client = self.client()
                self.ask(client, b"MAIL FROM:" + SENDER + b" BODY=BINARYMIME")
                reply = self.ask(client, b"RCPT TO:<b@y.test>")
                if reply[:1] == b"2":
                    self.assertEqual(self.ask(client, b"DATA")[:3], b"503")
                    content = b"Subject: x\r\n\r\n\x00\n\r\x80"
                    client.send(b"BDAT %d LAST\r\n" % len(content) + content)
                    reply = self.reactor.run(client.reply(), limit=60)
                    (kept,) = hop.transactions
                    self.assertEqual((kept.via, kept.mail), ("BDAT", SENDER + b" BODY=BINARYMIME"))
                    self.assertTrue(kept.content.endswith(content))
                self.assertEqual(reply[:3], status)

    def test_replies_are_cleaned_and_wrapped(self) -> None:
        long = "450 pas aujourd'hui, désolé \x07".encode() + b"y" * 700
        hop = self.hop(script={Step.RCPT: [say(long)], Step.DOT: [say(b"250 fine")]})
        self.relay(hop, target="failover {\ntempfail no\n}")
        client = self.client()
        self.ask(client, b"MAIL FROM:" + SENDER)
        reply = self.ask(client, b"RCPT TO:<b@y.test>")
        lines = reply.split(b"\r\n")
        self.assertTrue(all(line.startswith((b"450-4.0.0 ", b"450 4.0.0 ")) and len(line) <= 510 for line in lines), lines)
        self.assertTrue(all(32 <= octet < 127 for line in lines for octet in line))
        self.ask(client, b"RCPT TO:<b@y.test>")
        self.ask(client, b"DATA")
        client.send(ASCII + b".\r\n")
        self.assertRegex(self.reactor.run(client.reply(), limit=60), rb"^250 2.0.0 Ok: [0-9a-f.]+ fine$")
