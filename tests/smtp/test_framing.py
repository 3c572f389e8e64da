"""End of data, content rules and stuffing: every look-alike at every cut."""

from __future__ import annotations

import random
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp import framing
from mailgate.smtp.framing import (
    BARE_LINE_END,
    HEADER_TOO_BIG,
    LINE_TOO_LONG,
    NUL_OCTET,
    TOO_BIG,
    TOO_MANY_FIELDS,
    ChunkFraming,
    ContentFilter,
    ContentRules,
    DataFraming,
    StuffState,
    end_of_data,
    stuff,
)
from mailgate.smtp.reply import Reply

END = b"\r\n.\r\n"
LOOK_ALIKES = (
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r.\r\n",
    b"\n.\r",
    b"\n\n.\n\n",
    b"\r\r\n.\r\r\n",
    b"\r\n.\r\r\n",
    b"\r\n..\r\n",
    b"\r\n .\r\n",
    b"\r\n. \r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\0\n.\r\n",
    b"\x85.\x85",
    b"\xe2\x80\xa8.\xe2\x80\xa8",
)
REJECT = ContentRules()
NORMALIZE = ContentRules(normalize_line_endings=True)
STRIP = ContentRules(strip_nul=True)
REPAIR = ContentRules(normalize_line_endings=True, strip_nul=True)


def unframe(pieces: list[bytes]) -> tuple[bytes, bytes | None]:
    """Unstuffed content, and what is left behind the end of data (None when there was none)."""
    framing, buffer, content = DataFraming(), b"", b""
    for number, piece in enumerate(pieces):
        buffer += piece
        block, position, complete = framing.take(buffer, 0)
        content += block
        buffer = buffer[position:]
        if complete:
            return content, buffer + b"".join(pieces[number + 1 :])
    return content, None


def judge(pieces: list[bytes], rules: ContentRules, *, binary: bool = False) -> bytes | Reply:
    """Clean content, or why there is none."""
    content = ContentFilter(rules, binary=binary)
    clean = b"".join(content.feed(piece, last=number == len(pieces)) for number, piece in enumerate(pieces, 1))
    return content.refusal or clean


def every_cut(data: bytes) -> list[list[bytes]]:
    return [[data], [data[at : at + 1] for at in range(len(data))], *([data[:at], data[at:]] for at in range(1, len(data)))]


def reference_judge(data: bytes, rules: ContentRules) -> bytes | Reply:
    """What the filter must come to, octet by octet and without regard for speed."""
    size, bare, nul, bare_cr_in_header, clean, in_header = 0, False, False, False, bytearray(), True
    position = 0
    while position < len(data):
        octet = data[position : position + 1]
        size += 1
        position += 1
        if octet == b"\r" and data[position : position + 1] == b"\n":
            size, position, ended = size + 1, position + 1, True
        elif octet in b"\r\n":
            size, bare, ended = size + 1, True, True
            bare_cr_in_header = bare_cr_in_header or (in_header and octet == b"\r")
        else:
            ended = False
            nul = nul or octet == b"\0"
            clean += octet.replace(b"\0", b"")
        if ended:
            in_header = in_header and bool(clean) and not clean.endswith(b"\r\n")
            clean += b"\r\n"
    header = bytes(clean[:2] if clean.startswith(b"\r\n") else clean.partition(b"\r\n\r\n")[0] + b"\r\n")
    if clean.startswith(b"\r\n"):
        header = b""
    elif b"\r\n\r\n" not in clean:
        header = bytes(clean)
    if size > rules.max_size:
        return TOO_BIG
    if bare and (not rules.normalize_line_endings or bare_cr_in_header):
        return BARE_LINE_END
    if nul and not rules.strip_nul:
        return NUL_OCTET
    if len(header) > rules.max_header_size:
        return HEADER_TOO_BIG
    fields = [line for line in header.split(b"\r\n") if line and line[:1] not in b" \t"]
    if len(fields) > rules.max_header_count:
        return TOO_MANY_FIELDS
    if any(len(line) > rules.max_line_length for line in clean.split(b"\r\n")):
        return LINE_TOO_LONG
    return bytes(clean)


