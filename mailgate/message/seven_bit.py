"""What has to change in a message so that it needs neither 8BITMIME nor BINARYMIME, and the change (RFC 2045 6.4, 6152, 3030).

A message is read twice. `Survey` walks over its parts and says what is to be replaced, as a list of `Edit`s; `Rewriter` makes
them while the content passes by. Both take it in pieces of any size, and keep no more than a header, some counts, and what is put
in its place: a part of any size is recoded in constant memory, although what its header has to say depends on its last octet.
What no edit names stays as it is, octet for octet.

- A part with octets above 127 becomes quoted-printable if it is text and not mostly such octets, else base64. In content that
  came as BINARYMIME so does one that holds NUL, a bare CR or LF, or a line over 998 octets.
- Parts that hold others are never encoded (RFC 2045 6.4): what is in them is, and their own label 8bit or binary becomes 7bit.
  That goes for multiparts and message/rfc822; message/global may be encoded (RFC 6532 3.5) and is.
- Left as they are: multipart/signed and multipart/encrypted, since others have computed something over their octets (RFC 1847);
  message/partial and message/external-body, which may not be encoded (RFC 2046 5.2); parts that claim to be encoded already and
  are not, or claim several things. The message then still needs what it needed, and a next hop without it does not get it.
- In what no reader shows, in front of the first part of a multipart and behind the last, such octets become question marks.
- Text without a Content-Type gets one: charset UTF-8 if it is that, else unknown-8bit (RFC 1428).

It refuses (`TooComplex`) more than `MAX_PARTS` parts. Of header fields only those of MIME are its business.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message as ParsedFields
from enum import Enum, auto
from functools import partial
from io import IncrementalNewlineDecoder

from mailgate.message.header import Field, Header
from mailgate.message.mime import MAX_DEPTH, MAX_HEADER, MAX_PARTS
from mailgate.message.transfer import PLAIN, Base64, Coder, Mask, QuotedPrintable

MAX_LINE = 998
"""Octets of a line without its CRLF, but in content that is declared as binary (RFC 5321 4.5.3.1.6, RFC 2045 2.9)."""
_MAX_DELIMITER = 400
"""Octets of a line that may be a delimiter: RFC 2046 allows 70 and white space behind them."""

_ENCODING = "content-transfer-encoding"
_WORD = re.compile(rb"[^\s();]*")
_UNENCODED = frozenset({b"", b"7bit", b"8bit", b"binary"})
_NOT_SEVEN_BIT = frozenset({b"8bit", b"binary"})
_MESSAGE = "message/rfc822"
_LEFT = frozenset({"multipart/signed", "multipart/encrypted", "message/partial", "message/external-body"})
"""Others have computed something over the octets of the first two; the others may not be encoded."""
_PROPER_LINE_ENDS = (None, "\r\n")


class TooComplex(Exception):
    """A message with more parts than are looked at."""


@dataclass(frozen=True, slots=True)
class Edit:
    """``coder()`` makes what takes the place of ``content[start:end]``; without one it is ``text``. Offsets are those of the
    message, its header section included."""

    start: int
    end: int
    text: bytes = b""
    coder: Callable[[], Coder] | None = None


class _Way(Enum):
    """What becomes of octets that can't pass."""

    RECODE = auto()
    MASK = auto()
    LEAVE = auto()


