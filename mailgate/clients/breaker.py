"""Leaving a server in peace that does not answer: after some failures in a row nobody asks it for a while, then one tries."""

from __future__ import annotations

from collections.abc import Callable

FAILURES = 3
"""In a row, before it is left alone: one lost connection is no outage."""
FIRST_PAUSE = 1.0
MAX_PAUSE = 10.0
"""Doubled with each trial that fails. A server that is back is noticed within so many seconds."""


class Breaker:
    """One server's. Who was let through by `begin` must say `succeeded`, `failed` or `gave_up`."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._failures = 0
        self._pause = 0.0
        self._until = 0.0
        self._is_tried = False

    @property
    def is_open(self) -> bool:
        """Whether the server is left alone now."""
        return self._pause > 0 and (self._is_tried or self._seconds() < self._until)

    def begin(self) -> bool:
        """May it be asked? After a pause the first one may, alone."""
        if self.is_open:
            return False
        self._is_tried = self._pause > 0
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._pause = 0.0
        self._is_tried = False

    def failed(self) -> None:
        self._failures += 1
        self._is_tried = False
        if self._failures >= FAILURES:
            self._pause = min(self._pause * 2 or FIRST_PAUSE, MAX_PAUSE)
            self._until = self._seconds() + self._pause

    def gave_up(self) -> None:
        """Nobody knows how it would have ended: the next one may try."""
        self._is_tried = False
