"""Connections to a PostgreSQL server, and the threads that use them: the reactor never waits for the database.

A `Lane` is a few threads, each with a connection for itself while it works. psycopg does the protocol. What a lane promises:

- Nothing waits for ever. Connecting, an answer, a silent network and a server that takes our words and says nothing each have
  their time; beyond `PATIENCE` the connection is torn from its thread, and the question fails.
- Whatever goes wrong on a connection, it is closed, and the next question makes another one.
- Errors come out as `StoreError`: `Full`, `Broken` where the connection is gone (what was being committed may be there or not),
  `Unavailable` for the rest. Their texts are PostgreSQL's, and have no password in them; the DSN is shown nowhere.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from twisted.internet.defer import CancelledError
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from mailgate.adapters import Adapters
from mailgate.config.places import SecretText
from mailgate.interpreter import socket_of
from mailgate.net.waiting import DeadlineExceeded, within
from mailgate.queue.store import Full, StoreError, Unavailable
from mailgate.queue.writer import Broken

T = TypeVar("T")
Connection = psycopg.Connection[Any]

PATIENCE = 40.0
"""Seconds for one piece of work, waiting for a thread included."""
LOOK_PATIENCE = 600.0
"""For an operator's, which may look at every entry."""
_STATEMENT, _LOCK, _IDLE = "30s", "10s", "15s"
"""The server's own limits. The last one frees what a process had locked that stands still in the middle of a transaction."""
_DEFAULTS: dict[str, Any] = {
    "application_name": "mailgate",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "target_session_attrs": "read-write",
}
"""What a DSN gets that does not say otherwise. Of several hosts the one is meant that can be written to."""
CLOCK = "extract(epoch FROM clock_timestamp())"


@dataclass(frozen=True, slots=True)
class Access:
    """Where a queue lies: a schema of its own in a database."""

    dsn: SecretText
    schema: str
    clock: str = CLOCK
    """The server's time in seconds, as an expression: the one clock by which leases end. A test's may stand."""

    @property
    def place(self) -> str:
        """For logs: host and database, without user and password."""
        given = conninfo_to_dict(self.dsn.reveal())
        host = given.get("host") or given.get("hostaddr") or "local"
        port = f":{given['port']}" if "port" in given else ""
        return f"postgres {host}{port} {given.get('dbname', '')} {self.schema}".replace("  ", " ")


def is_dsn(text: str) -> bool:
    """Whether libpq can read it. What it says otherwise may quote a password: it is not shown."""
    try:
        conninfo_to_dict(text)
    except psycopg.Error:
        return False
    return True


def connect(access: Access, *, durable: bool = True, statement: str = _STATEMENT) -> Connection:
    """In a thread. ``durable``: commits wait for the disk; claims, which a lost one only undoes, do without.

    :raises StoreError: no connection can be had."""
    given = conninfo_to_dict(access.dsn.reveal())
    try:
        connection: Connection = psycopg.connect(make_conninfo("", **{**_DEFAULTS, **given}), autocommit=True)
    except psycopg.Error as error:
        raise Unavailable(f"{access.place}: {words(error)}") from error
    try:
        connection.execute(
            "SELECT set_config('search_path', quote_ident(%s), false), set_config('client_encoding', 'UTF8', false),"
            " set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),"
            " set_config('idle_in_transaction_session_timeout', %s, false),"
            " CASE WHEN NOT %s THEN set_config('synchronous_commit', 'off', false)"
            " WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false) END",
            (access.schema, statement, _LOCK, _IDLE, durable),
        )
    except psycopg.Error as error:
        connection.close()
        raise Unavailable(f"{access.place}: {words(error)}") from error
    return connection


def words(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def as_store_error(error: psycopg.Error, connection: Connection) -> StoreError:
    """What an error of PostgreSQL means."""
    text = f"{words(error)} ({error.sqlstate})" if error.sqlstate else words(error)
    if connection.closed or isinstance(error, psycopg.errors.ReadOnlySqlTransaction):  # a standby, by now
        return Broken(text)
    if isinstance(error, psycopg.errors.DiskFull | psycopg.errors.OutOfMemory):
        return Full(text)
    return Unavailable(text)


class Lane:
    """See the module's docstring. At most ``threads`` of them, and as many connections."""

    def __init__(self, access: Access, adapters: Adapters, threads: int, *, durable: bool = True) -> None:
        self.access = access
        self._adapters = adapters
        self._count = threads
        self._durable = durable
        self._pool: ThreadPool | None = None
        self._idle: list[Connection] = []
        self._busy: set[_Task] = set()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """What ``work(connection, *arguments)``, called in a thread, returns. :raises StoreError:"""
        task = _Task(self, work, arguments)
        self._busy.add(task)
        try:
            result: T = await within(self._in_thread(task.run), PATIENCE, self._adapters.reactor)
            return result
        except DeadlineExceeded as error:
            task.cut()
            raise Broken(f"{self.access.place}: no answer for {PATIENCE:g} s") from error
        except CancelledError:
            task.cut()
            raise
        finally:
            self._busy.discard(task)

    async def stop(self) -> None:
        """Close every connection; what is under way fails."""
        for task in self._busy:
            task.cut()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await self._adapters.run_in_thread(pool.stop)  # it waits for each
        while self._idle:
            self._idle.pop().close()

    def _in_thread(self, function: Callable[[], Any]) -> Any:
        if self._pool is None:
            self._pool = ThreadPool(0, self._count, "mailgate-postgres")
            self._pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
            self._pool.start()
        return deferToThreadPool(self._adapters.reactor, self._pool, function)

    # In threads

    def take(self) -> Connection:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was quicker
                break
            if _is_quiet(connection):
                return connection
            connection.close()
        return connect(self.access, durable=self._durable)

    def give_back(self, connection: Connection) -> None:
        self._idle.append(connection)


def _is_quiet(connection: Connection) -> bool:
    """Nothing has come on an idle connection: a server that went away has said goodbye, or the socket is at its end."""
    return not connection.closed and not select.select([connection.fileno()], [], [], 0)[0]


class _Task:
    """One piece of work: `run` is called in a thread, `cut` by the reactor."""

    def __init__(self, lane: Lane, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._lane = lane
        self._work = work
        self._arguments = arguments
        self._connection: Connection | None = None
        self._is_cut = False

    def run(self) -> Any:
        if self._is_cut:
            raise Unavailable("nobody waits for it any more")
        connection = self._connection = self._lane.take()
        try:
            result = self._work(connection, *self._arguments)
        except psycopg.Error as error:
            failure = as_store_error(error, connection)
            connection.close()
            raise failure from error
        except BaseException:
            connection.close()
            raise
        finally:
            self._connection = None
        if self._is_cut or connection.closed:
            connection.close()
        else:
            self._lane.give_back(connection)
        return result

    def cut(self) -> None:
        self._is_cut = True
        connection = self._connection
        if connection is None:
            return
        try:
            with socket_of(os.dup(connection.fileno())) as ours:
                ours.shutdown(socket.SHUT_RDWR)
        except (OSError, psycopg.Error):  # it is gone already
            return
