"""All workers of a gateway, and its listening sockets, from start to end; configurations come and go (`crew`)."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.workers.slot import Slot, SlotReport, Spawn, State
from mailgate.workers.sockets import Address, Place

MAX_WORKERS = 64
GRACE = 15.0
"""Seconds beyond its shutdown_timeout that a worker may take to end."""

_events = EventLog("mailgate.workers")
Beginning = Callable[[int], tuple[dict[str, Any], Mapping[Any, Sequence[socket.socket]]]]


class Staff:
    """``count`` workers. ``beginning`` is what a worker starts with: that of the configuration in force."""

    addresses: tuple[str, ...] = ()
    """As a listener's: it drains when everything else has (`runtime.gateway.drain`)."""

    def __init__(self, count: int, adapters: Adapters, spawn: Spawn) -> None:
        self.open: dict[Place, Address] = {}
        self.beginning: Beginning | None = None
        self.longest_drain = 0.0
        self.reactor = adapters.reactor
        self._waiting: list[Deferred[None]] = []
        self.slots = [
            Slot(number, adapters.reactor, spawn, self._begin, lambda slot: self._changed()) for number in range(1, count + 1)
        ]

    @property
    def serving(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.state is State.SERVING]

    @property
    def session_count(self) -> int:
        return sum(slot.sessions for slot in self.slots)

    @property
    def reports(self) -> list[SlotReport]:
        return [slot.report for slot in self.slots]

    def sockets_for(self, number: int, places: Iterable[Place]) -> dict[Place, Sequence[socket.socket]]:
        """A worker's own, of these addresses."""
        return {place: self.open[place].by_worker[number - 1] for place in places}

    async def change(self) -> None:
        """Wait until something has happened to a worker."""
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        await waiting

    async def settled(self) -> None:
        """Wait until none is on its way up."""
        while any(slot.state is State.STARTING for slot in self.slots):
            await self.change()

    def reopen(self) -> None:
        """The files of their logs."""
        for slot in self.slots:
            slot.send({"do": "reopen"})

    async def stop(self) -> None:
        """Nobody new comes in; the workers drain and end, or are ended."""
        ending = DeferredList([slot.stop() for slot in self.slots])
        for address in self.open.values():
            address.close()
        self.open = {}
        patience = self.longest_drain + GRACE
        overdue = self.reactor.callLater(patience, self._kill, patience)
        await ending
        if overdue.active():
            overdue.cancel()

    def _kill(self, patience: float) -> None:
        for slot in self.slots:
            if slot.pid is not None:
                _events.error(Event.WORKER_HUNG, worker=slot.number, pid=slot.pid, seconds=patience)
                slot.kill()

    def _begin(self, number: int) -> tuple[dict[str, Any], Mapping[Any, Sequence[socket.socket]]]:
        assert self.beginning is not None
        return self.beginning(number)

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)


def cannot_start(*, chroot: bool) -> str:
    """Why there can be no workers here; "" if there can."""
    if not hasattr(socket, "SO_REUSEPORT") or sys.platform != "linux":
        return "this system does not deal connections out to several processes (SO_REUSEPORT of Linux)"
    return "workers are programs of their own, and can't be started inside --chroot" if chroot else ""
