"""`dmarc_report NAME { … }`: daily reports of what DMARC found, to the domains that ask for them (RFC 7489 7.2).

A `check.dmarc` whose `reports { send &NAME }` names it gives it its file. The work is in _dmarc_reporter.py and _dmarc_file.py;
here are the directives, and the life over a reload, where the new module takes the reporter over.
"""

from __future__ import annotations

from mailgate.config import values as v
from mailgate.config.schema import REQUIRED, Directive
from mailgate.modules._dmarc_reporter import DmarcReporter, Ways
from mailgate.modules._reporting import ReportingModule, ReportMail
from mailgate.registry import Module, ModuleContext


class DmarcReport(ReportingModule):
    """Daily reports of what DMARC found, to the domains that ask for them (aggregate reports)."""

    name = "dmarc_report"
    default_sender = "dmarc-reports"

    from_address = Directive(
        "from",
        v.String("ADDRESS"),
        default="",
        doc="Who sends the reports; its domain is the reporting one. dmarc-reports at the gateway's name by default.",
    )
    mail = Directive("mail", block=ReportMail, block_required=True, default=REQUIRED, doc="The pipeline that reports go through.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._files: dict[str, None] = {}
        self._reporter: DmarcReporter | None = None

    @property
    def reporter(self) -> DmarcReporter | None:
        return self._reporter

    def add_file(self, path: str) -> None:
        """Reports are made of what stands there."""
        self._files[path] = None

    def inherit_state(self, old: Module) -> None:
        if isinstance(old, DmarcReport):
            self._reporter = old._reporter

    async def start(self) -> None:
        adapters = self.context.adapters
        assert adapters is not None
        if adapters.worker != 1:  # the others' mail is in the same file
            return
        inherited = self._reporter is not None
        if self._reporter is None:
            self._reporter = DmarcReporter(adapters, self.log)
        ways = Ways(lambda: tuple(self._files), self.author(), self.context.hostname, str(self.sender), self.send)
        self._reporter.adopt(self, ways)
        if not inherited:
            await self._reporter.start()

    async def stop(self) -> None:
        if self._reporter is not None and self._reporter.is_owned_by(self):
            await self._reporter.stop()
