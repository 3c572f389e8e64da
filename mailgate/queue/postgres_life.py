"""One process among those that have a queue open: how the others know that it lives, and how it learns of them.

- It has a row in `owner` and moves its end forward while it lives (`beat`). What it delivers is its own until that end; so one
  write every few seconds renews all its leases, however many there are.
- Whoever finds an owner whose end is past frees what that one had. He looks only when he has had the database for as long as a
  lease lasts without a break: after an outage those who live come first.
- Nodes tell each other who waits from when on (LISTEN, NOTIFY). A notice may be lost: once a minute each node looks for itself.
  Where LISTEN is not to be had (some proxies and clusters), it looks at each beat.

All times of leases are the server's own; the clocks of the nodes do not matter for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import sql
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.net.waiting import spawn
from mailgate.queue.entry import Standing
from mailgate.queue.postgres_batch import Batches
from mailgate.queue.postgres_link import Access, Connection, Lane, connect
from mailgate.queue.postgres_rows import forget_prepared
from mailgate.queue.store import StoreError

BEATS = 6
"""In the time of one lease: so many may fail before it is lost."""
LOOK_AGAIN = 60.0
"""Seconds after which the table is asked who waits, whatever was heard."""

Waiting = Sequence[tuple[str, float]]
"""Destinations, and when the first who waits there is due."""


def renew(connection: Connection, clock: str, owner: int, name: str, lease: float) -> None:
    connection.execute(
        f"INSERT INTO owner (id, name, until) VALUES (%s, %s, {clock} + %s) ON CONFLICT (id) DO UPDATE SET until = {clock} + %s",
        (owner, name, lease, lease),
    )


def take_over(connection: Connection, clock: str, batches: Batches) -> list[tuple[str, float]]:
    """Free what dead owners had; who waits now. What they had only prepared is forgotten."""
    is_dead = f"owner <> 0 AND NOT EXISTS (SELECT 1 FROM owner AS o WHERE o.id = owner AND o.until >= {clock})"
    with connection.transaction():
        forget_prepared(connection, is_dead, ())
        freed = connection.execute(
            f"WITH dead AS (SELECT entry, number FROM recipient WHERE {is_dead} FOR UPDATE SKIP LOCKED)"
            " UPDATE recipient AS r SET owner = 0 FROM dead WHERE r.entry = dead.entry AND r.number = dead.number"
            " RETURNING r.destination, r.due, r.standing"
        ).fetchall()
        connection.execute(f"DELETE FROM owner WHERE until < {clock}")
        waiting = [(destination, due) for destination, due, standing in freed if standing == Standing.WAITING]
        if waiting:
            batches.tell(connection, waiting)
    return waiting


def leave(connection: Connection, batches: Batches) -> None:
    """Nothing is this process's any more."""
    owner = batches.owner
    with connection.transaction():
        forget_prepared(connection, "owner = %s", (owner,))
        freed = connection.execute(
            "UPDATE recipient SET owner = 0 WHERE owner = %s RETURNING destination, due, standing", (owner,)
        ).fetchall()
        connection.execute("DELETE FROM owner WHERE id = %s", (owner,))
        waiting = [(destination, due) for destination, due, standing in freed if standing == Standing.WAITING]
        if waiting:
            batches.tell(connection, waiting)


