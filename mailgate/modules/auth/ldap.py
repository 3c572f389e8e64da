"""`auth.ldap`: passwords judged by an LDAP directory."""

from __future__ import annotations

from functools import partial
from typing import Any

from zope.interface import implementer

from mailgate.clients.ldap import fill, in_dn, in_filter
from mailgate.clients.ldap_link import Link, Search
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Directive
from mailgate.interfaces import Identity, IPasswordJudge, Proof
from mailgate.modules._ldap import LdapModule

_USER = ("username",)


@implementer(IPasswordJudge)
class LdapAuth(LdapModule):
    """A user is the one entry that the filter finds, or that of the DN template; the password is right if a bind with it is, or
    if an attribute compares equal. While no server can be asked, clients hear 454."""

    name = "auth.ldap"
    proofs = frozenset({Proof.PASSWORD})
    sends_passwords = True
    filter = Directive(
        "filter",
        v.String("FILTER"),
        default="",
        doc="Whose entry it is (RFC 4515); {username} stands for the name, escaped. Several entries: nobody's.",
        origin="maddy",
    )
    dn_template = Directive(
        "dn_template",
        v.String("DN"),
        default="",
        doc="The DN of a user, in place of a search; {username} stands for the name, escaped.",
        origin="maddy",
    )
    compare = Directive(
        "compare",
        v.String("ATTRIBUTE"),
        default="",
        doc="Compare the password with this attribute, with the rights of `bind`, in place of a bind as the user.",
    )
    user_attribute = Directive(
        "user_attribute",
        v.String("ATTRIBUTE"),
        default="",
        doc="The attribute with the user's name from then on, in logs and in auth_user; the name as it was given by default."
        " Directories compare names more loosely than `auth_user` is compared. Needs `filter`.",
    )

    def configure(self, report: Report) -> None:
        super().configure(report)
        if bool(self.filter) == bool(self.dn_template):
            text = "it needs `filter` or `dn_template`" if not self.filter else "`filter` and `dn_template` exclude each other"
            report.error(self.span, text, code="E0831")
            return
        if self.user_attribute and not self.filter:
            report.error(self.span_of("user_attribute"), "`user_attribute` needs `filter`", code="E0831")
        self.check_template(report, "filter" if self.filter else "dn_template", _USER)
        for directive in ("compare", "user_attribute"):
            if getattr(self, directive):
                self.check_attributes(report, directive, (getattr(self, directive),))

    def check_password(self, user: str, password: str, client_ip: str) -> Any:
        if (
            not user or not password
        ):  # a server may take a bind without a password for one of nobody, and say yes (RFC 4513 5.1.2)
            return None
        return self._check(user, password)

    async def _check(self, user: str, password: str) -> Identity | None:
        if self.dn_template:
            dn, identity = fill(self.dn_template, {"username": user}, in_dn), Identity(user)
        else:
            found = await self._find(user)
            if found is None:
                await self._fits(self.base_dn, password)  # so that it takes as long as a wrong password
                return None
            dn, identity = found
        return identity if await self._fits(dn, password) else None

    async def _find(self, user: str) -> tuple[str, Identity] | None:
        """The DN of the one entry, and who it is."""
        wanted = (self.user_attribute,) if self.user_attribute else ()
        filled = fill(self.filter, {"username": user}, in_filter)
        search = Search(self.base_dn, self.search_scope, filled, wanted, limit=2, is_capped=True)
        entries = await self.directory.ask(partial(Link.search, search=search))
        if len(entries) != 1:
            return None
        names = entries[0].attributes[self.user_attribute.lower()] if wanted else (user,)
        return (entries[0].dn, Identity(names[0])) if len(names) == 1 and names[0].isprintable() else None

    async def _fits(self, dn: str, password: str) -> bool:
        if self.compare:
            return await self.directory.ask(partial(Link.compare, dn=dn, attribute=self.compare, value=password))
        return bool(dn) and await self.directory.ask(partial(Link.login, dn=dn, password=password), apart=True)
