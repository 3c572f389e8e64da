"""What a failing disk may have kept though its sender was refused: noted beside the queue's file, before anybody hears of it.

An fsync that fails says nothing about what the disk has: the transaction may lie there whole, and the next process would find it
and deliver it. As long as this process lives it remembers, and makes the file forget before it is used again. If it is killed
before that, this note is what the next process knows.

The note must succeed where the disk has just failed. So its file has its blocks from the start, it is written over in place, and
after a `kill -9` it is there without an fsync; that is tried too, for the loss of power. What remains: a disk that takes neither
the transaction's fsync nor this one's, and a loss of power before it is well. Then a message that was refused may be delivered.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable

SIZE = 1 << 16
"""Octets that the file has from the start: more than a thousand entries."""

Refused = tuple[int, int]
"""Number and token of an entry."""


class Refusals:
    """The note of one queue's file. Its methods are called in threads, one at a time; they raise OSError."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1
        self._end = 0

    def open(self) -> list[Refused]:
        """What was refused, and may be in the queue's file."""
        if self._file < 0:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.fstat(self._file).st_size < SIZE:
                os.pwrite(self._file, bytes(SIZE), 0)
                os.fsync(self._file)
        noted = []
        self._end = 0
        for line in os.pread(self._file, os.fstat(self._file).st_size, 0).split(b"\n"):
            text, _, check = line.rpartition(b" ")
            if check != _check(text):
                break
            entry, token = text.split(b" ")
            noted.append((int(entry), int(token)))
            self._end += len(line) + 1
        return noted

    def note(self, entries: Iterable[Refused]) -> None:
        lines = b"".join([b"%b %b\n" % (text, _check(text)) for text in (b"%d %d" % entry for entry in entries)])
        if lines:
            self._end += os.pwrite(self._file, lines, self._end)
            os.fdatasync(self._file)

    def clear(self) -> None:
        """The queue's file has forgotten them."""
        if self._end:
            os.pwrite(self._file, bytes(self._end), 0)
            self._end = 0

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _check(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)
