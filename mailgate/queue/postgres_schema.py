"""The tables of a queue in PostgreSQL, how older ones become newer ones, and what the server must be like.

Each queue has a schema of its own, ``mailgate_NAME``; its `meta` holds the version. `UPGRADES[n]` makes version n + 1 of version
n, in one transaction with the new number, and one node at a time. A later version than ours is refused: a program that does not
know a column must not lose it.

owner       one row each process that has the queue open; until when its leases hold
entry       one message for one target; never changed
recipient   one row each. `owner` is who delivers it now, 0 nobody; `epoch` is the claim under which he does, and every save
            names it. The index of those that wait and are nobody's is the schedule
body        content behind the header section, shared by the entries of one message; larger content lies in `piece`
history     what happened to an entry that is still here
damaged     rows that did not have their checksum, as they were
"""

from __future__ import annotations

from psycopg import sql

from mailgate.queue.postgres_link import Connection
from mailgate.queue.store import Unavailable

BLOCK = 10_000
"""Numbers that a process takes from the sequence at once: for entries, contents and claims, so that no two are the same."""
MAX_NAME = 63
"""Octets of a name in PostgreSQL."""

_FIRST = f"""
CREATE SEQUENCE number INCREMENT BY {BLOCK} MINVALUE {BLOCK};
CREATE TABLE owner (id bigint PRIMARY KEY, name text NOT NULL, until double precision NOT NULL);
CREATE TABLE body (
    id bigint PRIMARY KEY, owner bigint NOT NULL, size bigint NOT NULL, flags integer NOT NULL, complete boolean NOT NULL,
    checksum bigint, data bytea
);
CREATE INDEX body_incomplete ON body (owner) WHERE NOT complete;
CREATE TABLE piece (
    body bigint NOT NULL, number integer NOT NULL, checksum bigint NOT NULL, data bytea NOT NULL, PRIMARY KEY (body, number)
);
CREATE TABLE entry (
    id bigint PRIMARY KEY, token bigint NOT NULL, message_id text NOT NULL, target text NOT NULL,
    arrived double precision NOT NULL, body bigint NOT NULL, facts bytea NOT NULL, header bytea NOT NULL, checksum bigint NOT NULL
);
CREATE INDEX entry_message ON entry (message_id);
CREATE INDEX entry_arrived ON entry (arrived);
CREATE INDEX entry_body ON entry (body);
CREATE TABLE recipient (
    entry bigint NOT NULL, number integer NOT NULL, destination text COLLATE "C" NOT NULL, standing smallint NOT NULL,
    due double precision NOT NULL, intent boolean NOT NULL DEFAULT false, owner bigint NOT NULL, epoch bigint NOT NULL,
    facts bytea NOT NULL, checksum bigint NOT NULL, PRIMARY KEY (entry, number)
) WITH (fillfactor = 80);
CREATE INDEX recipient_due ON recipient (destination, due) WHERE standing = 1 AND owner = 0;
CREATE INDEX recipient_owned ON recipient (owner) WHERE owner <> 0;
CREATE INDEX recipient_standing ON recipient (standing, due) WHERE standing <> 1;
CREATE TABLE history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, entry bigint NOT NULL, at double precision NOT NULL, text text NOT NULL
);
CREATE INDEX history_entry ON history (entry);
CREATE TABLE damaged (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at double precision NOT NULL, what text NOT NULL, row bytea NOT NULL
);
"""

UPGRADES: tuple[str, ...] = (_FIRST,)
"""From version 0, no tables at all, on."""


class Misfit(Unavailable):
    """The server is there, but not what we can keep mail in: waiting does not help."""


def schema_of(queue: str) -> str:
    """The name of a queue's schema; and of the channel on which its nodes tell each other what waits."""
    return f"mailgate_{queue}"


def upgrade(connection: Connection, schema: str) -> None:
    """Bring the schema to our version. :raises Misfit: it is of a later one, or the server must not be trusted with mail."""
    _check_server(connection)
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (schema,))
        version = _version(connection, schema)
        if version > len(UPGRADES):
            raise Misfit(f"{schema} has schema version {version}, made by a later mailgate; this one knows {len(UPGRADES)}")
        if version == len(UPGRADES):
            return
        if not _exists(connection, schema):
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        for number in range(version, len(UPGRADES)):
            connection.execute(UPGRADES[number])
        connection.execute("CREATE TABLE IF NOT EXISTS meta (version integer NOT NULL)")
        connection.execute("DELETE FROM meta")
        connection.execute("INSERT INTO meta (version) VALUES (%s)", (len(UPGRADES),))


def _exists(connection: Connection, schema: str) -> bool:
    return connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone() is not None


def _version(connection: Connection, schema: str) -> int:
    """0 where there are no tables."""
    found = connection.execute("SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = 'meta'", (schema,)).fetchone()
    if found is None:
        return 0
    row = connection.execute("SELECT version FROM meta").fetchone()
    return int(row[0]) if row is not None else 0


def _check_server(connection: Connection) -> None:
    row = connection.execute("SELECT current_setting('server_encoding', true), current_setting('fsync', true)").fetchone()
    encoding, fsync = row or (None, None)
    if encoding not in ("UTF8", None):
        raise Misfit(f"the database is in {encoding}; a queue needs one in UTF8")
    if fsync == "off":
        raise Misfit("the server runs with fsync = off: it could lose mail that was accepted")
