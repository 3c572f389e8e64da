"""The word `submission`: mail from people and programs who log in (RFC 6409).

It is `smtp` with other defaults (nobody sends without having logged in) and with preparation: the header is completed and checked
before checks and modifiers see the message.
"""

from __future__ import annotations

from dataclasses import replace

from mailgate.adapters import Adapters
from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.inbound.listener import Listener
from mailgate.message.body import Spool
from mailgate.message.preparation import prepare
from mailgate.pipeline.settings import TransactionSettings


class SubmissionListener(Listener):
    """Accepts mail over ESMTP from clients that log in: Message-ID and Date are added when they are missing, and a message whose
    From, Sender, To, Cc or Reply-To is wrong is refused."""

    name = "submission"
    auth_required_by_default = True
    hide_client = Directive(
        "hide_client",
        v.Boolean(),
        default=False,
        doc="Leave the client's address and name out of Received, so that recipients don't learn where somebody sits.",
    )

    def transaction_settings(self, adapters: Adapters, spool: Spool) -> TransactionSettings:
        return replace(super().transaction_settings(adapters, spool), prepare=prepare, hide_client=self.hide_client)
