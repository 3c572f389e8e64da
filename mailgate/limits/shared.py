"""Limits that several workers and nodes have in common: counted by a module of the namespace ``counter``, and what holds when it
can't count.

All lines of a gate are asked at once, and a counter takes all or nothing, so that nobody holds a part while waiting for the
rest. Where a line says `wait`, tokens of a rate are taken ahead of time and slots are asked for again until the time is over.

While the counter can't be asked, `on_failure` holds, which the operator has to write: `local` counts in this process alone, each
with its part of the numbers; `refuse` lets nobody in who would be counted. Either way the log says so, once, and once when it
is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mailgate.events import Event, EventLog

POLL = 0.1
"""Seconds between two questions for a slot that is not free; each doubles it, up to `MAX_POLL`."""
MAX_POLL = 1.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One line, for one key. A rate of ``count`` in ``period`` seconds whose token may be ``patience`` seconds ahead; with
    ``period`` 0 one of ``count`` slots."""

    key: str
    count: int
    period: float = 0.0
    patience: float = 0.0


@dataclass(frozen=True, slots=True)
class Taken:
    """``refused`` is the number of the ask that was not met, and nothing was taken; or -1. ``delay``: seconds until all tokens
    may be used. ``holder`` has the slots of ``keys``."""

    refused: int = -1
    delay: float = 0.0
    holder: str = ""
    keys: tuple[str, ...] = ()


class Counter(Protocol):
    """See `interfaces.ICounter`."""

    label: str

    async def take(self, asks: Sequence[Ask]) -> Taken: ...

    def give_back(self, taken: Taken) -> None: ...


class Shared:
    """One block's: ``name`` is what its keys begin with, ``refuses`` what `on_failure` says."""

    def __init__(self, counter: Counter, name: str, *, refuses: bool) -> None:
        self.counter = counter
        self.name = name
        self.refuses = refuses
        self._log = EventLog("mailgate.limits")
        self._is_down = False

    def failed(self, error: Exception) -> None:
        if not self._is_down:
            self._is_down = True
            then = "refuse" if self.refuses else "local"
            self._log.error(Event.LIMITS_ALONE, limits=self.name, counter=self.counter.label, reason=str(error), on_failure=then)

    def worked(self) -> None:
        if self._is_down:
            self._is_down = False
            self._log.info(Event.LIMITS_SHARED, limits=self.name, counter=self.counter.label)


async def take(
    shared: Shared, asks: Sequence[Ask], waits: Sequence[float], clock: Any, pause: Callable[[float, Any], Any]
) -> Taken:
    """All of them, or which one was refused after ``waits`` of it. Failures of the counter are raised."""
    since = clock.seconds()
    poll = POLL
    while True:
        taken = await shared.counter.take(asks)
        if taken.refused < 0 or asks[taken.refused].period:
            return taken
        left = since + waits[taken.refused] - clock.seconds()
        if left <= 0:
            return taken
        await pause(min(poll, left), clock)
        poll = min(poll * 2, MAX_POLL)


class Hold:
    """The slots of one `Taken`, as a `limits.Lease` releases them."""

    __slots__ = ("_counter", "_taken")

    def __init__(self, counter: Counter, taken: Taken) -> None:
        self._counter = counter
        self._taken = taken

    def release(self, key: str) -> None:
        self._counter.give_back(self._taken)
