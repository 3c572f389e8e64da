"""The connections of one target: ready ones are kept and used again, their number is bounded, waiting for one is fair.

- A connection belongs to its `Link`, an endpoint and a key (endpoint.py), and is never given to another.
- Lease: the newest idle one first. What the peer has said or closed until the last turn of the event loop is known by then;
  what it does in the same moment is the delivery's to repair (a reused connection is replaced silently, once).
- ``max_connections`` counts idle ones and those being opened. When a slot is needed, the idle one of another link that was used
  longest ago is closed.
- Who can't have one waits in line, at most ``lease_timeout``; whatever becomes free goes to the first who can use it.
- Given back with a transaction left open, it is RSET first; worn out (``max_age``, ``max_messages``), it says QUIT.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from twisted.internet.defer import Deferred

from mailgate.events import EventLog
from mailgate.net.waiting import DeadlineExceeded, spawn, within
from mailgate.outbound.connection import Connection
from mailgate.outbound.dialer import dial, peer_host
from mailgate.outbound.endpoint import Endpoint, Link
from mailgate.outbound.failure import AttemptFailed, Kind
from mailgate.outbound.handshake import TlsFailed, make_ready

LULL = 1.0
"""Seconds that a connection beyond ``max_idle`` is kept: messages come in bursts, and the next one should not have to connect."""
CLOSING_TIME = 30.0
"""For the last replies when a pool is closed: the gateway has drained by then, so only strays are left."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    max_connections: int = 50
    max_connections_per_endpoint: int = 0
    """0: as many as max_connections."""
    max_idle: int = 10
    idle_timeout: float = 120.0
    max_age: float = 1800.0
    max_messages: int = 1000
    lease_timeout: float = 30.0


@dataclass(slots=True, eq=False)
class _Waiter:
    link: Link
    granted: Deferred[Connection | None]
    """A connection, or None for the right to open one."""


def _nothing() -> None: ...


