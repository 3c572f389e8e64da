"""The statements of a queue in PostgreSQL that are not part of a batch: claims, content, what is forgotten, what operators ask.

Functions of a connection, called in threads. A claim is one statement: whoever is locked by another claim just now is passed over
(SKIP LOCKED), so nodes that look for work at the same time find different work, and none waits for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import psycopg

from mailgate.queue.codec import checksum
from mailgate.queue.content import Shape
from mailgate.queue.entry import Entry, Standing, Waiting
from mailgate.queue.postgres_batch import delete_empty, write_history
from mailgate.queue.postgres_link import Connection
from mailgate.queue.records import entry_checksum, entry_of, recipient_of, recipient_values
from mailgate.queue.store import Damaged, LeaseLost, Line
from mailgate.queue.survey import AGES, Summary, Survey

Found = list[tuple[Entry, tuple[Waiting, ...]]]
"""Entries with those of their rows that were asked for."""
Broken = list[tuple[int, str]]
"""Damaged entries and what is wrong with them."""

SLICE = 20_000
"""Entries that one statement of a survey looks at."""
_RECIPIENT = "entry, number, destination, standing, due, intent, facts, checksum"
_FREE = "standing = 1 AND owner = 0"
_OWED = "standing <> 1 AND standing = 3 AND owner = 0"
_CLAIM = (
    "UPDATE recipient AS r SET owner = %(owner)s, epoch = %(epoch)s FROM chosen"
    " WHERE r.entry = chosen.entry AND r.number = chosen.number RETURNING r.entry, r.number"
)


# Content


def begin_body(connection: Connection, body: int, owner: int, shape: Shape) -> None:
    """Content that comes in pieces; nobody sees it before it is complete."""
    connection.execute(
        "INSERT INTO body (id, owner, size, flags, complete) VALUES (%s, %s, %s, %s, false)",
        (body, owner, shape.size, shape.pack()),
    )


def insert_piece(connection: Connection, body: int, number: int, piece: bytes) -> None:
    connection.execute(
        "INSERT INTO piece (body, number, checksum, data) VALUES (%s, %s, %s, %b)", (body, number, checksum(piece), piece)
    )


def read_body(connection: Connection, body: int) -> tuple[Shape, bytes | None]:
    """:raises Damaged: it is not there, or not what it was."""
    found = connection.execute(
        "SELECT size, flags, checksum, data FROM body WHERE id = %s AND complete", (body,), binary=True
    ).fetchone()
    if found is None:
        raise Damaged("its content is not there")
    size, flags, check, data = found
    if data is not None and (len(data) != size or checksum(data) != check):
        raise Damaged("its content is not what was written")
    return Shape.unpack(size, flags), data


def read_piece(connection: Connection, body: int, number: int) -> bytes:
    """:raises Damaged: it is not there, or not what it was."""
    found = connection.execute(
        "SELECT checksum, data FROM piece WHERE body = %s AND number = %s", (body, number), binary=True
    ).fetchone()
    if found is None or checksum(found[1]) != found[0]:
        raise Damaged(f"piece {number} of its content is not what was written")
    data: bytes = found[1]
    return data


def delete_bodies(connection: Connection, bodies: Iterable[int]) -> None:
    numbers = list(bodies)
    connection.execute("DELETE FROM piece WHERE body = ANY(%s::bigint[])", (numbers,))
    connection.execute("DELETE FROM body WHERE id = ANY(%s::bigint[])", (numbers,))


# Two phases


def commit(connection: Connection, entries: Sequence[int], owner: int) -> None:
    """:raises LeaseLost: this process was taken for dead, and what it had prepared was forgotten."""
    done = connection.execute(
        "UPDATE recipient SET standing = 1 WHERE entry = ANY(%s::bigint[]) AND standing = 0 AND owner = %s RETURNING entry",
        (list(entries), owner),
    ).fetchall()
    missing = set(entries) - {entry for (entry,) in done}
    if missing:
        raise LeaseLost(f"entry {min(missing)} was prepared, and is not there any more")


def delete_entries(connection: Connection, entries: Iterable[int]) -> None:
    numbers = list(entries)
    connection.execute("DELETE FROM recipient WHERE entry = ANY(%s::bigint[])", (numbers,))
    bodies = connection.execute("SELECT body FROM entry WHERE id = ANY(%s::bigint[])", (numbers,)).fetchall()
    delete_empty(connection, numbers, [body for (body,) in bodies])


def forget_prepared(connection: Connection, owners: str, arguments: tuple[Any, ...]) -> None:
    """What those ``owners``, a condition, had prepared, and content that was not complete: nobody heard 250 for it."""
    prepared = connection.execute(
        f"SELECT DISTINCT entry FROM recipient WHERE standing <> 1 AND standing = 0 AND {owners}", arguments
    ).fetchall()
    if prepared:
        delete_entries(connection, [entry for (entry,) in prepared])
    unused = connection.execute(f"SELECT id FROM body WHERE NOT complete AND {owners}", arguments).fetchall()
    if unused:
        delete_bodies(connection, [body for (body,) in unused])


# Claims


def due(connection: Connection, owner: int, epoch: int, destination: str, now: float, limit: int) -> tuple[Found, Broken, float]:
    """Claim recipients that are due, the earliest first; and say when the next of the others is."""
    given = {"owner": owner, "epoch": epoch, "destination": destination, "now": now, "limit": limit}
    claimed = connection.execute(
        f"WITH first AS (SELECT entry FROM recipient WHERE {_FREE} AND destination = %(destination)s AND due <= %(now)s"
        " ORDER BY due LIMIT %(limit)s FOR UPDATE SKIP LOCKED), chosen AS (SELECT entry, number FROM recipient"
        f" WHERE entry IN (SELECT entry FROM first) AND {_FREE} AND destination = %(destination)s AND due <= %(now)s"
        f" FOR UPDATE SKIP LOCKED) {_CLAIM}",
        given,
    ).fetchall()
    row = connection.execute(
        f"SELECT due FROM recipient WHERE {_FREE} AND destination = %s ORDER BY due LIMIT 1", (destination,)
    ).fetchone()
    found, damaged = _claimed(connection, claimed)
    found.sort(key=lambda one: min((row.due for row in one[1]), default=0.0))
    return found, damaged, max(row[0], now) if row is not None else float("inf")


def overdue(
    connection: Connection, owner: int, epoch: int, destination: str, arrived_before: float, after: int, limit: int
) -> tuple[Found, Broken, float]:
    """As `due`, for those that arrived before a time, by number: one walk through the entries, and none if all are younger."""
    oldest = connection.execute("SELECT arrived FROM entry ORDER BY arrived LIMIT 1").fetchone()
    if oldest is None or oldest[0] > arrived_before:
        return [], [], float("inf")
    given = {
        "owner": owner,
        "epoch": epoch,
        "destination": destination,
        "before": arrived_before,
        "after": after,
        "limit": limit,
    }
    claimed = connection.execute(
        "WITH old AS (SELECT id FROM entry WHERE id > %(after)s AND arrived <= %(before)s AND EXISTS (SELECT 1"
        f" FROM recipient AS r WHERE r.entry = entry.id AND destination = %(destination)s AND {_FREE})"
        " ORDER BY id LIMIT %(limit)s),"
        f" chosen AS (SELECT entry, number FROM recipient WHERE entry IN (SELECT id FROM old) AND {_FREE}"
        f" AND destination = %(destination)s FOR UPDATE SKIP LOCKED) {_CLAIM}",
        given,
    ).fetchall()
    found, damaged = _claimed(connection, claimed)
    return sorted(found, key=lambda one: one[0].id), damaged, float("inf")


def owed(connection: Connection, owner: int, epoch: int, now: float, limit: int) -> tuple[Found, Broken, float]:
    """As `due`, for those whose report is owed."""
    claimed = connection.execute(
        f"WITH first AS (SELECT entry FROM recipient WHERE {_OWED} AND due <= %(now)s ORDER BY due"
        " LIMIT %(limit)s FOR UPDATE SKIP LOCKED), chosen AS (SELECT entry, number FROM recipient"
        f" WHERE entry IN (SELECT entry FROM first) AND {_OWED} AND due <= %(now)s FOR UPDATE SKIP LOCKED)"
        f" {_CLAIM}",
        {"owner": owner, "epoch": epoch, "now": now, "limit": limit},
    ).fetchall()
    row = connection.execute(f"SELECT due FROM recipient WHERE {_OWED} ORDER BY due LIMIT 1").fetchone()
    found, damaged = _claimed(connection, claimed)
    return found, damaged, max(row[0], now) if row is not None else float("inf")


def _claimed(connection: Connection, keys: Sequence[tuple[int, int]]) -> tuple[Found, Broken]:
    mine = set(keys)
    found, damaged = load(connection, dict.fromkeys(entry for entry, _ in keys))
    return [(entry, tuple(row for row in entry.recipients if (entry.id, row.number) in mine)) for entry in found], damaged


def destinations(connection: Connection) -> list[tuple[str, float]]:
    """By leaps through the index: as many steps as there are destinations, however many wait."""
    return connection.execute(
        f"WITH RECURSIVE leap AS ((SELECT destination, due FROM recipient WHERE {_FREE} ORDER BY destination, due LIMIT 1)"
        f" UNION ALL SELECT following.* FROM leap, LATERAL (SELECT destination, due FROM recipient WHERE {_FREE}"
        " AND destination > leap.destination ORDER BY destination, due LIMIT 1) AS following) SELECT destination, due FROM leap"
    ).fetchall()


# Reading


def load(connection: Connection, entries: Iterable[int]) -> tuple[list[Entry], Broken]:
    """Entries with all their rows, in the order asked for; damaged ones are left out and named."""
    numbers = list(entries)
    if not numbers:
        return [], []
    rows: dict[int, list[tuple[Any, ...]]] = {}
    for stored in connection.execute(
        f"SELECT {_RECIPIENT} FROM recipient WHERE entry = ANY(%s::bigint[]) ORDER BY entry, number", (numbers,), binary=True
    ):
        rows.setdefault(stored[0], []).append(stored)
    kept = {
        stored[0]: stored
        for stored in connection.execute(
            "SELECT e.id, e.message_id, e.target, e.arrived, e.body, e.facts, e.header, e.checksum, b.size"
            " FROM entry AS e LEFT JOIN body AS b ON b.id = e.body WHERE e.id = ANY(%s::bigint[])",
            (numbers,),
            binary=True,
        )
    }
    found: list[Entry] = []
    damaged: Broken = []
    for number in numbers:
        if number not in rows:
            continue  # settled meanwhile
        try:
            if number not in kept:
                raise Damaged("the entry is not there")
            *columns, size = kept[number]
            recipients = tuple(recipient_of(one) for one in rows[number])
            found.append(entry_of(tuple(columns), recipients, len(columns[6]) + (size or 0)))
        except Damaged as error:
            damaged.append((number, str(error)))
    return found, damaged


def find(connection: Connection, message_id: str) -> tuple[list[Entry], Broken]:
    chosen = connection.execute("SELECT id FROM entry WHERE message_id = %s ORDER BY id", (message_id,)).fetchall()
    return _without_prepared(*load(connection, [entry for (entry,) in chosen]))


def page(connection: Connection, after: int, limit: int) -> tuple[list[Entry], Broken, int | None]:
    """Entries by number; and where the next page begins, None behind the last."""
    chosen = connection.execute(
        "SELECT DISTINCT entry FROM recipient WHERE entry > %s AND standing <> 0 ORDER BY entry LIMIT %s", (after, limit)
    ).fetchall()
    numbers = [entry for (entry,) in chosen]
    found, damaged = _without_prepared(*load(connection, numbers))
    return found, damaged, numbers[-1] if len(numbers) == limit else None


def _without_prepared(found: list[Entry], damaged: Broken) -> tuple[list[Entry], Broken]:
    return [one for one in found if any(row.standing is not Standing.PREPARED for row in one.recipients)], damaged


def history(connection: Connection, entry: int) -> list[Line]:
    return [
        Line(at, text) for at, text in connection.execute("SELECT at, text FROM history WHERE entry = %s ORDER BY id", (entry,))
    ]


def summary(connection: Connection) -> Summary:
    counts = dict(connection.execute("SELECT standing, count(*) FROM recipient GROUP BY standing").fetchall())
    damaged = connection.execute("SELECT count(*) FROM damaged").fetchone()
    oldest = connection.execute("SELECT arrived FROM entry WHERE id = (SELECT min(entry) FROM recipient)").fetchone()
    waiting, held, owes, removed = (
        counts.get(standing, 0) for standing in (Standing.WAITING, Standing.HELD, Standing.OWED, Standing.REMOVED)
    )
    return Summary(
        waiting, held, owes, removed, damaged[0] if damaged is not None else 0, oldest[0] if oldest is not None else 0.0
    )


_COLUMN = " + ".join("(arrived <= %s)::integer" for _ in AGES)
_PARTS = (
    "FROM recipient JOIN entry ON entry.id = recipient.entry"
    " WHERE recipient.entry > %s AND recipient.entry <= %s AND standing IN (1, 2, 3)"
)
_SURVEY = (
    f"SELECT destination, {_COLUMN} AS age, (said #>> '{{last,1}}')::integer AS code, said #>> '{{last,2}}' AS status,"
    f" said #>> '{{last,3}}' AS text, count(*)"
    f" FROM (SELECT destination, arrived, convert_from(recipient.facts, 'UTF8')::json AS said {_PARTS}) AS one"
    " GROUP BY destination, age, code, status, text"
)


def survey(connection: Connection, now: float) -> Survey:
    """In slices. A slice with a damaged row is read row by row, and what is damaged is not counted: whoever reads it to deliver
    it will set it aside."""
    found = Survey()
    edges = [now - age for _, age in AGES]
    after = 0
    while True:
        last = connection.execute(
            "SELECT max(id) FROM (SELECT id FROM entry WHERE id > %s ORDER BY id LIMIT %s) AS slice", (after, SLICE)
        ).fetchone()
        if last is None or last[0] is None:
            return found
        try:
            found.add(connection.execute(_SURVEY, (*edges, after, last[0])).fetchall())
        except psycopg.DataError:
            found.add(_row_by_row(connection, edges, after, last[0]))
        after = last[0]


def _row_by_row(connection: Connection, edges: Sequence[float], after: int, last: int) -> Iterable[Any]:
    statement = f"SELECT arrived, {', '.join(f'recipient.{one.strip()}' for one in _RECIPIENT.split(','))} {_PARTS}"
    for arrived, *stored in connection.execute(statement, (after, last)).fetchall():
        try:
            row = recipient_of(tuple(stored))
        except Damaged:
            continue
        age = sum(arrived <= edge for edge in edges)
        said = (row.last.code, row.last.status, row.last.text) if row.last is not None else (None, None, None)
        yield (row.destination, age, *said, 1)


# Changing, for operators and what is damaged


def _free_rows(connection: Connection, entry: int) -> list[Waiting]:
    """Those that nobody delivers, locked. :raises Damaged: one of them is not what was written."""
    connection.execute("SELECT 1 FROM entry WHERE id = %s FOR UPDATE", (entry,))
    return [
        recipient_of(one)
        for one in connection.execute(
            f"SELECT {_RECIPIENT} FROM recipient WHERE entry = %s AND owner = 0 ORDER BY number FOR UPDATE", (entry,)
        ).fetchall()
    ]


def change(
    connection: Connection, entry: int, epoch: int, edit: Callable[[Waiting], Waiting | None], note: str, now: float
) -> list[Waiting]:
    """The rows that were changed, as they are now. They have a new epoch: whoever lost them can't undo it."""
    changed = [edited for row in _free_rows(connection, entry) if (edited := edit(row)) is not None]
    for row in changed:
        number, destination, standing, at, facts, check = recipient_values(row, row.standing)
        connection.execute(
            "UPDATE recipient SET destination = %s, standing = %s, due = %s, intent = false, facts = %s, checksum = %s,"
            " epoch = %s WHERE entry = %s AND number = %s",
            (destination, standing, at, facts, check, epoch, entry, number),
        )
    if changed and note:
        write_history(connection, [(entry, now, note)])
    return changed


