"""`table.chain`: tables one behind the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Directive
from mailgate.interfaces import ITable
from mailgate.net.waiting import begin
from mailgate.pipeline.lookup import Kept
from mailgate.pipeline.samples import chained_keys, table_keys
from mailgate.registry import Module


@implementer(ITable)
class ChainTable(Module):
    """The values of one table are the keys of the next."""

    name = "table.chain"
    kept = Kept.IN_CONFIGURATION  # what its steps ask is theirs to say
    steps = Directive(
        "step",
        v.ModuleLine("table"),
        repeatable=True,
        doc="A key without a match here ends without a match.",
        origin="maddy",
    )
    optional_steps = Directive(
        "optional_step",
        v.ModuleLine("table"),
        repeatable=True,
        doc="A key without a match here goes on as it is.",
        origin="maddy",
    )

    def configure(self, report: Report) -> None:
        if not self.items:
            report.error(self.span, "a chain without a step", code="E0812", hint="`step TABLE`")
        if any(table is self for table in _reached(self)):
            report.error(self.span, "this chain leads back to itself", code="E0812")

    def sample_keys(self, stranger: str) -> Iterable[str]:
        """Keys of any step, with their own domain and with the stranger's."""
        return chained_keys((key for item in self.items for key in table_keys(item.value, stranger)), stranger)

    def lookup(self, key: str) -> Any:
        return begin(self._lookup(key))

    async def _lookup(self, key: str) -> tuple[str, ...]:
        keys: tuple[str, ...] = (key,)
        for item in self.items:
            found: dict[str, None] = {}
            for one in keys:
                values = item.value.lookup(one)
                if not isinstance(values, tuple):
                    values = await values
                if not values and item.name == "optional_step":
                    values = (one,)
                found.update(dict.fromkeys(values))
            keys = tuple(found)
        return keys


def _reached(chain: ChainTable) -> Iterator[Any]:
    """Every table that a chain asks, directly or not."""
    seen: set[int] = set()
    waiting = [chain]
    while waiting:
        for item in waiting.pop().items:
            yield item.value
            if isinstance(item.value, ChainTable) and id(item.value) not in seen:
                seen.add(id(item.value))
                waiting.append(item.value)
