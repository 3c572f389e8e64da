"""A message that one endpoint can't take goes to the next one; it is refused only where none can. (REQUIRETLS: test_requiretls.)

Each row: what the first endpoint announces, what the second, the client's MAIL and RCPT, the content, the client's last answer.
"""

from __future__ import annotations

from typing import NamedTuple

from mailgate.testing.nexthop import NextHop, Step, say
from tests.support.scenario import LMTP, SMTP, SimulatedCase, statuses
from tests.wire.test_next_hop_parameters import ASCII, EIGHT, LATIN, PLAIN, SENDER, UTF8, UTF8_HEADER, UTF8_LOCAL

SMALL = (*EIGHT, b"SIZE 100")
LARGE = (*EIGHT, b"SIZE 100000")
BINARY = (*EIGHT, b"CHUNKING", b"BINARYMIME")


class Row(NamedTuple):
    first: tuple[bytes, ...]
    second: tuple[bytes, ...]
    mail: bytes
    rcpt: bytes
    content: bytes
    refusal: bytes
    """What the client hears where neither can."""


ROWS = {
    "a declared size": Row(SMALL, LARGE, SENDER + b" SIZE=500", b"<b@y.test>", ASCII, b"552 5.3.4"),
    "an actual size": Row(SMALL, LARGE, SENDER, b"<b@y.test>", ASCII * 4, b"552 5.3.4"),
    "8-bit content that was declared": Row(PLAIN, EIGHT, SENDER + b" BODY=8BITMIME", b"<b@y.test>", LATIN, b"550 5.6.3"),
    "8-bit content that was not": Row(PLAIN, EIGHT, SENDER, b"<b@y.test>", LATIN, b"550 5.6.3"),
    "a local part in UTF-8": Row(
        EIGHT, UTF8, SENDER + b" SMTPUTF8", b"<" + UTF8_LOCAL + b">", ASCII, b"550 5.6.7"
    ),
    "a header section in UTF-8": Row(EIGHT, UTF8, SENDER + b" SMTPUTF8", b"<b@y.test>", UTF8_HEADER, b"550 5.6.7"),
}  # fmt: skip
DOWN = "tcp://192.0.2.9:25"


class NeedsTest(SimulatedCase):
    lmtp = False
    inbound = SMTP

    def transaction(self, row: Row) -> bytes:
        """The client's last answer."""
        client = self.client(self.inbound)
        for line in (b"MAIL FROM:" + row.mail, b"RCPT TO:" + row.rcpt, b"DATA"):
            reply = self.ask(client, line)
            if reply[:1] not in b"23":
                return statuses([reply])[0]
        client.send(row.content + b".\r\n")
        return statuses([self.reactor.run(client.reply(), limit=600)])[0]

    def stage(self, *announced: tuple[bytes, ...], more: str = "") -> list[NextHop]:
        hops = [self.hop(extensions=words, lmtp=self.lmtp) for words in announced]
        self.relay(*hops, target=more)
        return hops

    def test_the_next_endpoint_takes_it(self) -> None:
        for name, row in ROWS.items():
            with self.row(name):
                first, second = self.stage(row.first, row.second)
                self.assertEqual(self.transaction(row)[:3], b"250")
                self.assertEqual((len(first.transactions), len(second.transactions)), (0, 1))
                self.assertTrue(second.transactions[0].content.endswith(row.content))
                assert self.running is not None
                self.assertEqual(self.running.logged("endpoint.down"), [])
                refused, _ = self.running.logged("delivery.attempt")
                self.assertIn(row.refusal.decode(), refused)
                self.assertIn("stage=mail", refused)
                self.check_alive(self.inbound)

    def test_the_same_on_a_connection_that_is_kept(self) -> None:
        for name, row in ROWS.items():
            with self.row(name):
                first, second = self.stage(row.first, row.second)
                small = row._replace(mail=SENDER, rcpt=b"<b@y.test>", content=b"Subject: a\r\n\r\n")
                for count in (1, 2):
                    self.assertEqual(self.transaction(row)[:3], b"250")
                    self.assertEqual(len(second.transactions), count)
                    if row.first is not SMALL:  # our trace fields alone are more than it takes
                        self.assertEqual(self.transaction(small)[:3], b"250")
                        self.assertEqual(len(first.transactions), count)

    def test_refused_where_none_can(self) -> None:
        for name, row in ROWS.items():
            with self.row(name):
                hops = self.stage(row.first, row.first)
                self.assertEqual(self.transaction(row), row.refusal)
                self.assertEqual([hop.transactions for hop in hops], [[], []])
                assert self.running is not None
                self.assertEqual(len(self.running.logged("delivery.attempt")), 2)

    def test_not_refused_for_good_while_another_might_take_it(self) -> None:
        for name, row in ROWS.items():
            with self.row(f"{name}, the other is down"):
                self.reactor.refuse("192.0.2.9", 25)
                self.one_is_down(self.hop(extensions=row.first, lmtp=self.lmtp))
                for _ in range(2):  # when its circuit is open it is not asked at all
                    self.assertEqual(self.transaction(row), b"451 4.4.1")
            with self.row(f"{name}, the other says 4yz"):
                first = self.hop(extensions=row.first, lmtp=self.lmtp)
                busy = self.hop(extensions=row.second, lmtp=self.lmtp, script={Step.MAIL: say(b"451 4.3.0 later")})
                self.relay(first, busy)
                self.assertEqual(self.transaction(row), b"451 4.3.0")

    def one_is_down(self, hop: NextHop) -> None:
        kind = "lmtp" if self.lmtp else "smtp"
        self.gateway(
            f"target.{kind} next {{\n targets {hop.endpoint} {DOWN}\n}}\n"
            f"smtp {SMTP} {{\n tls off\n deliver_to &next\n}}\nlmtp {LMTP} {{\n tls off\n deliver_to &next\n}}\n"
        )

    def test_a_recipient_who_needs_more_is_refused_alone(self) -> None:
        needy, plain = (UTF8_LOCAL, b"550 5.6.7"), (b"b@y.test", b"250")
        for first, second in ((needy, plain), (plain, needy)):
            with self.row(f"{first[0]!r} first"):
                hops = self.stage(EIGHT, EIGHT)
                client = self.client(self.inbound)
                self.ask(client, b"MAIL FROM:" + SENDER + b" SMTPUTF8")
                for address, expected in (first, second):
                    reply = self.ask(client, b"RCPT TO:<" + address + b">")
                    self.assertEqual(statuses([reply])[0][: len(expected)], expected)
                self.ask(client, b"DATA")
                client.send(ASCII + b".\r\n")
                self.assertEqual(self.reactor.run(client.reply(), limit=600)[:3], b"250")
                self.assertEqual([len(hop.transactions) for hop in hops].count(1), 1)

    def test_binarymime(self) -> None:
        first, second = self.stage(EIGHT, BINARY)
        client = self.client(self.inbound)
        self.ask(client, b"MAIL FROM:" + SENDER + b" BODY=BINARYMIME")
        self.assertEqual(self.ask(client, b"RCPT TO:<b@y.test>")[:3], b"250")
        content = b"Subject: x\r\n\r\n\x00\n\r\x80"
        client.send(b"BDAT %d LAST\r\n" % len(content) + content)
        self.assertEqual(self.reactor.run(client.reply(), limit=60)[:3], b"250")
        self.assertEqual((first.transactions, second.transactions[0].via), ([], "BDAT"))


class NeedsOverLmtpTest(NeedsTest):
    lmtp = True
    inbound = LMTP
