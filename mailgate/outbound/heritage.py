"""What a target takes over from its predecessor at a reload: its pool if it was told the same, else the health of its endpoints.

A pool belongs to every target that was started with it and is not stopped yet; the last one closes it. With other settings a
target has a pool of its own, and the old one keeps nothing idle once nobody serves new sessions with it. The health of an
endpoint goes on in either case, as long as it is written as before and `health` says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.health import Circuit, HealthSettings
from mailgate.outbound.pool import Pool

PER_DELIVERY = frozenset({"hold_timeout", "fallback_delay", "chunking", "failover", "limits", "tls_report"})
"""Directives of a target that say nothing about its connections."""


@dataclass(slots=True, eq=False)
class Estate:
    """The endpoints and connections of a target; ``told`` is its `fingerprint`."""

    told: Any
    health: HealthSettings
    endpoints: Sequence[Endpoint]
    pool: Pool
    owners: int = 0
    """Targets that are started with it."""
    serving: int = 0
    """Those of them that get new sessions."""

    def circuit(self, label: str, health: HealthSettings) -> Circuit | None:
        """What is known of an endpoint, if it is judged as before."""
        if health != self.health:
            return None
        return next((endpoint.circuit for endpoint in self.endpoints if endpoint.settings.label == label), None)


class Share:
    """One target's part in an estate, from its start to its stop."""

    __slots__ = ("_serving", "estate")

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self._serving = True
        estate.owners += 1
        estate.serving += 1

    def superseded(self) -> None:
        """No new sessions come this way."""
        if self._serving:
            self._serving = False
            self.estate.serving -= 1
            if not self.estate.serving:
                self.estate.pool.keep_none()

    async def release(self) -> None:
        self.superseded()
        self.estate.owners -= 1
        if not self.estate.owners:
            await self.estate.pool.close()
