"""What `tls_report` and `dmarc_report` share: who reports, and the pipeline that reports by mail go through."""

from __future__ import annotations

from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.events import EventLog
from mailgate.outbound.report_mail import Author
from mailgate.pipeline.compile import NamedPipeline
from mailgate.pipeline.submission import Submission, submit
from mailgate.registry import Module, ModuleContext, Report
from mailgate.smtp.address import Address, AddressError, parse_address
from mailgate.smtp.parameters import MailParameters, RcptParameters


class ReportMail(NamedPipeline):
    """Where reports by mail go: a pipeline for mail from `from` to whom a domain names. It should sign them (`modify { dkim …
    }`): unsigned ones are not believed."""

    @property
    def title(self) -> str:
        return "mail"


class ReportingModule(Module):
    """``default_sender``: the local part of `from` where none is given."""

    default_sender = ""
    from_address: str
    mail: ReportMail | None

    organization = Directive(
        "organization", v.String("NAME"), default="", doc="Who reports, in the report; the gateway's host name by default."
    )
    contact = Directive(
        "contact", v.String("ADDRESS"), default="", doc="Whom to ask about a report; postmaster at the gateway's name by default."
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self.log = context.log or EventLog("mailgate.outbound")
        self._router: Any = None

    def configure(self, report: Report) -> None:
        if self.mail is not None:
            self._router = self.mail.router(report, self.context.local_domains)
        if self.from_address:
            try:
                parse_address(self.from_address)
            except AddressError as error:
                report.error(self.span_of("from"), f"`{self.from_address}` is no address: {error}", code="E0768")

    @property
    def sends_mail(self) -> bool:
        return self._router is not None

    @property
    def sender(self) -> Address:
        return parse_address(self.from_address or f"{self.default_sender}@{self.context.hostname}")

    def author(self, part: int = 1) -> Author:
        hostname = self.context.hostname
        return Author(self.organization or hostname, self.contact or f"postmaster@{hostname}", self.sender.domain, part)

    async def send(self, to: Address, content: bytes) -> str:
        """Why the pipeline did not take it; "" if it did. Nobody hears of a report that does not arrive."""
        adapters = self.context.adapters
        assert adapters is not None
        parameters, nobody = MailParameters(size=len(content)), RcptParameters(frozenset({"NEVER"}))
        submission = Submission(self.sender, to, content, "report", parameters, nobody)
        hostname, listener = self.context.hostname, f"{self.name} {self.context.name}"
        reply = await submit(submission, self._router, adapters, spool=self.context.spool, hostname=hostname, listener=listener)
        return "" if reply.is_success else str(reply)
