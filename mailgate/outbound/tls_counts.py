"""How TLS fared, by recipient domain and day (UTC): what reports of TLS-RPT are made of, kept on disk.

Counting is an addition in memory; what changed is written every `FLUSH` seconds and at the end, one row for a domain's day, so
that a restart loses at most that much. Bounded: `MAX_DOMAINS` a day, `MAX_POLICIES` of each and `MAX_DETAILS` kinds of failure;
what is beyond them is counted without its details, or not at all, and days older than `KEPT` are dropped.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import date, timedelta
from typing import Any

from mailgate.outbound.daily_reports import day_of
from mailgate.outbound.tls_report import AppliedPolicy, PolicyType, SessionFailure, Tally

FLUSH = 15.0
KEPT = timedelta(days=3)
MAX_DOMAINS = 20_000
MAX_POLICIES = 20
MAX_DETAILS = 50

Day = tuple[date, str]
"""A day and a recipient domain."""


class TlsCounts:
    """``now`` is the wall time."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._days: dict[Day, dict[AppliedPolicy, Tally]] = {}
        self._domains: Counter[date] = Counter()
        self._changed: set[Day] = set()

    def add(self, domain: str, applied: AppliedPolicy, failure: SessionFailure | None) -> None:
        """One session."""
        today = day_of(self._now())
        key = (today, domain)
        policies = self._days.get(key)
        if policies is None:
            if self._domains[today] >= MAX_DOMAINS:
                return
            self._domains[today] += 1
            policies = self._days[key] = {}
        tally = policies.get(applied)
        if tally is None:
            if len(policies) >= MAX_POLICIES:
                return
            tally = policies[applied] = Tally()
        if failure is None:
            tally.successes += 1
        else:
            if failure not in tally.failures and len(tally.failures) >= MAX_DETAILS:
                failure = SessionFailure(failure.result)
            tally.failures[failure] = tally.failures.get(failure, 0) + 1
        self._changed.add(key)

    def of(self, key: Day) -> dict[AppliedPolicy, Tally]:
        return self._days[key]

    def before(self, today: date) -> list[Day]:
        """Days that are over, the oldest first."""
        return sorted(key for key in self._days if key[0] < today)

    def forget(self, key: Day) -> None:
        """It was reported, or nobody wants to hear of it."""
        if self._days.pop(key, None) is not None:
            self._domains[key[0]] -= 1
            self._changed.add(key)

    def drop_old(self, today: date) -> int:
        """How many days nobody could be told of."""
        old = [key for key in self._days if key[0] < today - KEPT]
        for key in old:
            self.forget(key)
        self._domains = +self._domains
        return len(old)

    # Disk

    def restore(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """What `CountFile.load` gave. Rows that can't be read count for nothing."""
        for day, domain, text in rows:
            try:
                key = (date.fromisoformat(day), domain)
                policies = _decoded(json.loads(text))
            except (ValueError, TypeError, KeyError):
                continue
            if key not in self._days:
                self._days[key] = policies
                self._domains[key[0]] += 1

    def take_changes(self) -> list[tuple[str, str, str | None]]:
        """Rows to write, None for those to remove; they count as written."""
        changed, self._changed = self._changed, set()
        return [(day.isoformat(), domain, self._row(day, domain)) for day, domain in changed]

    def give_back(self, rows: Sequence[tuple[str, str, str | None]]) -> None:
        """They could not be written."""
        self._changed.update((date.fromisoformat(day), domain) for day, domain, _ in rows)

    def _row(self, day: date, domain: str) -> str | None:
        policies = self._days.get((day, domain))
        return None if policies is None else json.dumps(_encoded(policies))


def _encoded(policies: dict[AppliedPolicy, Tally]) -> list[Any]:
    return [
        [
            [applied.kind.value, applied.domain, applied.strings, applied.hosts],
            tally.successes,
            [[[one.result, one.local, one.host, one.remote, one.reason], count] for one, count in tally.failures.items()],
        ]
        for applied, tally in policies.items()
    ]


def _decoded(rows: Any) -> dict[AppliedPolicy, Tally]:
    policies = {}
    for (kind, domain, strings, hosts), successes, failures in rows:
        applied = AppliedPolicy(PolicyType(kind), str(domain), tuple(strings), tuple(hosts))
        policies[applied] = Tally(int(successes), {SessionFailure(*words): int(count) for words, count in failures})
    return policies


class CountFile:
    """Rows on disk. Blocking: called in threads, one call at a time."""

    def __init__(self, path: str) -> None:
        self._path = path

    def load(self) -> list[tuple[str, str, str]]:
        """All rows. A file that is damaged is set aside. :raises OSError: there can be none."""
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        try:
            with closing(self._open()) as database:
                return list(database.execute("SELECT day, domain, counts FROM tls_counts"))
        except sqlite3.DatabaseError:
            os.replace(self._path, self._path + ".damaged")
            return []

    def save(self, rows: Sequence[tuple[str, str, str | None]]) -> None:
        """:raises sqlite3.Error: nothing was written."""
        with closing(self._open()) as database, database:
            database.executemany(
                "INSERT OR REPLACE INTO tls_counts (day, domain, counts) VALUES (?, ?, ?)",
                [row for row in rows if row[2] is not None],
            )
            gone = [row[:2] for row in rows if row[2] is None]
            database.executemany("DELETE FROM tls_counts WHERE day = ? AND domain = ?", gone)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path)
        os.chmod(self._path, 0o600)
        database.execute(
            "CREATE TABLE IF NOT EXISTS tls_counts (day TEXT, domain TEXT, counts TEXT, PRIMARY KEY (day, domain)) WITHOUT ROWID"
        )
        return database
