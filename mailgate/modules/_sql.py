"""What `table.sql` and `auth.sql` share: the database and the query."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mailgate.clients.sql import BadQuery, PostgresLink, Query, SqliteLink, SqlLink, check_query
from mailgate.clients.threads import Threads
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import REQUIRED, Directive
from mailgate.registry import Module, ModuleContext

POSTGRES = "postgres"


class SqlModule(Module):
    """Directives of whatever asks an SQL database."""

    placeholders: Sequence[str] = ()

    database = Directive(
        "database",
        v.OneOf({"sqlite": v.Path(), POSTGRES: v.Secret("CONNINFO")}),
        default=REQUIRED,
        doc='`sqlite FILE`, or `postgres` with what libpq knows how to reach a server by: `"host=db1,db2 dbname=mail user=gateway'
        ' password=… sslmode=verify-full"` (several hosts are tried in order), or `file:PATH`, which holds that. Nothing is ever'
        " written.",
    )
    query = Directive("query", v.String("SELECT"), default=REQUIRED)
    connections = Directive(
        "connections",
        v.Integer(minimum=1, maximum=64),
        default=4,
        divided=True,
        doc="Connections at most, and threads that use them.",
    )
    connect_timeout = Directive(
        "connect_timeout", v.Duration(minimum=1, maximum=60), default=3.0, doc="For connecting to each host of a server."
    )
    timeout = Directive("timeout", v.Duration(minimum=0.1, maximum=60), default=5.0, doc="For one answer.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._query: Query | None = None
        self._threads: Threads[SqlLink] | None = None

    def configure(self, report: Report) -> None:
        try:
            self._query = Query.read(self.query, self.placeholders)
        except BadQuery as error:
            hint = "possible: " + ", ".join(f"{{{name}}}" for name in self.placeholders)
            report.error(self.span_of("query"), str(error), code="E0840", hint=hint)
            return
        if self.database.word == POSTGRES:
            if importlib.util.find_spec("psycopg") is None:
                text = "PostgreSQL needs the Python library `psycopg`, which is not installed"
                report.error(self.span_of("database"), text, code="E0841", hint="pip install 'mailgate[postgres]'")
            return
        try:
            check_query(self._query, Path(self.database.value), self.timeout)
        except sqlite3.Error as error:
            report.error(self.span_of("database"), f"SQLite says: {error}", code="E0841")

    async def rows(self, values: Mapping[str, str]) -> list[tuple[Any, ...]]:
        """:raises NoAnswer: the database could not say."""
        query = self._query
        assert query is not None
        return await self._database().ask(lambda link: link.rows(query, values))

    def _database(self) -> Threads[SqlLink]:
        if self._threads is None:
            assert self.context.adapters is not None
            word, value = self.database.word, self.database.value
            if word == POSTGRES:
                connect: Any = partial(PostgresLink, value.reveal(), self.connect_timeout, self.timeout)
            else:
                connect = partial(SqliteLink, Path(value), self.timeout)
            self._threads = Threads(
                self.label,
                connect,
                self.context.adapters,
                links=self.connections,
                deadline=2 * self.connect_timeout + 2 * self.timeout,
            )
        return self._threads

    async def stop(self) -> None:
        if self._threads is not None:
            await self._threads.stop()


def texts(row: Sequence[Any]) -> list[str]:
    """The columns as strings, without those that are NULL.

    :raises UnicodeDecodeError: octets that are no text."""
    return [column.decode() if isinstance(column, bytes) else str(column) for column in row if column is not None]
