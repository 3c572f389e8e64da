"""`table.static`: a table in the configuration itself."""

from __future__ import annotations

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.config.text_forms import table_key
from mailgate.interfaces import ITable
from mailgate.pipeline.lookup import Kept
from mailgate.pipeline.router import place
from mailgate.registry import Module, ModuleContext


@implementer(ITable)
class StaticTable(Module):
    """Keys and values written in the configuration itself."""

    name = "table.static"
    kept = Kept.IN_CONFIGURATION
    entries = Directive(
        "entry",
        v.Args(v.String("KEY"), v.Strings("VALUE", minimum=0)),
        repeatable=True,
        doc="One key and its values; a key written twice has the values of both.",
        origin="maddy",
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._entries: dict[str, tuple[str, ...]] = {}
        for key, values in self.entries:
            known = self._entries.get(table_key(key), ())
            self._entries[table_key(key)] = (*known, *values)

    @property
    def static_keys(self) -> frozenset[str]:
        """All keys there will ever be: lets the compiler see rules that this table hides."""
        return frozenset(self._entries)

    def lookup(self, key: str) -> tuple[str, ...]:
        values = self._entries.get(key)
        if values is None:
            values = self._entries.get(table_key(key))
        return () if values is None else values or ("",)

    def entry_place(self, key: str) -> str:
        """``file:line`` of the first entry of a key."""
        wanted = {key, table_key(key)}
        return next((place(item.span) for item in self.items if table_key(item.value[0]) in wanted), "")
