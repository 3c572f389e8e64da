"""What a queue has under way that nobody awaits: owned here, so that it can be waited for, given up, and its bugs heard of."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from mailgate.adapters import Adapters
from mailgate.events import EventLog
from mailgate.net.waiting import Wait, start


class Work:
    """The coroutines of one queue; ``name`` is for the log."""

    def __init__(self, name: str, adapters: Adapters, log: EventLog) -> None:
        self._name = name
        self._adapters = adapters
        self._log = log
        self._running: set[Wait[None]] = set()
        self._idle: list[Deferred[None]] = []

    def own(self, coroutine: Any) -> None:
        """Run it. What it raises is our own bug, and goes to the log."""
        try:
            running = start(coroutine)
        except Exception as error:
            self._failed(error)
            return
        if not isinstance(running, Wait):
            return
        self._running.add(running)

        def over() -> None:
            self._running.discard(running)
            try:
                running.result()
            except Exception as error:
                self._failed(error)
            if not self._running:
                idle, self._idle = self._idle, []
                for one in idle:
                    one.callback(None)

        running.when_done(over)

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, CancelledError):
            self._log.incident(f"{self._adapters.random.getrandbits(32):08x}", error, queue=self._name)

    async def finished(self, patience: float) -> None:
        """Wait for all of it; what takes longer than ``patience`` seconds is cancelled."""
        late = self._adapters.reactor.callLater(patience, self._give_up)
        while self._running:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        if late.active():
            late.cancel()

    def _give_up(self) -> None:
        for running in list(self._running):
            running.cancel()

    async def sleep(self, seconds: float) -> None:
        waiting: Deferred[None] = Deferred()
        call = self._adapters.reactor.callLater(seconds, waiting.callback, None)
        try:
            await waiting
        except CancelledError:
            if call.active():
                call.cancel()
            raise