class _Measure:
    """What there is in a stretch of content."""

    __slots__ = ("_line", "_newlines", "_text", "eight_bit", "escapes", "has_long_line", "has_nul", "is_utf8", "size")

    def __init__(self) -> None:
        self.size = 0
        self.eight_bit = self.has_nul = self.has_long_line = False
        self.escapes = 0
        """Octets that quoted-printable would have to escape."""
        self.is_utf8 = True
        self._line = 0
        self._newlines = IncrementalNewlineDecoder(None, translate=False)
        self._text = codecs.getincrementaldecoder("utf-8")()

    def feed(self, data: bytes) -> None:
        self.size += len(data)
        self.escapes += len(data.translate(None, PLAIN))
        self._newlines.decode(data.decode("latin-1"))
        self.has_nul = self.has_nul or b"\0" in data
        self._measure_lines(data)
        if not data.isascii():
            self.eight_bit = True
        if self.is_utf8 and self.eight_bit:
            self._decode(data)

    def finish(self) -> None:
        self._newlines.decode("", final=True)
        self._decode(b"", last=True)
        self.has_long_line = self.has_long_line or self._line > MAX_LINE

    @property
    def is_binary(self) -> bool:
        """It holds what may stand in BINARYMIME alone, long lines apart."""
        return self.has_nul or self._newlines.newlines not in _PROPER_LINE_ENDS

    def _decode(self, data: bytes, *, last: bool = False) -> None:
        try:
            self._text.decode(data, last)
        except UnicodeDecodeError:
            self.is_utf8 = False

    def _measure_lines(self, data: bytes) -> None:
        """From the last line end within a line's reach to the next."""
        start = -self._line
        while not self.has_long_line and len(data) - start >= MAX_LINE + 2:
            end = data.rfind(b"\n", max(start, 0), max(start + MAX_LINE + 2, 0))
            if end < 0:
                self.has_long_line = True
            start = end + 1
        end = data.rfind(b"\n", max(start, 0))
        self._line = len(data) - (end + 1 if end >= 0 else start)


@dataclass(frozen=True, slots=True)
class _Fields:
    """The header section of a part, and where it stands."""

    header: Header
    start: int
    is_message: bool
    """It is the header section of a message, not only of a part."""

    def all(self, name: str) -> list[Field]:
        return [field for field in self.header.fields if field.name == name]

    def relabelled(self, field: Field, encoding: bytes) -> Edit:
        name = self.header.section[field.start : field.value_start]
        return Edit(self.start + field.start, self.start + field.end, name + b" " + encoding + b"\r\n")

    def with_more(self, text: bytes) -> Edit:
        end = self.start + len(self.header.section)
        return Edit(end, end, text)


@dataclass(slots=True)
class _Holder:
    """A part that holds others, while they pass by."""

    boundary: bytes
    """b"" of an embedded message: it ends where what is around it goes on."""
    relabelled: Edit | None
    """Of its own label, where it says 8bit or binary."""
    is_digest: bool = False
    stays: bool = False
    """Something in it was left that is not 7 bit."""


