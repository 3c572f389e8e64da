"""The statements of a queue's sqlite file: functions of a connection, called in threads, inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from mailgate.queue.codec import checksum
from mailgate.queue.content import Shape
from mailgate.queue.entry import Entry, Standing, Waiting
from mailgate.queue.records import entry_of, recipient_of, recipient_values
from mailgate.queue.store import Damaged, Line
from mailgate.sqlite import one

Found = list[tuple[Entry, tuple[Waiting, ...]]]
"""Entries with those of their rows that were asked for."""
Broken = list[tuple[int, str]]
"""Damaged entries and what is wrong with them."""

ENTRY_COLUMNS = "id, token, message_id, target, arrived, body, facts, header, checksum"
RECIPIENT_COLUMNS = "entry, number, destination, standing, due, intent, facts, checksum"
_ENTRY = "SELECT id, message_id, target, arrived, body, facts, header, checksum FROM entry"
_NOT_WAITING = "standing <> 1"
"""In every question about recipients of another standing: without it sqlite does not see that the index has them."""
_RECIPIENT = f"SELECT {RECIPIENT_COLUMNS} FROM recipient"


# Content in pieces


def begin_body(connection: sqlite3.Connection, body: int, shape: Shape) -> None:
    """Content that comes in pieces; nobody sees it before it is complete."""
    connection.execute("INSERT INTO body (id, size, flags, complete) VALUES (?, ?, ?, 0)", (body, shape.size, shape.pack()))


def insert_piece(connection: sqlite3.Connection, body: int, number: int, piece: bytes) -> None:
    values = (body, number, checksum(piece), piece)
    connection.execute("INSERT INTO piece (body, number, checksum, data) VALUES (?, ?, ?, ?)", values)


def commit(connection: sqlite3.Connection, entries: Sequence[int]) -> None:
    """:raises Damaged: an entry is not there any more."""
    for entry in entries:
        changed = connection.execute(
            "UPDATE recipient SET standing = ? WHERE entry = ? AND standing = ?", (Standing.WAITING, entry, Standing.PREPARED)
        ).rowcount
        if not changed:
            raise Damaged(f"entry {entry} was prepared and is not there")


def last_numbers(connection: sqlite3.Connection) -> tuple[int, int]:
    """The highest numbers of an entry and of a body that were ever used."""
    (entry,) = one(connection, "SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'entry'")
    (body,) = one(connection, "SELECT COALESCE(MAX(id), 0) FROM body")
    (used,) = one(connection, "SELECT COALESCE(MAX(body), 0) FROM entry")
    return entry, max(body, used)


# Forgetting


def recover(connection: sqlite3.Connection) -> None:
    """After a start: nobody heard 250 for what was only prepared, and nobody will ask for content without an entry."""
    prepared = [
        entry for (entry,) in connection.execute(f"SELECT DISTINCT entry FROM recipient WHERE {_NOT_WAITING} AND standing = 0")
    ]
    delete_entries(connection, prepared)
    unused = connection.execute("SELECT id FROM body WHERE complete = 0")
    delete_bodies(connection, [body for (body,) in unused.fetchall()])


def forget_refused(connection: sqlite3.Connection, entries: Iterable[tuple[int, int]]) -> None:
    """Entries that were refused, by number and token: another process may have used the number since."""
    for refused in entries:
        if one(connection, "SELECT 1 FROM entry WHERE id = ? AND token = ?", refused) is not None:
            delete_entries(connection, [refused[0]])


def delete_entries(connection: sqlite3.Connection, entries: Iterable[int]) -> None:
    for entry in entries:
        body = one(connection, "SELECT body FROM entry WHERE id = ?", (entry,))
        connection.execute("DELETE FROM recipient WHERE entry = ?", (entry,))
        connection.execute("DELETE FROM history WHERE entry = ?", (entry,))
        connection.execute("DELETE FROM entry WHERE id = ?", (entry,))
        if body is not None:
            _delete_unused_body(connection, body[0])


def _delete_unused_body(connection: sqlite3.Connection, body: int) -> None:
    if one(connection, "SELECT 1 FROM entry WHERE body = ? LIMIT 1", (body,)) is None:
        delete_bodies(connection, [body])


def delete_bodies(connection: sqlite3.Connection, bodies: Iterable[int]) -> None:
    for body in bodies:
        connection.execute("DELETE FROM piece WHERE body = ?", (body,))
        connection.execute("DELETE FROM body WHERE id = ?", (body,))


def purge(connection: sqlite3.Connection, before: float) -> int:
    found = connection.execute(
        f"SELECT entry, number FROM recipient WHERE {_NOT_WAITING} AND standing = ? AND due < ?", (Standing.REMOVED, before)
    ).fetchall()
    connection.executemany("DELETE FROM recipient WHERE entry = ? AND number = ?", found)
    delete_empty(connection, {entry for entry, _ in found})
    return len(found)


def delete_empty(connection: sqlite3.Connection, entries: Iterable[int]) -> None:
    for entry in entries:
        if one(connection, "SELECT 1 FROM recipient WHERE entry = ? LIMIT 1", (entry,)) is None:
            delete_entries(connection, [entry])


# Delivering


def destinations(connection: sqlite3.Connection) -> list[tuple[str, float]]:
    """By leaps through the index: as many steps as there are destinations, however many wait."""
    found = []
    row = one(connection, "SELECT destination, due FROM recipient WHERE standing = 1 ORDER BY destination, due LIMIT 1")
    while row is not None:
        found.append((row[0], row[1]))
        row = one(
            connection,
            "SELECT destination, due FROM recipient WHERE standing = 1 AND destination > ? ORDER BY destination, due LIMIT 1",
            (row[0],),
        )
    return found


def due(
    connection: sqlite3.Connection, destination: str, now: float, limit: int, leased: Collection[tuple[int, int]]
) -> tuple[Found, Broken, float]:
    """Entries with recipients that are due and not leased, the earliest first; and when the next of the others is due."""
    cursor = connection.execute(
        "SELECT entry, number, due FROM recipient WHERE standing = 1 AND destination = ? ORDER BY due", (destination,)
    )
    chosen, following = _choose(cursor, now, limit, leased)
    found, damaged = load(
        connection,
        chosen,
        lambda row: row.standing is Standing.WAITING and row.destination == destination and row.due <= now,
    )
    return found, damaged, following


def _choose(cursor: sqlite3.Cursor, now: float, limit: int, leased: Collection[tuple[int, int]]) -> tuple[dict[int, None], float]:
    """Of rows (entry, number, due) in the order of their times: the entries of those that are due, and when the next is."""
    chosen: dict[int, None] = {}
    following = float("inf")
    for entry, number, at in cursor:
        if (entry, number) in leased:
            continue
        if at > now:  # of an entry that was chosen too: its other recipients may be due later
            following = at
            break
        if entry in chosen:
            continue
        if len(chosen) >= limit:
            following = now
            break
        chosen[entry] = None
    cursor.close()
    return chosen, following


def overdue(
    connection: sqlite3.Connection, destination: str, arrived_before: float, after: int, limit: int
) -> tuple[Found, Broken, float]:
    """As `due`, for those that arrived before a time, by number: one walk through the entries, and none if all are younger."""
    (oldest,) = one(connection, "SELECT MIN(arrived) FROM entry")
    if oldest is None or oldest > arrived_before:
        return [], [], float("inf")
    chosen = connection.execute(
        "SELECT id FROM entry NOT INDEXED WHERE id > ? AND arrived <= ? AND EXISTS (SELECT 1 FROM recipient"
        " WHERE entry = entry.id AND destination = ? AND standing = 1) ORDER BY id LIMIT ?",
        (after, arrived_before, destination, limit),
    ).fetchall()
    found, damaged = load(
        connection,
        [entry for (entry,) in chosen],
        lambda row: row.standing is Standing.WAITING and row.destination == destination,
    )
    return found, damaged, float("inf")


def owed(
    connection: sqlite3.Connection, now: float, limit: int, leased: Collection[tuple[int, int]]
) -> tuple[Found, Broken, float]:
    """As `due`, for those whose report is owed."""
    cursor = connection.execute(f"SELECT entry, number, due FROM recipient WHERE {_NOT_WAITING} AND standing = 3 ORDER BY due")
    chosen, following = _choose(cursor, now, limit, leased)
    found, damaged = load(connection, chosen, lambda row: row.standing is Standing.OWED and row.due <= now)
    return found, damaged, following


# Operators


def change(
    connection: sqlite3.Connection,
    entry: int,
    edit: Callable[[Waiting], Waiting | None],
    leased: Collection[int],
    note: str,
    now: float,
) -> list[int]:
    """The numbers of the rows that were changed."""
    changed = []
    for row in rows_of(connection, entry):
        edited = edit(row) if row.number not in leased else None
        if edited is not None:
            update(connection, entry, edited)
            changed.append(row.number)
    if changed and note:
        connection.execute("INSERT INTO history (entry, at, text) VALUES (?, ?, ?)", (entry, now, note))
    return changed


def rows_of(connection: sqlite3.Connection, entry: int) -> list[Waiting]:
    """:raises Damaged: one of them is not what was written."""
    return [recipient_of(one) for one in connection.execute(f"{_RECIPIENT} WHERE entry = ? ORDER BY number", (entry,)).fetchall()]


def find(connection: sqlite3.Connection, message_id: str) -> tuple[list[Entry], Broken]:
    chosen = connection.execute("SELECT id FROM entry WHERE message_id = ? ORDER BY id", (message_id,)).fetchall()
    found, damaged = load(connection, [entry for (entry,) in chosen], lambda row: row.standing is not Standing.PREPARED)
    return [entry for entry, rows in found if rows], damaged


def history(connection: sqlite3.Connection, entry: int) -> list[Line]:
    return [
        Line(at, text) for at, text in connection.execute("SELECT at, text FROM history WHERE entry = ? ORDER BY id", (entry,))
    ]


def set_aside(connection: sqlite3.Connection, entry: int, why: str, now: float) -> None:
    """Everything of the entry, as it is, into `damaged`; its content stays where it is."""
    for table, key in (("entry", "id"), ("recipient", "entry")):
        for stored in connection.execute(f"SELECT * FROM {table} WHERE {key} = ?", (entry,)).fetchall():
            values = (now, f"{table} {entry}: {why}", repr(stored).encode())
            connection.execute("INSERT INTO damaged (at, what, row) VALUES (?, ?, ?)", values)
    connection.execute("DELETE FROM recipient WHERE entry = ?", (entry,))


# Reading


def read_body(connection: sqlite3.Connection, body: int) -> tuple[Shape, bytes | None]:
    """:raises Damaged: it is not there, or not what it was."""
    found = one(connection, "SELECT size, flags, checksum, data FROM body WHERE id = ? AND complete = 1", (body,))
    if found is None:
        raise Damaged("its content is not there")
    size, flags, check, data = found
    if data is not None and (len(data) != size or checksum(data) != check):
        raise Damaged("its content is not what was written")
    return Shape.unpack(size, flags), data


def read_piece(connection: sqlite3.Connection, body: int, number: int) -> bytes:
    """:raises Damaged: it is not there, or not what it was."""
    found = one(connection, "SELECT checksum, data FROM piece WHERE body = ? AND number = ?", (body, number))
    if found is None or checksum(found[1]) != found[0]:
        raise Damaged(f"piece {number} of its content is not what was written")
    data: bytes = found[1]
    return data


def load(connection: sqlite3.Connection, entries: Iterable[int], wanted: Callable[[Waiting], bool]) -> tuple[Found, Broken]:
    """Entries with all their rows, and those rows that are wanted; damaged ones are left out and named."""
    found: Found = []
    damaged: Broken = []
    for number in entries:
        try:
            stored = one(connection, f"{_ENTRY} WHERE id = ?", (number,))
            if stored is None:
                raise Damaged("the entry is not there")
            rows = tuple(rows_of(connection, number))
            entry = entry_of(stored, rows, _size_of(connection, stored))
        except Damaged as error:
            damaged.append((number, str(error)))
            continue
        found.append((entry, tuple(row for row in rows if wanted(row))))
    return found, damaged


def _size_of(connection: sqlite3.Connection, stored: tuple[Any, ...]) -> int:
    size = one(connection, "SELECT size FROM body WHERE id = ?", (stored[4],))
    return len(stored[6]) + (size[0] if size is not None else 0)


def update(connection: sqlite3.Connection, entry: int, row: Waiting) -> None:
    number, destination, standing, due, facts, check = recipient_values(row, row.standing)
    connection.execute(
        "UPDATE recipient SET destination = ?, standing = ?, due = ?, intent = 0, facts = ?, checksum = ?"
        " WHERE entry = ? AND number = ?",
        (destination, standing, due, facts, check, entry, number),
    )
