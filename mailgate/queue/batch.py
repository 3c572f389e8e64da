"""What a batch of writes says to sqlite: few statements, however many messages are in it.

Each statement gives up Python's lock and must win it back from a busy event loop, which costs more than the statement itself. So
the three writes of every message (accepted, about to be delivered, settled) are data, made by the event loop, and a whole batch
of them is a dozen statements with many rows. Everything else is a function of the connection (`Job`), run in its turn.

Within one batch nothing depends on anything else: whoever writes about an entry again has waited for the last answer. (But who
closes an intent that came to nothing does not wait: in a batch that is done before others are opened.)
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import chain
from typing import Any

from mailgate.queue.codec import checksum, encode_facts
from mailgate.queue.content import Shape
from mailgate.queue.entry import Draft, Entry, Settled, Standing
from mailgate.queue.records import entry_checksum, recipient_values
from mailgate.queue.rows import ENTRY_COLUMNS, RECIPIENT_COLUMNS, commit, update
from mailgate.queue.store import Unavailable
from mailgate.values import value

ROWS = 200
"""Of one statement: sqlite takes 32,766 values, and short statements are found again in the cache."""

Values = tuple[Any, ...]
Job = Callable[[sqlite3.Connection], Any]


@value
class Insertion:
    """Entries with their recipients and content, as rows. ``complete`` are bodies that came in pieces."""

    bodies: list[Values]
    entries: list[Values]
    recipients: list[Values]
    complete: list[int]


@value
class Intent:
    """Recipients, as (entry, number), whose delivery may become irrevocable; or, not ``open``, was not begun after all."""

    keys: list[Values]
    open: bool = True


@value
class Settlement:
    """What became of recipients of one entry."""

    entry: int
    body: int
    results: Sequence[Settled]
    now: float
    others: bool
    """The entry has, or had, recipients besides these."""
    bare: bool
    """The entry has neither a history nor content in pieces: it was delivered as it came."""


@value
class Release:
    """Prepared entries that may be delivered from now on."""

    entries: Sequence[int]

    def __call__(self, connection: sqlite3.Connection) -> None:
        commit(connection, self.entries)


Write = Insertion | Intent | Settlement | Job


def insertion(
    drafts: Sequence[Draft],
    entries: Iterable[int],
    bodies: dict[int, int],
    token: int,
    new_body: Callable[[], int],
    prepared: bool,
    intended: Container[str] = (),
) -> tuple[Insertion, list[Entry]]:
    """The rows of drafts, and the entries that they will be. ``bodies`` has the numbers of content that is stored already, by the
    identity of the body object."""
    rows = Insertion([], [], [], list(bodies.values()))
    made = []
    for draft, number in zip(drafts, entries, strict=True):
        message = draft.message
        body = bodies.get(id(message.body), 0)
        if not body:
            body = bodies[id(message.body)] = new_body()
            rows.bodies.append(_content(body, draft))
        facts = encode_facts(draft.sender, draft.parameters, draft.origin, draft.priority)
        check = entry_checksum(draft.message_id, draft.target, draft.arrived, facts, message.header)
        rows.entries.append((number, token, draft.message_id, draft.target, draft.arrived, body, facts, message.header, check))
        for row in draft.recipients:
            _, destination, standing, due, text, sum_ = recipient_values(row, Standing.PREPARED if prepared else row.standing)
            intent = destination in intended
            rows.recipients.append((number, row.number, destination, standing, due, intent, text, sum_))
        made.append(
            Entry(
                number,
                draft.message_id,
                draft.target,
                draft.sender,
                draft.parameters,
                draft.origin,
                draft.arrived,
                message.header,
                body,
                message.size,
                draft.recipients,
                draft.priority,
            )
        )
    return rows, made


def _content(number: int, draft: Draft) -> Values:
    message = draft.message
    whole = message.body.data
    assert whole is not None
    data = whole[len(whole) - (message.size - len(message.header)) :]
    shape = Shape.of(message)
    return (number, shape.size, shape.pack(), 1, checksum(data), data)


def run(connection: sqlite3.Connection, writes: Sequence[Write]) -> list[Any]:
    """Do them, within the caller's transaction; a result for each."""
    insertions = [one for one in writes if isinstance(one, Insertion)]
    settlements = [one for one in writes if isinstance(one, Settlement)]
    if insertions:
        _insert(connection, insertions)
    for opened in (False, True):
        keys = [key for one in writes if isinstance(one, Intent) and one.open is opened for key in one.keys]
        _each_recipient(connection, f"UPDATE recipient SET intent = {opened:d}", keys)
    if settlements:
        _settle(connection, settlements)
    known = (Insertion, Intent, Settlement)
    return [None if isinstance(one, known) else one(connection) for one in writes]


