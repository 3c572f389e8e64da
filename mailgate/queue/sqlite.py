"""A queue in one sqlite file: the store of a gateway that stands alone.

One process has the file, by a lock beside it; leases are kept in memory and end with the process. Writes go through `Writer`
(group commit, one fsync for all that wait), in WAL mode with synchronous=FULL; reads have a connection of their own and see what
is committed. Both run in the thread pool.

What happens when the disk fails: nothing that was refused is delivered later. An accept whose commit failed may have reached the
disk in spite of it, so its token is remembered, here and in a file (refusals.py), and its rows are deleted when the queue's file
is opened again (`reopen`, or the next process), before anything else is done with it.

Damage is found by checksums when a row or a piece is read. The row goes to the table `damaged` with its bytes, an error to the
log, and the queue goes on.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, ClassVar

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.net.waiting import spawn
from mailgate.queue import inspection, rows
from mailgate.queue.batch import Insertion, Intent, Job, Release, Settlement, Write, insertion
from mailgate.queue.content import Shape
from mailgate.queue.entry import Draft, Entry, Lease, Settled, Standing, Waiting
from mailgate.queue.refusals import Refusals
from mailgate.queue.row_store import RowStore
from mailgate.queue.schema import upgrade
from mailgate.queue.store import StoreError, Unavailable
from mailgate.queue.writer import Broken, Writer, as_store_error, run_batch
from mailgate.sqlite import do

_NEVER = float("inf")


class SqliteStore(RowStore):
    """See the module's docstring and `store.Store`. ``path`` is the file; its directory exists or is made, for us alone."""

    statements: ClassVar[Any] = rows
    inspection: ClassVar[Any] = inspection

    def __init__(self, path: str, adapters: Adapters, log: EventLog | None = None) -> None:
        super().__init__(path, adapters, log)
        self.path = path
        self.on_trouble: Callable[[BaseException], None] = _ignore
        self._lock: int | None = None
        self._refusals = Refusals(f"{path}.refused")
        self._writer: Writer | None = None
        self._reading: sqlite3.Connection | None = None
        self._reader_lock = threading.Lock()
        self._last_entry = 0
        self._last_body = 0
        self._token = adapters.random.getrandbits(63)
        """Of the entries of this process: a number that it forgets another process may use again."""
        self._searches: list[set[tuple[int, int]]] = []
        """Of each search for recipients to lease that is under way in a thread, the rows that were saved since it began: what it
        brings of them is old."""
        self._refused: list[tuple[int, int]] = []
        """Number and token of entries whose accept failed in a way that may have left them on the disk."""
        self._prepared: set[int] = set()
        """Entries that were prepared, and neither committed nor aborted."""
        self._aborted: list[int] = []
        """Entries that were aborted while the file could not be used."""
        self._unused: set[int] = set()
        """Bodies that were begun for nothing, and are still there."""
        self._reopening = False
        self.broken = ""
        """Why the file can't be used now, until `reopen`."""

    # Life

    async def open(self) -> None:
        connections = await self._adapters.run_in_thread(self._open)
        await self._use(*connections)

    async def close(self) -> None:
        if self._refused or self._aborted:
            await self._forget_before_closing()
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.drained()
            await self._adapters.run_in_thread(self._close, writer._connection)
        self._leased.clear()

    async def _forget_before_closing(self) -> None:
        """The next process does not know what was refused while the file was broken."""
        try:
            await self.reopen()
        except StoreError as error:
            self._log.error(Event.QUEUE_STORE, file=self.path, error=f"closed without forgetting what was refused: {error}")

    async def reopen(self) -> None:
        """Try a file again that failed. Leases hold on: what they deliver is still this process's."""
        if not self.broken:
            return
        if self._reopening:
            raise Unavailable(f"{self.broken}; it is being opened anew")
        self._reopening = True
        try:
            await self._reopen()
        finally:
            self._reopening = False

    async def _reopen(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await self._adapters.run_in_thread(self._disconnect, writer._connection)
        refused, aborted = list(self._refused), list(self._aborted)
        connections = await self._adapters.run_in_thread(self._connect, refused, aborted)
        self._refused, self._aborted = self._refused[len(refused) :], self._aborted[len(aborted) :]
        await self._use(*connections)
        self.broken = ""

    async def _use(self, writing: sqlite3.Connection, reading: sqlite3.Connection) -> None:
        self._reading = reading
        entry, body = await self._read(rows.last_numbers)
        self._last_entry, self._last_body = max(entry, self._last_entry), max(body, self._last_body)
        self._writer = Writer(writing, self._adapters.run_in_thread, self._break, partial(run_batch, on_doubt=self._note))

    def _new_body(self) -> int:
        self._last_body += 1
        return self._last_body

    def _break(self, error: BaseException) -> None:
        self.broken = str(error)
        self.on_trouble(error)
        self._log.error(Event.QUEUE_STORE, file=self.path, error=str(error))

    def _note(self, jobs: Sequence[Write]) -> None:
        """In a thread: these failed, and may be on the disk in spite of it. Nobody has heard of that yet."""
        entries = []
        for job in jobs:
            if isinstance(job, Insertion):
                entries += [(row[0], row[1]) for row in job.entries]
            elif isinstance(job, Release):
                entries += [(entry, self._token) for entry in job.entries]
            elif isinstance(job, Settlement) and job.entry in self._prepared:
                entries.append((job.entry, self._token))
        try:
            self._refusals.note(entries)
        except OSError as error:
            self._log.error(Event.QUEUE_STORE, file=self.path, error=f"what was refused can't be noted: {error.strerror}")

    def _open(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """In a thread."""
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"{error.filename}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise Unavailable(f"{self.path}: another process has this queue") from error
        try:
            connections = self._connect()
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        return connections

    def _connect(
        self, refused: Iterable[tuple[int, int]] = (), aborted: Iterable[int] = ()
    ) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """In a thread. What was prepared, and what was refused, is forgotten."""
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # before sqlite makes it for everybody
            writing = _connection(self.path)
            upgrade(writing)
            writing.execute("BEGIN IMMEDIATE")
            rows.forget_refused(writing, [*self._refusals.open(), *refused])
            rows.delete_entries(writing, aborted)
            rows.recover(writing)
            writing.execute("COMMIT")
            # After an fsync that failed the log may lack on the disk what it still has in memory: nothing is written behind that.
            do(writing, "PRAGMA wal_checkpoint(TRUNCATE)")
            self._refusals.clear()
            return writing, _connection(self.path)
        except OSError as error:
            raise Unavailable(f"{self.path}: {error.strerror}") from error
        except sqlite3.Error as error:
            raise Unavailable(f"{self.path}: {error}") from error

    def _close(self, writing: sqlite3.Connection) -> None:
        """In a thread."""
        self._disconnect(writing)
        self._refusals.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _disconnect(self, writing: sqlite3.Connection) -> None:
        with self._reader_lock:
            reading, self._reading = self._reading, None
            for connection in (reading, writing):
                try:
                    if connection is not None:
                        connection.close()
                except sqlite3.Error as error:  # a failing disk: there is nothing left to save
                    self._log.warn(Event.QUEUE_STORE, file=self.path, error=str(error))

    # Accepting

    async def accept(
        self, drafts: Sequence[Draft], *, prepared: bool = False, intended: Container[str] = ()
    ) -> tuple[Entry, ...]:
        if self._unused:
            self._forget_bodies(())
        contents = {id(draft.message.body): draft.message for draft in drafts}
        bodies: dict[int, int] = {}
        try:
            for key, message in contents.items():
                if message.body.data is None:
                    body = self._new_body()
                    begin = partial(rows.begin_body, body=body, shape=Shape.of(message))
                    bodies[key] = await self._store_pieces(message, body, begin)
            numbers = range(self._last_entry + 1, self._last_entry + 1 + len(drafts))
            self._last_entry += len(drafts)
            stored, entries = insertion(drafts, numbers, dict(bodies), self._token, self._new_body, prepared, intended)
            await self._accepted(stored, [(number, self._token) for number in numbers])
            if prepared:
                self._prepared.update(numbers)
            return tuple(entries)
        except BaseException:
            self._forget_bodies(bodies.values())
            raise

    async def _accepted(self, stored: Insertion, entries: list[tuple[int, int]]) -> None:
        try:
            await self._submit(stored)
        except Broken:
            self._refused += entries
            raise
        except BaseException:
            if self._writer is not None and not self.broken:  # cancelled: nobody will hear 250, the job may be on its way
                self._submit(lambda connection: rows.forget_refused(connection, entries)).when_done(_nothing)
            raise

    def _forget_bodies(self, bodies: Iterable[int]) -> None:
        """Content that no entry got. A disk that is full may not even do that: then it is done before the next content comes."""
        self._unused.update(bodies)
        if not self._unused or self._writer is None or self.broken:
            return  # a file that is opened forgets them by itself
        some = frozenset(self._unused)

        async def forget() -> None:
            try:
                await self._submit(lambda connection: rows.delete_bodies(connection, some))
                self._unused -= some
            except StoreError:
                return

        spawn(forget())

    async def commit(self, entries: Sequence[int]) -> None:
        await self._submit(Release(entries))
        self._prepared.difference_update(entries)

    async def abort(self, entries: Sequence[int]) -> None:
        self._prepared.difference_update(entries)
        try:
            await self._submit(lambda connection: rows.delete_entries(connection, entries))
        except StoreError:
            if self.broken:  # a commit that failed may have reached the disk
                self._aborted += entries
            raise

    # Delivering

    async def destinations(self) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = await self._read(rows.destinations)
        return found

    async def lease(self, destination: str, now: float, limit: int) -> tuple[list[Lease], float]:
        leased = frozenset(self._leased)
        leases, damaged, following = await self._search(
            lambda connection: rows.due(connection, destination, now, limit, leased), leased
        )
        await self._set_aside(damaged)
        return leases, following

    async def _search(self, job: Job, leased: frozenset[tuple[int, int]]) -> tuple[list[Lease], rows.Broken, float]:
        """Lease what a read finds, but nothing that was leased, or saved, after the read began: its rows are old news."""
        saved: set[tuple[int, int]] = set()
        self._searches.append(saved)
        try:
            found, damaged, following = await self._read(job)
            taken = leased | self._leased | saved
        finally:
            self._searches = [one for one in self._searches if one is not saved]
        leases = []
        for entry, wanted in found:
            free = tuple(row for row in wanted if (entry.id, row.number) not in taken)
            if free:
                self._leased.update((entry.id, row.number) for row in free)
                leases.append(Lease(entry, free))
        return leases, damaged, following

    def take(self, entry: Entry, destination: str, *, intended: bool = False) -> Lease:
        waiting = tuple([row for row in entry.recipients if row.destination == destination and row.standing is Standing.WAITING])
        for row in waiting:
            self._leased.add((entry.id, row.number))
        return Lease(entry, waiting, intended=intended)

    async def overdue(self, destination: str, arrived_before: float, after: int, limit: int) -> list[Lease]:
        leases, damaged, _ = await self._search(
            lambda connection: rows.overdue(connection, destination, arrived_before, after, limit), frozenset(self._leased)
        )
        await self._set_aside(damaged)
        return leases

    async def renew(self, lease: Lease) -> Lease:
        return lease

    def drop(self, lease: Lease) -> None:
        """End a lease with nothing changed: nobody tried."""
        keys = [(lease.entry.id, row.number) for row in lease.recipients]
        self._leased.difference_update(keys)
        if lease.intended and self._writer is not None and not self.broken:
            self._submit(Intent(list(keys), open=False)).when_done(_nothing)

    async def intend(self, lease: Lease) -> None:
        await self._submit(Intent([(lease.entry.id, row.number) for row in lease.recipients]))

    async def settle(self, lease: Lease, results: Sequence[Settled]) -> None:
        now = self._adapters.wall_time()
        entry = lease.entry
        others = len(results) < len(entry.recipients)
        bare = lease.intended and not others
        await self._submit(Settlement(entry.id, entry.body, results, now, others, bare))
        self._prepared.discard(entry.id)
        saved = [(entry.id, result.number) for result in results]
        self._leased.difference_update(saved)
        self._remember_saved(saved)

    def _remember_saved(self, keys: Sequence[tuple[int, int]]) -> None:
        for saved in self._searches:
            saved.update(keys)

    async def owed(self, now: float, limit: int) -> tuple[list[Lease], float]:
        leased = frozenset(self._leased)
        leases, damaged, following = await self._search(lambda connection: rows.owed(connection, now, limit, leased), leased)
        await self._set_aside(damaged)
        return leases, following

    # For operators

    async def change(self, entry: int, edit: Callable[[Waiting], Waiting | None], note: str) -> int:
        leased = frozenset(number for owner, number in self._leased if owner == entry)
        now = self._adapters.wall_time()
        changed: list[int] = await self._submit(lambda connection: rows.change(connection, entry, edit, leased, note, now))
        self._remember_saved([(entry, number) for number in changed])
        return len(changed)

    async def move(self, entry: int, edit: Callable[[Waiting], Waiting | None], target: str, note: str) -> int:
        leased = frozenset(number for owner, number in self._leased if owner == entry)
        now = self._adapters.wall_time()
        self._last_entry += 1
        made = self._last_entry
        moved: list[int] = await self._submit(
            lambda connection: inspection.move(connection, entry, edit, leased, target, made, note, now)
        )
        self._remember_saved([(entry, number) for number in moved])
        return len(moved)

    # Jobs

    def _submit(self, job: Write) -> Any:
        if self._writer is None:
            raise Unavailable(self.broken or "the queue is not open")
        return self._writer.submit(job)

    async def _read(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await self._adapters.run_in_thread(self._read_now, work, *arguments)

    def _read_now(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """In a thread."""
        with self._reader_lock:
            if self._reading is None:
                raise Unavailable(self.broken or "the queue is not open")
            try:
                return work(self._reading, *arguments)
            except sqlite3.Error as error:
                failure = as_store_error(error)
                raise failure if isinstance(failure, StoreError) else Unavailable(str(error)) from error

    def _inspect_now(self, work: Callable[..., Any], *arguments: Any) -> Any:
        if self._writer is None:
            raise Unavailable(self.broken or "the queue is not open")
        try:
            with closing(_connection(self.path)) as connection:
                return work(connection, *arguments)
        except sqlite3.Error as error:
            raise Unavailable(f"{self.path}: {error}") from error


def _connection(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64, timeout=10.0)
    do(connection, "PRAGMA journal_mode = WAL")
    do(connection, "PRAGMA synchronous = FULL")
    return connection


def _ignore(error: BaseException) -> None: ...


def _nothing() -> None:
    """Cleaning up after a failure: if that fails too, opening the file does it."""
