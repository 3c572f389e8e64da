"""Which destination is served next: fair, bounded, and patient with those that are down.

A destination is what messages share on their way out: a domain, or ``&target`` where all go the same way. Of each one it is
known when somebody is due there next, how many are being delivered, and until when it is left alone. Nothing is known of single
messages: they lie in the store, a million of them if need be.

- Destinations that are ready stand in a line; each is served a little and goes to its end. So ten thousand messages for one of
  them cost the others nothing.
- Where a `rate` limits the deliveries to each, one that has used up its share leaves the line until it may go on:
  it holds up nobody, and what waits for it waits in the store.
- One that can't be reached backs off, doubling, for all who wait for it; then a single message, the probe, tries it. Its success
  ends the back-off, its failure doubles it.

Times are wall-clock seconds. The object decides; its owner keeps the clock and does the work.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from typing import Any

from mailgate.limits.buckets import Buckets

BACKOFF = 30.0
BACKOFF_MOST = 1800.0
NEVER = float("inf")


class FreshLine:
    """What waits in memory: the highest priority first, and among equals the first that came."""

    __slots__ = ("_length", "_lines")

    def __init__(self) -> None:
        self._lines: dict[int, deque[Any]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, one: Any, priority: int = 0) -> None:
        line = self._lines.get(priority)
        if line is None:
            line = self._lines[priority] = deque()
        line.append(one)
        self._length += 1

    def popleft(self) -> Any:
        """:raises ValueError: nobody is there."""
        priority = max(self._lines)
        line = self._lines[priority]
        one = line.popleft()
        if not line:
            del self._lines[priority]
        self._length -= 1
        return one


class Destination:
    """One destination; ``due`` is when the first of those who wait, and are not being delivered, may be tried."""

    __slots__ = (
        "due",
        "failures",
        "fresh",
        "in_line",
        "limited_until",
        "name",
        "not_before",
        "old_next",
        "reason",
        "running",
        "searching",
        "since",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.due = NEVER
        self.running = 0
        self.not_before = 0.0
        """Back-off: nobody is tried before."""
        self.failures = 0
        """Failures of the destination in a row."""
        self.reason = ""
        self.since = 0.0
        """When the first of them was."""
        self.limited_until = 0.0
        """Its share of this time is used up."""
        self.in_line = False
        self.searching = False
        """The store is being asked."""
        self.fresh = FreshLine()
        """What was just accepted and waits for its turn in memory; the owner's business."""
        self.old_next = False
        """Whose turn it is where both wait: those in the store, or a fresh one."""

    @property
    def ready_at(self) -> float:
        return max(self.due, self.not_before)

    @property
    def is_down(self) -> bool:
        return self.failures > 0