class Life:
    """See the module's docstring. ``on_waiting(destinations)`` hears who waits; None: look for yourself."""

    def __init__(
        self,
        access: Access,
        name: str,
        lease: float,
        adapters: Adapters,
        log: EventLog,
        on_waiting: Callable[[Waiting | None], None],
    ) -> None:
        self.lease = lease
        self._access = access
        self._name = name
        self._adapters = adapters
        self._log = log
        self._on_waiting = on_waiting
        self._lane = Lane(access, adapters, 1)
        self._batches: Batches | None = None
        self._ear: _Ear | None = None
        self._timer: Any = None
        self._is_beating = False
        self.holds_until = -1.0
        """What this process has is its own until then, by the reactor's clock; each beat moves it."""
        self._since = float("inf")
        """Since when no beat has failed."""
        self._looked = 0.0

    @property
    def is_valid(self) -> bool:
        """What this process has is its own, as far as it knows."""
        now: float = self._adapters.reactor.seconds()
        return now < self.holds_until

    def start(self, batches: Batches, began: float) -> None:
        """The owner's row has been written, not before ``began``."""
        self._batches = batches
        self.holds_until = began + self.lease
        if self._timer is None:
            self._timer = self._adapters.reactor.callLater(0, self._tick)

    async def stop(self) -> None:
        """No beat any more; the row is the caller's to delete."""
        self._batches = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ear is not None:
            self._ear.close()
        await self._lane.stop()

    def _tick(self) -> None:
        self._timer = self._adapters.reactor.callLater(self.lease / BEATS, self._tick)
        if not self._is_beating:
            spawn(self.beat()).addErrback(self._bug)

    def _bug(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self._log.incident(f"{self._adapters.random.getrandbits(32):08x}", failure.value)

    async def beat(self) -> None:
        """Renew the lease, listen, and look for the dead. A beat that fails is made up for by the next."""
        batches = self._batches
        if batches is None:
            return
        self._is_beating = True
        began = self._adapters.reactor.seconds()
        try:
            await self._lane.run(renew, self._access.clock, batches.owner, self._name, self.lease)
            self.holds_until = began + self.lease
            self._since = min(self._since, began)
            if began - self._since >= self.lease:
                freed = await self._lane.run(take_over, self._access.clock, batches)
                if freed:
                    self._log.info(Event.QUEUE_TAKEN_OVER, queue=batches.channel, recipients=len(freed))
                    self._on_waiting(freed)
            await self._listen()
        except StoreError:
            self._since = float("inf")  # whoever writes or reads says what is wrong
        finally:
            self._is_beating = False
        if self._batches is not None and (self._ear is None or began - self._looked >= LOOK_AGAIN):
            self._looked = began
            self._on_waiting(None)

    async def _listen(self) -> None:
        if self._ear is None and self._batches is not None:
            connection = await self._lane.run(_listening, self._access, self._batches.channel)
            if connection is None:
                return
            if self._batches is None:
                connection.close()
                return
            self._ear = _Ear(connection, self._adapters.reactor, self._heard, self._deaf)
            self._on_waiting(None)  # what was said before

    def _deaf(self) -> None:
        self._ear = None

    def _heard(self, notices: Sequence[str]) -> None:
        batches = self._batches
        if batches is None:
            return
        waiting: list[tuple[str, float]] = []
        for notice in notices:
            owner, _, rest = notice.partition(" ")
            if owner == str(batches.owner):
                continue
            due, _, destination = rest.partition(" ")
            try:
                waiting.append((destination, float(due)))
            except ValueError:  # there is more than can be said
                self._on_waiting(None)
                return
        if waiting:
            self._on_waiting(waiting)


def _listening(connection: Connection, access: Access, channel: str) -> Connection | None:
    """In a thread: a connection of its own that listens; None where that can't be done."""
    ear = connect(access)
    try:
        ear.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    except psycopg.Error:
        ear.close()
        return None
    return ear


@implementer(IReadDescriptor)
class _Ear:
    """A connection that listens, in the reactor: what has come is taken in without waiting."""

    def __init__(
        self, connection: Connection, reactor: Any, heard: Callable[[Sequence[str]], None], on_end: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._reactor = reactor
        self._heard = heard
        self._on_end = on_end
        self._fileno = os.dup(connection.fileno())  # libpq closes its own at the first error, and the reactor would lose its way
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._fileno

    def logPrefix(self) -> str:
        return "postgres"

    def doRead(self) -> None:
        notices = []
        try:
            self._connection.pgconn.consume_input()
            while (notice := self._connection.pgconn.notifies()) is not None:
                notices.append(notice.extra.decode("utf-8", "replace"))
        except psycopg.Error:
            self.close()
        if notices:
            self._heard(notices)

    def connectionLost(self, reason: Any) -> None:
        self.close()

    def close(self) -> None:
        if self._fileno >= 0:
            self._reactor.removeReader(self)
            os.close(self._fileno)
            self._fileno = -1
            self._connection.close()
            self._on_end()