OCTETS = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\0", b"a", b": ", b" ", b"\t", b"\r\n\r\n", b"\xe4"]), max_size=30
).map(b"".join)
RULES = st.builds(
    ContentRules,
    max_size=st.integers(5, 60),
    max_line_length=st.integers(1, 12),
    max_header_size=st.integers(1, 40),
    max_header_count=st.integers(1, 5),
    normalize_line_endings=st.booleans(),
    strip_nul=st.booleans(),
)


@st.composite
def cut(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> list[bytes]:
    whole = draw(data)
    places = sorted(draw(st.sets(st.integers(0, len(whole)), max_size=5)))
    return [whole[start:stop] for start, stop in zip([0, *places], [*places, len(whole)], strict=True)]


class EndOfData(SynchronousTestCase):
    def test_only_crlf_dot_crlf_ends(self) -> None:
        """Every string of up to six of CR, LF, dot and a letter, before text: what ends data, and where."""
        for length in range(1, 7):
            for octets in product((b"\r", b"\n", b".", b"a"), repeat=length):
                middle = b"".join(octets)
                data = b"x" + middle + b"y"
                end = data.find(END)
                content, rest = unframe([data])
                if end < 0:
                    self.assertIsNone(rest, repr(data))
                else:
                    self.assertEqual((content, rest), (data[: end + 2].replace(b"\r\n.", b"\r\n"), data[end + 5 :]), repr(data))

    def test_look_alikes_at_every_cut(self) -> None:
        for look_alike in LOOK_ALIKES:
            data = b"body" + look_alike + b"MAIL FROM:<x@y>\r\n"
            expected = unframe([data + END])
            self.assertEqual(expected[1], b"", repr(look_alike))
            self.assertIn(b"MAIL", expected[0])
            for pieces in every_cut(data + END):
                self.assertEqual(unframe(pieces), expected, repr(pieces))

    def test_at_the_very_start(self) -> None:
        for data, content in ((b".\r\n", b""), (b"..\r\n.\r\n", b".\r\n"), (b".a\r\n.\r\n", b"a\r\n"), (b"\r\n.\r\n", b"\r\n")):
            for pieces in every_cut(data + b"QUIT\r\n"):
                self.assertEqual(unframe(pieces), (content, b"QUIT\r\n"), repr(pieces))
        for data in (b".\n", b".\r", b"\n.\r\n", b"\r.\r\n", b"..\r\n", b". \r\n"):
            for pieces in every_cut(data):
                self.assertIsNone(unframe(pieces)[1], repr(pieces))

    def test_a_dot_line_in_two_pieces_is_a_line(self) -> None:
        self.assertEqual(unframe([b"..", b"\r\n.\r\n"]), (b".\r\n", b""))
        self.assertEqual(unframe([b"line\r\n..", b"\r\n.\r", b"\n"]), (b"line\r\n.\r\n", b""))

    @settings(max_examples=200, deadline=None)
    @given(cut(OCTETS.map(lambda data: data + END + b"NOOP\r\n")))
    def test_cuts_change_nothing(self, pieces: list[bytes]) -> None:
        whole = b"".join(pieces)
        content, rest = unframe(pieces)
        self.assertEqual((content, rest), unframe([whole]))
        self.assertTrue(whole.endswith(rest or b"?"))


class Chunks(SynchronousTestCase):
    def test_counted_whatever_they_hold(self) -> None:
        data = b"a\r\n.\r\nQUIT\r\n"
        for pieces in every_cut(data + b"NOOP\r\n"):
            framing, content, buffer = ChunkFraming(len(data)), b"", b""
            complete = False
            for piece in pieces:
                buffer += piece
                if not complete:
                    block, position, complete = framing.take(buffer, 0)
                    content, buffer = content + block, buffer[position:]
            self.assertEqual((content, buffer, complete), (data, b"NOOP\r\n", True))

    def test_an_empty_one_is_complete_at_once(self) -> None:
        self.assertEqual(ChunkFraming(0).take(b"NOOP\r\n", 0), (b"", 0, True))


class ContentRulesHold(SynchronousTestCase):
    TABLE = (
        (b"A: b\r\n\r\nbody\r\n", REJECT, b"A: b\r\n\r\nbody\r\n"),
        (b"a\nb\r\n", REJECT, BARE_LINE_END),
        (b"a\rb\r\n", REJECT, BARE_LINE_END),
        (b"a\r", REJECT, BARE_LINE_END),
        (b"\r\n\r\r\n", REJECT, BARE_LINE_END),
        (b"a\0b\r\n", REJECT, NUL_OCTET),
        (b"a\nb\r\n", NORMALIZE, b"a\r\nb\r\n"),
        (b"a: b\r\n\r\nc\rd\n\r\r\n", NORMALIZE, b"a: b\r\n\r\nc\r\nd\r\n\r\n\r\n"),
        (b"a: b\rc: d\r\n\r\n", NORMALIZE, BARE_LINE_END),
        (b"a: b\r\n\rbody\r\n", NORMALIZE, BARE_LINE_END),
        (b"\rbody\r\n", NORMALIZE, BARE_LINE_END),
        (b"\r\nbo\rdy\r\n", NORMALIZE, b"\r\nbo\r\ndy\r\n"),
        (b"\nbo\rdy\r\n", NORMALIZE, b"\r\nbo\r\ndy\r\n"),
        (b"a\0b\r\n", NORMALIZE, NUL_OCTET),
        (b"a\0b\r\n\0", STRIP, b"ab\r\n"),
        (b"a\nb\0\r\n", STRIP, BARE_LINE_END),
        (b"a\r\0\nb\r\n", STRIP, BARE_LINE_END),
        (b"\r\na\r\0\nb\r\n", REPAIR, b"\r\na\r\n\r\nb\r\n"),
        (b"\0\0", STRIP, b""),
        (b"12345\r\n", ContentRules(max_size=7), b"12345\r\n"),
        (b"123456\r\n", ContentRules(max_size=7), TOO_BIG),
        (b"1\n2\n3\n", ContentRules(max_size=8, normalize_line_endings=True), TOO_BIG),
        (b"12345\r\n1234\r\n12345", ContentRules(max_line_length=5), b"12345\r\n1234\r\n12345"),
        (b"12345\r\n123456\r\n", ContentRules(max_line_length=5), LINE_TOO_LONG),
        (b"123456", ContentRules(max_line_length=5), LINE_TOO_LONG),
        (b"12345\n12345\n", ContentRules(max_line_length=5, normalize_line_endings=True), b"12345\r\n12345\r\n"),
        (b"a: b\r\n\r\nlong body\r\n", ContentRules(max_header_size=6), b"a: b\r\n\r\nlong body\r\n"),
        (b"a: bc\r\n\r\n", ContentRules(max_header_size=6), HEADER_TOO_BIG),
        (b"\r\nlong body\r\n", ContentRules(max_header_size=6), b"\r\nlong body\r\n"),
        (
            b"a: b\r\n c\r\n\td\r\ne: f\r\n\r\ng: h\r\n",
            ContentRules(max_header_count=2),
            b"a: b\r\n c\r\n\td\r\ne: f\r\n\r\ng: h\r\n",
        ),
        (b"a:\r\nb:\r\nc:\r\n\r\n", ContentRules(max_header_count=2), TOO_MANY_FIELDS),
        (b"a\nb\0c" + 4001 * b"d", ContentRules(max_size=4000), TOO_BIG),
        (b"a\nb\0c" + 4001 * b"d", REJECT, BARE_LINE_END),
    )

    def test_table_at_every_cut(self) -> None:
        for data, rules, expected in self.TABLE:
            for pieces in every_cut(data) if len(data) < 100 else [[data], [data[:5], data[5:]]]:
                self.assertEqual(judge(pieces, rules), expected, f"{pieces} {rules}")

    def test_the_reference_agrees(self) -> None:
        for data, rules, expected in self.TABLE:
            self.assertEqual(reference_judge(data, rules), expected, f"{data!r} {rules}")

    def test_binary_content_stays_as_it_is(self) -> None:
        data = b"A: b\r\n\r\n\0\r\n\n\r\r" + 5000 * b"x" + b"\r"
        for pieces in ([data], [data[:14], data[14:]], [data[:-1], data[-1:]], [data[at : at + 1] for at in range(len(data))]):
            self.assertEqual(judge(pieces, REJECT, binary=True), data)
        self.assertEqual(judge([data], ContentRules(max_size=100), binary=True), TOO_BIG)
        self.assertEqual(judge([b"a:\r\nb:\r\n\r\n"], ContentRules(max_header_count=1), binary=True), TOO_MANY_FIELDS)

    def test_long_lines_in_large_blocks(self) -> None:
        dice = random.Random(7)
        for _ in range(200):
            lines = [b"x" * dice.choice((0, 1, 3999, 4000, 70)) for _ in range(20)]
            good = b"\r\n".join(lines) + b"\r\n"
            self.assertEqual(judge([good], REJECT), good)
            lines[dice.randrange(20)] = b"x" * 4001
            self.assertEqual(judge([b"\r\n".join(lines)], REJECT), LINE_TOO_LONG)

    @settings(max_examples=300, deadline=None)
    @given(cut(OCTETS), RULES)
    def test_as_the_reference_for_every_cut(self, pieces: list[bytes], rules: ContentRules) -> None:
        self.assertEqual(judge(pieces, rules), reference_judge(b"".join(pieces), rules))

    @settings(max_examples=200, deadline=None)
    @given(cut(OCTETS.map(lambda data: data + END)), st.sampled_from([REJECT, NORMALIZE, STRIP, REPAIR]))
    def test_what_goes_on_is_clean_and_ends_once(self, pieces: list[bytes], rules: ContentRules) -> None:
        """Invariant I5, from the socket to the socket."""
        content, _ = unframe(pieces)
        clean = judge([content], rules)
        if isinstance(clean, Reply):
            return
        state = StuffState()
        sent = stuff(clean, state) + end_of_data(state)
        without_line_ends = sent.replace(b"\r\n", b"")
        self.assertNotIn(b"\r", without_line_ends)
        self.assertNotIn(b"\n", without_line_ends)
        self.assertNotIn(b"\0", sent)
        self.assertEqual((b"\r\n" + sent).find(END), len(sent) + 2 - 5)


class LineEnds(SynchronousTestCase):
    """CPython and PyPy look for line ends in different ways: each can do the other's."""

    def test_alone_or_together(self) -> None:
        for length in range(6):
            for octets in product(b"\r\nx", repeat=length):
                block = bytes(octets)
                proper = block.count(b"\r\n") == block.count(b"\r") == block.count(b"\n")
                self.assertEqual(proper, framing.only_crlf(block), block)

    def test_the_other_search_in_the_filter(self) -> None:
        self.patch(framing, "_JUMPS", not framing._JUMPS)
        ContentRulesHold("test_table_at_every_cut").debug()
        ContentRulesHold("test_the_reference_agrees").debug()


class Stuffing(SynchronousTestCase):
    def test_dots_at_every_border(self) -> None:
        data = b".a\r\n..\r\n.\r\nb.\r\n\r\n.c.\r\n"
        expected = b"..a\r\n...\r\n..\r\nb.\r\n\r\n..c.\r\n.\r\n"
        for pieces in every_cut(data):
            state = StuffState()
            self.assertEqual(b"".join(stuff(piece, state) for piece in pieces) + end_of_data(state), expected, repr(pieces))

    def test_a_last_line_without_crlf_gets_one(self) -> None:
        for data, ending in (
            (b"", b".\r\n"),
            (b"a", b"\r\n.\r\n"),
            (b"a\r\n", b".\r\n"),
            (b"a\r", b"\r\n.\r\n"),
            (b"a\n", b"\r\n.\r\n"),
        ):
            for pieces in every_cut(data) if data else [[]]:
                state = StuffState()
                for piece in pieces:
                    stuff(piece, state)
                self.assertEqual(end_of_data(state), ending, repr(pieces))

    @settings(max_examples=200, deadline=None)
    @given(cut(OCTETS), st.integers(1, 5))
    def test_round_trip(self, pieces: list[bytes], step: int) -> None:
        """Whatever is stuffed in any pieces comes back when read in any other pieces, with CRLF at its end."""
        state = StuffState()
        sent = b"".join(stuff(piece, state) for piece in pieces) + end_of_data(state)
        content, rest = unframe([sent[at : at + step] for at in range(0, len(sent), step)])
        whole = b"".join(pieces)
        self.assertEqual(content, whole if not whole or whole.endswith(b"\r\n") else whole + b"\r\n")
        self.assertEqual(rest, b"")
