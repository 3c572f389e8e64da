"""Active probes: is an endpoint that is down back, and is one that nobody used still there?

Each endpoint is looked at every ``probe`` seconds, jittered so that many gateways don't meet. If it is down, or no message went
to it since the last look, it is probed: connect, greeting, hello, TLS and AUTH as configured, QUIT. What depends on the message
(the client's own login, XCLIENT, dynamic settings) is left out. Success and failure count as a message's do. No probe is made
where the pool has no room: an endpoint that is so busy needs none; nor of one that is drained.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from twisted.internet.defer import Deferred

from mailgate.events import EventLog
from mailgate.net.waiting import spawn
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.failure import AttemptFailed
from mailgate.outbound.health import JITTER
from mailgate.outbound.pool import Pool


class Prober:
    """Of one target, from `start` to `stop`."""

    def __init__(
        self, pool: Pool, endpoints: Sequence[Endpoint], interval: float, clock: Any, random: Random, log: EventLog
    ) -> None:
        self._pool = pool
        self._endpoints = endpoints
        self._interval = interval
        self._clock = clock
        self._random = random
        self._log = log
        self._timers: dict[Endpoint, Any] = {}
        self._running: dict[Endpoint, Deferred[Any]] = {}

    def start(self) -> None:
        for endpoint in self._endpoints:
            self._schedule(endpoint, endpoint.messages)

    def stop(self) -> None:
        for endpoint, timer in self._timers.items():
            if endpoint.next_probe == timer.getTime():  # else a successor has taken it over
                endpoint.next_probe = None
            timer.cancel()
        self._timers.clear()
        for running in list(self._running.values()):
            running.cancel()

    def _schedule(self, endpoint: Endpoint, messages: int) -> None:
        seconds = self._interval * self._random.uniform(1 - JITTER, 1 + JITTER)
        timer = self._clock.callLater(seconds, self._look, endpoint, messages)
        self._timers[endpoint] = timer
        endpoint.next_probe = timer.getTime()

    def _look(self, endpoint: Endpoint, messages: int) -> None:
        circuit = endpoint.circuit
        unused = endpoint.messages == messages
        self._schedule(endpoint, endpoint.messages)
        if not circuit.drained and (unused or not circuit.closed) and endpoint not in self._running:
            running = spawn(probe(self._pool, endpoint))
            self._running[endpoint] = running
            running.addErrback(self._incident)
            running.addBoth(self._finished, endpoint)

    def _finished(self, _: Any, endpoint: Endpoint) -> None:
        self._running.pop(endpoint, None)

    def _incident(self, failure: Any) -> None:
        self._log.incident("probe", failure.value)


async def probe(pool: Pool, endpoint: Endpoint) -> AttemptFailed | None:
    """Probe now; the circuit hears of it. Returns what failed."""
    try:
        learnt = await pool.probe(endpoint.link)
    except AttemptFailed as failure:
        endpoint.circuit.failed(failure.kind, f"probe: {failure.reason}")
        return failure
    if learnt:
        endpoint.circuit.succeeded()
    return None
