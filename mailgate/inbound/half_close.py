"""A client that has closed its sending side (a FIN) and waits for the answers to what it has said.

A FIN may as well be the end of a client that crashed or gave up; only an answer, which its system replies to with a reset,
tells. We have stopped reading then, since every read would say "end" again, so nothing tells of that reset: `Vigil` looks for
it every second, and what is under way ends as with any lost client. On a unix socket a close can be told from half of one
at once.
"""

from __future__ import annotations

from typing import Any

from mailgate.net.transport import is_gone

EVERY = 1.0
"""Seconds between two looks: what is done for a client that is gone lasts no longer."""


class Vigil:
    """Resets the connection once nobody is there to hear what it waits for."""

    __slots__ = ("_reactor", "_timer", "_transport")

    def __init__(self, reactor: Any, transport: Any) -> None:
        self._reactor = reactor
        self._transport = transport
        self._timer: Any = None
        self._look()

    def _look(self) -> None:
        self._timer = None
        if is_gone(self._transport):
            self._transport.abortConnection()
        else:
            self._timer = self._reactor.callLater(EVERY, self._look)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
