"""The reports that are owed: made one round at a time, settled when they were accepted, made again later when they were not.

That somebody is owed a report stands in the store before it is made, so none is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.queue.entry import Lease, Settled
from mailgate.queue.recorder import Recorder
from mailgate.queue.store import Damaged, StoreError
from mailgate.queue.work import Work

ROUND = 100
"""Entries whose reports are made in one round."""
AGAIN = 60.0
"""Seconds after which a report that was refused for now is made again."""


class OwedReports:
    """Of one queue. ``reporter()`` is the one of the configuration of now."""

    def __init__(
        self, store: Any, reporter: Callable[[], Any], recorder: Recorder, work: Work, adapters: Adapters, log: EventLog
    ) -> None:
        self._store = store
        self._reporter = reporter
        self._recorder = recorder
        self._work = work
        self._adapters = adapters
        self._log = log
        self._busy = False
        self._again = False

    @property
    def _may_go_on(self) -> bool:
        return not (self._recorder.stopping or self._recorder.paused)

    def make(self) -> None:
        """Make those that are owed."""
        if self._busy:
            self._again = True
        elif self._may_go_on:
            self._busy = True
            self._work.own(self._make_all())

    async def _make_all(self) -> None:
        leases: list[Lease] = []
        try:
            while self._may_go_on:
                self._again = False
                leases = await self._store.owed(ROUND)
                if not leases and not self._again:
                    return
                while leases:
                    await self._make(leases[0])
                    del leases[0]
        except StoreError as error:
            self._recorder.pause(error)
        finally:
            for lease in leases:
                self._store.drop(lease)
            self._busy = False

    async def _make(self, lease: Lease) -> None:
        """One message about all recipients of an entry whose fate is sealed."""
        entry = lease.entry
        try:
            reply = await self._reporter().report(entry, lease.recipients, self._store)
        except Damaged:
            return  # the store has set it aside, and said so
        if not (reply.is_success or reply.is_permanent):
            self._adapters.reactor.callLater(AGAIN, self._give_back, lease)
            return
        if reply.is_permanent:
            self._log.warn(
                Event.UNDELIVERABLE,
                message=entry.message_id,
                to=f"<{entry.sender}>",
                reason="its report was refused",
                reply=reply,
            )
        await self._recorder.settle(lease, [Settled(row.number, None) for row in lease.recipients])

    def _give_back(self, lease: Lease) -> None:
        self._store.drop(lease)
        self.make()