class Survey:
    """See the module's docstring. ``feed`` takes what stands behind the empty line that ends ``header``; after `finish` there are
    the ``edits``, in order."""

    def __init__(self, header: bytes, *, binary: bool = False) -> None:
        self.edits: list[Edit] = []
        self.leaves_binary = False
        """NUL, bare CR or bare LF stay where they are."""
        self._binary = binary
        self._parts = 0
        self._holders: list[_Holder] = []
        self._buffer = b"\r\n"
        """Begins with the line end in front of what comes: it may belong to a delimiter."""
        self._offset = len(header)
        """Of the buffer in the message."""
        self._in_header = False
        self._fields = _Fields(Header(b""), 0, is_message=True)
        """Of the part at hand, and what becomes of it."""
        self._way = _Way.LEAVE
        self._is_text = False
        self._start = 0
        self._measure = _Measure()
        self._begin(header, 0)

    def feed(self, piece: bytes) -> None:
        """:raises TooComplex:"""
        self._buffer += piece
        while self._step(is_last=False):
            pass

    def finish(self) -> None:
        """:raises TooComplex:"""
        while self._step(is_last=True):
            pass
        self._end_stretch(at_end=True)
        self._close(0)
        self.edits.sort(key=lambda edit: (edit.start, edit.end))

    def _step(self, *, is_last: bool) -> bool:
        """Whether there may be more to do."""
        return self._header_step(is_last) if self._in_header else self._content_step(is_last)

    # Headers

    def _header_step(self, is_last: bool) -> bool:
        """The buffer begins with the line end in front of a header section."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", 0, MAX_HEADER)
        if end < 0 and not is_last and len(buffer) < MAX_HEADER + 2 * _MAX_DELIMITER:
            return False
        found = self._delimiter(end + 2 if end >= 0 else MAX_HEADER, is_last=True)
        if isinstance(found, int) and end >= 0:
            start = self._offset + 2
            self._drop(end + 2)
            self._in_header = False
            self._begin(buffer[2 : end + 2], start)
            return True
        # There is no content: a delimiter comes first, which is judged as one behind content, or the end. Or it is too long.
        end = found[0] if isinstance(found, tuple) else len(buffer) if len(buffer) < MAX_HEADER else 0
        self._leave(buffer[2:end])
        self._drop(end)
        self._in_header = False
        self._begin_stretch(_Way.LEAVE)
        return True

    def _begin(self, section: bytes, start: int) -> None:
        """A part with this header section; the buffer begins with the empty line."""
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise TooComplex(f"more than {MAX_PARTS} parts")
        if start:
            self._leave(section)
        is_message = not self._holders or not self._holders[-1].boundary
        self._fields = fields = _Fields(Header(section), start, is_message)
        parsed = message_from_bytes(section)
        kind = parsed.get_content_type()
        types, labels = fields.all("content-type"), fields.all(_ENCODING)
        if not types and self._holders and self._holders[-1].is_digest:
            kind = _MESSAGE
        encoding = _token(fields.header.value(labels[0])) if labels else b""
        self._is_text = kind.startswith(("text/", "message/")) and kind != "message/global"
        if len(types) > 1 or len(labels) > 1 or encoding not in _UNENCODED or kind in _LEFT:
            self._begin_stretch(_Way.LEAVE)
        elif kind != _MESSAGE and not kind.startswith("multipart/"):
            self._begin_stretch(_Way.RECODE)
        else:
            boundary = b"" if kind == _MESSAGE else _boundary_of(parsed)
            if len(self._holders) >= MAX_DEPTH or not (boundary or kind == _MESSAGE):
                self._begin_stretch(_Way.LEAVE)
                return
            label = fields.relabelled(labels[0], b"7bit") if encoding in _NOT_SEVEN_BIT else None
            self._holders.append(_Holder(boundary, label, kind == "multipart/digest"))
            self._in_header = kind == _MESSAGE
            self._begin_stretch(_Way.MASK)

    def _leave(self, text: bytes) -> None:
        """Octets that stay as they are."""
        measure = _Measure()
        measure.feed(text)
        measure.finish()
        self._left(measure)

    def _left(self, measure: _Measure) -> None:
        self.leaves_binary = self.leaves_binary or measure.is_binary
        if measure.eight_bit or measure.is_binary:
            for holder in self._holders:
                holder.stays = True

    # Content

    def _content_step(self, is_last: bool) -> bool:
        found = self._delimiter(len(self._buffer), is_last=is_last)
        if not isinstance(found, tuple):
            self._drop(found)
            return False
        place, line_end, number, is_closing = found
        self._drop(place)
        self._end_stretch(at_end=False)
        self._drop(line_end - place)
        self._close(number if is_closing else number + 1)
        self._in_header = not is_closing
        self._begin_stretch(_Way.MASK)
        return True

    def _delimiter(self, stop: int, *, is_last: bool) -> tuple[int, int, int, bool] | int:
        """The first delimiter that begins in front of ``stop``: its place, where its line ends, whose it is, and whether it is
        the last of its kind. Else the place up to which there is none, whatever comes."""
        buffer = self._buffer
        boundaries = [holder.boundary for holder in self._holders]
        if not any(boundaries):
            return len(buffer)
        place = -1
        while (place := buffer.find(b"\r\n--", place + 1, stop)) >= 0:
            line_end = buffer.find(b"\r\n", place + 2, place + 2 + _MAX_DELIMITER)
            if line_end < 0:
                if len(buffer) >= place + 2 + _MAX_DELIMITER:
                    continue
                if not is_last:
                    return place
                line_end = len(buffer)
            line = buffer[place + 4 : line_end].rstrip(b" \t")
            for number in range(len(boundaries) - 1, -1, -1):
                boundary = boundaries[number]
                if boundary and line in (boundary, boundary + b"--"):
                    return place, line_end, number, line != boundary
        return len(buffer) if is_last else max(len(buffer) - 3, 0)

    def _drop(self, count: int) -> None:
        """The buffer up to there was read: it belongs to the stretch at hand."""
        start = max(self._start - self._offset, 0)
        if count > start and not self._in_header:
            self._measure.feed(self._buffer[start:count])
        self._buffer = self._buffer[count:]
        self._offset += count

    def _begin_stretch(self, way: _Way) -> None:
        """Of what stands behind the line end with which the buffer begins."""
        self._way = way
        self._start = self._offset + 2
        self._measure = _Measure()

    def _end_stretch(self, *, at_end: bool) -> None:
        measure = self._measure
        measure.finish()
        if self._way is _Way.LEAVE:
            self._left(measure)
        elif self._way is _Way.RECODE:
            self._recode(measure, at_end)
        elif measure.eight_bit or measure.is_binary:
            self.edits.append(Edit(self._start, self._start + measure.size, coder=Mask))

    def _recode(self, measure: _Measure, at_end: bool) -> None:
        fields = self._fields
        labels = fields.all(_ENCODING)
        if not (measure.eight_bit or (self._binary and (measure.is_binary or measure.has_long_line))):
            if labels and _token(fields.header.value(labels[0])) in _NOT_SEVEN_BIT and not measure.has_long_line:
                self.edits.append(fields.relabelled(labels[0], b"7bit"))
            return
        quoted = self._is_text and measure.escapes * 6 <= measure.size  # else base64 is shorter, a third more than the content
        coder = QuotedPrintable if quoted else partial(Base64, ends=at_end)
        encoding = b"quoted-printable" if quoted else b"base64"
        more = b""
        if fields.is_message and not fields.all("mime-version"):
            more += b"MIME-Version: 1.0\r\n"
        if not fields.all("content-type"):
            more += b"Content-Type: text/plain; charset=" + (b"utf-8" if measure.is_utf8 else b"unknown-8bit") + b"\r\n"
        if labels:
            self.edits.append(fields.relabelled(labels[0], encoding))
        else:
            more += b"Content-Transfer-Encoding: " + encoding + b"\r\n"
        if more:
            self.edits.append(fields.with_more(more))
        self.edits.append(Edit(self._start, self._start + measure.size, coder=coder))

    def _close(self, number: int) -> None:
        """The parts that hold others, from that one on, are over."""
        for holder in self._holders[number:]:
            if holder.relabelled is not None and not holder.stays:
                self.edits.append(holder.relabelled)
        del self._holders[number:]


def _token(value: bytes) -> bytes:
    """The word of a field, without what stands behind it."""
    match = _WORD.match(value)
    return match[0].lower() if match else b""


def _boundary_of(parsed: ParsedFields) -> bytes:
    boundary = parsed.get_param("boundary", "")
    text = boundary[2] if isinstance(boundary, tuple) else str(boundary or "")
    return text.encode("utf-8", "surrogateescape").rstrip()[: _MAX_DELIMITER // 2]


class Rewriter:
    """Makes edits, which are in order and don't overlap, while the content of a message passes by from its beginning."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self._edits = iter(edits)
        self._edit = next(self._edits, None)
        self._coder: Coder | None = None
        self._place = 0

    def feed(self, piece: bytes) -> bytes:
        out = []
        at = 0
        while at < len(piece):
            edit = self._edit
            if edit is None:
                out.append(piece[at:])
                return b"".join(out)
            if self._place < edit.start:
                data = piece[at : at + edit.start - self._place]
                out.append(data)
            else:
                data = piece[at : at + edit.end - self._place]
                if edit.coder is not None:
                    self._coder = self._coder or edit.coder()
                    out.append(self._coder.feed(data))
            at += len(data)
            self._place += len(data)
            self._end_edits(out)
        return b"".join(out)

    def finish(self) -> bytes:
        """What comes behind the end of the content."""
        out: list[bytes] = []
        self._end_edits(out)
        return b"".join(out)

    def _end_edits(self, out: list[bytes]) -> None:
        """Those that end here."""
        while self._edit is not None and self._place >= self._edit.end:
            out.append(self._edit.text)
            if self._coder is not None:
                out.append(self._coder.finish())
                self._coder = None
            self._edit = next(self._edits, None)
