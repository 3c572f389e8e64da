"""`table.email_localpart`: the local part of an address."""

from __future__ import annotations

from zope.interface import implementer

from mailgate.interfaces import ITable
from mailgate.pipeline.lookup import Kept
from mailgate.registry import Module


@implementer(ITable)
class EmailLocalpartTable(Module):
    """The local part of a key that is an address; other keys have no match."""

    name = "table.email_localpart"
    kept = Kept.IN_CONFIGURATION

    def lookup(self, key: str) -> tuple[str, ...]:
        local_part, at, _ = key.rpartition("@")
        return (local_part,) if at else ()
