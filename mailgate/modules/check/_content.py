"""What rules for the content share: reading it in pieces."""

from __future__ import annotations

from mailgate.message.message import Message
from mailgate.message.mime import Scan

PIECE = 1 << 17


async def scanned(message: Message) -> Scan:
    """The parts of a message."""
    scan = Scan()
    offset = 0
    while offset < message.size:
        piece = message.read(offset, PIECE)
        piece = piece if isinstance(piece, bytes) else await piece
        scan.feed(piece)
        offset += len(piece)
    scan.finish()
    return scan
