"""The content of one message: in memory up to a limit, then in an unlinked temporary file.

`Body` is filled by the listener piece by piece with clean content (dots unstuffed, CRLF line ends, see smtp/framing.py) and
read as often as needed: by checks, by a delivery, by its replay on the next endpoint. The contract:

- ``append`` any number of times, then ``finish``, then ``read``. What is known of the content (``header``,
  ``eight_bit``, …) is known from ``finish`` on; ``size`` is always right.
- ``append`` and ``finish`` answer None when there is nothing to wait for. Otherwise they answer an awaitable, and the
  caller stops reading the socket and waits for it before the next call.
- File work runs in the thread pool, never in the event loop; no more than two pieces of `WRITE_SIZE` wait for it.
- All bodies of a process together take at most the `Spool`'s limit of disk (body_spool_limit). Beyond it, and on a full
  disk, ``append`` or ``finish`` raises `SpoolFull`, which is 452 4.3.1. A body that failed once stays failed.
- The header section always stays in memory; it is bounded by max_header_size, long before it comes here.
- The file has no name, so that nothing is left behind by a process that dies. It is closed when everybody who called
  ``hold`` has called ``release``; the first holder is the creator.

Where the header section ends: at the first empty line, else at the end of the content (RFC 5322 2.1). A content that
begins with an empty line has an empty header section. Lines that are no fields are the business of `header.py`.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Awaitable
from typing import Any

from mailgate.adapters import Adapters
from mailgate.smtp.framing import has_dot_line

WRITE_SIZE = 1 << 18
"""Bytes collected for one job of the thread pool: few enough to keep a hundred large messages within 1.5 MiB each."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SpoolFull(Exception):
    """No disk is left for bodies: by our own limit or the system's."""


class Spool:
    """The disk that the bodies of one process may take together. Without ``directory``: the system's for temporary files."""

    __slots__ = ("adapters", "directory", "limit", "used")

    def __init__(self, limit: int, adapters: Adapters, directory: str | None = None) -> None:
        self.limit = limit
        self.adapters = adapters
        self.directory = directory
        self.used = 0

    def take(self, size: int) -> None:
        """:raises SpoolFull: when ``size`` more bytes would be over the limit; then nothing is taken."""
        if self.used + size > self.limit:
            raise SpoolFull(f"the spool holds {self.used} of {self.limit} bytes")
        self.used += size

    def give_back(self, size: int) -> None:
        self.used -= size


class _SpoolFile:
    """The blocking side: called in threads only. The lock keeps a close from pulling the descriptor away under a
    job whose Deferred was cancelled: threads cannot be."""

    __slots__ = ("_closed", "_directory", "_file", "_lock")

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._file: Any = None
        self._closed = False
        self._lock = threading.Lock()

    def write(self, pieces: list[bytes]) -> None:
        with self._lock:
            if self._closed:
                return  # nobody holds the body any more
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0, dir=self._directory)  # noqa: SIM115
            data = memoryview(b"".join(pieces))
            while data:
                data = data[self._file.write(data) :]

    def read(self, offset: int, size: int) -> bytes:
        with self._lock:
            if self._closed:
                raise ValueError("the body was released")
            pieces = []
            while size > 0:
                piece = os.pread(self._file.fileno(), size, offset)
                if not piece:
                    raise OSError(errno.EIO, "the spool file is shorter than what was written to it")
                pieces.append(piece)
                offset += len(piece)
                size -= len(piece)
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()


