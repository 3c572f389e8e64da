"""Content on its way out: DATA with dots stuffed, or BDAT, in one write or block by block, never more than a few blocks ahead.

A small message leaves in one write together with its final dot. A large one is read and sent in blocks; after each the transport
says whether the peer keeps up. Everything here ends before the final dot: whoever calls decides when that is said.
"""

from __future__ import annotations

from mailgate.message.message import Message
from mailgate.outbound.connection import Connection
from mailgate.smtp.framing import END_OF_DATA, StuffState, end_of_data, stuff
from mailgate.smtp.reply import Reply

ONE_WRITE = 1 << 17
"""Content up to here is joined and written at once; a socket's buffer takes about as much."""
BLOCK = 1 << 17
DOT = b".\r\n"


def whole(message: Message) -> tuple[bytes, bytes] | None:
    """Content, stuffed, and what ends it; None for a message that is streamed."""
    if message.size > ONE_WRITE:
        return None
    data = message.data()
    if data is None:
        return None
    ending = DOT if message.ends_with_newline else END_OF_DATA
    return (stuff(data, StuffState()) if message.has_dots else data), ending


async def stream(connection: Connection, message: Message, stall: float) -> bytes:
    """Send everything but what ends it, which is returned. Stops where the peer answers early or the connection fails; one that
    takes nothing for ``data_block``, or for ``stall``, has failed."""
    seconds = min(connection.settings.timeouts.data_block, stall)
    state = StuffState()
    offset = 0
    connection.start_streaming()
    try:
        while offset < message.size and connection.early is None and connection.trouble is None:
            block = message.read(offset, BLOCK)
            if not isinstance(block, bytes):
                block = await block
                if connection.early is not None or connection.trouble is not None:
                    break
            offset += len(block)
            connection.write_content(stuff(block, state))
            if connection.congested:
                await connection.room(seconds)
    finally:
        connection.stop_streaming()
    return end_of_data(state)


async def send_chunks(connection: Connection, message: Message, stall: float) -> Reply | None:
    """Send all of it by BDAT (RFC 3030), unstuffed, each chunk when the one before was taken. The last is said, but not yet
    waited for. Returns the reply that refused a chunk, if one did."""
    session = connection.session
    offset = 0
    while True:
        block = message.read(offset, BLOCK)
        if not isinstance(block, bytes):
            block = await block
        offset += len(block)
        if connection.trouble is not None:
            return None
        last = offset >= message.size
        session.chunk(block, last=last)
        if last:
            return None
        answers = await connection.exchange(connection.after(stall))
        if connection.trouble is not None:
            return None
        if not answers[0].reply.is_success:
            return answers[0].reply
