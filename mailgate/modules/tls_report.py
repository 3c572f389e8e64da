"""`tls_report NAME { … }`: daily reports of how TLS fared to the domains that ask for them (TLS-RPT, RFC 8460).

Targets that name it count their sessions in it. The work is in mailgate/outbound (tls_report.py, tls_counts.py, tls_reporter.py);
here are the directives, the pipeline that reports by mail go through, and the life over a reload, where the new module
takes over the counts.
"""

from __future__ import annotations

import os

from mailgate.clients.web import NoAuthority, authorities
from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.modules._reporting import ReportingModule, ReportMail
from mailgate.outbound.tls_counts import CountFile, TlsCounts
from mailgate.outbound.tls_report_post import Poster
from mailgate.outbound.tls_reporter import TlsReporter, Ways
from mailgate.registry import Module, ModuleContext, Report


class TlsReport(ReportingModule):
    """Daily reports of how TLS fared, to the domains that ask for them (TLS-RPT)."""

    name = "tls_report"
    default_sender = "tls-reports"

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
        super().configure(report)
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
            self._reporter = TlsReporter(CountFile(path), adapters, self.log)
        self._reporter.adopt(self, self._ways())
        if not inherited:
            await self._reporter.start()

    async def stop(self) -> None:
        if self._reporter is not None and self._reporter.is_owned_by(self):
            await self._reporter.stop()

    def _ways(self) -> Ways:
        adapters = self.context.adapters
        assert adapters is not None
        poster = Poster(adapters.reactor, adapters.resolver, self.root_ca, allow_private=self.allow_private)
        return Ways(self.author(adapters.worker), str(self.sender), poster.post, self.send if self.sends_mail else None)