class Body:
    """See the module's docstring."""

    __slots__ = (
        "_error",
        "_file",
        "_header_pieces",
        "_holders",
        "_memory_limit",
        "_pieces",
        "_pieces_size",
        "_spool",
        "_tail",
        "_taken",
        "_writing",
        "binary",
        "data",
        "eight_bit",
        "ends_with_newline",
        "has_dots",
        "header",
        "header_length",
        "rest_eight_bit",
        "rest_has_dots",
        "size",
    )

    def __init__(self, spool: Spool, memory_limit: int = 1 << 20, *, binary: bool = False) -> None:
        self.size = 0
        self.binary = binary
        """It came as BINARYMIME: NUL, CR and LF may stand anywhere in it."""
        self.data: bytes | None = None
        """The whole content when it is in memory."""
        self.header = b""
        """The header section, every line with its CRLF, without the empty line."""
        self.header_length = 0
        """Where the header section ends in the content; the empty line, if there is one, follows."""
        self.eight_bit = False
        self.has_dots = False
        """Some line begins with a dot: what goes out by DATA must be stuffed."""
        self.ends_with_newline = True
        self.rest_eight_bit = False
        self.rest_has_dots = False
        """The same for what stands behind the header section: a `Message` brings its own header section."""
        self._spool = spool
        self._memory_limit = memory_limit
        self._holders = 1
        self._pieces: list[bytes] = []
        self._pieces_size = 0
        self._file: _SpoolFile | None = None
        self._taken = 0
        self._writing: Any = None
        self._error: BaseException | None = None
        self._header_pieces: list[bytes] | None = []
        self._tail = b"\r\n"  # a line begins where the content begins

    def append(self, data: bytes) -> Awaitable[None] | None:
        """:raises SpoolFull: as does the awaitable."""
        if self._error is not None:
            raise self._error
        self.size += len(data)
        if self._file is None:
            self._pieces.append(data)
            if self.size > self._memory_limit:
                self._spill()
            return None
        self._take(len(data))
        self._scan(data)
        self._pieces.append(data)
        self._pieces_size += len(data)
        if self._pieces_size < WRITE_SIZE:
            return None
        if self._writing is None:
            self._write()
            if self._error is not None:
                raise self._error
            return None
        return self._written_down()

    def finish(self) -> Awaitable[None] | None:
        """The content is complete. :raises SpoolFull: as does the awaitable."""
        if self._error is not None:
            raise self._error
        if self._file is not None:
            if self._pieces or self._writing is not None:
                return self._written_out()
        else:
            pieces = self._pieces
            self.data = data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._pieces = []
            self._scan_whole(data)
            return None
        self._finished()
        return None

    def read(self, offset: int, size: int) -> bytes | Awaitable[bytes]:
        """Exactly ``size`` bytes from ``offset``, fewer only at the end of the content."""
        if self.data is not None:
            return self.data[offset : offset + size]
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        if self._file is None:
            raise ValueError("the body is not finished, or was released")
        reading: Awaitable[bytes] = self._spool.adapters.run_in_thread(self._file.read, offset, size)
        return reading

    def sibling(self) -> Body:
        """An empty one on the same spool, for what takes its place. Whoever asks for it releases it."""
        return Body(self._spool, self._memory_limit)

    def hold(self) -> None:
        self._holders += 1

    def release(self) -> None:
        """One holder less. With the last one, memory, file and budget are given back."""
        self._holders -= 1
        if self._holders:
            return
        self._error = ValueError("the body was released")
        self.data = None
        self._pieces = []
        if self._file is not None:
            closing = self._spool.adapters.run_in_thread(self._file.close)
            self._file = None
            closing.addBoth(lambda _: self._spool.give_back(self._taken))

    # The disk

    def _spill(self) -> None:
        self._take(self.size)
        self._file = _SpoolFile(self._spool.directory)
        for piece in self._pieces:
            self._scan(piece)
        self._write()
        if self._error is not None:
            raise self._error

    def _take(self, size: int) -> None:
        try:
            self._spool.take(size)
        except SpoolFull as full:
            self._error = full
            self._pieces = []  # what is refused takes no memory either
            raise
        self._taken += size

    def _write(self) -> None:
        assert self._file is not None
        pieces, self._pieces, self._pieces_size = self._pieces, [], 0
        self._writing = writing = self._spool.adapters.run_in_thread(self._file.write, pieces)
        writing.addCallbacks(self._write_done, self._write_failed)

    def _write_done(self, _: None) -> None:
        self._writing = None
        if self._pieces_size >= WRITE_SIZE:
            self._write()

    def _write_failed(self, failure: Any) -> None:
        error = failure.value
        if isinstance(error, OSError) and error.errno in _FULL:
            error = SpoolFull(f"writing the spool file: {error.strerror}")
        self._writing = None
        self._error = error
        self._pieces = []

    async def _written_down(self) -> None:
        await self._writing  # its result is always None: _write_failed keeps the error
        if self._error is not None:
            raise self._error

    async def _written_out(self) -> None:
        while self._writing is not None or self._pieces:
            if self._writing is None:
                self._write()
            if self._writing is not None:
                await self._writing
            if self._error is not None:
                raise self._error
        self._finished()

    # The content

    def _scan_whole(self, data: bytes) -> None:
        """`_scan` for content that is there in one piece, without copying it."""
        end = 0 if data[:2] == b"\r\n" else data.find(b"\r\n\r\n") + 2
        if end != 1:  # -1 + 2: there is no empty line, all of it is the header section
            self.header_length = end
            self.header = header = data[:end]
            self._header_pieces = None
            self.has_dots = header[:1] == b"." or has_dot_line(header)
            # Looking for one octet is many times faster, and an encoded attachment has no dot at all.
            if data.find(b".", end) >= 0 and data.rfind(b"\r\n.", end) >= 0:
                self.has_dots = self.rest_has_dots = True
            if not data.isascii():
                self.eight_bit = True
                self.rest_eight_bit = not data[end:].isascii()
            self.ends_with_newline = data[-2:] == b"\r\n"
        else:
            self._scan(data)
            self._finished()

    def _scan(self, piece: bytes) -> None:
        """Learn from the next piece. ``_tail`` carries what a border may cut: the empty line is four octets."""
        joined = self._tail + piece
        if has_dot_line(joined):
            self.has_dots = True
            if self._header_pieces is None:
                self.rest_has_dots = True
        if not piece.isascii():
            self.eight_bit = True
            if self._header_pieces is None:
                self.rest_eight_bit = True
        if self._header_pieces is not None:
            self._header_pieces.append(piece)
            end = joined.find(b"\r\n\r\n")
            if end >= 0:
                rest = joined[end + 2 :]
                content = self._header_pieces[0] if len(self._header_pieces) == 1 else b"".join(self._header_pieces)
                self.header_length = len(content) - len(rest)
                self.header = content[: self.header_length]
                self.rest_has_dots = self.has_dots and has_dot_line(rest)
                self.rest_eight_bit = self.eight_bit and not rest.isascii()
                self._header_pieces = None
        self._tail = joined[-3:]

    def _finished(self) -> None:
        self.ends_with_newline = self._tail.endswith(b"\r\n")
        if self._header_pieces is not None:
            header = b"".join(self._header_pieces)
            self.header_length = len(header)
            self.header = header if self.ends_with_newline else header + b"\r\n"
            self._header_pieces = None
