"""A session of which somebody wants to see every line: `ServerSession` with a witness.

``trace(direction, text)`` is shown what the client says (``<``) and what it hears (``>``), without secrets and content. Sessions
nobody watches are not of this class, so that they pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailgate.smtp.framing import ChunkFraming
from mailgate.smtp.server import ServerSession
from mailgate.smtp.settings import ServerSettings

Trace = Callable[[str, str], None]


class TracedSession(ServerSession):
    """See the module's docstring."""

    __slots__ = ("_trace",)

    def __init__(self, settings: ServerSettings, trace: Trace, **options: Any) -> None:
        super().__init__(settings, **options)
        self._trace = trace

    def output(self) -> bytes:
        data = super().output()
        for line in data.splitlines():
            self._trace(">", _text(line))
        return data

    def _take_line(self) -> bool:
        buffer, start, secret = self._buffer, self._position, bool(self._exchange)
        taken = super()._take_line()
        if taken:
            line = buffer[start:].partition(b"\n")[0].rstrip(b"\r")
            self._trace("<", "(credentials)" if secret else _text(_without_secret(line)))
        return taken

    def _take_content(self, transfer: Any) -> bool:
        taken = super()._take_content(transfer)
        if taken and self._transfer is None:
            self._trace("<", "(chunk)" if isinstance(transfer, ChunkFraming) else "(content and final dot)")
        return taken


def _without_secret(line: bytes) -> bytes:
    verb, _, argument = line.partition(b" ")
    if verb.upper() != b"AUTH":
        return line
    mechanism, initial, _ = argument.partition(b" ")
    return b"AUTH " + mechanism + (b" (credentials)" if initial else b"")


def _text(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace")
