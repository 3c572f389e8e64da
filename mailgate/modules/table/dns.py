"""`table.dns`: a zone that lists addresses or domains."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Argument, Directive
from mailgate.dns.answer import Status
from mailgate.dns.resolver import A, texts
from mailgate.interfaces import ITable
from mailgate.registry import Module
from mailgate.smtp.address import ascii_domain

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\Z")


class NoResolver(Exception):
    """Names can't be asked here."""


@implementer(ITable)
class DnsTable(Module):
    """Keys are domains, the domains of addresses, and IP addresses, which are asked for in reverse; values are the records of
    that name in the zone. A key that can't be a name has no match. While names can't be asked, clients hear 451."""

    name = "table.dns"
    zone = Argument("ZONE", v.String("ZONE"), doc="The zone, such as `list.example.org`.")
    kind = Directive("type", v.Choice("a", "txt"), default="a", doc="The records that are the values.")

    def configure(self, report: Report) -> None:
        if ascii_domain(self.zone) is None or "." not in self.zone:
            report.error(self.span, f"`{self.zone}` is no name of a zone", code="E0843", hint="such as `list.example.org`")

    def lookup(self, key: str) -> Any:
        name = _name_of(key)
        return self._ask(f"{name}.{self.zone}") if name else ()

    async def _ask(self, name: str) -> tuple[str, ...]:
        resolver = self.context.adapters.resolver if self.context.adapters is not None else None
        if resolver is None:
            raise NoResolver(f"{self.label}: there is no resolver")
        if self.kind == "txt":
            answer = await resolver.txt(name)
            return tuple(text.decode("utf-8", "replace") for text in texts(answer)) if answer.status is Status.FOUND else ()
        answer = await resolver.query(name, A)
        return tuple(record.address for record in answer.records) if answer.status is Status.FOUND else ()


def _name_of(key: str) -> str:
    """``2.0.0.127`` of 127.0.0.2, ``example.org`` of ``ann@example.org``; "" of what is neither."""
    try:
        reverse = ipaddress.ip_address(key).reverse_pointer
    except ValueError:
        name = ascii_domain(key.rpartition("@")[2]) or ""
        return name if _NAME.match(name) else ""
    return reverse.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
