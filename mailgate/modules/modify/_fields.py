"""What modifiers of the header section share."""

from __future__ import annotations

from typing import Any, ClassVar

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.message.fields import NAME
from mailgate.message.message import Message
from mailgate.pipeline.modifiers import Modifier
from mailgate.registry import Argument

TRACE = frozenset({"received", "return-path"})
"""What says where a message has been: only those who have it may say so."""


class FieldModifier(Modifier):
    """A modifier of fields that the configuration names."""

    def check_name(self, report: Report, name: str, *, pattern: bool = False, trace: bool = False) -> None:
        bare = name.removesuffix("*") if pattern else name
        if not NAME.match(bare):
            report.error(self.span, f"`{name}` is no name of a field", code="E0794", hint="such as `X-Spam-Flag`")
        elif bare.lower() in TRACE and not trace:
            report.error(self.span, f"`{name}` says where a message has been: it is not for writing", code="E0794")

    def check_value(self, report: Report, value: str) -> None:
        if not value.isprintable():
            report.error(self.span, "a field has no control characters", code="E0794")


class OneField(FieldModifier):
    """A modifier that writes one field. ``written(section, name, value)`` is the header section with it."""

    written: ClassVar[Any]

    field = Argument("NAME", v.String("NAME"), doc="The field's name.")
    text = Argument("VALUE", v.String("VALUE"), doc="What it says; other than ASCII becomes encoded words (RFC 2047).")

    def configure(self, report: Report) -> None:
        self.check_name(report, self.field)
        self.check_value(report, self.text)

    def body(self, message: Message) -> Message:
        return message.with_header(self.written(message.header, self.field, self.text))
