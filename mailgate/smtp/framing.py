"""Where content begins and ends, and what may stand in it: the one place that decides the end of data.

Inbound, the stream of one message passes two objects:

- a *framing*, `DataFraming` or `ChunkFraming`, says which bytes of the connection are content. DATA ends with
  CRLF.CRLF and with nothing else (RFC 5321 4.1.1.4); dots are unstuffed after CRLF only (4.5.2). BDAT is counted
  (RFC 3030). A framing keeps no bytes: what it can't judge yet (the beginning of a possible end) stays in the caller's
  buffer, so that every cut of the input gives the same content.
- a `ContentFilter` checks the content, already unstuffed: bare CR, bare LF and NUL are refused, or repaired where the
  operator says so; lines, header section, number of fields and size are limited. Faults are gathered over the whole
  message and the gravest is reported, so that the reply does not depend on the cuts either.

What leaves the filter holds CR and LF only as CRLF, and no NUL (BODY=BINARYMIME excepted): invariant I5, and the reason
that mail smuggled behind ``LF . LF``, ``LF . CR LF`` or ``CR . CR`` stays content: RFC 5321 2.3.8 forbids bare CR and LF,
CVE-2023-51764 and its siblings are what happens when servers disagree about them. A line that became ``.`` by repair
is stuffed again by `stuff` on the way out.

All work is done on whole reads: searches and counts in C, no object per line.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from io import IncrementalNewlineDecoder

from mailgate.smtp.reply import Reply

END_OF_DATA = b"\r\n.\r\n"
_DOT_LINE = b"\r\n."
_CR = 13
_BEGINNINGS = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")
"""What may still become the end of data or a dot to unstuff, the longest first."""
_LAST_OF_BEGINNINGS = (b"\n", b"\r", b".")
_PROPER_LINE_ENDS = (None, "\r\n")

TOO_BIG = Reply(552, "5.3.4", "Message exceeds the maximum size")
BARE_LINE_END = Reply(550, "5.6.11", "Content holds bare CR or LF")
NUL_OCTET = Reply(554, "5.6.0", "Content holds NUL")
HEADER_TOO_BIG = Reply(554, "5.6.0", "Header section is too big")
TOO_MANY_FIELDS = Reply(554, "5.6.0", "Header section has too many fields")
LINE_TOO_LONG = Reply(554, "5.6.0", "Content holds a line that is too long")

FAULTS = (TOO_BIG, BARE_LINE_END, NUL_OCTET, HEADER_TOO_BIG, TOO_MANY_FIELDS, LINE_TOO_LONG)
"""Why content is refused, the gravest first: of several faults in one message the first of this table is reported."""


@dataclass(frozen=True, slots=True)
class ContentRules:
    """What content may hold. The defaults are the documented ones; sizes are octets."""

    max_size: int = 32 << 20
    """Of the whole content after unstuffing (RFC 1870 5)."""
    max_line_length: int = 4000
    """Of one line without its CRLF. RFC 5321 has 998; real mail has more, and a line must fit into one read buffer."""
    max_header_size: int = 1 << 20
    """Of the header section, which is held in memory throughout."""
    max_header_count: int = 1000
    """Header fields: against floods that make every later look at the header expensive."""
    normalize_line_endings: bool = False
    """Turn bare CR and LF into CRLF instead of refusing. Bare CR in the header section is refused even so."""
    strip_nul: bool = False
    """Drop NUL instead of refusing."""


def has_dot_line(block: bytes) -> bool:
    """Whether a line begins with a dot, but for one at the very beginning. PyPy takes twenty times as long
    for `in`."""
    return block.rfind(_DOT_LINE) >= 0


def only_crlf(block: bytes) -> bool:
    """Whether CR and LF stand together everywhere: from one LF to the next, then the CRs are counted."""
    lines = 0
    end = block.find(b"\n")
    if end == 0:
        return False
    while end >= 0:
        if block[end - 1] != _CR:
            return False
        lines += 1
        end = block.find(b"\n", end + 1)
    return block.count(b"\r") == lines


_JUMPS = sys.implementation.name == "pypy"


class DataFraming:
    """The content of one DATA command."""

    __slots__ = ("_at_start",)

    size = 0
    last = True
    refusal: Reply | None = None

    def __init__(self) -> None:
        self._at_start = True

    def take(self, buffer: bytes, start: int) -> tuple[bytes, int, bool]:
        """Content (unstuffed) from ``buffer[start:]``, the position behind what was used, and whether the end was seen."""
        if self._at_start:
            head = buffer[start : start + 3]
            if b".\r\n".startswith(head):
                return b"", start + 3 if len(head) == 3 else start, len(head) == 3
            self._at_start = False
            if head[:1] == b".":
                start += 1
        dot = buffer.rfind(b"\r\n.", start)
        if dot < 0:
            stop = self._certain(buffer, start)
            return buffer[start:stop], stop, False
        if buffer.startswith(END_OF_DATA, dot) and buffer.rfind(b"\r\n.", start, dot) < 0:  # nearly every message
            return buffer[start : dot + 2], dot + 5, True
        end = buffer.find(END_OF_DATA, start)
        if end >= 0:
            return buffer[start : end + 2].replace(b"\r\n.", b"\r\n"), end + 5, True
        stop = self._certain(buffer, start)
        return buffer[start:stop].replace(b"\r\n.", b"\r\n"), stop, False

    @staticmethod
    def _certain(buffer: bytes, start: int) -> int:
        """Where ``buffer`` ends without the beginning of what may become the end of data."""
        if not buffer.endswith(_LAST_OF_BEGINNINGS, start):
            return len(buffer)
        return len(buffer) - next((len(begun) for begun in _BEGINNINGS if buffer.endswith(begun, start)), 0)


class ChunkFraming:
    """The octets of one BDAT command, by count; with the ``last`` of them the content is complete. With ``refusal`` they
    are to be read and thrown away, then answered with it."""

    __slots__ = ("_left", "last", "refusal", "size")

    def __init__(self, size: int, *, last: bool = True, refusal: Reply | None = None) -> None:
        self.size = size
        self.last = last
        self.refusal = refusal
        self._left = size

    def take(self, buffer: bytes, start: int) -> tuple[bytes, int, bool]:
        """As `DataFraming.take`."""
        stop = min(len(buffer), start + self._left)
        self._left -= stop - start
        return buffer[start:stop], stop, not self._left


class ContentFilter:
    """Checks and repairs the content of one message, block by block; holds back at most one CR."""

    __slots__ = (
        "_binary",
        "_fields",
        "_header_size",
        "_in_header",
        "_line",
        "_newlines",
        "_pending_cr",
        "_rules",
        "_size",
        "faults",
    )

    def __init__(self, rules: ContentRules, *, binary: bool = False) -> None:
        self._rules = rules
        self._binary = binary
        """BODY=BINARYMIME: octets are as they are; only sizes and header limits hold, which bound our memory."""
        self.faults = 0
        """Those of `FAULTS` that were found, one bit each."""
        self._size = 0
        self._in_header = True
        self._header_size = 0
        self._fields = 0
        self._line = 0
        """Octets of the unfinished line at the end of what was seen; 0 at the start of a line."""
        self._newlines = None if _JUMPS else IncrementalNewlineDecoder(None, translate=False)
        """Tells which line ends occur, in one pass: a third of what counting CR, LF and CRLF costs in CPython. PyPy is better
        off with `only_crlf`, by as much."""
        self._pending_cr = False

    @property
    def refusal(self) -> Reply | None:
        """The reply for the gravest fault so far."""
        return next((reply for number, reply in enumerate(FAULTS) if self.faults >> number & 1), None)

    def feed(self, block: bytes, *, last: bool = False) -> bytes:
        """The clean content of ``block``, with the ``last`` one of what was held back too; b"" once something was found:
        nothing of a refused message is worth keeping."""
        if self._pending_cr:
            block = b"\r" + block
            self._pending_cr = False
        if block[-1:] == b"\r" and not last:  # its LF may come with the next block
            block = block[:-1]
            self._pending_cr = True
        if not block:
            return b""
        self._size += len(block)
        if not self._binary:
            newlines = self._newlines
            if newlines is None:
                proper = only_crlf(block)
            else:
                newlines.decode(block.decode("latin-1"), final=True)
                proper = newlines.newlines in _PROPER_LINE_ENDS
                if not proper:
                    newlines.reset()
            if not proper or b"\0" in block:
                block = self._repair(block)
        if self._size > self._rules.max_size:
            self._fault(TOO_BIG)
        if not block:
            return block
        if self._in_header:
            self._check_header(block)
        self._check_lines(block)
        return b"" if self.faults else block

    def _fault(self, reply: Reply) -> None:
        self.faults |= 1 << FAULTS.index(reply)

    def _repair(self, block: bytes) -> bytes:
        # Line ends first, NUL after: CR NUL LF is two bare line ends, whatever NUL does. That is independent of cuts.
        lone = block.replace(b"\r\n", b"\n")
        bare = block.count(b"\r") + block.count(b"\n") - 2 * (len(block) - len(lone))
        self._size += bare  # each grows by one octet
        if b"\0" in lone:
            lone = lone.replace(b"\0", b"")
            if not self._rules.strip_nul:
                self._fault(NUL_OCTET)
        lines = lone.replace(b"\r", b"\n")
        if bare and (not self._rules.normalize_line_endings or self._bare_cr_in_header(lone, lines)):
            self._fault(BARE_LINE_END)
        return lines.replace(b"\n", b"\r\n")

    def _bare_cr_in_header(self, lone: bytes, lines: bytes) -> bool:
        """Postfix, Exim and others disagree about where a header with bare CR ends: no repair is safe there."""
        if not self._in_header or b"\r" not in lone:
            return False
        if not self._line and lines.startswith(b"\n"):
            end = 1
        else:
            empty_line = lines.find(b"\n\n")
            end = empty_line + 2 if empty_line >= 0 else len(lines)
        return b"\r" in lone[:end]

    def _check_header(self, block: bytes) -> None:
        if not self._line and block[:2] == b"\r\n":
            self._in_header = False
            return
        end = block.find(b"\r\n\r\n")
        rules = self._rules
        if not self._header_size and 0 <= end < rules.max_header_size - 1 and block.count(b"\n", 0, end) < rules.max_header_count:
            self._in_header = False  # nearly every message: all of it in one block, and too few lines for too many fields
            return
        header = block if end < 0 else block[: end + 2]
        self._header_size += len(header)
        self._fields += header.count(b"\r\n") - header.count(b"\r\n ") - header.count(b"\r\n\t") - header.endswith(b"\r\n")
        if not self._line and not header.startswith((b" ", b"\t")):
            self._fields += 1
        self._in_header = end < 0
        if self._header_size > rules.max_header_size:
            self._fault(HEADER_TOO_BIG)
        if self._fields > rules.max_header_count:
            self._fault(TOO_MANY_FIELDS)

    def _check_lines(self, block: bytes) -> None:
        """Jump from the last line end within a line's reach to the next: a few searches per block, exact all the same."""
        limit = self._rules.max_line_length
        start = -self._line  # where the current line began, seen from this block
        length = len(block)
        while length - start > limit:
            reach = start + limit + 2
            line_end = block.rfind(b"\r\n", start if start > 0 else 0, reach) if reach > 0 else -1
            if line_end < 0:
                if not self._binary:
                    self._fault(LINE_TOO_LONG)
                break
            start = line_end + 2
        line_end = block.rfind(b"\r\n", start if start > 0 else 0)
        self._line = length - (line_end + 2 if line_end >= 0 else start)


class StuffState:
    """What the content sent so far ended with; one per message sent by DATA."""

    __slots__ = ("tail",)

    def __init__(self) -> None:
        self.tail = b"\r\n"
        """b"\\r\\n" at the start of a line (and of the content), b"\\r" after CR, else b""."""


def stuff(block: bytes, state: StuffState) -> bytes:
    """``block`` with a dot added to each dot at the start of a line (RFC 5321 4.5.2), right at every border of blocks."""
    if not block:
        return block
    tail = state.tail
    if block.endswith(b"\n"):
        state.tail = b"\r\n" if block.endswith(b"\r\n") or (len(block) == 1 and tail == b"\r") else b""
    else:
        state.tail = b"\r" if block.endswith(b"\r") else b""
    stuffed = block.replace(_DOT_LINE, b"\r\n..") if has_dot_line(block) else block
    if tail == b"\r\n" and block.startswith(b"."):
        return b"." + stuffed
    if tail == b"\r" and block.startswith(b"\n."):
        return b"\n." + stuffed[1:]
    return stuffed


def end_of_data(state: StuffState) -> bytes:
    """What ends the content: its last line's CRLF if that is missing, and the dot."""
    return b".\r\n" if state.tail == b"\r\n" else END_OF_DATA
