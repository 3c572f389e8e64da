"""The parts of a message (RFC 2046), as far as rules ask for them: types, names and nesting, found while the content passes by.

`Scan.feed` takes the content in pieces of any size; `finish` ends it. Nothing is decoded but the names of attachments (RFC 2231,
RFC 2047), and no more is kept than one header and the end of a line. A part begins at any line that some reader could take for
its beginning: boundaries of outer parts count within inner ones, and a header ends at a boundary if no empty line comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message as Fields

MAX_HEADER = 1 << 16
"""Octets of a part's header; what is longer is read as if it ended there."""
MAX_PARTS = 10_000
"""Beyond it parts are counted, and nothing is kept of them."""
MAX_DEPTH = 100
_MAX_BOUNDARY = 200
"""RFC 2046 allows 70 characters."""


@dataclass(frozen=True, slots=True)
class Part:
    """``depth`` of the whole message is 0; ``kind`` is its type in lower case; ``name`` of an attachment, "" without one."""

    depth: int
    kind: str
    name: str


class Scan:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.count = 0
        self.depth = 0
        """Of the deepest part."""
        self._buffer = b"\r\n"
        self._boundaries: list[tuple[bytes, int]] = []
        """With the depth of the parts between them, the innermost last."""
        self._level = 0
        self._in_header = True

    def feed(self, piece: bytes) -> None:
        self._buffer += piece
        while self._step(is_last=False):
            pass

    def finish(self) -> None:
        self._buffer += b"\r\n"
        while self._step(is_last=True):
            pass

    def _step(self, *, is_last: bool) -> bool:
        """Whether there may be more to do."""
        return self._header(is_last) if self._in_header else self._body(is_last)

    def _header(self, is_last: bool) -> bool:
        """The buffer begins with the line end in front of a header."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 and not is_last and len(self._buffer) <= MAX_HEADER:
            return False
        end = len(self._buffer) - 2 if end < 0 else end
        found = self._boundary(0, end + 2)
        if isinstance(found, tuple):
            end = found[0]
        section, self._buffer = self._buffer[2 : end + 2], self._buffer[end:]
        self._in_header = False
        self._begin(section)
        return True

    def _begin(self, section: bytes) -> None:
        fields = message_from_bytes(section[:MAX_HEADER])
        kind = fields.get_content_type()
        self.count += 1
        self.depth = max(self.depth, self._level)
        if self.count <= MAX_PARTS:
            self.parts.append(Part(self._level, kind, _name_of(fields)))
        if self._level >= MAX_DEPTH:
            return
        if kind.startswith("multipart/"):
            boundary = fields.get_param("boundary", "")
            text = boundary[2] if isinstance(boundary, tuple) else str(boundary or "")
            if text:
                self._open(text.encode("utf-8", "surrogateescape").rstrip()[:_MAX_BOUNDARY], b"\r\n" + section)
        elif kind in ("message/rfc822", "message/global"):
            self._level += 1
            self._in_header = True
            self._buffer = self._buffer[2:] if self._buffer.startswith(b"\r\n\r\n") else self._buffer

    def _open(self, boundary: bytes, header: bytes) -> None:
        self._boundaries.append((boundary, self._level + 1))
        place = header.find(b"\r\n--" + boundary)
        if place >= 0:  # the header has no end of its own
            self._buffer = header[place:-2] + self._buffer

    def _body(self, is_last: bool) -> bool:
        found = self._boundary(0, len(self._buffer), is_last=is_last)
        if found is None:
            self._buffer = self._buffer[-4:]
            return False
        if isinstance(found, int):
            self._buffer = self._buffer[found:]
            return False
        start, number, is_closing = found
        line_end = self._buffer.find(b"\r\n", start + 2)
        self._buffer = self._buffer[line_end:] if line_end >= 0 else b""
        self._level = self._boundaries[number][1]
        del self._boundaries[number + (0 if is_closing else 1) :]
        self._in_header = not is_closing
        return True

    def _boundary(self, start: int, end: int, *, is_last: bool = True) -> tuple[int, int, bool] | int | None:
        """The first boundary line: its place, which one, and whether it is the last of its kind. A place alone: a line that
        could be one and is not whole."""
        place = start - 1
        while self._boundaries and (place := self._buffer.find(b"\r\n--", place + 1, end)) >= 0:
            line_end = self._buffer.find(b"\r\n", place + 4)
            if line_end < 0:
                if not is_last and len(self._buffer) - place < 2 * _MAX_BOUNDARY:
                    return place
                line_end = len(self._buffer)
            line = self._buffer[place + 4 : min(line_end, place + 4 + 2 * _MAX_BOUNDARY)].rstrip(b" \t")
            for number in range(len(self._boundaries) - 1, -1, -1):
                boundary = self._boundaries[number][0]
                if line in (boundary, boundary + b"--"):
                    return place, number, line != boundary
        return None


def _name_of(fields: Fields) -> str:
    """As a reader would show it, without what Windows drops at its end."""
    found = fields.get_filename() or ""
    try:
        found = str(make_header(decode_header(found)))
    except (ValueError, LookupError):
        pass  # as it stands
    return "".join(character for character in found if character.isprintable()).strip().rstrip(". ")
