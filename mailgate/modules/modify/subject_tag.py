"""`modify.subject_tag`: a word in front of the subject."""

from __future__ import annotations

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.message.fields import with_tagged_subject
from mailgate.message.message import Message
from mailgate.modules.modify._fields import FieldModifier
from mailgate.registry import Argument


class SubjectTag(FieldModifier):
    """Puts a text in front of the subject, unless it stands there already."""

    name = "modify.subject_tag"
    tag = Argument("TEXT", v.String("TEXT"), doc="Such as `[external]`; other than ASCII becomes encoded words (RFC 2047).")

    def configure(self, report: Report) -> None:
        self.check_value(report, self.tag)
        if not self.tag.strip():
            report.error(self.span, "an empty tag", code="E0794")

    def body(self, message: Message) -> Message:
        return message.with_header(with_tagged_subject(message.header, self.tag))
