"""What a batch of writes says to PostgreSQL: few statements, however many messages are in it; rows travel as arrays.

The writes are those of batch.py, and fencing is what is particular here: whoever saves something about a recipient names the
epoch of his claim, and the statement touches the row only if it still has that epoch. Who claims a row gives it another one. So a
process that stood still, and wakes up when its successor is at work, changes nothing; it hears `LeaseLost`.

Within one batch nothing depends on anything else. A batch that fails is tried again write by write, so that one that breaks a
rule fails alone; a connection that is lost fails them all, and nobody knows what became of the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import psycopg

from mailgate.queue.batch import Insertion
from mailgate.queue.entry import Settled, Standing
from mailgate.queue.postgres_link import Connection, as_store_error
from mailgate.queue.records import recipient_values
from mailgate.queue.store import LeaseLost, Unavailable
from mailgate.queue.writer import Broken, Outcome
from mailgate.values import value

MOST_OCTETS = 4 << 20
"""Of content in one statement."""
MOST_NOTICES = 50
"""Destinations that one transaction tells the other nodes of by name; of more they hear that there is something to look for."""

Key = tuple[int, int]
"""A recipient: entry, number."""
Values = tuple[Any, ...]
Job = Callable[[Connection], Any]


@value
class Intent:
    """Recipients whose delivery may become irrevocable."""

    keys: Sequence[Key]
    epoch: int


@value
class Settlement:
    """What became of recipients of one entry."""

    entry: int
    body: int
    epoch: int
    results: Sequence[Settled]
    now: float
    others: bool
    """The entry has, or had, recipients besides these."""
    bare: bool
    """The entry has neither a history nor content in pieces: it was delivered as it came."""


@value
class Release:
    """Claims that end with nothing changed: of recipients, as (entry, number, epoch, whether an intent is closed that came to
    nothing), and whole ones."""

    keys: Sequence[tuple[int, int, int, bool]]
    epochs: Sequence[int] = ()


Write = Insertion | Intent | Settlement | Release | Job


class Batches:
    """Those of one process: ``owner`` is its number, ``channel`` is where it tells other nodes what waits."""

    def __init__(self, owner: int, channel: str) -> None:
        self.owner = owner
        self.channel = channel

    def run(self, connection: Connection, writes: list[Write]) -> list[Outcome]:
        """In a thread: all of them in one transaction, or each in its own if that fails."""
        results = self._transaction(connection, writes)
        if not isinstance(results, BaseException):
            return [(None, one) if isinstance(one, LeaseLost) else (one, None) for one in results]
        if len(writes) == 1 or isinstance(results, Broken):
            return [(None, results)] * len(writes)
        return [outcome for write in writes for outcome in self.run(connection, [write])]

    def _transaction(self, connection: Connection, writes: list[Write]) -> list[Any] | BaseException:
        try:
            with connection.transaction():
                return self._write(connection, writes)
        except psycopg.Error as error:
            return as_store_error(error, connection)
        except Exception as error:  # a job's own, such as `Damaged`
            return error

    def _write(self, connection: Connection, writes: list[Write]) -> list[Any]:
        insertions = [one for one in writes if isinstance(one, Insertion)]
        intents = [one for one in writes if isinstance(one, Intent)]
        settlements = [one for one in writes if isinstance(one, Settlement)]
        releases = [one for one in writes if isinstance(one, Release)]
        if insertions:
            self._insert(connection, insertions)
        intended = self._intend(connection, intents) if intents else set()
        saved = _settle(connection, settlements) if settlements else set()
        waiting = [
            (result.row.destination, result.row.due)
            for one in settlements
            for result in one.results
            if result.row is not None and result.row.standing is Standing.WAITING
        ]
        if releases:
            waiting += self._release(connection, releases)
        if waiting:
            self.tell(connection, waiting)
        results: list[Any] = []
        for one in writes:
            if isinstance(one, Intent):
                results.append(_lost(one.keys, intended))
            elif isinstance(one, Settlement):
                results.append(_lost([(one.entry, result.number) for result in one.results], saved))
            else:
                results.append(one(connection) if callable(one) else None)
        return results

    def _insert(self, connection: Connection, insertions: Sequence[Insertion]) -> None:
        for bodies in _portions(chain.from_iterable(one.bodies for one in insertions)):
            connection.execute(
                "INSERT INTO body (id, owner, size, flags, complete, checksum, data)"
                " SELECT id, %s, size, flags, true, checksum, data"
                " FROM unnest(%s::bigint[], %s::bigint[], %s::integer[], %s::bigint[], %b::bytea[])"
                " AS new (id, size, flags, checksum, data)",
                (self.owner, *_columns([(id_, size, flags, check, data) for id_, size, flags, _, check, data in bodies], 5)),
            )
        entries = list(chain.from_iterable(one.entries for one in insertions))
        connection.execute(
            "INSERT INTO entry (id, token, message_id, target, arrived, body, facts, header, checksum)"
            " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::float8[], %s::bigint[], %b::bytea[],"
            " %b::bytea[], %s::bigint[])",
            _columns(entries, 9),
        )
        recipients = list(chain.from_iterable(one.recipients for one in insertions))
        connection.execute(
            "INSERT INTO recipient (owner, epoch, entry, number, destination, standing, due, intent, facts, checksum)"
            " SELECT %s, entry, entry, number, destination, standing, due, intent, facts, checksum"
            " FROM unnest(%s::bigint[], %s::integer[], %s::text[], %s::smallint[], %s::float8[], %s::boolean[], %b::bytea[],"
            " %s::bigint[]) AS new (entry, number, destination, standing, due, intent, facts, checksum)",
            (self.owner, *_columns(recipients, 8)),
        )
        complete = [body for one in insertions for body in one.complete]
        if complete:
            done = connection.execute("UPDATE body SET complete = true WHERE id = ANY(%s::bigint[])", (complete,)).rowcount
            if done != len(complete):
                raise Unavailable("the content was forgotten before all of it was there: this process was taken for dead")

    def _intend(self, connection: Connection, intents: Sequence[Intent]) -> set[Key]:
        """Whoever still has the epoch has the recipients, though he may have been taken for dead: he says so once more."""
        keys = [(entry, number, one.epoch) for one in intents for entry, number in one.keys]
        return set(
            connection.execute(
                "UPDATE recipient AS r SET intent = true, owner = %s"
                " FROM unnest(%s::bigint[], %s::integer[], %s::bigint[]) AS k (entry, number, epoch)"
                " WHERE r.entry = k.entry AND r.number = k.number AND r.epoch = k.epoch RETURNING r.entry, r.number",
                (self.owner, *_columns(keys, 3)),
            )
        )

    def _release(self, connection: Connection, releases: Sequence[Release]) -> list[tuple[str, float]]:
        """Destination and due time of those that wait for somebody else now."""
        keys = list(chain.from_iterable(one.keys for one in releases))
        epochs = list(chain.from_iterable(one.epochs for one in releases))
        freed = connection.execute(
            "UPDATE recipient AS r SET owner = 0, intent = r.intent AND NOT k.closed"
            " FROM unnest(%s::bigint[], %s::integer[], %s::bigint[], %s::boolean[]) AS k (entry, number, epoch, closed)"
            " WHERE r.entry = k.entry AND r.number = k.number AND r.epoch = k.epoch AND r.owner = %s"
            " RETURNING r.destination, r.due, r.standing",
            (*_columns(keys, 4), self.owner),
        ).fetchall()
        if epochs:
            freed += connection.execute(
                "UPDATE recipient SET owner = 0 WHERE owner = %s AND epoch = ANY(%s::bigint[])"
                " RETURNING destination, due, standing",
                (self.owner, epochs),
            ).fetchall()
        return [(destination, due) for destination, due, standing in freed if standing == Standing.WAITING]

    def tell(self, connection: Connection, waiting: Iterable[tuple[str, float]]) -> None:
        """The other nodes hear who waits from when on, as soon as it is committed."""
        first: dict[str, float] = {}
        for destination, due in waiting:
            first[destination] = min(due, first.get(destination, due))
        notices = [f"{self.owner} {due!r} {destination}" for destination, due in first.items()]
        if len(notices) > MOST_NOTICES or any(len(one) > 2000 for one in notices):
            notices = [f"{self.owner}"]
        connection.execute("SELECT pg_notify(%s, notice) FROM unnest(%s::text[]) AS notice", (self.channel, notices))


def _settle(connection: Connection, settlements: Sequence[Settlement]) -> set[Key]:
    """The recipients whose result was saved."""
    shared = sorted({one.entry for one in settlements if one.others})
    if shared:  # of two nodes that save the last two recipients of an entry at the same time, the second must see the first
        connection.execute("SELECT 1 FROM entry WHERE id = ANY(%s::bigint[]) ORDER BY id FOR UPDATE", (shared,))
    saved: set[Key] = set()
    gone = [(one.entry, result.number, one.epoch) for one in settlements for result in one.results if result.row is None]
    if gone:
        saved.update(
            connection.execute(
                "DELETE FROM recipient AS r USING unnest(%s::bigint[], %s::integer[], %s::bigint[]) AS k (entry, number, epoch)"
                " WHERE r.entry = k.entry AND r.number = k.number AND r.epoch = k.epoch RETURNING r.entry, r.number",
                _columns(gone, 3),
            )
        )
    kept = [
        (one.entry, one.epoch, *recipient_values(result.row, result.row.standing))
        for one in settlements
        for result in one.results
        if result.row is not None
    ]
    if kept:
        saved.update(
            connection.execute(
                "UPDATE recipient AS r SET destination = k.destination, standing = k.standing, due = k.due, intent = false,"
                " owner = 0, facts = k.facts, checksum = k.checksum"
                " FROM unnest(%s::bigint[], %s::bigint[], %s::integer[], %s::text[], %s::smallint[], %s::float8[], %b::bytea[],"
                " %s::bigint[]) AS k (entry, epoch, number, destination, standing, due, facts, checksum)"
                " WHERE r.entry = k.entry AND r.number = k.number AND r.epoch = k.epoch RETURNING r.entry, r.number",
                _columns(kept, 8),
            )
        )
    ending = [one for one in settlements if any(result.row is None for result in one.results)]
    bare = [one for one in ending if one.bare]
    if bare:
        _delete_bare(connection, [one.entry for one in bare], [one.body for one in bare])
    if len(bare) < len(ending):
        delete_empty(connection, {one.entry for one in ending if not one.bare}, {one.body for one in ending if not one.bare})
    notes = [
        (one.entry, one.now, result.note)
        for one in settlements
        for result in one.results
        if result.note and (one.entry, result.number) in saved and _stays(one)
    ]
    write_history(connection, notes)
    return saved


def _delete_bare(connection: Connection, entries: list[int], bodies: list[int]) -> None:
    connection.execute(
        "DELETE FROM entry WHERE id = ANY(%s::bigint[]) AND NOT EXISTS (SELECT 1 FROM recipient AS r WHERE r.entry = entry.id)",
        (entries,),
    )
    connection.execute(
        "DELETE FROM body WHERE id = ANY(%s::bigint[]) AND NOT EXISTS (SELECT 1 FROM entry AS e WHERE e.body = body.id)",
        (bodies,),
    )


def delete_empty(connection: Connection, entries: Iterable[int], bodies: Iterable[int]) -> None:
    """Those of these entries that have no recipient any more, with their history; and of these contents those without entry."""
    numbers, contents = list(entries), list(bodies)
    connection.execute(
        "WITH gone AS (DELETE FROM entry WHERE id = ANY(%s::bigint[])"
        " AND NOT EXISTS (SELECT 1 FROM recipient WHERE recipient.entry = entry.id) RETURNING id)"
        " DELETE FROM history USING gone WHERE history.entry = gone.id",
        (numbers,),
    )
    connection.execute(
        "WITH gone AS (DELETE FROM body WHERE id = ANY(%s::bigint[])"
        " AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.body = body.id) RETURNING id)"
        " DELETE FROM piece USING gone WHERE piece.body = gone.id",
        (contents,),
    )


def write_history(connection: Connection, notes: Sequence[tuple[int, float, str]]) -> None:
    """Of entries that are still there. A text has no NUL: PostgreSQL does not take it."""
    if notes:
        connection.execute(
            "INSERT INTO history (entry, at, text) SELECT entry, at, text"
            " FROM unnest(%s::bigint[], %s::float8[], %s::text[]) WITH ORDINALITY AS new (entry, at, text, place)"
            " WHERE EXISTS (SELECT 1 FROM entry WHERE entry.id = new.entry) ORDER BY place",
            _columns([(entry, at, text.replace("\0", "\N{SYMBOL FOR NULL}")) for entry, at, text in notes], 3),
        )


def _lost(keys: Sequence[Key], saved: set[Key]) -> LeaseLost | None:
    lost = [key for key in keys if key not in saved]
    if not lost:
        return None
    entry = lost[0][0]
    return LeaseLost(f"{len(lost)} recipients of entry {entry} were taken over by another node, or changed by an operator")


def _stays(settlement: Settlement) -> bool:
    """Whether the entry may still be there: nothing is noted about one that was delivered whole."""
    return settlement.others or any(result.row is not None for result in settlement.results)


def _columns(rows: Sequence[Values], width: int) -> tuple[list[Any], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True)) if rows else tuple([] for _ in range(width))


def _portions(bodies: Iterable[Values]) -> Iterable[list[Values]]:
    """Contents in portions that fit into a statement."""
    portion: list[Values] = []
    octets = 0
    for body in bodies:
        if portion and octets + body[1] > MOST_OCTETS:
            yield portion
            portion, octets = [], 0
        portion.append(body)
        octets += body[1]
    if portion:
        yield portion
