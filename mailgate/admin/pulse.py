"""How promptly the event loop turns: a timer that measures how late it is called."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from mailgate.runtime import Companion

BEAT = 0.25
"""Seconds between two measures: often enough to meet a stall, too seldom to be one."""
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Pulse(Companion):
    """Beats from the first `adopt` to the stop."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._counts = [0] * (len(BOUNDS) + 1)
        self._total = 0.0
        self._due = 0.0
        self._call: Any = None

    def adopt(self) -> None:
        if self._call is None:
            self._arm()

    def stopping(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()

    def histogram(self) -> tuple[list[tuple[str, float]], float]:
        """Buckets, each with all below it, and the sum of seconds."""
        found: list[tuple[str, float]] = []
        below = 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), list(self._counts), strict=True):
            below += count
            found.append((bound, below))
        return found, self._total

    def _arm(self) -> None:
        self._due = self._reactor.seconds() + BEAT
        self._call = self._reactor.callLater(BEAT, self._beat)

    def _beat(self) -> None:
        late = max(0.0, self._reactor.seconds() - self._due)
        self._counts[bisect_left(BOUNDS, late)] += 1
        self._total += late
        self._arm()
