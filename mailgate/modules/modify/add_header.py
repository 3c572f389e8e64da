"""`modify.add_header`: one more field."""

from __future__ import annotations

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.message.fields import with_field
from mailgate.message.message import Message
from mailgate.modules.modify._fields import FieldModifier
from mailgate.registry import Argument


class AddHeader(FieldModifier):
    """Adds a field behind all others, whether or not there is one of that name."""

    name = "modify.add_header"
    field = Argument("NAME", v.String("NAME"), doc="The field's name.")
    text = Argument("VALUE", v.String("VALUE"), doc="What it says; other than ASCII becomes encoded words (RFC 2047).")

    def configure(self, report: Report) -> None:
        self.check_name(report, self.field)
        self.check_value(report, self.text)

    def body(self, message: Message) -> Message:
        return message.with_header(with_field(message.header, self.field, self.text))
