"""What an operator sees of a target's pool, and does to it while it runs: the control socket and the dashboard ask here.

What is done lasts until it is undone, over reloads too as long as the endpoint is written as before; a restart forgets it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mailgate.events import Event
from mailgate.outbound.attempts import NextHops
from mailgate.outbound.endpoint import Endpoint, EndpointReport
from mailgate.outbound.probe import probe

MAX_WEIGHT = 1000
"""As in the configuration."""


@dataclass(frozen=True, slots=True)
class PoolReport:
    """One target: its endpoints in the order written, and its connections."""

    target: str
    balance: str
    open: int
    idle: int
    waiting: int
    """Messages that wait for a connection."""
    max_connections: int
    endpoints: tuple[EndpointReport, ...]


class NotPossible(Exception):
    """There is no such endpoint, or it can't be done; the text is for the operator."""


class PoolControl:
    """Of one target. Endpoints are named as they are written: ``tcp://mx1.example.org:25``."""

    def __init__(self, hops: NextHops, balance: str) -> None:
        self._hops = hops
        self._balance = balance

    def report(self) -> PoolReport:
        pool = self._hops.pool
        return PoolReport(
            self._hops.settings.label,
            self._balance,
            pool.open_count,
            pool.idle_count,
            pool.waiting,
            pool.max_connections,
            tuple(endpoint.report() for endpoint in self._hops.endpoints),
        )

    def drain(self, endpoint: str) -> None:
        """No new messages go there; idle connections say QUIT, those in use finish what they do."""
        for one in self._named(endpoint):
            one.circuit.drain(True)
            self._hops.pool.drain(one)
            self._tell(one, "drain")

    def undrain(self, endpoint: str) -> None:
        """It takes part again, as its health says."""
        for one in self._named(endpoint):
            one.circuit.drain(False)
            self._tell(one, "undrain")

    def eject(self, endpoint: str, reason: str = "ejected") -> None:
        """It counts as failed: out until its back-off is over and a message or a probe finds it well."""
        for one in self._named(endpoint):
            one.circuit.open(reason)
            self._hops.pool.drain(one)

    def weigh(self, endpoint: str, weight: int) -> None:
        """Another weight. To give it nothing, drain it."""
        if not 1 <= weight <= MAX_WEIGHT:
            raise NotPossible(f"a weight is 1 to {MAX_WEIGHT}; to give an endpoint nothing, drain it")
        for one in self._named(endpoint):
            one.weight = weight
            self._tell(one, f"weight {weight}")

    async def probe(self, endpoint: str) -> str:
        """Probe it now; its health hears of it. Returns what failed, "" if nothing did."""
        found = ""
        for one in self._named(endpoint):
            failure = await probe(self._hops.pool, one)
            found = found or (str(failure) if failure is not None else "")
        return found

    def _named(self, label: str) -> Iterator[Endpoint]:
        found = [endpoint for endpoint in self._hops.endpoints if endpoint.settings.label == label]
        if not found:
            there = ", ".join(endpoint.settings.label for endpoint in self._hops.endpoints)
            raise NotPossible(f"{self._hops.settings.label} has no endpoint {label}; it has {there}")
        return iter(found)

    def _tell(self, endpoint: Endpoint, action: str) -> None:
        self._hops.log.info(
            Event.ENDPOINT_CHANGED, target=self._hops.settings.label, endpoint=endpoint.settings.label, action=action
        )
