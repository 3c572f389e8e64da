"""The content of a stored message: in memory when it is small, else read from the store piece by piece.

It stands where `message.body.Body` stands in a `Message`, for what lies behind the header section: the header section
of the variant is the entry's own. Whoever reads holds it; the last `release` gives memory and the read budget back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mailgate.message.message import Message
from mailgate.values import value

INLINE = 1 << 20
"""Octets up to which content is one value in memory; larger ones are read in pieces (docs/queue.md)."""
PIECE = 1 << 18
"""Octets of one piece of larger content."""


@value
class Shape:
    """What a delivery must know of content without reading it; stored with it."""

    size: int
    eight_bit: bool
    has_dots: bool
    ends_with_newline: bool
    binary: bool = False

    @classmethod
    def of(cls, message: Message) -> Shape:
        """Of what lies behind the header section."""
        body = message.body
        size = message.size - len(message.header)
        return cls(size, body.rest_eight_bit, body.rest_has_dots, message.ends_with_newline, body.binary)

    def pack(self) -> int:
        """The four flags as bits."""
        return self.eight_bit | self.has_dots << 1 | self.ends_with_newline << 2 | self.binary << 3

    @classmethod
    def unpack(cls, size: int, flags: int) -> Shape:
        return cls(size, bool(flags & 1), bool(flags & 2), bool(flags & 4), bool(flags & 8))


class StoredContent:
    """See the module's docstring. ``fetch(number)`` reads one piece of `PIECE` octets; it may fail with `Damaged`."""

    __slots__ = (
        "_fetch",
        "_holders",
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

    def __init__(self, shape: Shape, data: bytes | None, fetch: Callable[[int], Awaitable[bytes]] | None = None) -> None:
        self.size = shape.size
        self.data = data
        self.header = b""
        self.header_length = 0
        self.eight_bit = self.rest_eight_bit = shape.eight_bit
        self.has_dots = self.rest_has_dots = shape.has_dots
        self.ends_with_newline = shape.ends_with_newline
        self.binary = shape.binary
        self._fetch = fetch
        self._holders = 1

    def read(self, offset: int, size: int) -> bytes | Awaitable[bytes]:
        """Exactly ``size`` octets from ``offset``, fewer only at the end."""
        if self.data is not None:
            return self.data[offset : offset + size]
        return self._read(offset, min(size, self.size - offset))

    async def _read(self, offset: int, size: int) -> bytes:
        pieces = []
        while size > 0:
            if self._fetch is None:
                raise ValueError("the content was released")
            number, start = divmod(offset, PIECE)
            piece = (await self._fetch(number))[start : start + size]
            if not piece:
                raise ValueError("the content is shorter than it was")
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def hold(self) -> None:
        self._holders += 1

    def release(self) -> None:
        self._holders -= 1
        if not self._holders:
            self.data = None
            self._fetch = None
