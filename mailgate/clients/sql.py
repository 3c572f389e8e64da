"""Questions to an SQL database: SQLite in a file, or PostgreSQL by psycopg.

A query is written once, by the operator, with placeholders: ``SELECT address FROM aliases WHERE name = {key}``. `Query` turns
each placeholder into a parameter of the driver, so that a value is never part of the SQL text; one that stands between quotes
would be text of its own and is refused. The gateway only reads: SQLite is opened read-only, and PostgreSQL is told that each
transaction is.

Links block and are used through `clients.threads`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mailgate.clients.threads import Unanswerable

MAX_ROWS = 1000
"""Of one answer: more is a failure, since a cut list of recipients would lose some."""
_TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|\{([a-z]+)\}|%", re.DOTALL)
_PLACEHOLDER = re.compile(r"\{[a-z]+\}")


class BadQuery(ValueError):
    """The text can't be put as it is."""


class TooMuch(Unanswerable):
    """More rows, or wider values, than a table can have."""


@dataclass(frozen=True, slots=True)
class Query:
    """``text`` with placeholders; ``names`` are those that stand in it."""

    text: str
    names: frozenset[str]

    @classmethod
    def read(cls, text: str, allowed: Sequence[str]) -> Query:
        """:raises BadQuery: a placeholder that stands for nothing, or in quotes; none at all; or several statements."""
        names = set()
        for token in _TOKEN.finditer(text):
            if token[1] is None:
                if hidden := _PLACEHOLDER.search(token[0]):
                    raise BadQuery(f"{hidden[0]} stands in quotes or in a comment, where no value can go")
            elif token[1] not in allowed:
                raise BadQuery(f"{token[0]} stands for nothing here")
            else:
                names.add(token[1])
        if not names:
            raise BadQuery("without a placeholder the answer is the same for everybody")
        if ";" in _TOKEN.sub("", text).rstrip().rstrip(";"):
            raise BadQuery("one statement, not several")
        return cls(text, frozenset(names))

    def for_sqlite(self) -> str:
        return _TOKEN.sub(lambda token: f":{token[1]}" if token[1] else token[0], self.text)

    def for_postgres(self) -> str:
        def marked(token: re.Match[str]) -> str:
            return f"%({token[1]})s" if token[1] else token[0].replace("%", "%%")

        return _TOKEN.sub(marked, self.text)


class SqliteLink:
    """A file, opened read-only. ``timeout``: seconds for a writer that holds it, and for the whole query by `abort`."""

    def __init__(self, path: Path, timeout: float) -> None:
        uri = f"file:{quote(str(path))}?mode=ro"
        self._connection = sqlite3.connect(uri, uri=True, timeout=timeout, check_same_thread=False, isolation_level=None)

    def rows(self, query: Query, values: Mapping[str, str]) -> list[tuple[Any, ...]]:
        with closing(self._connection.execute(query.for_sqlite(), dict(values))) as cursor:
            return _bounded(cursor.fetchmany(MAX_ROWS + 1))

    def close(self) -> None:
        self._connection.close()

    def abort(self) -> None:
        self._connection.interrupt()


class PostgresLink:
    """A session whose transactions only read and end by themselves after ``timeout`` seconds."""

    def __init__(self, conninfo: str, connect_timeout: float, timeout: float) -> None:
        import psycopg

        self._data_error = psycopg.DataError
        milliseconds = int(timeout * 1000)
        self._connection = psycopg.connect(
            conninfo,
            autocommit=True,
            connect_timeout=max(2, round(connect_timeout)),  # libpq's least
            options=f"-c default_transaction_read_only=on -c statement_timeout={milliseconds}",
            tcp_user_timeout=milliseconds,
            application_name="mailgate",
        )

    def rows(self, query: Query, values: Mapping[str, str]) -> list[tuple[Any, ...]]:
        used = {name: values[name] for name in query.names}
        with self._connection.cursor() as cursor:
            try:
                cursor.execute(query.for_postgres().encode(), used)
            except self._data_error as error:  # a value that the database has no text for
                raise Unanswerable(str(error).strip()) from error
            return _bounded(cursor.fetchmany(MAX_ROWS + 1))

    def close(self) -> None:
        self._connection.close()

    def abort(self) -> None:
        """Nothing: `statement_timeout` ends it, and closing a socket under libpq would not be safe."""


SqlLink = SqliteLink | PostgresLink


def _bounded(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    if len(rows) > MAX_ROWS:
        raise TooMuch(f"more than {MAX_ROWS} rows")
    return rows


def check_query(query: Query, path: Path, timeout: float) -> None:
    """Ask SQLite whether it knows the tables and columns: nothing is read.

    :raises sqlite3.Error: it does not."""
    link = SqliteLink(path, timeout)
    try:
        values: dict[str, Any] = dict.fromkeys(query.names, "")
        link._connection.execute(f"EXPLAIN {query.for_sqlite()}", values).fetchall()
    finally:
        link.close()
