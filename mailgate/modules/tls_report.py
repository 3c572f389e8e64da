"""`tls_report NAME { … }`: daily reports of how TLS fared to the domains that ask for them (TLS-RPT, RFC 8460).

Targets that name it count their sessions in it. The work is in mailgate/outbound (tls_report.py, tls_counts.py, tls_reporter.py);
here are the directives, the pipeline that reports by mail go through, and the life over a reload, where the new module
takes over the counts.
"""

from __future__ import annotations

import os
from typing import Any

from mailgate.clients.web import NoAuthority, authorities
from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.events import EventLog
from mailgate.outbound.tls_counts import CountFile, TlsCounts
from mailgate.outbound.tls_report import Author
from mailgate.outbound.tls_report_post import Poster
from mailgate.outbound.tls_reporter import TlsReporter, Ways
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


class TlsReport(Module):
    """Daily reports of how TLS fared, to the domains that ask for them (TLS-RPT)."""

    name = "tls_report"

    organization = Directive(
        "organization", v.String("NAME"), default="", doc="Who reports, in the report; the gateway's host name by default."
    )
    contact = Directive(
        "contact", v.String("ADDRESS"), default="", doc="Whom to ask about a report; postmaster at the gateway's name by default."
    )
    from_address = Directive(
        "from",
        v.String("ADDRESS"),
        default="",
        doc="Who sends reports by mail; its domain is the reporting one. tls-reports at the gateway's name by default.",
    )
    mail = Directive(
        "mail",
        block=ReportMail,
        block_required=True,
        doc="The pipeline for reports by mail. Without it reports go by HTTPS only, to the domains that offer that.",
    )
    root_ca = Directive(
        "root_ca",
        v.List(v.Path()),
        default=(),
        doc="Authorities for the hosts that reports are posted to, in place of the system's; for laboratories.",
    )
    allow_private = Directive(
        "allow_private",
        v.Boolean(),
        default=False,
        doc="Post to hosts at addresses that are not public, too: a domain says where its reports go. For laboratories.",
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._log = context.log or EventLog("mailgate.outbound")
        self._router: Any = None
        self._reporter: TlsReporter | None = None

    @property
    def counts(self) -> TlsCounts:
        """Where sessions are counted, after `start`."""
        assert self._reporter is not None, "a tls_report that was not started"
        return self._reporter.counts

    @property
    def reporter(self) -> TlsReporter | None:
        return self._reporter

    # Life

    def configure(self, report: Report) -> None:
        if self.mail is not None:
            self._router = self.mail.router(report, self.context.local_domains)
        if self.from_address:
            try:
                parse_address(self.from_address)
            except AddressError as error:
                report.error(self.span_of("from"), f"`{self.from_address}` is no address: {error}", code="E0768")
        try:
            authorities(self.root_ca)
        except NoAuthority as error:
            report.error(self.span_of("root_ca"), str(error), code="E0720")

    def inherit_state(self, old: Module) -> None:
        if isinstance(old, TlsReport):
            self._reporter = old._reporter

    async def start(self) -> None:
        """:raises OSError: the counts can't be kept."""
        adapters = self.context.adapters
        assert adapters is not None
        inherited = self._reporter is not None
        if self._reporter is None:
            part = "" if adapters.worker == 1 else f".{adapters.worker}"
            path = os.path.join(self.context.state_dir, "tls-report", f"{self.context.name}{part}.sqlite")
            self._reporter = TlsReporter(CountFile(path), adapters, self._log)
        self._reporter.adopt(self, self._ways())
        if not inherited:
            await self._reporter.start()

    async def stop(self) -> None:
        if self._reporter is not None and self._reporter.is_owned_by(self):
            await self._reporter.stop()

    # Ways

    @property
    def sender(self) -> Address:
        return parse_address(self.from_address or f"tls-reports@{self.context.hostname}")

    def _ways(self) -> Ways:
        adapters = self.context.adapters
        assert adapters is not None
        hostname = self.context.hostname
        contact = self.contact or f"postmaster@{hostname}"
        author = Author(self.organization or hostname, contact, self.sender.domain, adapters.worker)
        poster = Poster(adapters.reactor, adapters.resolver, self.root_ca, allow_private=self.allow_private)
        return Ways(author, str(self.sender), poster.post, self._send if self._router is not None else None)

    async def _send(self, to: Address, content: bytes) -> str:
        """Why the pipeline did not take it; "" if it did. Nobody hears of a report that does not arrive."""
        adapters = self.context.adapters
        assert adapters is not None
        parameters, nobody = MailParameters(size=len(content)), RcptParameters(frozenset({"NEVER"}))
        submission = Submission(self.sender, to, content, "report", parameters, nobody)
        hostname, listener = self.context.hostname, f"tls_report {self.context.name}"
        reply = await submit(submission, self._router, adapters, spool=self.context.spool, hostname=hostname, listener=listener)
        return "" if reply.is_success else str(reply)
