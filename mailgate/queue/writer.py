"""Group commit: everything that waits to be written goes into one transaction, with one fsync, and all are answered.

A store's writes run one batch at a time in the thread pool; what comes meanwhile is the next batch. So twenty clients that wait
for their 250 cost one fsync, and a single one waits for no timer.

When a batch fails, nothing of it was kept, and each of its jobs is tried by itself: one that breaks a rule fails alone. A disk
that fails (EIO, a failed fsync) is another matter: what it says afterwards about the same file can't be believed (fsync may
report an error once and then forget it), so the writer stops, fails everything, and its owner opens the file anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from mailgate.net.waiting import Wait
from mailgate.queue.batch import Write, run
from mailgate.queue.store import Full, StoreError, Unavailable

MAX_BATCH = 500
"""Jobs of one transaction: it must end while clients wait."""
MAX_WAITING = 20_000
"""Jobs that may wait: beyond it a client hears 452, and comes again."""

Outcome = tuple[Any, BaseException | None]

_FULL = (sqlite3.SQLITE_FULL,)
_BROKEN = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY)


class Broken(Unavailable):
    """The file can't be trusted any more: close it, and open it anew."""


class Writer:
    """The jobs of one sqlite file, or of what has a ``run`` of its own. ``run_in_thread(function, *arguments)`` gives a Deferred;
    ``on_broken(error)`` is called once, before the jobs concerned fail."""

    def __init__(
        self,
        connection: Any,
        run_in_thread: Callable[..., Any],
        on_broken: Callable[[BaseException], None],
        run: Callable[[Any, list[Any]], list[Outcome]] | None = None,
    ) -> None:
        self._connection = connection
        self._run = run or run_batch
        self._run_in_thread = run_in_thread
        self._on_broken = on_broken
        self._waiting: list[tuple[Any, Wait[Any]]] = []
        self._busy = False
        self._broken: BaseException | None = None
        self._idle: list[Wait[None]] = []
        self.commits = 0
        """Transactions so far; for tests and metrics."""

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, job: Any) -> Wait[Any]:
        """The job's result, once it is durable. :raises StoreError: too many wait, or the file is broken."""
        if self._broken is not None:
            raise Broken(str(self._broken))
        if len(self._waiting) >= MAX_WAITING:
            raise Full(f"{MAX_WAITING} writes wait already")
        answer: Wait[Any] = Wait(_carry_on)
        self._waiting.append((job, answer))
        if not self._busy:
            self._start()
        return answer

    def drained(self) -> Wait[None]:
        """Fires when nothing waits or runs."""
        idle: Wait[None] = Wait()
        self._idle.append(idle)
        self._tell_idle()
        return idle

    def _start(self) -> None:
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        self._busy = True
        running = self._run_in_thread(self._run, self._connection, [job for job, _ in batch])
        running.addCallbacks(self._done, self._crashed, callbackArgs=(batch,), errbackArgs=(batch,))

    def _done(self, outcomes: list[Outcome], batch: list[tuple[Any, Wait[Any]]]) -> None:
        self.commits += 1
        self._busy = False
        broken = next((error for _, error in outcomes if isinstance(error, Broken)), None)
        if broken is not None:
            self._break(broken)
        elif self._waiting:
            self._start()  # before anybody is answered: the disk works while we do
        for (_, answer), (result, error) in zip(batch, outcomes, strict=True):
            _tell(answer, result, error)
        self._tell_idle()

    def _crashed(self, failure: Any, batch: list[tuple[Any, Wait[Any]]]) -> None:
        """The thread pool failed us (it is stopping): nobody knows how far the batch came."""
        self._busy = False
        error = Broken(f"writing failed: {failure.getErrorMessage()}")
        self._break(error)
        for _, answer in batch:
            _tell(answer, None, error)
        self._tell_idle()

    def _break(self, error: BaseException) -> None:
        self._broken = error
        self._on_broken(error)
        waiting, self._waiting = self._waiting, []
        for _, answer in waiting:
            _tell(answer, None, error)

    def _tell_idle(self) -> None:
        if not self._busy and not self._waiting:
            idle, self._idle = self._idle, []
            for one in idle:
                one.fire(None)


def _carry_on() -> None:
    """Whoever waited does so no longer; the job is done all the same. The wait fails with CancelledError by itself."""


def _forget(jobs: Sequence[Write]) -> None: ...


def _tell(answer: Wait[Any], result: Any, error: BaseException | None) -> None:
    if answer.done:
        return
    if error is not None:
        answer.fail(error)
    else:
        answer.fire(result)


def run_batch(
    connection: sqlite3.Connection, jobs: list[Write], on_doubt: Callable[[Sequence[Write]], None] = _forget
) -> list[Outcome]:
    """In a thread: all jobs in one transaction, or each in its own if that fails. ``on_doubt(jobs)`` hears first of those that
    failed, and of which nobody knows whether they were done."""
    outcome = _transaction(connection, jobs)
    if isinstance(outcome, Broken):
        on_doubt(jobs)
    if not isinstance(outcome, BaseException):
        return [(result, None) for result in outcome]
    if len(jobs) == 1 or isinstance(outcome, Broken):
        return [(None, outcome)] * len(jobs)
    outcomes: list[Outcome] = []
    for job in jobs:
        alone = _transaction(connection, [job])
        if isinstance(alone, Broken):
            on_doubt([job])
        outcomes.append((None, alone) if isinstance(alone, BaseException) else (alone[0], None))
    return outcomes


def _transaction(connection: sqlite3.Connection, jobs: list[Write]) -> list[Any] | BaseException:
    try:
        connection.execute("BEGIN IMMEDIATE")
        results = run(connection, jobs)
        connection.execute("COMMIT")
    except Exception as error:
        failure = as_store_error(error)
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error as second:
            return Broken(f"{error}; and it could not be rolled back: {second}")
        return failure
    return results


def as_store_error(error: BaseException) -> BaseException:
    """What an error of sqlite means. Others are what they are: a job of ours that is wrong."""
    if isinstance(error, StoreError) or not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    name = getattr(error, "sqlite_errorname", "")
    if code in _FULL:
        return Full(f"{error} ({name})")
    if code in _BROKEN:
        return Broken(f"{error} ({name})")
    return Unavailable(f"{error} ({name})")
