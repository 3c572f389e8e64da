"""`modify.remove_header`: fields that do not go on."""

from __future__ import annotations

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.message.fields import matching
from mailgate.message.header import Header
from mailgate.message.message import Message
from mailgate.modules.modify._fields import FieldModifier
from mailgate.registry import Argument, ModuleContext


class RemoveHeader(FieldModifier):
    """Takes all fields of these names out, but for our own Received: without one a message may go round for ever."""

    name = "modify.remove_header"
    fields = Argument(
        "NAME",
        v.String("NAME"),
        rest=True,
        minimum=1,
        doc="Their names; `X-Spam-*` is every name that begins so. `Received` hides the way that a message has come.",
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._unwanted = matching(self.fields or ())

    def configure(self, report: Report) -> None:
        for name in self.fields:
            self.check_name(report, name, pattern=True, trace=True)

    def body(self, message: Message) -> Message:
        header = Header(message.header)
        own = next((one for one in header.fields if one.name == "received"), None)
        kept = header.without(lambda one: one is not own and self._unwanted(one))
        return message if len(kept) == len(message.header) else message.with_header(kept)
