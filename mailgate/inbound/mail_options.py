"""What a listener offers with MAIL and RCPT beyond the usual, because a queue stands behind it: the directives."""

from __future__ import annotations

from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive
from mailgate.interfaces import Finality
from mailgate.pipeline.reach import targets
from mailgate.pipeline.router import Router
from mailgate.registry import Report


class MailOptions(Block):
    """A part of every listener."""

    reports = Directive(
        "reports",
        v.ReferenceTo("target"),
        doc="Offer DSN (RFC 3461): clients may say which reports they want. Those of success that no next hop makes are kept in"
        " this queue and leave by its `bounce`, or through the queue itself if it has none.",
    )

    mt_priority = Directive(
        "mt_priority",
        v.Integer(minimum=0, maximum=9),
        doc="Offer MT-PRIORITY (RFC 6710): clients may give a message a priority, -9 to 9, of which this is the highest that is"
        " granted. All that the listener delivers to are queues.",
    )
    future_release = Directive(
        "future_release",
        v.Duration(minimum=1),
        doc="Offer FUTURERELEASE (RFC 4865): clients may have a message held, for at most so long. All that the listener delivers"
        " to are queues.",
    )
    deliver_by = Directive(
        "deliver_by",
        v.Duration(),
        doc="Offer DELIVERBY (RFC 2852): clients may say by when a message should be delivered, and want it returned, or"
        " to be told, when it is late. The least time that is taken for a return; 0 for any. All that the listener delivers to"
        " are queues.",
    )

    def check_queues(self, router: Router, report: Report) -> None:
        """What is promised for later can only be kept by a queue."""
        target = next((one for one in targets(router) if one.finality not in (Finality.TWO_PHASE, Finality.DISCARD)), None)
        for name in ("mt_priority", "future_release", "deliver_by"):
            if target is not None and self.span_of(name) is not None:
                report.error(
                    self.span_of(name),
                    f"`{name}` needs queues, and {target.label} is none",
                    code="E0819",
                    hint="put a target.queue in front of it",
                )

    def check_mail_options(self, report: Report) -> None:
        if self.reports is not None and getattr(self.reports, "ledger", None) is None:
            report.error(self.span_of("reports"), "`reports` needs a target.queue", code="E0815")

    def mail_option_settings(self) -> dict[str, Any]:
        """Of `smtp.settings.ServerSettings`."""
        return {
            "dsn": self.reports is not None,
            "max_priority": self.mt_priority,
            "max_hold": int(self.future_release or 0),
            "min_deliver_by": int(self.deliver_by) if self.deliver_by is not None else None,
        }
