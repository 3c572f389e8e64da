"""From bytes to replies (RFC 5321 4.2.1), for the client side; the same for every cut of the input.

What it refuses: lines that are no reply, lines of one reply whose codes differ, replies over 100 lines or 64 KiB (RFC 5321 has no
limit; a peer that never ends its reply must not fill our memory). Text is cleaned to printable ASCII.

Deviation: a line may end in LF alone; nothing hangs on it here and old servers do it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache

from mailgate.smtp.reply import Reply, split_enhanced

MAX_REPLY_LINES = 100
MAX_REPLY_SIZE = 1 << 16
MAX_CACHED = 200
"""Octets of a read, or a line, that is worth keeping: next hops repeat themselves, in short replies."""
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class Fault(Enum):
    """Why a dialogue can't go on; the values stand in logs."""

    NOT_A_REPLY = "not a reply"
    TOO_LONG = "a reply is too long"
    TOO_MANY_LINES = "a reply has too many lines"
    CODES_DIFFER = "the lines of a reply differ in their code"
    UNASKED = "a reply that nothing was asked for"
    INJECTION = "bytes behind the 220 to STARTTLS"


class ReplyParser:
    """Bytes to replies. ``fault`` is set once and for all by the first thing that is no reply."""

    __slots__ = ("_code", "_lines", "_rest", "_size", "fault")

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self._rest = b""
        self._size = 0
        self._code = b""
        self._lines: list[bytes] = []

    @property
    def is_empty(self) -> bool:
        """Nothing of a next reply is here."""
        return not self._rest and not self._lines

    def feed(self, data: bytes) -> Sequence[Reply]:
        if self.fault:
            return ()
        if self._rest:
            data = self._rest + data
        elif not self._lines and len(data) <= MAX_CACHED:
            known = _parse_read(data)
            if known is not None:
                return known
        replies: list[Reply] = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            line = data[start : end - 1 if end > start and data[end - 1] == 13 else end]
            self._size += end + 1 - start
            start = end + 1
            if self._size > MAX_REPLY_SIZE:
                self.fault = Fault.TOO_LONG
                return replies
            separator = line[3:4]
            if separator != b"-" and not self._lines:
                reply = _parse_line(line) if len(line) <= MAX_CACHED else _parse_lines((line,))
            elif not self._add(line):
                return replies
            elif separator == b"-":
                continue
            else:
                reply = _parse_lines(tuple(self._lines))
                self._lines.clear()
            if reply is None:
                self.fault = Fault.NOT_A_REPLY
                return replies
            self._size = 0
            replies.append(reply)
        self._rest = data[start:]
        if self._size + len(self._rest) > MAX_REPLY_SIZE:
            self.fault = Fault.TOO_LONG
        return replies

    def _add(self, line: bytes) -> bool:
        if not self._lines:
            self._code = line[:3]
        elif line[:3] != self._code:
            self.fault = Fault.CODES_DIFFER
            return False
        self._lines.append(line)
        if len(self._lines) > MAX_REPLY_LINES:
            self.fault = Fault.TOO_MANY_LINES
            return False
        return True


def _parse_lines(lines: Sequence[bytes]) -> Reply | None:
    code = lines[0][:3]
    if not (code.isdigit() and b"1" <= code[:1] <= b"5") or any(line[3:4] not in (b" ", b"-", b"") for line in lines):
        return None
    number = int(code)
    enhanced = ""
    texts = []
    for line in lines:
        word, text = split_enhanced(number, _UNPRINTABLE.sub("?", line[4:].decode("utf-8", "replace").replace("\t", " ")))
        enhanced = enhanced or word
        texts.append(text)
    return Reply(number, enhanced, "\n".join(texts))


@lru_cache(maxsize=256)
def _parse_read(data: bytes) -> tuple[Reply, ...] | None:
    """What nearly every read brings: whole replies of one line each; None for anything else, which goes the long way."""
    if data[-2:] != b"\r\n":
        return None
    replies = []
    for line in data[:-2].split(b"\r\n"):
        reply = _parse_line(line)
        if reply is None:
            return None
        replies.append(reply)
    return tuple(replies)


@lru_cache(maxsize=256)
def _parse_line(line: bytes) -> Reply | None:
    """A reply of one line; None for anything else."""
    return None if line[3:4] == b"-" or b"\n" in line else _parse_lines((line,))
