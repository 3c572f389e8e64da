"""A queue in PostgreSQL: the store of gateways that share their mail.

Any number of processes, on any number of machines, have the same queue open. Each is an owner (postgres_life.py) and takes
recipients to deliver by claims (postgres_rows.py); everything else it writes goes through one connection in batches
(postgres_batch.py), one commit for all that wait. What makes that safe:

- A claim gives a recipient an epoch that was never used before, and each save names it. A process that lost a recipient, because
  it stood still past its lease or the database was away, can't record anything about it any more.
- What was just accepted is its acceptor's own from the beginning, in the same transaction, and goes out from memory. If its turn
  does not come, or the destination is down, it is anybody's a moment later.
- An accept whose commit ended with the connection may be there or not; its client heard 451. It stays this process's until the
  database can be asked again, and is deleted then, before anything else.
- A process that dies leaves its claims behind; when its lease has ended the others free them.

While the server is away everything fails with `Unavailable`, the reactor never waits for it, and `reopen` finds it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, ClassVar, TypeVar

import psycopg

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.net.waiting import spawn
from mailgate.queue import postgres_rows as rows
from mailgate.queue.batch import Insertion, insertion
from mailgate.queue.content import Shape
from mailgate.queue.entry import Draft, Entry, Lease, Settled, Standing, Waiting
from mailgate.queue.postgres_batch import Batches, Intent, Release, Settlement, Write
from mailgate.queue.postgres_life import Life, leave, renew
from mailgate.queue.postgres_link import LOOK_PATIENCE, Access, Connection, Lane, as_store_error, connect, words
from mailgate.queue.postgres_schema import BLOCK, Misfit, upgrade
from mailgate.queue.row_store import RowStore
from mailgate.queue.store import LEASE, LeaseLost, StoreError, Unavailable
from mailgate.queue.writer import Broken, Writer

READERS = 4
"""Connections that claim and read; there is one more that writes, one for the lease, and one that listens."""
LOST_CLAIMS = 100
"""Claims whose answer never came: they are given back again and again, for they may come about later than one thinks."""

T = TypeVar("T")


class PostgresStore(RowStore):
    """See the module's docstring and `store.Store`. ``name`` is who this process is, for people. ``on_waiting(destinations)`` is
    told whom others left for us; None says that the store should be asked."""

    statements: ClassVar[Any] = rows
    inspection: ClassVar[Any] = rows

    def __init__(self, access: Access, name: str, adapters: Adapters, log: EventLog | None = None, lease: float = LEASE) -> None:
        super().__init__(access.place, adapters, log)
        self.access = access
        self.on_waiting: Callable[[Sequence[tuple[str, float]] | None], None] = lambda waiting: None
        self._name = name
        self._writing = Lane(access, adapters, 1)
        self._reading = Lane(access, adapters, READERS, durable=False)
        self._life = Life(access, name, lease, adapters, self._log, self._look)
        self._batches: Batches | None = None
        self._writer: Writer | None = None
        self._next_number = self._last_number = 0
        self._fresh: dict[tuple[int, int], int] = {}
        """Accepted here a moment ago, and nobody has taken it; the value is the epoch."""
        self._prepared: dict[int, Entry] = {}
        self._freed: list[tuple[int, int, int, bool]] = []
        """Entry, number and epoch of what this process has and does not want; and whether its intent was written for nothing."""
        self._lost_claims: deque[int] = deque(maxlen=LOST_CLAIMS)
        self._releasing = 0
        self._timer: Any = None
        self._refused: list[int] = []
        """Entries that nobody was told 250 for, and that may be there."""
        self._uncertain: set[tuple[int, int]] = set()
        """Entry and epoch of results that may have been recorded, or not."""
        self._reopening = False
        self.broken = ""
        """Why the database can't be used now, until `reopen`."""

    # Life

    async def open(self) -> None:
        """A server that is not there is waited for, by `reopen`. :raises StoreError: it is there, and is not for us."""
        try:
            await self._begin()
        except Misfit:
            await self._stop()
            raise
        except StoreError as error:
            self._break(error)

    async def _begin(self) -> None:
        self._writer = None
        refused = list(self._refused)
        owner = self._batches.owner if self._batches is not None else 0
        began = self._adapters.reactor.seconds()
        owner = await self._writing.run(self._prepare, owner, refused)
        del self._refused[: len(refused)]
        if self._batches is None:
            self._batches = Batches(owner, self.access.schema)
        self._writer = Writer(None, self._run_batch, self._break, self._batches.run)
        self.broken = ""
        self._life.start(self._batches, began)
        self._release_soon()

    def _prepare(self, connection: Connection, owner: int, refused: Sequence[int]) -> int:
        """In a thread. The number of this process."""
        upgrade(connection, self.access.schema)
        with connection.transaction():
            if not owner:
                (owner,) = connection.execute("SELECT nextval('number')").fetchone() or (0,)
            renew(connection, self.access.clock, owner, self._name, self._life.lease)
            if refused:
                rows.delete_entries(connection, refused)
        return owner

    def _run_batch(self, run: Callable[..., Any], _: None, writes: list[Write]) -> Any:
        return spawn(self._writing.run(run, writes))

    def _break(self, error: BaseException) -> None:
        if not self.broken:
            self._log.error(Event.QUEUE_STORE, file=self.access.place, error=words(error))
        self.broken = words(error)

    async def reopen(self) -> None:
        """Try the server again. :raises StoreError: it is still not to be had."""
        if self._reopening:
            raise Unavailable(f"{self.broken}; it is being tried again")
        self._reopening = True
        try:
            if self._writer is None or self.broken:
                await self._begin()
            await self._reading.run(rows.destinations)
        finally:
            self._reopening = False

    async def close(self) -> None:
        batches, writer = self._batches, self._writer
        if writer is not None:
            try:
                await self._released()
            except StoreError:  # it is given back with everything else
                pass
            await writer.drained()
        self._writer = None
        await self._life.stop()
        if batches is not None:
            try:
                await self._writing.run(partial(_leave, batches=batches, refused=list(self._refused)))
            except StoreError as error:  # its lease will end
                self._log.warn(Event.QUEUE_STORE, file=self.access.place, error=f"closed without a word: {words(error)}")
        await self._stop()

    async def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._life.stop()
        await self._writing.stop()
        await self._reading.stop()
        self._leased.clear()
        self._fresh.clear()
        self._prepared.clear()
        self._freed.clear()

    def _look(self, waiting: Sequence[tuple[str, float]] | None) -> None:
        if waiting is None and self._lost_claims:
            self._release_soon()
        if not self.broken:
            self.on_waiting(waiting)

    # Numbers

    async def _numbers(self, count: int) -> int:
        """The first of so many numbers in a row that nobody has used: of entries, contents and claims."""
        while self._last_number - self._next_number < count:
            first = await self._read(_next_block)
            self._next_number, self._last_number = first, first + BLOCK
        self._next_number += count
        return self._next_number - count

    # Accepting

    async def accept(
        self, drafts: Sequence[Draft], *, prepared: bool = False, intended: Container[str] = ()
    ) -> tuple[Entry, ...]:
        if self._batches is None:
            raise Unavailable(self.broken or "the queue is not open")
        contents = {id(draft.message.body): draft.message for draft in drafts}
        first = await self._numbers(len(drafts) + len(contents))
        unused = iter(range(first + len(drafts), first + len(drafts) + len(contents)))
        bodies: dict[int, int] = {}
        try:
            for key, message in contents.items():
                if message.body.data is None:
                    body = next(unused)
                    begin = partial(rows.begin_body, body=body, owner=self._batches.owner, shape=Shape.of(message))
                    bodies[key] = await self._store_pieces(message, body, begin)
            token = self._adapters.random.getrandbits(63)
            numbers = range(first, first + len(drafts))
            stored, entries = insertion(drafts, numbers, dict(bodies), token, lambda: next(unused), prepared, intended)
            await self._accepted(stored, numbers)
        except BaseException:
            self._forget_bodies(bodies.values())
            raise
        for entry in entries:
            if prepared:
                self._prepared[entry.id] = entry
            else:
                self._let_go(entry)
        return tuple(entries)

    async def _accepted(self, stored: Insertion, entries: Sequence[int]) -> None:
        try:
            await self._submit(stored)
        except Broken:
            self._refused += entries
            raise
        except BaseException:
            if self._writer is not None and not self.broken:  # cancelled: nobody will hear 250, the job may be on its way
                spawn(self._delete(entries)).addErrback(lambda failure: failure.trap(StoreError) and None)
            raise

    def _let_go(self, entry: Entry) -> None:
        """It is ours, in the table too. Who is not taken at once is given to everybody."""
        self._fresh.update(((entry.id, row.number), entry.id) for row in entry.recipients if row.standing is not Standing.HELD)
        self._release_soon()

    def _forget_bodies(self, bodies: Iterable[int]) -> None:
        """Content that no entry got. Where that fails it is forgotten with this process."""
        some = list(bodies)
        if some and self._writer is not None and not self.broken:
            forgetting = spawn(self._job(partial(rows.delete_bodies, bodies=some)))
            forgetting.addErrback(lambda failure: failure.trap(StoreError) and None)

    async def commit(self, entries: Sequence[int]) -> None:
        assert self._batches is not None
        await self._submit(partial(rows.commit, entries=entries, owner=self._batches.owner))
        for number in entries:
            if (entry := self._prepared.pop(number, None)) is not None:
                self._let_go(entry)

    async def abort(self, entries: Sequence[int]) -> None:
        for number in entries:
            self._prepared.pop(number, None)
        await self._delete(entries)

    async def _delete(self, entries: Sequence[int]) -> None:
        try:
            await self._submit(partial(rows.delete_entries, entries=entries))
        except StoreError:
            self._refused += entries
            raise

    # Claims

    async def destinations(self) -> list[tuple[str, float]]:
        await self._released()
        return await self._read(rows.destinations)

    async def lease(self, destination: str, now: float, limit: int) -> tuple[list[Lease], float]:
        return await self._claim(rows.due, destination, now, limit)

    async def overdue(self, destination: str, arrived_before: float, after: int, limit: int) -> list[Lease]:
        leases, _ = await self._claim(rows.overdue, destination, arrived_before, after, limit)
        return leases

    async def owed(self, now: float, limit: int) -> tuple[list[Lease], float]:
        return await self._claim(rows.owed, now, limit)

    async def _claim(self, statement: Callable[..., Any], *arguments: Any) -> tuple[list[Lease], float]:
        await self._released()
        await self._hold_on()
        if self._batches is None:
            raise Unavailable(self.broken or "the queue is not open")
        epoch = await self._numbers(1)
        try:
            found, damaged, following = await self._read(statement, self._batches.owner, epoch, *arguments)
        except BaseException:
            self._lost_claims.append(epoch)
            self._release_soon()
            raise
        leases = [Lease(entry, claimed, epoch) for entry, claimed in found if claimed]
        for lease in leases:
            self._leased.update(_keys(lease))
        await self._set_aside(damaged)
        return leases, following

    async def _hold_on(self) -> None:
        """Renew the lease, if it may have ended: this process stood still, or the server did. :raises StoreError:"""
        if not self._life.is_valid:
            await self._life.beat()
            if not self._life.is_valid:
                raise Unavailable(self.broken or "the lease can't be renewed")

    def take(self, entry: Entry, destination: str, *, intended: bool = False) -> Lease:
        """Beyond ``until`` it is not known to be ours any more: an intent written with the acceptance is written again then."""
        waiting = tuple(row for row in entry.recipients if row.destination == destination and row.standing is not Standing.HELD)
        lease = Lease(entry, waiting, entry.id, self._life.holds_until, intended)
        for key in _keys(lease):
            self._fresh.pop(key, None)
            self._leased.add(key)
        return lease

    def drop(self, lease: Lease) -> None:
        epoch = lease.epoch or lease.entry.id
        mine = [key for key in _keys(lease) if key in self._leased]
        self._leased.difference_update(mine)
        self._freed += [(*key, epoch, lease.intended) for key in mine]
        if mine:
            self._release_soon()

    def _release_soon(self) -> None:
        if self._timer is None:
            self._timer = self._adapters.reactor.callLater(0, self._release_now)

    def _release_now(self) -> None:
        self._timer = None
        if self._writer is not None and not self.broken:
            spawn(self._release()).addErrback(lambda failure: failure.trap(StoreError) and None)

    async def _released(self) -> None:
        """What was given back is anybody's, and ours too."""
        if self._fresh or self._freed or self._releasing:
            await self._release()

    async def _release(self) -> None:
        freed, self._freed = [*self._freed, *((*key, epoch, False) for key, epoch in self._fresh.items())], []
        self._fresh.clear()
        claims = list(self._lost_claims)
        if not (freed or claims or self._releasing):
            return
        self._releasing += 1
        try:
            await self._submit(Release(freed, claims))  # behind those that are on their way
        except StoreError:
            self._freed += freed
            raise
        finally:
            self._releasing -= 1

    async def renew(self, lease: Lease) -> Lease:
        await self._life.beat()
        found = await self._read(_epochs, lease.entry.id)
        if any(found.get(row.number) != lease.epoch for row in lease.recipients):
            raise LeaseLost(f"recipients of entry {lease.entry.id} were taken over by another node")
        return lease

    # Results

    async def intend(self, lease: Lease) -> None:
        await self._hold_on()
        await self._submit(Intent(_keys(lease), lease.epoch))
        if not self._life.is_valid:
            raise LeaseLost(f"the database took longer than the lease lasts, entry {lease.entry.id} may be another node's")

    async def settle(self, lease: Lease, results: Sequence[Settled]) -> None:
        entry, epoch = lease.entry, lease.epoch or lease.entry.id
        others = len(results) < len(entry.recipients)
        bare = lease.intended and not others
        write = Settlement(entry.id, entry.body, epoch, results, self._adapters.wall_time(), others, bare)
        try:
            await self._submit(write)
        except Broken:
            self._uncertain.add((entry.id, epoch))
            raise
        except LeaseLost:
            if (entry.id, epoch) not in self._uncertain:  # else it was recorded at the first try
                self._forget(lease, results)
                raise
        self._forget(lease, results)

    def _forget(self, lease: Lease, results: Sequence[Settled]) -> None:
        self._uncertain.discard((lease.entry.id, lease.epoch or lease.entry.id))
        self._prepared.pop(lease.entry.id, None)
        self._leased.difference_update((lease.entry.id, result.number) for result in results)

    # For operators

    async def change(self, entry: int, edit: Callable[[Waiting], Waiting | None], note: str) -> int:
        epoch = await self._numbers(1)
        job = partial(rows.change, entry=entry, epoch=epoch, edit=edit, note=note, now=self._adapters.wall_time())
        return await self._edit(job)

    async def move(self, entry: int, edit: Callable[[Waiting], Waiting | None], target: str, note: str) -> int:
        made = await self._numbers(1)
        now = self._adapters.wall_time()
        return await self._edit(partial(rows.move, entry=entry, made=made, edit=edit, target=target, note=note, now=now))

    async def _edit(self, job: Callable[[Connection], list[Waiting]]) -> int:
        batches = self._batches
        await self._released()

        def edit(connection: Connection) -> int:
            changed = job(connection)
            waiting = [(row.destination, row.due) for row in changed if row.standing is Standing.WAITING]
            if waiting and batches is not None:
                batches.tell(connection, waiting)
            return len(changed)

        return int(await self._submit(edit))

    # Work

    def _submit(self, write: Write) -> Any:
        if self._writer is None:
            raise Unavailable(self.broken or "the queue is not open")
        return self._writer.submit(write)

    async def _job(self, write: Write) -> Any:
        return await self._submit(write)

    async def _read(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._reading.run(work, *arguments)

    def _inspect_now(self, work: Callable[..., T], *arguments: Any) -> T:
        with closing(connect(self.access, statement=f"{LOOK_PATIENCE:.0f}s")) as connection:
            try:
                return work(connection, *arguments)
            except psycopg.Error as error:
                raise as_store_error(error, connection) from error


def _keys(lease: Lease) -> list[tuple[int, int]]:
    return [(lease.entry.id, row.number) for row in lease.recipients]


def _next_block(connection: Connection) -> int:
    (first,) = connection.execute("SELECT nextval('number')").fetchone() or (0,)
    return int(first)


def _epochs(connection: Connection, entry: int) -> dict[int, int]:
    return dict(connection.execute("SELECT number, epoch FROM recipient WHERE entry = %s", (entry,)).fetchall())


def _leave(connection: Connection, batches: Batches, refused: Sequence[int]) -> None:
    if refused:
        rows.delete_entries(connection, refused)
    leave(connection, batches)