def move(
    connection: Connection,
    entry: int,
    made: int,
    edit: Callable[[Waiting], Waiting | None],
    target: str,
    note: str,
    now: float,
) -> list[Waiting]:
    """Rows of an entry become those of a new one, ``made``, for another target.

    :raises Damaged: the entry is not what was written."""
    moved = [replace(edited, number=row.number) for row in _free_rows(connection, entry) if (edited := edit(row)) is not None]
    if not moved:
        return []
    found, damaged = load(connection, [entry])
    if damaged or not found:
        raise Damaged(f"entry {entry}: {damaged[0][1] if damaged else 'it is not there'}")
    stored = connection.execute(
        "SELECT token, message_id, arrived, body, facts, header FROM entry WHERE id = %s", (entry,)
    ).fetchone()
    assert stored is not None
    token, message_id, arrived, body, facts, header = stored
    connection.execute(
        "INSERT INTO entry (id, token, message_id, target, arrived, body, facts, header, checksum)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            made,
            token,
            message_id,
            target,
            arrived,
            body,
            facts,
            header,
            entry_checksum(message_id, target, arrived, facts, header),
        ),
    )
    for row in moved:
        _, destination, standing, at, text, check = recipient_values(row, row.standing)
        connection.execute(
            "UPDATE recipient SET entry = %s, epoch = %s, destination = %s, standing = %s, due = %s, intent = false, facts = %s,"
            " checksum = %s WHERE entry = %s AND number = %s",
            (made, made, destination, standing, at, text, check, entry, row.number),
        )
    connection.execute(
        "INSERT INTO history (entry, at, text) SELECT %s, at, text FROM history WHERE entry = %s ORDER BY id", (made, entry)
    )
    write_history(connection, [(made, now, note)])
    delete_empty(connection, [entry], [])
    return moved


