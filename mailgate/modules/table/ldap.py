"""`table.ldap`: entries of an LDAP directory, found by a filter."""

from __future__ import annotations

from functools import partial

from zope.interface import implementer

from mailgate.clients.ldap import PLACEHOLDER, fill, in_filter
from mailgate.clients.ldap_link import Link, Search
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import REQUIRED, Directive
from mailgate.interfaces import ITable
from mailgate.modules._asked import KEY_PARTS, AskedTable, parts_of
from mailgate.modules._ldap import LdapModule
from mailgate.registry import ModuleContext


@implementer(ITable)
class LdapTable(AskedTable, LdapModule):
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

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self.wanted_parts = frozenset(PLACEHOLDER.findall(self.filter or ""))

    def configure(self, report: Report) -> None:
        super().configure(report)
        self.check_template(report, "filter", KEY_PARTS)
        self.check_attributes(report, "attribute", self.attributes)

    async def ask(self, key: str) -> tuple[str, ...]:
        filled = fill(self.filter, parts_of(key), in_filter)
        search = Search(self.base_dn, self.search_scope, filled, self.attributes)
        entries = await self.directory.ask(partial(Link.search, search=search))
        values = {value: None for entry in entries for name in self.attributes for value in entry.attributes[name.lower()]}
        return tuple(values) if self.attributes or not entries else ("",)
