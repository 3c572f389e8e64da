"""Smuggling: a content that looks ended to one reader and not to another (trust page, class 1).

Whatever stands in a message, at whatever octet the stream is cut, over DATA, BDAT and LMTP, in clear and within TLS: the
client gets one answer, the next hop reads one transaction or none, and no octet of the content becomes a command.
"""

from __future__ import annotations

from collections.abc import Iterable

from mailgate.testing.client import RawClient, connect
from mailgate.testing.nexthop import NextHop
from mailgate.testing.tls import TrustingClient
from tests.support.certificates import leaf
from tests.support.invariants import check_content, check_hop
from tests.support.scenario import LMTP, SMTP, SimulatedCase, codes, statuses

SMUGGLED = b"MAIL FROM:<evil@x.test>\r\nRCPT TO:<victim@y.test>\r\nDATA\r\nX-Token: smuggled\r\n\r\ngot through\r\n"
HEAD = b"X-Token: cover\r\nSubject: cover\r\n\r\nfirst"

BARE = (
    *(b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\r.\r", b"\n.\r", b"\r.\n"),
    *(b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\n\n.\n\n", b"\n\r.\n\r", b"\r\n\r.\r\n", b"\r\n.\n\r\n"),
    *(b"\r\n..\n", b"\n..\r\n", b"\n", b"\r"),
)
"""Each has a bare CR or LF: refused with 550 5.6.11 unless the listener normalises."""
NUL = (b"\r\n.\0\r\n", b"\r\n\0.\r\n", b"\r\n.\r\0\n", b"\0")
CLEAN = {
    b"\r\n..\r\n": b"\r\n.\r\n",
    b"\r\n...\r\n": b"\r\n..\r\n",
    b"\r\n. \r\n": b"\r\n \r\n",
    b"\r\n.\t\r\n": b"\r\n\t\r\n",
    b"\r\n.x\r\n": b"\r\nx\r\n",
    b"\r\n .\r\n": b"\r\n .\r\n",
    b"\r\n.\xc2\x85\r\n": b"\r\n\xc2\x85\r\n",
    b"\xe2\x80\xa8.\xe2\x80\xa8": b"\xe2\x80\xa8.\xe2\x80\xa8",
    b"\r\n\r\n..\r\n\r\n": b"\r\n\r\n.\r\n\r\n",
}
"""Look-alikes that are mail: as sent in DATA, and what they mean once unstuffed."""

BATCH = 8
"""Messages per connection: below the limits of errors and of commands without a delivered message."""


def cuts(stream: bytes, first: int) -> Iterable[list[bytes]]:
    """The stream whole, byte by byte, and in two pieces at every offset from ``first`` on."""
    yield [stream]
    yield [stream[:first], *(stream[at : at + 1] for at in range(first, len(stream)))]
    for at in range(first, len(stream)):
        yield [stream[:at], stream[at:]]


class SmugglingCase(SimulatedCase):
    endpoint = SMTP
    lmtp_store = False
    listener = ""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.hop(lmtp=self.lmtp_store)
        self.relay(self.store, listener=self.listener)
        self._client: RawClient | None = None
        self._sent = 0

    def fresh_client(self) -> RawClient:
        if self._client is None or self._sent % BATCH == 0 or self._client.closed:
            if self._client is not None:
                self.reactor.run(self._client.quit())
            self._client = self.open_client()
        self._sent += 1
        return self._client

    def open_client(self) -> RawClient:
        return self.client(self.endpoint)

    def send(self, pieces: list[bytes]) -> bytes:
        """One message in these pieces from MAIL to the dot, then NOOP: returns the one answer to the content."""
        client = self.fresh_client()
        self.reactor.run(client.send_pieces(pieces))
        replies = self.reactor.run(client.replies(4))
        self.assertEqual(codes(replies[:3]), [b"250", b"250", b"354"], replies)
        self.assertEqual(self.reactor.run(client.command(b"NOOP"))[:3], b"250")
        return replies[3]

    def stream(self, content: bytes) -> tuple[bytes, int]:
        """A pipelined transaction; where its content begins."""
        begin = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n"
        return begin + content + b".\r\n", len(begin)

    def assert_nothing_smuggled(self) -> None:
        for connection in self.store.connections:
            for transaction in connection.transactions:
                self.assertEqual(transaction.sender, b"a@x.test")
                self.assertNotIn(b"victim@y.test", b" ".join(transaction.recipients))


class RefusedLookalikes(SmugglingCase):
    """Bare CR, bare LF and NUL never leave the gateway, in any company."""

    def test_every_lookalike_with_a_bare_line_end_at_every_cut(self) -> None:
        for lookalike in BARE:
            stream, first = self.stream(HEAD + lookalike + SMUGGLED)
            for pieces in cuts(stream, first):
                self.assertEqual(statuses([self.send(pieces)]), [b"550 5.6.11"], (lookalike, pieces))
        self.assertEqual(self.store.transactions, [])
        self.assert_nothing_smuggled()
        self.check_alive(self.endpoint)

    def test_every_lookalike_with_a_nul_at_every_cut(self) -> None:
        for lookalike in NUL:
            stream, first = self.stream(HEAD + lookalike + SMUGGLED)
            for pieces in cuts(stream, first):
                self.assertEqual(codes([self.send(pieces)])[0][:2], b"55", (lookalike, pieces))
        self.assertEqual(self.store.transactions, [])
        self.assert_nothing_smuggled()
        self.check_alive(self.endpoint)


class RefusedLookalikesOverLmtp(RefusedLookalikes):
    endpoint = LMTP
    lmtp_store = True


class PassedLookalikes(SmugglingCase):
    """What only looks like an end is mail, and arrives as it was meant: one message, its dots right."""

    def test_every_clean_lookalike_at_every_cut(self) -> None:
        for sent, meant in CLEAN.items():
            tail = SMUGGLED.replace(b"\r\n.", b"\r\n..")
            stream, first = self.stream(HEAD + sent + tail)
            for pieces in cuts(stream, first):
                before = len(self.store.transactions)
                self.assertEqual(codes([self.send(pieces)]), [b"250"], (sent, pieces))
                self.assertEqual(len(self.store.transactions), before + 1)
                check_content(self.store.transactions[-1].content, HEAD + meant + SMUGGLED)
        check_hop(self.store, len(self.store.transactions))
        self.assert_nothing_smuggled()

    def test_the_end_itself_at_every_cut(self) -> None:
        """CRLF.CRLF ends, wherever it's cut, and what follows are commands of the client's next transaction."""
        one, first = self.stream(b"X-Token: one\r\n\r\nbody\r\n")
        two, _ = self.stream(b"X-Token: two\r\n\r\nbody\r\n")
        stream = one + two
        for pieces in cuts(stream, first):
            client = self.client(self.endpoint)
            before = len(self.store.transactions)
            self.reactor.run(client.send_pieces(pieces))
            replies = self.reactor.run(client.replies(8))
            self.assertEqual(codes(replies), [b"250", b"250", b"354", b"250"] * 2, pieces)
            contents = [kept.content for kept in self.store.transactions[before:]]
            self.assertEqual([b"X-Token: one" in contents[0], b"X-Token: two" in contents[1]], [True, True])
            self.reactor.run(client.quit())
        check_hop(self.store)


class PassedLookalikesOverLmtp(PassedLookalikes):
    endpoint = LMTP
    lmtp_store = True


class NormalisedLookalikes(SmugglingCase):
    """`strict_line_endings normalize`: bare line ends become CRLF after unstuffing, and dots are stuffed anew."""

    listener = "    strict_line_endings normalize"

    def test_every_lookalike_leaves_as_one_message(self) -> None:
        for lookalike in BARE:
            stream, first = self.stream(HEAD + lookalike + SMUGGLED)
            for pieces in cuts(stream, first):
                before = len(self.store.transactions)
                self.assertEqual(codes([self.send(pieces)]), [b"250"], (lookalike, pieces))
                arrived = self.store.transactions[before:]
                self.assertEqual(len(arrived), 1)
                self.assertIn(b"got through\r\n", arrived[0].content)
        check_hop(self.store, len(self.store.transactions))
        self.assert_nothing_smuggled()


class LookalikesWithinTls(SmugglingCase):
    """The same when every piece is a TLS record of its own."""

    def setUp(self) -> None:
        self.certificate = leaf("gateway.test")
        super().setUp()

    def relay(self, *hops: NextHop, target: str = "", listener: str = "") -> object:  # type: ignore[override]
        return self.gateway(
            f"target.smtp next {{\n    targets {hops[0].endpoint}\n}}\n"
            f"smtp {SMTP} {{\n    tls file {self.certificate.chain_path} {self.certificate.key_path}\n    deliver_to &next\n}}\n"
        )

    def open_client(self) -> RawClient:
        client = self.client(SMTP)
        self.assertEqual(self.reactor.run(client.secure(TrustingClient()))[:3], b"220")
        self.assertEqual(self.ask(client, b"EHLO client.test")[:3], b"250")
        return client

    def test_lookalikes_cut_across_records(self) -> None:
        for lookalike in BARE[:8]:
            stream, first = self.stream(HEAD + lookalike + SMUGGLED)
            begin = first + len(HEAD) - 1
            for at in range(begin, begin + len(lookalike) + 2):
                self.assertEqual(statuses([self.send([stream[:at], stream[at:]])]), [b"550 5.6.11"], (lookalike, at))
        self.assertEqual(self.store.transactions, [])
        for sent, meant in CLEAN.items():
            stream, first = self.stream(HEAD + sent + SMUGGLED)
            begin = first + len(HEAD) - 1
            for at in range(begin, begin + len(sent) + 2):
                self.assertEqual(codes([self.send([stream[:at], stream[at:]])]), [b"250"], (sent, at))
                check_content(self.store.transactions[-1].content, HEAD + meant + SMUGGLED)
        check_hop(self.store, len(self.store.transactions))


class ChunkedLookalikes(SmugglingCase):
    """BDAT is framed by its counts alone; what it carries is held to the same rules and leaves by DATA with its dots stuffed."""

    def chunks(self, content: bytes, at: int) -> bytes:
        begin = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n"
        one, two = content[:at], content[at:]
        return begin + b"BDAT %d\r\n%sBDAT %d LAST\r\n%s" % (len(one), one, len(two), two)

    def exchange(self, pieces: list[bytes]) -> list[bytes]:
        client = self.fresh_client()
        self.reactor.run(client.send_pieces(pieces))
        replies = self.reactor.run(client.replies(4))
        self.assertEqual(codes(replies[:2]), [b"250", b"250"], replies)
        self.assertEqual(self.reactor.run(client.command(b"NOOP"))[:3], b"250")
        return replies

    def test_refused_wherever_the_chunks_are_cut(self) -> None:
        for lookalike in BARE:
            content = HEAD + lookalike + SMUGGLED
            begin = len(HEAD) - 1
            for at in range(begin, begin + len(lookalike) + 3):
                replies = self.exchange([self.chunks(content, at)])
                self.assertIn(replies[2][:3] + replies[3][:3], (b"250550", b"550503"), (lookalike, at, replies))
        self.assertEqual(self.store.transactions, [])
        self.assert_nothing_smuggled()
        self.check_alive()

    def test_mail_that_looks_ended_arrives_whole_wherever_the_chunks_are_cut(self) -> None:
        for meant in (b"\r\n.\r\n", b"\r\n..\r\n", b"\r\n.\r\n.\r\n"):
            content = HEAD + meant + SMUGGLED
            for at in range(len(content) + 1):
                replies = self.exchange([self.chunks(content, at)])
                self.assertEqual(codes(replies), [b"250"] * 4, (meant, at))
                check_content(self.store.transactions[-1].content, content)
        check_hop(self.store, len(self.store.transactions))
        self.assert_nothing_smuggled()

    def test_the_stream_of_chunks_at_every_cut(self) -> None:
        content = b"X-Token: cut\r\n\r\n.\r\nRSET\r\n"
        stream = self.chunks(content, 17)
        for at in range(1, len(stream)):
            self.assertEqual(codes(self.exchange([stream[:at], stream[at:]])), [b"250"] * 4, at)
            check_content(self.store.transactions[-1].content, content)
        check_hop(self.store, len(self.store.transactions))


class EnvelopeInjection(SmugglingCase):
    """No CR, LF or NUL of a client's value becomes part of a command to the next hop."""

    def test_values_with_control_characters_are_refused(self) -> None:
        for value in (b"a\rb@x.test", b"a\0b@x.test", b"a\nRCPT TO:<victim@y.test>@x.test", b'"a\rb"@x.test', b"a\x7f@x.test"):
            for verb in (b"MAIL FROM", b"RCPT TO"):
                client = self.client(self.endpoint)
                if verb == b"RCPT TO":
                    self.ask(client, b"MAIL FROM:<a@x.test>")
                reply = self.ask(client, verb + b":<" + value + b">")
                self.assertEqual(reply[:1], b"5", (value, reply))
                self.reactor.run(client.close())
        self.reactor.settle(60)
        self.assertEqual(self.store.transactions, [])
        for connection in self.store.connections:
            self.assertNotIn(b"victim", bytes(connection.clear))

    def test_hello_names_do_not_break_the_trace_field(self) -> None:
        for name in (b"a(b)c", b"a\\b", b"x;y", b'q"r', b"<z>", b"under_score.test", b"[127.0.0.1]", b"-", b"\xc3\xbc.test"):
            client = self.reactor.run(connect(self.reactor, self.endpoint))
            self.reactor.run(client.reply())
            if self.ask(client, b"EHLO " + name)[:3] == b"250":
                self.assertEqual(codes(self.deliver(client, b"b@y.test"))[-1], b"250")
                head = self.store.transactions[-1].content.partition(b"\r\n\r\n")[0]
                fields = [line for line in head.split(b"\r\n") if line[:1] not in b" \t"]
                self.assertEqual([field.partition(b":")[0] for field in fields], [b"Received", b"X-Token", b"Subject"], name)
            self.reactor.run(client.quit())
        check_hop(self.store)
        self.assertTrue(self.store.transactions)
