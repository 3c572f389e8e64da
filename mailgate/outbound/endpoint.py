"""One next hop: how it is spoken to, and whether it is worth trying.

Health is passive: it follows from what deliveries meet. A `Circuit` is *closed* while all is well; it *opens* after
``failures`` failures in a row, or at once when the endpoint can't be connected to; when the back-off is over it is *half open*
and one delivery tries it. That one's success closes it, its failure opens it for twice as long, jittered, so that many gateways
don't come back together. With every circuit open the one due soonest is tried all the same: refusing everything helps nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any

from mailgate.outbound.endpoint_settings import EndpointSettings
from mailgate.outbound.failure import Health, Kind
from mailgate.outbound.tls_memory import BrokenTls
from mailgate.outbound.tls_policy import Decision

JITTER = 0.2
"""A back-off is longer or shorter by up to this share."""


@dataclass(frozen=True, slots=True)
class HealthSettings:
    failures: int = 3
    backoff: float = 5.0
    max_backoff: float = 300.0


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Circuit:
    """See the module's docstring. ``changed(is_up, reason, retry_in)`` hears of opening and closing."""

    __slots__ = ("_changed", "_clock", "_failures", "_random", "_settings", "_trial", "_wait", "closed", "due")

    def __init__(
        self, settings: HealthSettings, clock: Any, random: Random, changed: Callable[[bool, str, float], None] | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._random = random
        self._changed = changed
        self._failures = 0
        self._wait = settings.backoff
        self._trial = False
        self.closed = True
        self.due = 0.0
        """When an open circuit may be tried again."""

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
        """Closed, or half open with nobody trying it."""
        return self.closed or (not self._trial and self.state is State.HALF_OPEN)

    def begin(self) -> None:
        """A delivery goes to this endpoint."""
        self._trial = not self.closed

    def succeeded(self) -> None:
        """It works: a transaction came to its answers, or a connection was ready for one that went elsewhere."""
        self._failures = 0
        if self.closed:
            return
        self.closed = True
        self._trial = False
        self._wait = self._settings.backoff
        if self._changed:
            self._changed(True, "", 0.0)

    def abandoned(self) -> None:
        """A delivery left without learning anything about it."""
        self._trial = False

    def failed(self, kind: Kind, reason: str = "") -> None:
        if kind.health is Health.NEUTRAL:
            self._trial = False
            return
        self._failures += 1
        now = self._clock.seconds()
        if self.closed:
            if kind.health is Health.COUNT and self._failures < self._settings.failures:
                return
        elif now < self.due and not self._trial:
            return  # it was dialled before the circuit opened, and says nothing new
        else:
            self._wait = min(self._wait * 2, self._settings.max_backoff)
        self.closed = False
        self._trial = False
        wait = self._wait * self._random.uniform(1 - JITTER, 1 + JITTER)
        self.due = now + wait
        if self._changed:
            self._changed(False, reason or kind.label, wait)


class Endpoint:
    """An endpoint of a target, with its health and the two ways to be connected to it."""

    __slots__ = ("broken_tls", "circuit", "link", "open_count", "requiretls_link", "settings")

    def __init__(self, settings: EndpointSettings, circuit: Circuit) -> None:
        self.settings = settings
        self.circuit = circuit
        self.open_count = 0
        """Connections that are open or being opened; the pool counts."""
        self.broken_tls = BrokenTls(circuit.now)
        self.link = Link(self, settings.decision)
        same = settings.requiretls_decision == settings.decision
        self.requiretls_link = self.link if same else Link(self, settings.requiretls_decision)


class Link:
    """The key of a pool: connections of one link are alike, those of two are never exchanged."""

    __slots__ = ("decision", "endpoint", "idle")

    def __init__(self, endpoint: Endpoint, decision: Decision) -> None:
        self.endpoint = endpoint
        self.decision = decision
        self.idle: list[Any] = []
        """Ready connections, the newest last; the pool's."""


class Selection:
    """The endpoints that one client command tries, in the order written: each once, an open one only as a last resort."""

    __slots__ = ("_endpoints", "_last_resort", "tried")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        self._last_resort = False
        self.tried: set[Endpoint] = set()

    def peek(self) -> Endpoint | None:
        """Whom `next` would give."""
        for endpoint in self._endpoints:
            if endpoint not in self.tried and endpoint.circuit.available:
                return endpoint
        if self._last_resort or any(endpoint.circuit.closed for endpoint in self._endpoints):
            return None
        return min((e for e in self._endpoints if e not in self.tried), key=lambda e: e.circuit.due, default=None)

    def next(self) -> Endpoint | None:
        endpoint = self.peek()
        if endpoint is not None:
            self._last_resort = not endpoint.circuit.available
            self.tried.add(endpoint)
            endpoint.circuit.begin()
        return endpoint
