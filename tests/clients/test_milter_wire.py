"""The milter protocol's packets, whatever the pieces they come in."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.clients import milter_wire as wire
from mailgate.clients.milter_wire import Can, Command, MilterError, Packets, Response, Steps
from mailgate.smtp.reply import Reply


def packed(command: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data) + 1) + command + data


PACKETS = st.lists(st.tuples(st.binary(min_size=1, max_size=1), st.binary(max_size=40)), max_size=6)
SAID: dict[tuple[bytes, bytes], Any] = {
    (b"c", b""): Response.CONTINUE,
    (b"p", b""): Response.PROGRESS,
    (b"h", b"X-A\x001\n 2\0"): wire.AddHeader(b"X-A", b"1\n 2"),
    (b"h", b"X-A\0\0"): wire.AddHeader(b"X-A", b""),
    (b"i", b"\0\0\0\2X-A\x001\0"): wire.InsertHeader(2, b"X-A", b"1"),
    (b"m", b"\0\0\0\1X-A\0\0"): wire.ChangeHeader(1, b"X-A", b""),
    (b"b", b"\0\1"): wire.ReplaceBody(b"\0\1"),
    (b"+", b"<a@x.test>\0"): wire.AddRecipient("a@x.test"),
    (b"2", b"<a@x.test>\0NOTIFY=NEVER X=1\0"): wire.AddRecipient("a@x.test", ("NOTIFY=NEVER", "X=1")),
    (b"-", b"a@x.test\0"): wire.DeleteRecipient("a@x.test"),
    (b"e", b"<>\0"): wire.ChangeSender(""),
    (b"q", b"why\r\nnot\0"): wire.Quarantine("why?not"),
    (b"y", b"550 5.7.1 no\0"): wire.Refusal(Reply(550, "5.7.1", "no")),
    (b"y", b"550-5.7.1 no\r\n550 5.7.1 never 100%%\0"): wire.Refusal(Reply(550, "5.7.1", "no\nnever 100%")),
    (b"y", b"451\0"): wire.Refusal(Reply(451, "4.7.1", "Rejected by a filter")),
    (b"y", b"554-5.7.9 one\r\n554-two\r\n554 5.7.9 \x1b\0"): wire.Refusal(Reply(554, "5.7.9", "one\ntwo\n?")),
    (b"f", b""): Response.CONNECTION_FAILED,
    (b"O", struct.pack("!III", 6, 0x11, 0x80)): wire.Negotiated(
        wire.Agreement(6, Can.ADD_HEADERS | Can.CHANGE_HEADERS, Steps.QUIET_HEADER)
    ),
}
NONSENSE = [
    (b"", b""), (b"Z", b""), (b"c", b"c"),
    (b"h", b""), (b"h", b"a\0b\0c\0"), (b"i", b"\0\0"), (b"m", b"\0\0\0"), (b"-", b"a\0b\0"),
    (b"y", b""), (b"y", b"250 ok\0"), (b"y", b"550 4.1.1 no\0"), (b"y", b"hello\0"), (b"O", b"\0\0\0\6"),
    (b"O", struct.pack("!III", 1, 0, 0)), (b"O", struct.pack("!III", 7, 0, 0)), (b"O", struct.pack("!III", 6, 0x200, 0)),
    (b"O", struct.pack("!III", 6, 0, 0x200000)), (b"O", struct.pack("!IIII", 6, 0, 0, 9) + b"i\0"),
    (b"O", struct.pack("!IIII", 6, 0, 0, 1) + b"i"),
]  # fmt: skip


class PacketTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(PACKETS, st.lists(st.integers(0, 300), max_size=8))
    def test_at_every_cut(self, packets: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
        stream = b"".join(packed(command, data) for command, data in packets)
        places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
        reader = Packets()
        found = [one for start, end in pairwise(places) for one in reader.receive(stream[start:end])]
        self.assertEqual(found, packets)

    def test_byte_by_byte(self) -> None:
        stream = packed(b"h", b"a\0b\0") + packed(b"c", b"")
        reader = Packets()
        self.assertEqual([one for byte in stream for one in reader.receive(bytes([byte]))], [(b"h", b"a\0b\0"), (b"c", b"")])

    def test_lengths(self) -> None:
        self.assertRaises(MilterError, Packets().receive, b"\0\0\0\0")
        self.assertRaises(MilterError, Packets(10).receive, b"\0\0\0\x0b")
        self.assertEqual(Packets(10).receive(packed(b"b", b"x" * 9)), [(b"b", b"x" * 9)])

    def test_what_a_filter_says(self) -> None:
        for (command, data), expected in SAID.items():
            self.assertEqual(wire.parse(command, data), expected, (command, data))

    def test_what_none_may_say(self) -> None:
        for command, data in NONSENSE:
            with self.assertRaises(MilterError, msg=(command, data)):
                wire.parse(command, data)

    @settings(max_examples=150, deadline=None)
    @given(st.sampled_from([bytes([letter]) for letter in b"Oyhimb+2-eqcadrtsp4fZ"]), st.binary(max_size=60))
    def test_anything_is_read_or_refused(self, command: bytes, data: bytes) -> None:
        try:
            said = wire.parse(command, data)
        except MilterError:
            return
        if isinstance(said, wire.Refusal):
            self.assertIn(said.reply.code // 100, (4, 5))
            self.assertTrue(said.reply.text.replace("\n", "").isprintable())

    def test_macros_that_a_filter_asks_for(self) -> None:
        data = struct.pack("!III", 6, 0, 0) + struct.pack("!I", 3) + b"{rcpt_addr} j\0" + struct.pack("!I", 0) + b"\0"
        said = wire.parse(b"O", data)
        assert isinstance(said, wire.Negotiated)
        self.assertEqual(said.agreement.macros[Command.RCPT], ("{rcpt_addr}", "j"))
        self.assertEqual(said.agreement.macros[Command.CONNECT], ())
        self.assertEqual(said.agreement.macros[Command.MAIL], wire.MACROS[Command.MAIL])


class SayingTests(SynchronousTestCase):
    def test_clients(self) -> None:
        self.assertEqual(wire.connect("a.test", "192.0.2.1", 25), packed(b"C", b"a.test\x004\0\x19192.0.2.1\0"))
        self.assertEqual(wire.connect("", "2001:db8::1%eth0", 1), packed(b"C", b"[2001:db8::1]\x006\0\1IPv6:2001:db8::1\0"))
        self.assertEqual(wire.connect("", "", 0), packed(b"C", b"localhost\0L\0\0/\0"))

    def test_nothing_ends_a_text_early(self) -> None:
        self.assertEqual(wire.header(b"A", b"b\0c"), packed(b"L", b"A\0b\0"))
        self.assertEqual(wire.macros(Command.MAIL, [("i", "1\0{auth_authen}\0root")]), packed(b"D", b"Mi\x001\0"))

    def test_the_offer(self) -> None:
        self.assertEqual(struct.unpack("!III", wire.negotiate()[5:]), (6, 0x1FF, 0x1FFFFF))
