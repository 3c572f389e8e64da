"""The content of a message, piece by piece, to whoever hashes it, without keeping the event loop waiting.

Up to 64 KiB in memory it is done at once: half a millisecond. What is larger is hashed in a thread, in one go if it is in memory,
else a piece at a time as it is read from the spool.
"""

from __future__ import annotations

from collections.abc import Callable

from mailgate.adapters import Adapters
from mailgate.message.message import Message

PIECE = 1 << 18
"""Octets that are hashed in one go."""
SMALL = 1 << 16
"""Up to here hashing is not worth a thread."""

Update = Callable[[bytes], None]


async def feed(update: Update, message: Message, adapters: Adapters) -> None:
    """Give ``update`` everything behind the empty line that ends the header section."""
    if message.body.data is not None:
        if message.size <= SMALL:
            _feed_whole(update, message)
        else:
            await adapters.run_in_thread(_feed_whole, update, message)
        return
    offset = len(message.header) + 2
    while offset < message.size:
        piece = message.read(offset, PIECE)
        piece = piece if isinstance(piece, bytes) else await piece
        await adapters.run_in_thread(update, piece)
        offset += len(piece)


def _feed_whole(update: Update, message: Message) -> None:
    """Of a body in memory."""
    for offset in range(len(message.header) + 2, message.size, PIECE):
        piece = message.read(offset, PIECE)
        assert isinstance(piece, bytes)
        update(piece)
