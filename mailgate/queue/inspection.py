"""What operators ask of a queue's sqlite file, as statements: functions of a connection, like rows.py.

They may take long in a long queue, so they run on a connection of their own, beside deliveries, and some without a gateway.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from dataclasses import replace

from mailgate.queue.codec import decode_facts
from mailgate.queue.entry import Entry, Standing, Waiting
from mailgate.queue.records import entry_checksum, recipient_values
from mailgate.queue.rows import Broken, delete_empty, load, rows_of
from mailgate.queue.store import Damaged
from mailgate.queue.survey import AGES, Summary, Survey
from mailgate.sqlite import one

SLICE = 20_000
"""Numbers of entries that one statement of a survey looks at."""

_COLUMN = " + ".join("(arrived <= ?)" for _ in AGES)
_SURVEY = (
    f"SELECT destination, {_COLUMN} AS age,"
    " json_extract(said, '$.last[1]') AS code, json_extract(said, '$.last[2]') AS status,"
    " json_extract(said, '$.last[3]') AS text, COUNT(*)"
    " FROM (SELECT destination, arrived, CAST(recipient.facts AS TEXT) AS said"
    " FROM recipient JOIN entry ON entry.id = recipient.entry"
    " WHERE recipient.entry > ? AND recipient.entry <= ? AND standing IN (1, 2, 3))"
    " WHERE json_valid(said) GROUP BY destination, age, code, status, text"
)


def page(connection: sqlite3.Connection, after: int, limit: int) -> tuple[list[Entry], Broken, int | None]:
    """Entries by number; and where the next page begins, None behind the last."""
    chosen = connection.execute(
        "SELECT DISTINCT entry FROM recipient WHERE entry > ? AND standing <> 0 ORDER BY entry LIMIT ?", (after, limit)
    ).fetchall()
    numbers = [entry for (entry,) in chosen]
    found, damaged = load(connection, numbers, lambda row: row.standing is not Standing.PREPARED)
    return [entry for entry, rows in found if rows], damaged, numbers[-1] if len(numbers) == limit else None


def survey(connection: sqlite3.Connection, now: float) -> Survey:
    """A row that is damaged is not counted: whoever reads it will set it aside."""
    found = Survey()
    first, last = one(connection, "SELECT MIN(entry), MAX(entry) FROM recipient")
    edges = [now - age for _, age in AGES]
    for after in range((first or 1) - 1, last or 0, SLICE):
        found.add(connection.execute(_SURVEY, (*edges, after, after + SLICE)))
    return found


def summary(connection: sqlite3.Connection) -> Summary:
    """From the indexes: quick with a million entries."""
    (waiting,) = one(connection, "SELECT COUNT(*) FROM recipient WHERE standing = 1")
    others = dict(connection.execute("SELECT standing, COUNT(*) FROM recipient WHERE standing <> 1 GROUP BY standing").fetchall())
    (damaged,) = one(connection, "SELECT COUNT(*) FROM damaged")
    oldest = one(connection, "SELECT arrived FROM entry WHERE id = (SELECT MIN(entry) FROM recipient)")
    held, owed, removed = (others.get(standing, 0) for standing in (Standing.HELD, Standing.OWED, Standing.REMOVED))
    return Summary(waiting, held, owed, removed, damaged, oldest[0] if oldest else 0.0)


def move(
    connection: sqlite3.Connection,
    entry: int,
    edit: Callable[[Waiting], Waiting | None],
    leased: Collection[int],
    target: str,
    number: int,
    note: str,
    now: float,
) -> list[int]:
    """Rows of an entry become those of a new one, ``number``, for another target; the numbers they had.

    :raises Damaged: the entry is not what was written."""
    moved = [(row.number, edited) for row in rows_of(connection, entry) if row.number not in leased and (edited := edit(row))]
    if not moved:
        return []
    stored = one(
        connection, "SELECT token, message_id, arrived, body, facts, header, target, checksum FROM entry WHERE id = ?", (entry,)
    )
    if stored is None:
        raise Damaged(f"entry {entry} is not there")
    token, message_id, arrived, body, facts, header, before, check = stored
    if entry_checksum(message_id, before, arrived, facts, header) != check:
        raise Damaged(f"entry {entry} is not what was written")
    decode_facts(facts)
    values = (number, token, message_id, target, arrived, body, facts, header)
    connection.execute(
        "INSERT INTO entry (id, token, message_id, target, arrived, body, facts, header, checksum)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, entry_checksum(message_id, target, arrived, facts, header)),
    )
    for place, row in moved:
        columns = recipient_values(replace(row, number=place), row.standing)
        connection.execute("DELETE FROM recipient WHERE entry = ? AND number = ?", (entry, place))
        connection.execute(
            "INSERT INTO recipient (entry, number, destination, standing, due, facts, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (number, *columns),
        )
    connection.execute(
        "INSERT INTO history (entry, at, text) SELECT ?, at, text FROM history WHERE entry = ? ORDER BY id", (number, entry)
    )
    connection.execute("INSERT INTO history (entry, at, text) VALUES (?, ?, ?)", (number, now, note))
    delete_empty(connection, [entry])
    return [place for place, _ in moved]
