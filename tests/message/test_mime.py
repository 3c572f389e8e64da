"""The parts of messages, whatever the pieces they come in."""

from __future__ import annotations

from email import message_from_bytes

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.mime import MAX_DEPTH, Part, Scan

NESTED = b"""\
Subject: x
Content-Type: multipart/mixed; boundary="outer"

preamble --outer
--outer
Content-Type: multipart/alternative; boundary=inner

--inner
Content-Type: text/plain

--innermost
--inner
Content-Type: text/html; charset=utf-8

<p>
--inner--
--outer
Content-Type: application/zip; name="a.zip"
Content-Disposition: attachment; filename*=utf-8''%C3%A4.zip

UEsD
--outer
Content-Type: message/rfc822

Content-Type: application/x-msdownload; name="=?utf-8?q?run=2Eexe?="

TVqQ
--outer--
epilogue
--outer
""".replace(b"\n", b"\r\n")
PARTS = [
    Part(0, "multipart/mixed", ""),
    Part(1, "multipart/alternative", ""),
    Part(2, "text/plain", ""),
    Part(2, "text/html", ""),
    Part(1, "application/zip", "ä.zip"),
    Part(1, "message/rfc822", ""),
    Part(2, "application/x-msdownload", "run.exe"),
]


def scan(*pieces: bytes) -> Scan:
    found = Scan()
    for piece in pieces:
        found.feed(piece)
    found.finish()
    return found


LINES = [*NESTED.splitlines(keepends=True), b"--inner--\r\n", b"\r\n", b"\xff\0"]


class ScanTests(SynchronousTestCase):
    def test_nested(self) -> None:
        self.assertEqual(scan(NESTED).parts, PARTS)
        self.assertEqual([part.get_content_type() for part in message_from_bytes(NESTED).walk()], [part.kind for part in PARTS])

    def test_at_every_cut(self) -> None:
        for place in range(len(NESTED)):
            self.assertEqual(scan(NESTED[:place], NESTED[place:]).parts, PARTS, place)
        self.assertEqual(scan(*(bytes([octet]) for octet in NESTED)).parts, PARTS)

    def test_odd_ones(self) -> None:
        head = b"Content-Type: multipart/mixed; boundary=b\r\n"
        part = b"Content-Type: text/x; name=%s\r\n"
        for content, kinds in (
            (b"", ["text/plain"]),
            (b"\r\nbody", ["text/plain"]),
            (head, ["multipart/mixed"]),
            (head + b"--b\r\n" + part % b"a" + b"\r\nx", ["multipart/mixed", "text/x"]),
            (head + b"\r\n--b\r\n" + part % b"a" + b"--b  \r\n" + part % b"c", ["multipart/mixed", "text/x", "text/x"]),
            (head + b"\r\n--b\r\n\r\n--b\r\n\r\n--b--", ["multipart/mixed", "text/plain", "text/plain"]),
            (b"Content-Type: multipart/mixed\r\n\r\n--b\r\n", ["multipart/mixed"]),
        ):
            self.assertEqual([one.kind for one in scan(content).parts], kinds, content)

    def test_names(self) -> None:
        for value, name in (
            (b'attachment; filename="A.EXE. "', "A.EXE"),
            (b"attachment; filename*0=a; filename*1=.exe", "a.exe"),
            (b'attachment; filename="=?utf-8?b?YS5leGU=?="', "a.exe"),
            (b'attachment; filename="=?none?b?YS5leGU=?="', "=?none?b?YS5leGU=?="),
            (b'attachment; filename="a\t.exe"', "a.exe"),
        ):
            self.assertEqual(scan(b"Content-Disposition: " + value + b"\r\n\r\n").parts[0].name, name, value)

    def test_depth_and_number_have_an_end(self) -> None:
        deep = b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (number, number) for number in range(300)
        )
        self.assertEqual(scan(deep).depth, MAX_DEPTH)
        many = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 20_000
        found = scan(many)
        self.assertEqual((found.count, len(found.parts)), (20_001, 10_000))

    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(st.sampled_from([*NESTED.splitlines(keepends=True), b"--inner--\r\n", b"\r\n", b"\xff\0"]), max_size=30),
        st.data(),
    )
    def test_cuts_change_nothing(self, lines: list[bytes], data: st.DataObject) -> None:
        content = b"".join(lines)
        cut = data.draw(st.integers(0, len(content)))
        self.assertEqual(scan(content[:cut], content[cut:]).parts, scan(content).parts)
