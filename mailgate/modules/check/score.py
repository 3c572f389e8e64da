"""check.score: what becomes of a message by the sum of the scores that its checks give it.

It is asked when all checks of the content have answered, once for each set of checks that recipients have passed, so that what a
check in a block for recipients counts is counted for these alone. At `reject_threshold` the message is refused, at
`quarantine_threshold` it passes with X-Mailgate-Quarantine, at `tag_threshold` with X-Mailgate-Tag. Scores below zero count for
a sender.
"""

from __future__ import annotations

from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.modules.check._action import OptionalReply
from mailgate.pipeline.check import Check, MessageCheck
from mailgate.pipeline.content import Sum
from mailgate.pipeline.lookup import Kept
from mailgate.registry import Report
from mailgate.smtp.reply import Reply

REFUSAL = Reply(550, "5.7.1", "Message looks like spam")


class State(MessageCheck):
    def verdict(self, found: Sum) -> Any:
        return self.check.judge(found)


class Score(Check):
    """The scores of all checks of a message (`on_fail score`, and what filters count) add up; here is said what they lead to."""

    name = "check.score"
    kept = Kept.IN_CONFIGURATION
    message_state = State
    marks = True

    reject_threshold = Directive(
        "reject_threshold",
        v.Args(v.Float(), OptionalReply()),
        doc="From this sum on a message is refused, with 550 5.7.1 if no other reply is given.",
        origin="maddy",
    )
    quarantine_threshold = Directive(
        "quarantine_threshold", v.Float(), doc="From this sum on it passes with X-Mailgate-Quarantine.", origin="maddy"
    )
    tag_threshold = Directive(
        "tag_threshold", v.Float(), doc="From this sum on it passes with X-Mailgate-Tag: score.", origin="mailgate"
    )

    def configure(self, report: Report) -> None:
        if self.reject_threshold is None and self.quarantine_threshold is None and self.tag_threshold is None:
            report.error(self.span, "no threshold: nothing would come of any score", code="E0796")

    def judge(self, found: Sum) -> Reply | None:
        score = found.score
        if self.reject_threshold is not None and score >= self.reject_threshold[0]:
            reply: Reply | None = self.reject_threshold[1]
            return reply or REFUSAL
        if self.quarantine_threshold is not None and score >= self.quarantine_threshold:
            found.quarantine()
        if self.tag_threshold is not None and score >= self.tag_threshold:
            found.tag("score")
        return None
