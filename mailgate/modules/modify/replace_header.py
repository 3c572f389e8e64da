"""`modify.replace_header`: one field in place of all of its name."""

from __future__ import annotations

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.message.fields import with_one
from mailgate.message.message import Message
from mailgate.modules.modify._fields import FieldModifier
from mailgate.registry import Argument


class ReplaceHeader(FieldModifier):
    """Puts a field in the place of the first of its name and takes the others out; without one it is added."""

    name = "modify.replace_header"
    field = Argument("NAME", v.String("NAME"), doc="The field's name.")
    text = Argument("VALUE", v.String("VALUE"), doc="What it says; other than ASCII becomes encoded words (RFC 2047).")

    def configure(self, report: Report) -> None:
        self.check_name(report, self.field)
        self.check_value(report, self.text)

    def body(self, message: Message) -> Message:
        return message.with_header(with_one(message.header, self.field, self.text))
