"""What greylisting remembers: who has tried to write from where to whom. The rules, and a file of SQLite's that has them; Redis
and PostgreSQL are `greylist_redis` and `greylist_postgres`.

`Greylist.seen` is one transaction, called in threads; calls wait for each other, and for other processes on the same file. Times
are seconds since the epoch, since they outlive processes; a first try that lies in the future, because a clock was set back,
counts as made now.

    unknown                  noted: early
    again within `delay`     early
    again within `window`    passed, and kept for `lifetime` from each message on
    again later than that    as unknown
    network that `allow_after` others have passed from     passed at once, as long as it goes on within `lifetime`

Entries that are over are removed once an hour, and the oldest beyond `MOST`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from dataclasses import dataclass
from enum import Enum

from mailgate.sqlite import do, one

MOST = 1_000_000
"""Triples: about 200 MB. A flood of senders must not fill the disk."""
SWEEP = 3600.0
BUSY = 5.0
"""Seconds for which another process may hold the file."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS triples (
    network TEXT NOT NULL, sender TEXT NOT NULL, recipient TEXT NOT NULL,
    first REAL NOT NULL, last REAL NOT NULL, passed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (network, sender, recipient)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS networks (network TEXT PRIMARY KEY, passed INTEGER NOT NULL, last REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS triples_by_time ON triples (last);
"""


class Seen(Enum):
    EARLY = "early"
    """Not long enough since the first time."""
    PASSED = "passed"
    """It came back, as servers do."""
    KNOWN = "known"
    """It has passed before."""
    ALLOWED = "allowed"
    """So many others have passed from its network."""

    @property
    def passes(self) -> bool:
        return self is not Seen.EARLY


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long, in seconds, and how many."""

    delay: float
    window: float
    lifetime: float
    allow_after: int


@dataclass(frozen=True, slots=True)
class Triple:
    """A network, a sender and a recipient: the first try, the last one, and whether it has come back."""

    first: float
    last: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Network:
    """How many have passed from it, and when the last one did."""

    passed: int
    last: float


def judge(waiting: Waiting, network: Network | None, triple: Triple | None, now: float) -> tuple[Seen, Triple | None]:
    """What it is, and what is known of the triple from now on; None: nothing new. With ALLOWED the network lives on from now,
    with PASSED one more has passed from it."""
    if network is not None and 0 < waiting.allow_after <= network.passed and now < network.last + waiting.lifetime:
        return Seen.ALLOWED, None
    if triple is not None and triple.passed and now < triple.last + waiting.lifetime:
        return Seen.KNOWN, Triple(triple.first, now, True)
    if triple is not None and not triple.passed:
        first = min(triple.first, now)
        if now < first + waiting.delay:
            return Seen.EARLY, Triple(first, now, False)
        if now < first + waiting.window:
            return Seen.PASSED, Triple(first, now, True)
    return Seen.EARLY, Triple(now, now, False)


class Greylist:
    """See the module's docstring. Blocking, but from several threads."""

    def __init__(self, path: str, waiting: Waiting, *, most: int = MOST) -> None:
        self._path = path
        self._waiting = waiting
        self._most = most
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._swept = 0.0

    def open(self) -> None:
        """:raises OSError, sqlite3.Error:"""
        with self._lock:
            if self._database is None:
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
                database = sqlite3.connect(self._path, timeout=BUSY, isolation_level=None, check_same_thread=False)
                do(database, "PRAGMA journal_mode=WAL")
                do(database, "PRAGMA synchronous=NORMAL")
                database.executescript(_SCHEMA)
                self._database = database

    def close(self) -> None:
        with self._lock:
            database, self._database = self._database, None
            if database is not None:
                database.close()

    def seen(self, network: str, sender: str, recipient: str, now: float) -> Seen:
        """:raises sqlite3.Error: nobody can say."""
        with self._lock:
            if self._database is None:
                raise sqlite3.OperationalError("closed")
            database = self._database
            database.execute("BEGIN IMMEDIATE")
            try:
                found = self._judge(database, (network, sender, recipient), now)
                if not self._swept <= now < self._swept + SWEEP:
                    self._sweep(database, now)
                database.execute("COMMIT")
            except BaseException:
                database.execute("ROLLBACK")
                raise
            return found

    def _judge(self, database: sqlite3.Connection, triple: tuple[str, str, str], now: float) -> Seen:
        name = triple[0]
        row = one(database, "SELECT passed, last FROM networks WHERE network = ?", (name,))
        network = Network(*row) if row is not None else None
        where = "WHERE network = ? AND sender = ? AND recipient = ?"
        row = one(database, f"SELECT first, last, passed FROM triples {where}", triple)
        known = Triple(row[0], row[1], bool(row[2])) if row is not None else None
        seen, new = judge(self._waiting, network, known, now)
        if new is not None:
            values = (*triple, new.first, new.last, int(new.passed))
            database.execute("INSERT OR REPLACE INTO triples VALUES (?, ?, ?, ?, ?, ?)", values)
        if seen is Seen.ALLOWED:
            database.execute("UPDATE networks SET last = ? WHERE network = ?", (now, name))
        elif seen is Seen.PASSED:
            self._count(database, name, now)
        return seen

    def _count(self, database: sqlite3.Connection, network: str, now: float) -> None:
        """One more has passed from a network; what was long ago does not count."""
        database.execute(
            "INSERT INTO networks VALUES (?, 1, ?) ON CONFLICT (network) DO UPDATE SET"
            " passed = CASE WHEN ? < last + ? THEN passed + 1 ELSE 1 END, last = excluded.last",
            (network, now, now, self._waiting.lifetime),
        )

    def _sweep(self, database: sqlite3.Connection, now: float) -> None:
        self._swept = now
        waiting = self._waiting
        database.execute("DELETE FROM triples WHERE passed = 1 AND last < ?", (now - waiting.lifetime,))
        database.execute("DELETE FROM triples WHERE passed = 0 AND first < ?", (now - waiting.window,))
        database.execute("DELETE FROM networks WHERE last < ?", (now - waiting.lifetime,))
        (count,) = one(database, "SELECT count(*) FROM triples")
        if count > self._most:
            (limit,) = one(database, "SELECT last FROM triples ORDER BY last LIMIT 1 OFFSET ?", (count - self._most,))
            database.execute("DELETE FROM triples WHERE last < ?", (limit,))
