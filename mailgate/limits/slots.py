"""Slots: how many may do something at once, for each of many keys; and a fair line for those who wait.

Only keys in use are kept, so there are never more than holders. Who waits is served in the order of coming, and nobody new
passes by. A slot that is given to one who waits is counted at once; they hear of it in a turn of their own, since they
may give it back at once, and a thousand who do so one out of the other would be a thousand frames of the stack.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from mailgate.net.waiting import Wait

MAX_WAITING = 10_000
"""Who wait for slots of one limit, over all keys; further ones are refused at once."""


class Slots:
    """One limit's slots, by key. How many there are is said by who asks: a new configuration may say another number."""

    __slots__ = ("_clock", "_held", "_lines", "waiting")

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._held: dict[str, int] = {}
        self._lines: dict[str, deque[_Waiting]] = {}
        self.waiting = 0

    def __len__(self) -> int:
        """Keys in use."""
        return len(self._held)

    @property
    def held(self) -> int:
        """Slots in use, over all keys."""
        return sum(self._held.values())

    def fullest(self, most: int) -> list[tuple[str, int]]:
        """The keys that hold the most, and how many."""
        return sorted(self._held.items(), key=lambda item: -item[1])[:most]

    def is_free(self, key: str, count: int) -> bool:
        """Whether `take` would succeed."""
        return key not in self._lines and self._held.get(key, 0) < count

    def take(self, key: str, count: int) -> bool:
        """One of ``count`` slots, if one is free and nobody waits for it."""
        if key in self._lines:
            return False
        held = self._held.get(key, 0)
        if held >= count:
            return False
        self._held[key] = held + 1
        return True

    def wait(self, key: str, count: int, patience: float) -> Wait[bool]:
        """Stand in line for a slot, after `take` said no: True with one, False after ``patience`` seconds. Cancelling leaves
        the line, or gives the slot back."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = deque()
        waiter = _Waiting(self, key, count)
        if self.waiting >= MAX_WAITING:
            patience = 0.0
        self.waiting += 1
        line.append(waiter)
        waiter.timer = self._clock.callLater(patience, waiter.tell)
        return waiter

    def release(self, key: str) -> None:
        """A slot is free again: the first in line gets it."""
        held = self._held[key] - 1
        line = self._lines.get(key)
        while line and held < line[0].count:
            held += 1
            line[0].give()
        if held:
            self._held[key] = held
        else:
            del self._held[key]

    def leave(self, waiter: _Waiting) -> None:
        """Out of the line, with a slot or without."""
        line = self._lines[waiter.key]
        line.remove(waiter)
        self.waiting -= 1
        if not line:
            del self._lines[waiter.key]


class _Waiting(Wait[bool]):
    """One in line. Its timer first runs out of patience, and once it has a slot, tells it so."""

    __slots__ = ("_slots", "count", "given", "key", "timer")

    def __init__(self, slots: Slots, key: str, count: int) -> None:
        super().__init__(self._stop)
        self._slots = slots
        self.key = key
        self.count = count
        self.given = False
        self.timer: Any = None

    def give(self) -> None:
        self.given = True
        self._slots.leave(self)
        self.timer.reset(0)

    def tell(self) -> None:
        if not self.given:
            self._slots.leave(self)
        self.fire(self.given)

    def _stop(self) -> None:
        self.timer.cancel()
        if self.given:
            self._slots.release(self.key)
        else:
            self._slots.leave(self)