class Destinations:
    """All of a queue's. ``each`` is the concurrency of one of them; `limit` says how many deliveries there may be in a time."""

    def __init__(self, chance: random.Random, each: int) -> None:
        self._chance = chance
        self.each = each
        self._all: dict[str, Destination] = {}
        self._times: list[tuple[float, str]] = []
        """A heap of when somebody may be ready; entries that became wrong are skipped."""
        self._line: deque[Destination] = deque()
        self._rate: Buckets | None = None

    def limit(self, rate: tuple[int, float] | None, now: float) -> None:
        """So many deliveries to each in so many seconds; None: as many as there are. What was used up stays so."""
        if rate is None:
            self._rate = None
        elif self._rate is None:
            self._rate = Buckets(*rate, now)
        elif (self._rate.count, self._rate.period) != rate:
            self._rate = self._rate.converted(*rate, now)
        for destination in self._all.values():
            if destination.limited_until:
                destination.limited_until = 0.0
                self._enter(destination)

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, name: str) -> Destination:
        destination = self._all.get(name)
        if destination is None:
            destination = self._all[name] = Destination(name)
        return destination

    def report(self) -> list[Destination]:
        """Every destination that somebody waits for or is delivered to."""
        return list(self._all.values())

    @property
    def down(self) -> int:
        """How many back off; may be asked in a thread."""
        return sum(one.is_down for one in self.report())

    def waits(self, name: str, due: float) -> None:
        """Somebody waits for this destination from ``due`` on."""
        destination = self[name]
        if due < destination.due:
            destination.due = due
            self._note(destination)

    def wait_fresh(self, name: str, one: Any, priority: int = 0) -> None:
        """Something that was just accepted waits in memory for its turn."""
        destination = self[name]
        destination.fresh.append(one, priority)
        self._enter(destination)

    def room(self, destination: Destination, now: float) -> int:
        """How many more deliveries may go there now: one, where it must be probed."""
        room = self.each - destination.running
        if destination.failures:
            room = 0 if destination.running else 1
        return room if self._rate is None else min(room, self._rate.left(destination.name, now))

    def is_down(self, name: str) -> bool:
        """Whether it backs off."""
        destination = self._all.get(name)
        return destination is not None and destination.failures > 0

    def waiting_fresh(self, name: str) -> int:
        """How many wait in memory for their turn there."""
        destination = self._all.get(name)
        return 0 if destination is None else len(destination.fresh)

    def next(self, now: float) -> Destination | None:
        """Whom to serve. It has left the line: `served` brings it back."""
        while self._times and self._times[0][0] <= now:
            _, name = heapq.heappop(self._times)
            destination = self._all.get(name)
            if destination is not None and self._is_ready(destination, now):
                self._enter(destination)
        while self._line:
            destination = self._line.popleft()
            destination.in_line = False
            if not self._is_ready(destination, now) or self._must_wait(destination, now):
                continue
            if self.room(destination, now) > 0:
                return destination
        return None

    def _must_wait(self, destination: Destination, now: float) -> bool:
        """Whether it must wait for its share; then it comes back by itself."""
        wait = 0.0 if self._rate is None else self._rate.wait(destination.name, now)
        if wait > 0:
            destination.limited_until = now + wait
            heapq.heappush(self._times, (destination.limited_until, destination.name))
        return wait > 0

    def _is_ready(self, destination: Destination, now: float) -> bool:
        if destination.not_before > now or destination.limited_until > now:
            return False
        return bool(destination.fresh) or (destination.due <= now and not destination.searching)

    def takes_fresh(self, destination: Destination, now: float) -> bool:
        """Whether it is a fresh one's turn at a destination that `next` gave. Where old ones wait too, they take turns."""
        old = destination.due <= now and not destination.searching
        fresh = bool(destination.fresh) and not (old and destination.old_next)
        destination.old_next = fresh
        return fresh

    def again(self, destination: Destination, now: float) -> None:
        """One was served; if more wait there, its place is at the end of the line."""
        if self._is_ready(destination, now):
            self._enter(destination)

    def served(self, destination: Destination, due: float) -> None:
        """The store was asked: from ``due`` on the next one waits there."""
        destination.due = due
        self._note(destination)

    def started(self, name: str, now: float) -> None:
        self[name].running += 1
        if self._rate is not None:
            self._rate.take(name, now, self._rate.period)

    def ended(self, name: str, now: float) -> None:
        """A delivery is over. A destination that nobody waits for is forgotten."""
        destination = self[name]
        destination.running -= 1
        if self._is_ready(destination, now):
            self._enter(destination)
        elif (
            not (destination.running or destination.fresh or destination.failures or destination.searching)
            and destination.due == NEVER
        ):
            del self._all[name]

    def succeeded(self, name: str, now: float) -> None:
        """Somebody was heard there."""
        destination = self[name]
        if destination.failures:
            destination.failures = 0
            destination.not_before = 0.0
            destination.reason = ""
            self._note(destination)

    def failed(self, name: str, now: float, reason: str) -> float:
        """It can't be reached: nobody is tried before the time that is returned."""
        destination = self[name]
        if now < destination.not_before:
            return destination.not_before  # one of several that were on their way together
        if not destination.failures:
            destination.since = now
        pause = min(BACKOFF * 2 ** min(destination.failures, 16), BACKOFF_MOST)
        destination.failures += 1
        destination.reason = reason
        destination.not_before = now + pause * (0.9 + 0.2 * self._chance.random())
        self._note(destination)
        return destination.not_before

    def wake_at(self) -> float:
        """When `next` may have somebody, if nothing happens before; -inf when it has."""
        if self._line:
            return -NEVER
        return self._times[0][0] if self._times else NEVER

    def _note(self, destination: Destination) -> None:
        at = destination.ready_at
        if at < NEVER:
            heapq.heappush(self._times, (at, destination.name))

    def _enter(self, destination: Destination) -> None:
        if not destination.in_line:
            destination.in_line = True
            self._line.append(destination)
