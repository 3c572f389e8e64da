"""The SQLite file of what DMARC found: a row for each different observation of a day, and how far each day's reports are.

`check.dmarc` adds rows, `dmarc_report` and `mailgate dmarc report` make reports of them. All processes and generations of a
gateway share the file, and the table `observations` is an interface (docs/operating.md). All functions block: threads
call them.

A report is about one day, one domain with a policy, and one wording of that policy. Whoever sends it takes it first, for `LEASE`
seconds, in the table `reports`, so that two processes never send the same; `told` is to whom it has gone.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from mailgate.mailauth.dmarc_report import Head, Record, compose
from mailgate.sqlite import one

BUSY = 10.0
"""Seconds that one waits for another who writes."""
LEASE = 3600
"""Seconds that one who has taken a report may need for it."""
MOST_RECORDS = 20_000
"""Of one report: those that stand for the most messages."""
MOST_OCTETS = 8 << 20
"""Of one report, compressed: what mail systems take. One with more leaves records out."""

COLUMNS = (
    "day",
    "policy_domain",
    "header_from",
    "source_ip",
    "disposition",
    "dkim_aligned",
    "spf_aligned",
    "override",
    "spf_domain",
    "spf_scope",
    "spf_result",
    "dkim_results",
    "policy",
    "reports_to",
)
"""What tells rows apart."""
_FOUND = [name for name in COLUMNS if name not in ("day", "policy_domain", "policy", "reports_to")]
_TABLE = f"""
CREATE TABLE IF NOT EXISTS observations (
    {", ".join(f"{name} TEXT NOT NULL" for name in COLUMNS)},
    messages INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY ({", ".join(COLUMNS)})
) WITHOUT ROWID
"""
_REPORTS = """
CREATE TABLE IF NOT EXISTS reports (
    day TEXT NOT NULL, policy_domain TEXT NOT NULL, policy TEXT NOT NULL,
    state TEXT NOT NULL, until INTEGER NOT NULL, told TEXT NOT NULL,
    PRIMARY KEY (day, policy_domain, policy)
) WITHOUT ROWID
"""
_UPDATE = f"""
UPDATE observations SET messages = messages + ?, first = min(first, ?), last = max(last, ?)
WHERE {" AND ".join(f"{name} = ?" for name in COLUMNS)}
"""
_INSERT = f"INSERT INTO observations VALUES ({', '.join('?' * (len(COLUMNS) + 3))})"
_DUE = """
SELECT DISTINCT day, policy_domain, policy FROM observations LEFT JOIN reports USING (day, policy_domain, policy)
WHERE day >= ? AND day < ? AND reports_to <> '' AND (state IS NULL OR state = 'open' AND until <= ?) LIMIT ?
"""
_TAKE = """
INSERT INTO reports VALUES (?, ?, ?, 'open', ?, '[]') ON CONFLICT DO UPDATE SET until = excluded.until
WHERE state = 'open' AND until <= ?
"""
_OF_REPORT = "FROM observations WHERE day = ? AND policy_domain = ? AND policy = ?"

Row = tuple[str, ...]
"""The values of `COLUMNS`."""


@dataclass(slots=True)
class Count:
    messages: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """What one report is about. ``policy`` is JSON."""

    day: str
    policy_domain: str
    policy: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A report that is ours to send. ``reports_to``: the newest `rua` of the day; ``told``: who has it already."""

    subject: Subject
    reports_to: tuple[str, ...]
    told: tuple[str, ...] = ()


