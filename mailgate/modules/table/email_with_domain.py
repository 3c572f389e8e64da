"""`table.email_with_domain`: a local part made an address."""

from __future__ import annotations

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Argument
from mailgate.interfaces import ITable
from mailgate.pipeline.lookup import Kept, quoted_local_part
from mailgate.registry import Module
from mailgate.smtp.address import AddressError, parse_address


@implementer(ITable)
class EmailWithDomainTable(Module):
    """The key as a local part, at each of these domains."""

    name = "table.email_with_domain"
    kept = Kept.IN_CONFIGURATION
    domains = Argument("DOMAIN", v.String("DOMAIN"), rest=True, minimum=1, doc="One or more domains.", origin="maddy")

    def configure(self, report: Report) -> None:
        for domain in self.domains:
            try:
                parse_address(f"x@{domain}")
            except AddressError as error:
                report.error(self.span, f"`{domain}` is no domain: {error}", code="E0813")

    def lookup(self, key: str) -> tuple[str, ...]:
        return tuple(f"{quoted_local_part(key)}@{domain}" for domain in self.domains)
