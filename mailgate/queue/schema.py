"""The tables of a queue's sqlite file, and how older files become newer ones.

`PRAGMA user_version` is the version of the schema; `UPGRADES[n]` makes version n + 1 of version n, in one transaction with the
new number. A file of a later version than ours is refused: a program that does not know a column must not lose it.

entry       one message for one target; never changed
recipient   one row each; the index is the schedule: by destination, then by due time, of those that wait
body        content behind the header section, shared by the entries of one message; larger content lies in `piece`
history     what happened to an entry that is still here
damaged     rows that did not have their checksum, as they were
"""

from __future__ import annotations

import sqlite3

from mailgate.queue.store import Unavailable
from mailgate.sqlite import do, one

APPLICATION_ID = 0x6D677175
"""``mgqu``: so that `file` and we know the file."""

_FIRST = """
CREATE TABLE body (
    id INTEGER PRIMARY KEY, size INTEGER NOT NULL, flags INTEGER NOT NULL, complete INTEGER NOT NULL,
    checksum INTEGER, data BLOB
);
CREATE TABLE piece (
    id INTEGER PRIMARY KEY, body INTEGER NOT NULL, number INTEGER NOT NULL, checksum INTEGER NOT NULL, data BLOB NOT NULL
);
CREATE INDEX body_incomplete ON body (id) WHERE complete = 0;
CREATE UNIQUE INDEX piece_place ON piece (body, number);
CREATE TABLE entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT, token INTEGER NOT NULL, message_id TEXT NOT NULL, target TEXT NOT NULL,
    arrived REAL NOT NULL, body INTEGER NOT NULL, facts BLOB NOT NULL, header BLOB NOT NULL, checksum INTEGER NOT NULL
);
CREATE INDEX entry_message ON entry (message_id);
CREATE INDEX entry_arrived ON entry (arrived);
CREATE INDEX entry_body ON entry (body);
CREATE TABLE recipient (
    entry INTEGER NOT NULL, number INTEGER NOT NULL, destination TEXT NOT NULL, standing INTEGER NOT NULL, due REAL NOT NULL,
    intent INTEGER NOT NULL DEFAULT 0, facts BLOB NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (entry, number)
) WITHOUT ROWID;
CREATE INDEX recipient_due ON recipient (destination, due) WHERE standing = 1;
CREATE INDEX recipient_standing ON recipient (standing, due) WHERE standing <> 1;
CREATE TABLE history (id INTEGER PRIMARY KEY, entry INTEGER NOT NULL, at REAL NOT NULL, text TEXT NOT NULL);
CREATE INDEX history_entry ON history (entry);
CREATE TABLE damaged (id INTEGER PRIMARY KEY, at REAL NOT NULL, what TEXT NOT NULL, row BLOB NOT NULL);
"""

UPGRADES: tuple[str, ...] = (_FIRST,)
"""From version 0, an empty file, on."""


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring a file to our version. :raises Unavailable: it is of a later one, or no queue at all."""
    (version,) = one(connection, "PRAGMA user_version")
    (application,) = one(connection, "PRAGMA application_id")
    if version > len(UPGRADES):
        raise Unavailable(f"the file has schema version {version}, made by a later mailgate; this one knows {len(UPGRADES)}")
    if version and application != APPLICATION_ID:
        raise Unavailable("this is a sqlite file, but not a queue")
    for number in range(version, len(UPGRADES)):
        statements = [part for part in UPGRADES[number].split(";\n") if part.strip()]
        connection.execute("BEGIN EXCLUSIVE")
        for statement in (*statements, f"PRAGMA user_version = {number + 1}", f"PRAGMA application_id = {APPLICATION_ID}"):
            do(connection, statement)
        connection.execute("COMMIT")
