"""`modify.replace_sender`: another reverse-path."""

from __future__ import annotations

from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Argument
from mailgate.message.envelope import Envelope
from mailgate.modules.modify._replace import Replacing, replacements
from mailgate.net.waiting import begin
from mailgate.pipeline.router import place
from mailgate.smtp.address import Address
from mailgate.smtp.reply import TemporaryError


class ReplaceSender(Replacing):
    """Puts what a table has for the sender in its place; the null sender stays null."""

    name = "modify.replace_sender"
    table = Argument(
        "TABLE",
        v.ModuleLine("table"),
        doc="Asked for the full address, then for the local part alone; one value, `<>` makes the sender null.",
        origin="maddy",
    )

    def sender(self, envelope: Envelope) -> Any:
        # A report that got another sender could be answered by a report: RFC 5321 4.5.5.
        return envelope.sender if envelope.sender.is_null else begin(self._sender(envelope.sender))

    async def _sender(self, sender: Address) -> Address:
        found = await replacements(self.table, sender, null_allowed=True)
        if len(found) > 1:
            reason = f"{len(found)} values for the sender {sender}"
            raise TemporaryError("Bad entry for this sender", enhanced="4.3.5", reason=reason, where=place(self.span))
        return found[0] if found else sender
