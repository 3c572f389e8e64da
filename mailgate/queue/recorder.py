"""The queue's dealings with a store that may fail: results are recorded, however long that takes, and deliveries pause meanwhile.

What was delivered and is not written down would be delivered again. So `settle` does not come back before it is written, or the
process ends; and as long as the store does not do its part, `paused` says why, and nobody begins anything new. It is tried again
every few seconds, and needs nobody for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mailgate.events import Event, EventLog
from mailgate.queue.entry import Lease, Settled
from mailgate.queue.store import LeaseLost, StoreError, Unavailable
from mailgate.queue.work import Work

STORE_RETRY = 5.0
"""Seconds between two tries to record, while the store can't."""


class Recorder:
    """Of one queue. ``on_recovered(destinations)`` is called when the store is well again, with whom it has waiting."""

    def __init__(
        self, name: str, store: Any, work: Work, log: EventLog, on_recovered: Callable[[Sequence[tuple[str, float]]], None]
    ) -> None:
        self._name = name
        self._store = store
        self._work = work
        self._log = log
        self._on_recovered = on_recovered
        self.stopping = True
        """The queue does not run: what can't be recorded at once is left to the next process."""
        self.paused = ""
        """Why nothing is delivered at present, or ""."""

    async def ask(self, work: Any) -> Any:
        """What a client waits for. A store that fails him must be tried again, though nothing is being delivered."""
        try:
            return await work
        except Unavailable as error:
            self.pause(error)
            raise

    async def settle(self, lease: Lease, results: Sequence[Settled]) -> None:
        """Until it is done: what was delivered must not be delivered again. While it can't be done, nothing new is begun."""
        while True:
            try:
                await self._store.settle(lease, results)
                return
            except LeaseLost as error:
                self._log.error(Event.QUEUE_LEASE_LOST, queue=self._name, message=lease.entry.message_id, error=str(error))
                return
            except StoreError as error:
                if self.stopping:
                    self._log.error(
                        Event.POSSIBLE_DUPLICATE,
                        message=lease.entry.message_id,
                        target=lease.entry.target,
                        recipients=", ".join(f"<{row.address}>" for row in lease.recipients),
                        reason=f"stopping, and the result can't be recorded: {error}",
                    )
                    return
                self.pause(error)
            await self._work.sleep(STORE_RETRY)
            await self._try_store()

    def pause(self, error: BaseException) -> None:
        """The store does not do its part: stop delivering until it does."""
        if not self.paused:
            self.paused = str(error) or type(error).__name__
            self._log.error(Event.QUEUE_STORE, queue=self._name, error=self.paused)
            self._work.own(self._recover())

    async def _recover(self) -> None:
        while self.paused and not self.stopping:
            await self._work.sleep(STORE_RETRY)
            await self._try_store()

    async def _try_store(self) -> None:
        if not self.paused:
            return
        try:
            await self._store.reopen()
            due = await self._store.destinations()
        except StoreError:
            return
        self.paused = ""
        self._log.info(Event.QUEUE_STORE, queue=self._name, error="recovered")
        self._on_recovered(due)
