"""`table.plus`: ann+lists@example.org is ann@example.org."""

from __future__ import annotations

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.schema import Argument
from mailgate.interfaces import ITable
from mailgate.pipeline.lookup import Kept
from mailgate.registry import Module


@implementer(ITable)
class Plus(Module):
    """The address without its detail; no match for an address that has none."""

    name = "table.plus"
    kept = Kept.IN_CONFIGURATION
    """Answers need no I/O, so `explain` and tests may ask it. Leave it out for a table that asks the network."""
    separator = Argument("SEPARATOR", v.String("SEPARATOR"), default="+", doc="What stands before the detail.")

    def lookup(self, key: str) -> tuple[str, ...]:
        local_part, at, domain = key.rpartition("@")
        user, found, _ = local_part.partition(self.separator)
        return (f"{user}{at}{domain}",) if user and found else ()