class Pool:
    """See the module's docstring."""

    def __init__(
        self, settings: PoolSettings, endpoints: Sequence[Endpoint], reactor: Any, log: EventLog, label: str = ""
    ) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._reactor = reactor
        self._log = log
        self._label = label
        self._per_endpoint = settings.max_connections_per_endpoint or settings.max_connections
        self._waiters: deque[_Waiter] = deque()
        self._leaving: set[Connection] = set()
        """Idle ones that were asked to go, so that there is room for who waits."""
        self._connected: set[Connection] = set()
        self._closed: Deferred[None] | None = None
        self.open_count = 0
        """Connections that are open or being opened."""
        self.idle_count = 0

    def take(self, link: Link) -> Connection | None:
        """An idle connection, if there is one and nobody waits before."""
        idle = link.idle
        while idle and not self._waiters:
            connection: Connection = idle.pop()
            self.idle_count -= 1
            if connection.trouble is None:
                return connection
        return None

    async def lease(
        self,
        link: Link,
        *,
        fresh: bool = False,
        dialling: Callable[[], None] = _nothing,
        connected: Callable[[], None] = _nothing,
    ) -> Connection:
        """A ready connection; ``fresh``: a new one. ``dialling`` and ``connected`` hear how far it is.

        :raises AttemptFailed: when there is none in time, or the endpoint can't be used.
        """
        connection = None if fresh else self.take(link)
        if connection is not None:
            return connection
        if self._waiters or not self._reserve(link):
            connection = await self._wait(link)
            if connection is not None:
                return connection
        dialling()
        return await self._open(link, connected)

    def give_back(self, connection: Connection) -> None:
        """The transaction is over, however it went."""
        if connection.trouble is not None:
            return
        connection.over_by = inf
        session = connection.session
        if session.pending or session.content_open or session.in_transaction:
            spawn(self._clean(connection)).addErrback(self._incident)
            return
        settings = self._settings
        now = self._reactor.seconds()
        oldest = connection.ready_at + settings.max_age
        worn = connection.messages >= settings.max_messages or now >= oldest
        if worn or self._closed or connection.link.endpoint.circuit.drained:
            connection.quit()
            return
        surplus = self.idle_count >= settings.max_idle
        if surplus and not (self._waiters or settings.max_idle):
            connection.quit()
            return
        connection.reused = True
        connection.idle_since = now
        connection.link.idle.append(connection)
        self.idle_count += 1
        patience = min(LULL, settings.idle_timeout) if surplus else settings.idle_timeout
        connection.arm(min(now + patience, oldest), lambda: self._retire(connection))
        if self._waiters:
            self._serve()

    async def close(self) -> None:
        """Idle connections say QUIT now, the others when they are given back. Those that take longer than `CLOSING_TIME` are
        closed at once, so that this always returns."""
        if not self.open_count:
            return
        self._closed = Deferred()
        self._retire_idle(self._endpoints)
        try:
            await within(self._closed, CLOSING_TIME, self._reactor)
        except DeadlineExceeded:
            self.abort()

    def keep_none(self) -> None:
        """Idle connections say QUIT now, the others when they are given back; new ones may still be opened."""
        self._settings = replace(self._settings, max_idle=0)
        self._retire_idle(self._endpoints)

    def drain(self, endpoint: Endpoint) -> None:
        """Idle connections of one endpoint say QUIT; those in use do when they are given back, as long as it is drained."""
        self._retire_idle([endpoint])

    async def probe(self, link: Link) -> bool:
        """Connect as a message would, say QUIT. False: nothing was learnt, since there is no room for one more connection.

        :raises AttemptFailed: the endpoint can't be used."""
        if self._waiters or not self._has_room(link):
            return False
        self._count(link)
        connection = await self._open(link, _nothing)
        connection.quit()
        return True

    @property
    def max_connections(self) -> int:
        return self._settings.max_connections

    @property
    def waiting(self) -> int:
        """Messages that wait for a connection."""
        return len(self._waiters)

    def abort(self) -> None:
        """Close everything at once."""
        for connection in tuple(self._connected):
            connection.abort("shutdown")

    # Slots

    def _reserve(self, link: Link) -> bool:
        """Count one more connection if there is room; else ask an idle one that is of no use to this link to go."""
        if self._has_room(link):
            self._count(link)
            return True
        if len(self._leaving) <= len(self._waiters):  # one for each who waits, and for the one who asks
            self._evict_for(link)
        return False

    def _has_room(self, link: Link) -> bool:
        return link.endpoint.open_count < self._per_endpoint and self.open_count < self._settings.max_connections

    def _count(self, link: Link) -> None:
        link.open_count += 1
        link.endpoint.open_count += 1
        self.open_count += 1

    def _evict_for(self, link: Link) -> None:
        """Of the idle connections that are in the way, the one that was used longest ago goes."""
        crowded = link.endpoint.open_count >= self._per_endpoint
        endpoints = [link.endpoint] if crowded else self._endpoints
        others = [other for endpoint in endpoints for other in endpoint.links.values() if other is not link]
        oldest = [other.idle[0] for other in others if other.idle]
        if oldest:
            connection = min(oldest, key=lambda one: one.idle_since)
            self._leaving.add(connection)
            self._retire(connection)

    def _release(self, link: Link) -> None:
        link.open_count -= 1
        link.endpoint.open_count -= 1
        self.open_count -= 1
        if self._waiters:
            self._serve()
        if self._closed and not self.open_count and not self._closed.called:
            self._closed.callback(None)

    async def _wait(self, link: Link) -> Connection | None:
        waiter = _Waiter(link, Deferred())
        self._waiters.append(waiter)
        try:
            return await within(waiter.granted, self._settings.lease_timeout, self._reactor)
        except DeadlineExceeded as error:
            raise AttemptFailed(Kind.LEASE, "lease", "no connection became free in time") from error
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _serve(self) -> None:
        """Give what is free to those who wait, in their order. Who waits for any slot at all lets nobody pass by."""
        for waiter in tuple(self._waiters):
            if waiter not in self._waiters:
                continue  # who was served before it has failed at once, and what it left has been given out already
            connection = None
            idle = waiter.link.idle
            while idle and connection is None:
                connection = idle.pop()
                self.idle_count -= 1
                if connection.trouble is not None:
                    connection = None
            if connection is None and not self._reserve(waiter.link):
                if waiter.link.endpoint.open_count < self._per_endpoint:
                    return
                continue
            self._waiters.remove(waiter)
            if connection is not None:
                connection.disarm()
            waiter.granted.callback(connection)

    # Connections

    async def _open(self, link: Link, connected: Callable[[], None]) -> Connection:
        try:
            return await self._connect(link, connected)
        except TlsFailed as failure:
            if not failure.clear:
                raise
            host = failure.host
            link.endpoint.broken_tls.remember(host, failure.reason)
        self._count(link)  # the other one is going
        return await self._connect(link, connected, host)

    async def _connect(self, link: Link, connected: Callable[[], None], host: str = "") -> Connection:
        connection = Connection(link, self._reactor, self._lost, self._log, self._label)
        timeouts = connection.settings.timeouts
        begun = self._reactor.seconds()
        connection.over_by = begun + timeouts.total
        try:
            await dial(self._reactor, connection, min(timeouts.connect, timeouts.total), host)
        except BaseException:
            self._release(link)
            raise
        connection.timings.append(("connect", self._reactor.seconds() - begun))
        self._connected.add(connection)
        connected()
        host = peer_host(connection)
        if link.decision.clear_retry:
            connection.tls_error = link.endpoint.broken_tls.reason(host)
        try:
            await make_ready(connection)
        except TlsFailed as failure:
            failure.host = host
            failure.facts, failure.decision = connection.facts(), link.decision
            connection.abort(failure.reason)
            raise
        except AttemptFailed as failure:
            failure.facts, failure.decision = connection.facts(), link.decision
            connection.quit()
            raise
        except BaseException:
            connection.quit()
            raise
        connection.ready_at = self._reactor.seconds()
        return connection

    async def _clean(self, connection: Connection) -> None:
        """RSET what was left open; a connection that does not answer to that is closed."""
        session = connection.session
        if session.pending:
            await connection.exchange(connection.after(connection.settings.timeouts.rset))
        if session.content_open:
            connection.abort("in the middle of the content")
            return
        if session.in_transaction and connection.trouble is None:
            session.rset()
            await connection.exchange()
            if session.in_transaction:
                connection.quit()
                return
        self.give_back(connection)

    def _retire_idle(self, endpoints: Sequence[Endpoint]) -> None:
        for endpoint in endpoints:
            for link in endpoint.links.values():
                for connection in tuple(link.idle):
                    self._retire(connection)

    def _retire(self, connection: Connection) -> None:
        connection.link.idle.remove(connection)
        self.idle_count -= 1
        connection.quit()

    def _lost(self, connection: Connection) -> None:
        idle = connection.link.idle
        if connection in idle:
            idle.remove(connection)
            self.idle_count -= 1
        self._connected.discard(connection)
        self._leaving.discard(connection)
        self._release(connection.link)

    def _incident(self, failure: Any) -> None:
        self._log.incident("pool", failure.value)
