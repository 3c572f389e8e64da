"""What greylisting remembers: who has tried to write from where to whom, in a file of SQLite's.

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
                database.execute("PRAGMA journal_mode=WAL")
                database.execute("PRAGMA synchronous=NORMAL")
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
        waiting, network = self._waiting, triple[0]
        if waiting.allow_after:
            row = database.execute("SELECT passed, last FROM networks WHERE network = ?", (network,)).fetchone()
            if row is not None and row[0] >= waiting.allow_after and now < row[1] + waiting.lifetime:
                database.execute("UPDATE networks SET last = ? WHERE network = ?", (now, network))
                return Seen.ALLOWED
        where = "WHERE network = ? AND sender = ? AND recipient = ?"
        row = database.execute(f"SELECT first, last, passed FROM triples {where}", triple).fetchone()
        if row is not None:
            first, last, passed = row
            first = min(first, now)
            if passed and now < last + waiting.lifetime:
                database.execute(f"UPDATE triples SET last = ? {where}", (now, *triple))
                return Seen.KNOWN
            if not passed and now < first + waiting.window:
                if now < first + waiting.delay:
                    database.execute(f"UPDATE triples SET first = ?, last = ? {where}", (first, now, *triple))
                    return Seen.EARLY
                database.execute(f"UPDATE triples SET last = ?, passed = 1 {where}", (now, *triple))
                self._count(database, network, now)
                return Seen.PASSED
        database.execute("INSERT OR REPLACE INTO triples VALUES (?, ?, ?, ?, ?, 0)", (*triple, now, now))
        return Seen.EARLY

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
        (count,) = database.execute("SELECT count(*) FROM triples").fetchone()
        if count > self._most:
            (limit,) = database.execute(
                "SELECT last FROM triples ORDER BY last LIMIT 1 OFFSET ?", (count - self._most,)
            ).fetchone()
            database.execute("DELETE FROM triples WHERE last < ?", (limit,))
