"""What modifiers of the header section share."""

from __future__ import annotations

from mailgate.config.diagnostics import Report
from mailgate.message.fields import NAME
from mailgate.pipeline.modifiers import Modifier

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