def _insert(connection: sqlite3.Connection, insertions: Sequence[Insertion]) -> None:
    def rows(attribute: str) -> list[Values]:
        return list(chain.from_iterable(getattr(one, attribute) for one in insertions))

    _each(connection, "INSERT INTO body (id, size, flags, complete, checksum, data) VALUES {}", 6, rows("bodies"))
    _each(connection, f"INSERT INTO entry ({ENTRY_COLUMNS}) VALUES {{}}", 9, rows("entries"))
    _each(connection, f"INSERT INTO recipient ({RECIPIENT_COLUMNS}) VALUES {{}}", 8, rows("recipients"))
    complete = [(body,) for one in insertions for body in one.complete]
    if _each(connection, "UPDATE body SET complete = 1 WHERE id IN ({})", 1, complete) != len(complete):
        raise Unavailable("the file was opened anew while content came, and has forgotten it")


def _settle(connection: sqlite3.Connection, settlements: Sequence[Settlement]) -> None:
    gone = [(one.entry, result.number) for one in settlements for result in one.results if result.row is None]
    _each_recipient(connection, "DELETE FROM recipient", gone)
    for one in settlements:
        for result in one.results:
            if result.row is not None:
                update(connection, one.entry, result.row)
    ending = [one for one in settlements if any(result.row is None for result in one.results)]
    entries = list(dict.fromkeys((one.entry,) for one in ending))
    empty = "AND NOT EXISTS (SELECT 1 FROM recipient WHERE recipient.entry = "
    _each(connection, f"DELETE FROM entry WHERE id IN ({{}}) {empty}entry.id)", 1, entries)
    past = list(dict.fromkeys((one.entry,) for one in ending if not one.bare))
    _each(connection, f"DELETE FROM history WHERE entry IN ({{}}) {empty}history.entry)", 1, past)
    bodies = list(dict.fromkeys((one.body,) for one in ending))
    unused = "AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.body = "
    pieces = list(dict.fromkeys((one.body,) for one in ending if not one.bare))
    _each(connection, f"DELETE FROM piece WHERE body IN ({{}}) {unused}piece.body)", 1, pieces)
    _each(connection, f"DELETE FROM body WHERE id IN ({{}}) {unused}body.id)", 1, bodies)
    notes = [(one.entry, one.now, result.note) for one in settlements for result in one.results if result.note and _stays(one)]
    if notes:
        statement = "INSERT INTO history (entry, at, text) SELECT id, ?2, ?3 FROM entry WHERE id = ?1"
        connection.executemany(statement, notes)


def _stays(settlement: Settlement) -> bool:
    """Whether the entry may still be there: nothing is noted about one that was delivered whole."""
    return settlement.others or any(result.row is not None for result in settlement.results)


def _each_recipient(connection: sqlite3.Connection, statement: str, keys: Sequence[Values]) -> None:
    """Run a statement for recipients, as (entry, number). The entries are named once more: in pairs alone sqlite does not see the
    primary key, and walks through the whole table."""
    for start in range(0, len(keys), ROWS):
        some = keys[start : start + ROWS]
        places, pairs = ",".join("?" * len(some)), ",".join(["(?,?)"] * len(some))
        values = (*(entry for entry, _ in some), *chain.from_iterable(some))
        connection.execute(f"{statement} WHERE entry IN ({places}) AND (entry, number) IN (VALUES {pairs})", values)


def _each(connection: sqlite3.Connection, statement: str, width: int, rows: Sequence[Values]) -> int:
    """Run a statement for many rows; its ``{}`` is their place. How many rows of the table it concerned."""
    one = "?" if width == 1 else f"({','.join('?' * width)})"
    concerned = 0
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        concerned += connection.execute(statement.format(",".join([one] * len(some))), tuple(chain.from_iterable(some))).rowcount
    return concerned
