"""Which destination is served next: fair, bounded, and patient with those that are down.

A destination is what messages share on their way out: a domain, or "" where all go the same way. Of each one it is known when
somebody is due there next, how many are being delivered, and until when it is left alone. Nothing is known of single messages:
they lie in the store, a million of them if need be.

- Destinations that are ready stand in a line; each is served a little and goes to its end. So ten thousand messages for one of
  them cost the others nothing.
- One that can't be reached backs off, doubling, for all who wait for it; then a single message, the probe, tries it. Its success
  ends the back-off, its failure doubles it.

Times are wall-clock seconds. The object decides; its owner keeps the clock and does the work.
"""

from __future__ import annotations

import heapq
import random
from collections import deque

BACKOFF = 30.0
BACKOFF_MOST = 1800.0
NEVER = float("inf")


class Destination:
    """One destination; ``due`` is when the first of those who wait, and are not being delivered, may be tried."""

    __slots__ = ("due", "failures", "in_line", "name", "not_before", "reason", "running", "searching", "since")

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
        self.in_line = False
        self.searching = False
        """The store is being asked."""

    @property
    def ready_at(self) -> float:
        return max(self.due, self.not_before)

    @property
    def is_down(self) -> bool:
        return self.failures > 0


class Destinations:
    """All of a queue's. ``each`` is the concurrency of one of them."""

    def __init__(self, chance: random.Random, each: int) -> None:
        self._chance = chance
        self.each = each
        self._all: dict[str, Destination] = {}
        self._times: list[tuple[float, str]] = []
        """A heap of when somebody may be ready; entries that became wrong are skipped."""
        self._line: deque[Destination] = deque()

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

    def waits(self, name: str, due: float) -> None:
        """Somebody waits for this destination from ``due`` on."""
        destination = self[name]
        if due < destination.due:
            destination.due = due
            self._note(destination)

    def may_start(self, name: str, now: float) -> bool:
        """Whether one more delivery may go there at once, past the line: it is up, not full, and nobody stands before it."""
        destination = self[name]
        return not destination.failures and destination.running < self.each and not destination.in_line and destination.due > now

    def room(self, destination: Destination) -> int:
        """How many more deliveries may go there now: one, where it must be probed."""
        if destination.failures:
            return 0 if destination.running else 1
        return self.each - destination.running

    def next(self, now: float) -> Destination | None:
        """Whom to serve. It has left the line: `served` brings it back."""
        while self._times and self._times[0][0] <= now:
            _, name = heapq.heappop(self._times)
            destination = self._all.get(name)
            if destination is not None and destination.ready_at <= now:
                self._enter(destination)
        while self._line:
            destination = self._line.popleft()
            destination.in_line = False
            if destination.ready_at <= now and not destination.searching and self.room(destination) > 0:
                return destination
        return None

    def served(self, destination: Destination, due: float) -> None:
        """The store was asked: from ``due`` on the next one waits there."""
        destination.due = due
        self._note(destination)

    def started(self, name: str) -> None:
        self[name].running += 1

    def ended(self, name: str, now: float) -> None:
        """A delivery is over. A destination that nobody waits for is forgotten."""
        destination = self[name]
        destination.running -= 1
        if destination.ready_at <= now:
            self._enter(destination)
        elif not destination.running and destination.due == NEVER and not destination.failures and not destination.searching:
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
