"""Whether an endpoint is worth trying: what deliveries and probes meet opens and closes its circuit.

A `Circuit` is *closed* while all is well. It *opens* after ``failures`` failures in a row, or at once when the endpoint can't be
connected to. When the back-off is over it is *half open* and one delivery tries it, the *trial*; its success closes the circuit,
its failure opens it for twice as long, jittered, so that many gateways do not meet. The trial is its delivery's until
that says how it went: others that learn nothing meanwhile (they began before it was down, or came because all are) end no trial.
Where the endpoint is probed (``probing``, see probe.py), probes find out that it is back, and messages are not risked for it.

Just closed again, it starts slowly: its share of the messages grows evenly from `FIRST_SHARE` to all of what it would have, over
``slow_start``. An operator can *drain* it (no new messages, whatever its health), or open it by hand.

What it is judged by is kept (`evidence`) and said in the log with each change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any

from mailgate.outbound.failure import Health, Kind

JITTER = 0.2
"""A back-off is longer or shorter by up to this share."""
FIRST_SHARE = 0.1
"""Of its messages, for an endpoint that has just come back."""
KEPT_EVIDENCE = 5


@dataclass(frozen=True, slots=True)
class HealthSettings:
    failures: int = 3
    backoff: float = 5.0
    max_backoff: float = 300.0
    probe: float = 0.0
    """Seconds between probes; 0: none."""
    slow_start: float = 0.0


TRIAL = 1800.0
"""Seconds after which a trial that has not said how it went is nobody's: longer than the final dot may take. Else one whose
end was missed would keep an endpoint down for ever."""

ANYBODY = object()
"""Who tries an endpoint where nobody else could be meant."""


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One failure: when (of the clock), what kind, in the peer's or the system's words."""

    at: float
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.reason and self.reason != self.kind else self.kind


@dataclass(frozen=True, slots=True)
class Change:
    """A circuit closed or opened; ``evidence`` are the failures that led to it."""

    is_up: bool
    reason: str = ""
    retry_in: float = 0.0
    evidence: tuple[Evidence, ...] = ()


class Circuit:
    """See the module's docstring. ``changed`` hears of opening and closing."""

    __slots__ = (
        "_changed",
        "_clock",
        "_failures",
        "_random",
        "_recovered",
        "_settings",
        "_trial",
        "_tried",
        "_wait",
        "closed",
        "drained",
        "due",
        "evidence",
        "since",
        "steady",
    )

    def __init__(
        self, settings: HealthSettings, clock: Any, random: Random, changed: Callable[[Change], None] | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._random = random
        self._changed = changed
        self._failures = 0
        self._wait = settings.backoff
        self._trial: object | None = None
        """Who tries it while it is down."""
        self._tried = 0.0
        """Since when."""
        self._recovered: float | None = None
        """When it closed again, while it starts slowly."""
        self.closed = True
        self.drained = False
        self.steady = True
        """Closed, not drained, and with its whole share: nothing has to be asked."""
        self.due = 0.0
        """When an open circuit may be tried again."""
        self.since = self.now()
        """When it became what it is."""
        self.evidence: deque[Evidence] = deque(maxlen=KEPT_EVIDENCE)

    def now(self) -> float:
        """The clock's seconds."""
        return float(self._clock.seconds())

    @property
    def state(self) -> State:
        if self.closed:
            return State.CLOSED
        return State.HALF_OPEN if self._clock.seconds() >= self.due else State.OPEN

    @property
    def available(self) -> bool:
        """Closed; or half open, nobody trying it, and no probe to do that."""
        return self.is_free_for(None)

    def is_free_for(self, who: object | None) -> bool:
        """The same; or it is this one's own trial that goes on."""
        if self.drained:
            return False
        if self.closed:
            return True
        if self._settings.probe or self.state is not State.HALF_OPEN:
            return False
        return self._trial is None or self._trial is who or self.now() - self._tried >= TRIAL

    @property
    def share(self) -> float:
        """Of the messages that are its own, how many it gets: less than 1 while it starts slowly."""
        if self._recovered is None:
            return 1.0
        grown = (self.now() - self._recovered) / self._settings.slow_start
        if grown >= 1:
            self._recovered = None
            self._settle()
            return 1.0
        return max(grown, FIRST_SHARE)

    def begin(self, who: object = ANYBODY) -> None:
        """A delivery goes to this endpoint. While it is down that is the trial, unless there is one."""
        if self.closed:
            return
        now = self.now()
        if self._trial is None or now - self._tried >= TRIAL:
            self._trial = who
            self._tried = now

    def succeeded(self) -> None:
        """It works: a transaction came to its answers, or a connection was ready for one that went elsewhere."""
        self._failures = 0
        if not self.closed:
            self._close()

    def abandoned(self, who: object = ANYBODY) -> None:
        """A delivery left without learning anything about it."""
        if self._trial is who:
            self._trial = None

    def failed(self, kind: Kind, reason: str = "", who: object = ANYBODY) -> None:
        if kind.health is Health.NEUTRAL:
            self.abandoned(who)
            return
        now = self.now()
        self.evidence.append(Evidence(now, kind.label, reason))
        self._failures += 1
        if self.closed:
            if kind.health is Health.COUNT and self._failures < self._settings.failures:
                return
        elif now < self.due and self._trial is not who:
            return  # it was dialled before the circuit opened, or beside the trial, and says nothing new
        else:
            self._wait = min(self._wait * 2, self._settings.max_backoff)
        self._open(reason or kind.label)

    # The operator's

    def open(self, reason: str) -> None:
        """Take it out as if it had failed; it comes back as after a failure."""
        self.evidence.append(Evidence(self.now(), "operator", reason))
        self._open(reason)

    def drain(self, drained: bool) -> None:
        """No new messages; or as its health says again."""
        if drained is not self.drained:
            self.drained = drained
            self.since = self.now()
            self._settle()

    # Changes

    def _open(self, reason: str) -> None:
        now = self.now()
        if self.closed:
            self.since = now
        self.closed = False
        self._trial = None
        self._recovered = None
        wait = self._wait * self._random.uniform(1 - JITTER, 1 + JITTER)
        self.due = now + wait
        self._settle()
        if self._changed:
            self._changed(Change(False, reason, wait, tuple(self.evidence)))

    def _close(self) -> None:
        self.closed = True
        self._trial = None
        self._wait = self._settings.backoff
        self.since = self.now()
        self._recovered = self.since if self._settings.slow_start else None
        self._settle()
        if self._changed:
            self._changed(Change(True))

    def _settle(self) -> None:
        self.steady = self.closed and not self.drained and self._recovered is None
