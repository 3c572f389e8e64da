"""Content-Transfer-Encoding as a stream: octets of a part in, what stands for them in 7 bits out (RFC 2045 6.7 and 6.8).

Each coder takes content in pieces of any size, gives the same octets for every way of cutting it, and keeps less than two lines.
The standard library's functions work on content that is there in one piece (binascii.b2a_qp begins a line with every call, and
leaves bare CR and LF as they are), so quoted-printable is written here; base64 is binascii's, line by line.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from typing import Protocol

WIDTH = 76
"""Octets of an encoded line without its CRLF (RFC 2045 6.7 rule 5 and 6.8)."""
_GROUP = WIDTH // 4 * 3
"""Octets that make a whole line of base64."""

PLAIN = bytes([*range(33, 61), *range(62, 127), *b" \t\r\n"])
"""Octets that quoted-printable leaves as they are, nearly always."""
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_UNDECIDED = re.compile(rb"[ \t]?\r?\Z")
"""White space is escaped in front of a line end, CR where no LF follows: what ends like this waits for what comes."""
_PART_OF_LINE = re.compile(rb"(?=.{%d}).{%d}(?:[^=]{2}|[^=](?==)|(?==))" % (WIDTH + 1, WIDTH - 3), re.DOTALL)
"""What goes in front of a soft line break, of a line that is too long: not a piece of ``=XX``."""
_TO_MASK = re.compile(rb"[\x80-\xff\0]|\r(?!\n)|(?<!\r)\n")


class Coder(Protocol):
    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...


class QuotedPrintable:
    """CRLF stays a line end; everything else comes back octet for octet."""

    def __init__(self) -> None:
        self._undecided = b""
        self._line = b""
        """The beginning of a line, escaped, that has no end yet."""

    def feed(self, data: bytes) -> bytes:
        data = self._undecided + data
        match = _UNDECIDED.search(data)
        assert match is not None  # at the very end it matches nothing, too
        self._undecided = match[0]
        return self._broken(_escaped(data[: match.start()]))

    def finish(self) -> bytes:
        rest, self._undecided = self._undecided, b""
        text = _escaped(rest)
        if text.endswith((b" ", b"\t")):
            text = text[:-1] + _code(text[-1:])
        text = self._broken(text)
        line, self._line = self._line, b""
        return text + line

    def _broken(self, text: bytes) -> bytes:
        """The lines of ``text``, none too long; what may grow longer is kept."""
        lines = (self._line + text).split(b"\r\n")
        lines = [line if len(line) <= WIDTH else _PART_OF_LINE.sub(rb"\g<0>=\r\n", line) for line in lines]
        begun, soft_break, self._line = lines[-1].rpartition(b"=\r\n")
        lines[-1] = begun + soft_break
        return b"\r\n".join(lines)


def _escaped(data: bytes) -> bytes:
    """Octets that can't stand for themselves as ``=XX``; ``data`` ends with nothing undecided."""
    text = data.replace(b"=", b"=3D")
    for octet in set(data.translate(None, PLAIN + b"=")):  # few different ones, and a pass for each is faster than a table
        text = text.replace(bytes([octet]), b"=%02X" % octet)
    pairs = text.count(b"\r\n")
    if text.count(b"\r") != pairs or text.count(b"\n") != pairs:
        text = _BARE.sub(lambda match: _code(match[0]), text)
    return text.replace(b" \r\n", b"=20\r\n").replace(b"\t\r\n", b"=09\r\n")


def _code(octet: bytes) -> bytes:
    return b"=%02X" % octet[0]


class Base64:
    """Lines of 76 characters. ``ends``: behind it stands nothing that brings a line end."""

    def __init__(self, *, ends: bool) -> None:
        self._ends = ends
        self._rest = b""
        self._line_end = b""

    def feed(self, data: bytes) -> bytes:
        data = self._rest + data
        whole = len(data) - len(data) % _GROUP
        self._rest = data[whole:]
        return b"".join([self._encoded(data[start : start + _GROUP]) for start in range(0, whole, _GROUP)])

    def finish(self) -> bytes:
        rest, self._rest = self._rest, b""
        last = self._encoded(rest) if rest else b""
        return last + b"\r\n" if self._ends and self._line_end else last

    def _encoded(self, data: bytes) -> bytes:
        line = self._line_end + b2a_base64(data, newline=False)
        self._line_end = b"\r\n"
        return line


class Mask:
    """A question mark for each octet that can't pass: for text that no reader shows."""

    def __init__(self) -> None:
        self._undecided = b""

    def feed(self, data: bytes) -> bytes:
        data = self._undecided + data
        end = len(data) - data.endswith(b"\r")
        self._undecided = data[end:]
        return _TO_MASK.sub(b"?", data[:end])

    def finish(self) -> bytes:
        rest, self._undecided = self._undecided, b""
        return _TO_MASK.sub(b"?", rest)
