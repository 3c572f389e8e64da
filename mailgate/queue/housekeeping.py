"""What a queue does once in a while: forget for good what operators removed a day ago."""

from __future__ import annotations

from typing import Any

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.net.waiting import spawn
from mailgate.queue.store import StoreError

KEPT = 86400.0
"""Seconds that what was removed can be put back."""
EVERY = 3600.0


class Housekeeping:
    """Of one store, from `start` to `stop`."""

    def __init__(self, store: Any, adapters: Adapters, log: EventLog) -> None:
        self._store = store
        self._adapters = adapters
        self._log = log
        self._timer: Any = None

    def start(self) -> None:
        """Look now, and every hour."""
        self._timer = self._adapters.reactor.callLater(EVERY, self.start)
        spawn(self._purge()).addErrback(self._failed)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _purge(self) -> None:
        purged = await self._store.purge(self._adapters.wall_time() - KEPT)
        if purged:
            self._log.info(Event.QUEUE_PURGED, recipients=purged)

    def _failed(self, failure: Any) -> None:
        """The store says itself what is wrong with it; an hour later it is tried again."""
        if not failure.check(StoreError):
            self._log.incident(f"{self._adapters.random.getrandbits(32):08x}", failure.value)
