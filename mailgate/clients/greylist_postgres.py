"""What greylisting remembers, in a PostgreSQL database that several gateways share: the rules of `clients.greylist` in a
transaction.

The tables are made by whoever finds none, in the first schema of the user's search path. Times are the server's. Links block and
are used through `clients.threads`: a question that is put again after its connection broke may find what the first one wrote,
which changes nothing but that somebody is known already.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mailgate.clients.greylist import MOST, Network, Seen, Triple, Waiting, judge
from mailgate.clients.threads import Unanswerable
from mailgate.config.places import SecretText

BATCH = 10_000
"""Rows that one statement of a sweep removes at most, so that it ends in time."""
CLOCK = "extract(epoch FROM clock_timestamp())::float8"
_LOCK = 5_208_133_107
"""Of the advisory lock under which tables are made and swept: any number that nobody else has."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS greylist_triples (
    network text, sender text, recipient text,
    first float8 NOT NULL, last float8 NOT NULL, passed boolean NOT NULL,
    PRIMARY KEY (network, sender, recipient));
CREATE INDEX IF NOT EXISTS greylist_triples_by_time ON greylist_triples (last);
CREATE TABLE IF NOT EXISTS greylist_networks (network text PRIMARY KEY, passed integer NOT NULL, last float8 NOT NULL);
"""
_DEFAULTS: dict[str, Any] = {
    "application_name": "mailgate",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "target_session_attrs": "read-write",
}
"""What a DSN gets that does not say otherwise. Of several hosts the one is meant that can be written to."""
_WHERE = "network = %s AND sender = %s AND recipient = %s"


def is_conninfo(text: str) -> bool:
    """Whether libpq can read it. What it says otherwise may quote a password: it is not shown."""
    try:
        conninfo_to_dict(text)
    except psycopg.Error:
        return False
    return True


class PostgresLink:
    """A session with the tables."""

    def __init__(self, conninfo: SecretText, timeout: float) -> None:
        milliseconds = int(timeout * 1000)
        given = {"tcp_user_timeout": milliseconds, "connect_timeout": max(2, round(timeout)), **_DEFAULTS}
        given.update(conninfo_to_dict(conninfo.reveal()))
        self.connection: psycopg.Connection[Any] = psycopg.connect(make_conninfo("", **given), autocommit=True)
        try:
            self._prepare(milliseconds)
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self, milliseconds: int) -> None:
        self.connection.execute(
            "SELECT set_config(name, %s, false)"
            " FROM unnest(ARRAY['statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout']) AS name",
            (str(milliseconds),),
        )
        found = self.connection.execute("SELECT to_regclass('greylist_networks')").fetchone()
        if found is None or found[0] is None:
            with self.connection.transaction():
                self.connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                self.connection.execute(_SCHEMA)

    def close(self) -> None:
        self.connection.close()

    def abort(self) -> None:
        """Nothing: `statement_timeout` ends it, and closing a socket under libpq would not be safe."""


class PostgresGreylist:
    """``clock`` is an expression; a test's may stand."""

    def __init__(self, waiting: Waiting, *, most: int = MOST, clock: str = CLOCK) -> None:
        self._waiting = waiting
        self._most = most
        self.clock = clock

    def seen(self, link: PostgresLink, network: str, sender: str, recipient: str) -> Seen:
        """In a thread."""
        try:
            with link.connection.transaction():
                return self._seen(link.connection, (network, sender, recipient))
        except (psycopg.DataError, UnicodeError) as error:  # a value that the database has no text for
            raise Unanswerable(str(error).strip()) from error

    def _seen(self, connection: psycopg.Connection[Any], triple: tuple[str, str, str]) -> Seen:
        name = triple[0]
        (now,) = self._one(connection, f"SELECT {self.clock}", ())
        row = self._one(connection, "SELECT passed, last FROM greylist_networks WHERE network = %s", (name,))
        network = Network(*row) if row else None
        row = self._one(connection, f"SELECT first, last, passed FROM greylist_triples WHERE {_WHERE} FOR UPDATE", triple)
        seen, new = judge(self._waiting, network, Triple(*row) if row else None, now)
        if new is not None:
            connection.execute(
                "INSERT INTO greylist_triples VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (network, sender, recipient)"
                " DO UPDATE SET first = excluded.first, last = excluded.last, passed = excluded.passed",
                (*triple, new.first, new.last, new.passed),
            )
        if seen is Seen.ALLOWED:
            connection.execute("UPDATE greylist_networks SET last = %s WHERE network = %s", (now, name))
        elif seen is Seen.PASSED:
            connection.execute(
                "INSERT INTO greylist_networks AS known VALUES (%s, 1, %s) ON CONFLICT (network) DO UPDATE SET"
                " passed = CASE WHEN excluded.last < known.last + %s THEN known.passed + 1 ELSE 1 END, last = excluded.last",
                (name, now, self._waiting.lifetime),
            )
        return seen

    def sweep(self, link: PostgresLink) -> int:
        """Remove what is over, and the oldest beyond ``most``, one batch of each: how many. 0 if somebody else is at it."""
        connection, waiting = link.connection, self._waiting
        with connection.transaction():
            if not self._one(connection, "SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))[0]:
                return 0
            now = f"({self.clock})"
            removed = self._remove(connection, "greylist_triples", f"passed AND last < {now} - %s", waiting.lifetime)
            removed += self._remove(connection, "greylist_triples", f"NOT passed AND first < {now} - %s", waiting.window)
            removed += self._remove(connection, "greylist_networks", f"last < {now} - %s", waiting.lifetime)
            (count,) = self._one(connection, "SELECT count(*) FROM greylist_triples", ())
            if count > self._most:
                removed += connection.execute(
                    "DELETE FROM greylist_triples WHERE ctid = ANY (ARRAY("
                    "SELECT ctid FROM greylist_triples ORDER BY last LIMIT %s))",
                    (min(count - self._most, BATCH),),
                ).rowcount
        return removed

    @staticmethod
    def _remove(connection: psycopg.Connection[Any], table: Any, where: Any, seconds: float) -> int:
        return connection.execute(
            f"DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE {where} LIMIT {BATCH}))", (seconds,)
        ).rowcount

    @staticmethod
    def _one(connection: psycopg.Connection[Any], statement: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The row; () if there is none."""
        return connection.execute(statement, values).fetchone() or ()
