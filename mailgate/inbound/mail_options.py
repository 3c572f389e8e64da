"""What a listener offers with MAIL and RCPT beyond the usual, because a queue stands behind it: the directives."""

from __future__ import annotations

from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive
from mailgate.registry import Report


class MailOptions(Block):
    """A part of every listener."""

    reports = Directive(
        "reports",
        v.ReferenceTo("target"),
        doc="Offer DSN (RFC 3461): clients may say which reports they want. Those of success that no next hop makes are kept in"
        " this queue and leave by its `bounce`, or through the queue itself if it has none.",
    )

    def check_mail_options(self, report: Report) -> None:
        if self.reports is not None and getattr(self.reports, "ledger", None) is None:
            report.error(self.span_of("reports"), "`reports` needs a target.queue", code="E0815")

    def mail_option_settings(self) -> dict[str, Any]:
        """Of `smtp.settings.ServerSettings`."""
        return {"dsn": self.reports is not None}
