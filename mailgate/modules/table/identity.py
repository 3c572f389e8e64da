"""`table.identity`: every key is its own value."""

from __future__ import annotations

from zope.interface import implementer

from mailgate.interfaces import ITable
from mailgate.pipeline.lookup import Kept
from mailgate.registry import Module


@implementer(ITable)
class IdentityTable(Module):
    """Every key is its own value."""

    name = "table.identity"
    kept = Kept.IN_CONFIGURATION
    matches_all = True

    def lookup(self, key: str) -> tuple[str, ...]:
        return (key,)
