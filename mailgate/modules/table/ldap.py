"""`table.ldap`: entries of an LDAP directory, found by a filter."""

from __future__ import annotations

from functools import partial
from typing import Any

from zope.interface import implementer

from mailgate.clients.cache import Cache
from mailgate.clients.ldap import fill, in_filter
from mailgate.clients.ldap_link import Link, Search
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import REQUIRED, Directive
from mailgate.interfaces import ITable
from mailgate.modules._ldap import LdapModule
from mailgate.registry import ModuleContext

_OF_ADDRESSES = ("{localpart}", "{domain}")


@implementer(ITable)
class LdapTable(LdapModule):
    """Values of the attributes of all entries that the filter finds. While no server can be asked, clients hear 451."""

    name = "table.ldap"
    filter = Directive(
        "filter",
        v.String("FILTER"),
        default=REQUIRED,
        doc="Which entries are meant (RFC 4515). {key} stands for the key, {localpart} and {domain} for its parts: a key that"
        " is no address has no match then. What they stand for is escaped.",
    )
    attributes = Directive(
        "attribute",
        v.Strings("NAME"),
        default=(),
        doc="The attributes whose values are the table's; an entry without any of them is no match. Without this line every"
        " entry is a match, with an empty value.",
    )
    cache = Directive("cache", v.Duration(maximum=86400), default=60.0, doc="How long values are kept; 0: not at all.")
    negative_cache = Directive(
        "negative_cache", v.Duration(maximum=86400), default=10.0, doc="How long it is kept that a key has no match."
    )
    cache_size = Directive("cache_size", v.Integer(minimum=1), default=10_000, doc="Keys that are kept at most.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._answers: Cache[tuple[str, ...]] | None = None
        self._needs_address = any(name in (self.filter or "") for name in _OF_ADDRESSES)

    def configure(self, report: Report) -> None:
        super().configure(report)
        self.check_template(report, "filter", ("key", "localpart", "domain"))
        self.check_attributes(report, "attribute", self.attributes)

    def lookup(self, key: str) -> Any:
        localpart, at, domain = key.rpartition("@")
        if not key or (self._needs_address and not (at and localpart and domain)):
            return ()
        return self._cached().get(key, self._ask)

    def _cached(self) -> Cache[tuple[str, ...]]:
        if self._answers is None:
            assert self.context.adapters is not None
            seconds = self.context.adapters.reactor.seconds
            self._answers = Cache(seconds, size=self.cache_size, found=self.cache, missing=self.negative_cache)
        return self._answers

    async def _ask(self, key: str) -> tuple[str, ...]:
        localpart, _, domain = key.rpartition("@")
        filled = fill(self.filter, {"key": key, "localpart": localpart, "domain": domain}, in_filter)
        search = Search(self.base_dn, self.search_scope, filled, self.attributes)
        entries = await self.directory.ask(partial(Link.search, search=search))
        values = {value: None for entry in entries for name in self.attributes for value in entry.attributes[name.lower()]}
        return tuple(values) if self.attributes or not entries else ("",)
