"""`max_line_length` of a target: does any line of a message exceed what its next hops take?"""

from __future__ import annotations

import re
from functools import lru_cache

from mailgate.message.message import Message
from mailgate.smtp.reply import Reply

_BLOCK = 1 << 17


def line_too_long(limit: int) -> Reply:
    return Reply(554, "5.6.0", f"A line of the content has more than {limit} octets, which the next hop does not take")


async def has_longer(message: Message, limit: int) -> bool:
    """Whether a line has more than ``limit`` octets without its CRLF."""
    longer = _pattern(limit)
    whole = message.data()
    if whole is not None:
        return longer.search(whole) is not None
    begun = b""
    offset = 0
    while offset < message.size:
        block = message.read(offset, _BLOCK)
        if not isinstance(block, bytes):
            block = await block
        offset += len(block)
        if longer.search(begun + block):
            return True
        begun = (begun + block)[-limit:]
    return False


@lru_cache(maxsize=16)
def _pattern(limit: int) -> re.Pattern[bytes]:
    return re.compile(rb"[^\r\n]{%d}" % (limit + 1))