def purge(connection: Connection, before: float) -> int:
    """What was removed before a time, and what two nodes left over that ended the last two users of something at one moment.
    While anything is set aside as damaged, what nobody uses may be its content, and stays."""
    gone = connection.execute(
        "DELETE FROM recipient WHERE standing <> 1 AND standing = 4 AND owner = 0 AND due < %s RETURNING entry", (before,)
    ).fetchall()
    delete_entries(connection, _empty(connection, {entry for (entry,) in gone}))
    if connection.execute("SELECT 1 FROM damaged LIMIT 1").fetchone() is None:
        unused = connection.execute(
            "SELECT id FROM entry WHERE NOT EXISTS (SELECT 1 FROM recipient AS r WHERE r.entry = entry.id)"
        )
        delete_entries(connection, [entry for (entry,) in unused.fetchall()])
        unused = connection.execute(
            "SELECT id FROM body WHERE complete AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.body = body.id)"
        )
        delete_bodies(connection, [body for (body,) in unused.fetchall()])
    return len(gone)


def _empty(connection: Connection, entries: Iterable[int]) -> list[int]:
    """Those of these that have no recipients."""
    found = connection.execute(
        "SELECT id FROM entry WHERE id = ANY(%s::bigint[])"
        " AND NOT EXISTS (SELECT 1 FROM recipient AS r WHERE r.entry = entry.id)",
        (list(entries),),
    )
    return [entry for (entry,) in found.fetchall()]


def set_aside(connection: Connection, entry: int, why: str, now: float) -> None:
    """Everything of the entry, as it is, into `damaged`; its content stays where it is."""
    for table, key in (("entry", "id"), ("recipient", "entry")):
        for stored in connection.execute(f"SELECT * FROM {table} WHERE {key} = %s", (entry,)).fetchall():
            values = (now, f"{table} {entry}: {why}", repr(stored).encode())
            connection.execute("INSERT INTO damaged (at, what, row) VALUES (%s, %s, %s)", values)
    connection.execute("DELETE FROM recipient WHERE entry = %s", (entry,))
