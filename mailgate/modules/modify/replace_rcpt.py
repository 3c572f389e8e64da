"""`modify.replace_rcpt`: aliases."""

from __future__ import annotations

from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Argument
from mailgate.message.envelope import Recipient
from mailgate.modules.modify._replace import Replacing, replacements
from mailgate.net.waiting import begin
from mailgate.smtp.address import Address


class ReplaceRcpt(Replacing):
    """Puts what a table has for a recipient in its place: one address or several."""

    name = "modify.replace_rcpt"
    table = Argument(
        "TABLE",
        v.ModuleLine("table"),
        doc="Asked for the full address, then for the local part alone; a value without a domain keeps the recipient's.",
        origin="maddy",
    )

    def rcpt(self, recipient: Recipient) -> Any:
        return begin(self._rcpt(recipient))

    async def _rcpt(self, recipient: Recipient) -> tuple[Address, ...]:
        return await replacements(self.table, recipient.address) or (recipient.address,)