def day_at(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


# Writing


def opened(path: str) -> sqlite3.Connection:
    """With its tables; made with mode 0600. :raises OSError, sqlite3.Error:"""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
    try:
        names = [name for _, name, *_ in database.execute("PRAGMA table_info(observations)")]
        if names and "spf_scope" not in names:
            _renew(database)
        database.execute(_TABLE)
        database.execute(_REPORTS)
    except BaseException:
        database.close()
        raise
    return database


def _renew(database: sqlite3.Connection) -> None:
    """A file of before there was `spf_scope`."""
    old = ", ".join("'mfrom'" if name == "spf_scope" else name for name in (*COLUMNS, "messages", "first", "last"))
    database.execute("BEGIN IMMEDIATE")
    database.execute("ALTER TABLE observations RENAME TO former")
    database.execute(_TABLE)
    database.execute(f"INSERT INTO observations SELECT {old} FROM former")
    database.execute("DROP TABLE former")
    database.execute("COMMIT")


def write(path: str, pending: Mapping[Row, Count], max_rows: int, oldest: float) -> int:
    """Add to the file, and take out days that ended before ``oldest``; returns how many messages found no room.

    :raises OSError, sqlite3.Error: nothing was written."""
    lost = 0
    with closing(opened(path)) as database:
        database.execute("BEGIN IMMEDIATE")
        for table in ("observations", "reports"):
            database.execute(f"DELETE FROM {table} WHERE day < ?", (day_at(oldest),))
        (rows,) = one(database, "SELECT count(*) FROM observations")
        for observed, count in pending.items():
            counts = (count.messages, count.first, count.last)
            if database.execute(_UPDATE, (*counts, *observed)).rowcount:
                continue
            if rows >= max_rows:
                lost += count.messages
                continue
            database.execute(_INSERT, (*observed, *counts))
            rows += 1
        database.execute("COMMIT")
    return lost


# Who sends what


def due(path: str, oldest: str, today: str, now: int, most: int) -> list[Subject]:
    """Reports of days from ``oldest`` to before ``today`` that nobody has sent or is sending."""
    if not os.path.exists(path):
        return []
    with closing(opened(path)) as database:
        return [Subject(*row) for row in database.execute(_DUE, (oldest, today, now, most))]


def take(path: str, subject: Subject, now: int) -> Taken | None:
    """None: somebody else was faster."""
    key = (subject.day, subject.policy_domain, subject.policy)
    with closing(opened(path)) as database:
        if not database.execute(_TAKE, (*key, now + LEASE, now)).rowcount:
            return None
        newest = f"SELECT reports_to {_OF_REPORT} AND reports_to <> '' ORDER BY last DESC LIMIT 1"
        row = one(database, newest, key)
        (told,) = one(database, "SELECT told FROM reports WHERE day = ? AND policy_domain = ? AND policy = ?", key)
    return Taken(subject, tuple(row[0].split(",")) if row else (), tuple(json.loads(told)))


def settle(path: str, taken: Taken, again: int | None) -> None:
    """Who has it now stands in it. ``again`` is when it may be taken next; None: there is no more to do about it."""
    subject = taken.subject
    with closing(opened(path)) as database:
        database.execute(
            "UPDATE reports SET state = ?, until = ?, told = ? WHERE day = ? AND policy_domain = ? AND policy = ?",
            (
                *("done" if again is None else "open", again or 0, json.dumps(taken.told)),
                *(subject.day, subject.policy_domain, subject.policy),
            ),
        )


def give_up(path: str, oldest: str) -> int:
    """How many reports of days before ``oldest`` could not be sent to everybody: nobody will try any more."""
    if not os.path.exists(path):
        return 0
    with closing(opened(path)) as database:
        return database.execute("UPDATE reports SET state = 'given up' WHERE state = 'open' AND day < ?", (oldest,)).rowcount


# Reading


def merged(paths: Sequence[str]) -> sqlite3.Connection:
    """What stands in several files, of several gateways, added up in a temporary one.

    :raises sqlite3.Error: one can't be read."""
    database = sqlite3.connect("", isolation_level=None, uri=True)
    database.execute(_TABLE)
    changed = "messages = messages + excluded.messages, first = min(first, excluded.first), last = max(last, excluded.last)"
    for path in paths:
        database.execute("ATTACH ? AS other", (f"{Path(path).absolute().as_uri()}?mode=ro",))
        names = [name for _, name, *_ in database.execute("PRAGMA other.table_info(observations)")]
        found = ", ".join(name if name in names else "'mfrom'" for name in (*COLUMNS, "messages", "first", "last"))
        database.execute(
            f"INSERT INTO main.observations SELECT {found} FROM other.observations WHERE true ON CONFLICT DO UPDATE SET {changed}"
        )
        database.execute("DETACH other")
    return database


def subjects(database: sqlite3.Connection) -> list[tuple[Subject, int, str]]:
    """Every report that could be made: what it is about, how many messages, and the newest `rua`."""
    found = "SELECT day, policy_domain, policy, sum(messages), reports_to, max(last) FROM observations"
    grouped = f"{found} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    return [(Subject(*row[:3]), row[3], row[4]) for row in database.execute(grouped)]


def packed(path: str, subject: Subject, head: Callable[[str], Head]) -> bytes:
    """The compressed report; ``head`` is called with the error that is to stand in it. :raises OSError, sqlite3.Error:"""
    with closing(opened(path)) as database:
        return packed_of(database, subject, head)


def packed_of(database: sqlite3.Connection, subject: Subject, head: Callable[[str], Head]) -> bytes:
    key, most = (subject.day, subject.policy_domain, subject.policy), MOST_RECORDS
    while True:
        file = _Bounded()
        grouped = f"SELECT {', '.join(_FOUND)}, sum(messages) AS total {_OF_REPORT} GROUP BY {', '.join(_FOUND)}"
        counted = one(database, f"SELECT count(*), coalesce(sum(total), 0) FROM ({grouped})", key)
        kept = f"{grouped} ORDER BY total DESC LIMIT {most}"
        (messages,) = one(database, f"SELECT coalesce(sum(total), 0) FROM ({kept})", key)
        left = counted[0] - most, counted[1] - messages
        error = f"too large: {left[0]} records of {left[1]} messages are left out" if left[0] > 0 else ""
        try:
            with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packing:
                compose(head(error), _records(database.execute(kept, key)), packing)
            return file.getvalue()
        except _TooLarge:
            most = min(most, counted[0]) // 2


class _TooLarge(Exception):
    pass


class _Bounded(io.BytesIO):
    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > MOST_OCTETS:
            raise _TooLarge
        return super().write(data)


def _records(rows: Iterator[tuple[object, ...]]) -> Iterator[Record]:
    for values in rows:
        found = dict(zip(_FOUND, map(str, values), strict=False))
        signatures = json.loads(found["dkim_results"])
        messages = values[-1]
        assert isinstance(messages, int)
        yield Record(
            found["source_ip"],
            messages,
            found["disposition"],
            found["dkim_aligned"] == "1",
            found["spf_aligned"] == "1",
            found["override"],
            found["header_from"],
            (found["spf_domain"], found["spf_scope"], found["spf_result"]),
            tuple((one["domain"], one["selector"], one["result"]) for one in signatures),
        )


def head_of(subject: Subject, organization: str, contact: str, identity: str, error: str) -> Head:
    day = date.fromisoformat(subject.day)
    return Head(organization, contact, identity, subject.policy_domain, day, json.loads(subject.policy), error)
