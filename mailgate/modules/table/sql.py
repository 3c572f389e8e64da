"""`table.sql`: rows of an SQL database."""

from __future__ import annotations

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import REQUIRED, Directive
from mailgate.interfaces import ITable
from mailgate.modules._asked import KEY_PARTS, AskedTable, parts_of
from mailgate.modules._sql import SqlModule, texts


@implementer(ITable)
class SqlTable(AskedTable, SqlModule):
    """Values are the columns of all rows that the query finds, without NULLs. While the database can't be asked, clients hear
    451."""

    name = "table.sql"
    placeholders = KEY_PARTS
    query = Directive(
        "query",
        v.String("SELECT"),
        default=REQUIRED,
        doc="What is asked. {key} stands for the key, {localpart} and {domain} for its parts: a key that is no address has no"
        " match then. They are parameters of the query, never text in it, and stand outside quotes.",
    )

    def configure(self, report: Report) -> None:
        super().configure(report)
        if self._query is not None:
            self.wanted_parts = self._query.names

    async def ask(self, key: str) -> tuple[str, ...]:
        rows = await self.rows(parts_of(key))
        return tuple(dict.fromkeys(text for row in rows for text in texts(row)))
