"""One variant of a message as it will be sent: a header section of its own over a shared `Body`.

Trace fields and modifiers change the header section only, so that ten variants of a large message are ten small byte
strings over one file. A variant is immutable, apart from the body's life: whoever keeps a variant beyond the transaction
holds its body (`Body.hold`).
"""

from __future__ import annotations

from collections.abc import Awaitable

from mailgate.message.body import Body
from mailgate.smtp.framing import has_dot_line


class Message:
    """``header`` is the header section, every line with its CRLF, without the empty line; the rest is the body's."""

    __slots__ = ("_rest", "binary", "body", "eight_bit", "ends_with_newline", "has_dots", "header", "size", "utf8_header")

    def __init__(self, header: bytes, body: Body) -> None:
        self.header = header
        self.body = body
        self.utf8_header = not header.isascii()
        """The header section needs SMTPUTF8 at the next hop (RFC 6532)."""
        self.eight_bit = self.utf8_header or body.rest_eight_bit
        self.binary = body.binary
        self.has_dots = body.rest_has_dots or header.startswith(b".") or has_dot_line(header)
        rest_size = body.size - body.header_length
        self.size = len(header) + rest_size
        self.ends_with_newline = body.ends_with_newline or not rest_size
        # Behind the header section stands the empty line, unless the content ended before it.
        self._rest = body.header_length

    def data(self) -> bytes | None:
        """The whole content in one piece if the body is in memory, else None: `read` it."""
        content = self.body.data
        return None if content is None else self.header + content[self._rest :]

    def read(self, offset: int, size: int) -> bytes | Awaitable[bytes]:
        """Exactly ``size`` bytes from ``offset``, fewer only at the end."""
        head = self.header[offset : offset + size]
        if len(head) == size:
            return head
        rest = self.body.read(self._rest + max(offset - len(self.header), 0), size - len(head))
        if not head:
            return rest
        return head + rest if isinstance(rest, bytes) else _joined(head, rest)

    def with_header(self, header: bytes) -> Message:
        """Another variant over the same body."""
        return Message(header, self.body)


async def _joined(head: bytes, rest: Awaitable[bytes]) -> bytes:
    return head + await rest
