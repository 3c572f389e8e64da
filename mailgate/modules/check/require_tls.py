"""check.require_tls: no message over plain text."""

from __future__ import annotations

from mailgate.message.envelope import Envelope
from mailgate.modules.check._action import ActingCheck
from mailgate.pipeline.check import MessageCheck
from mailgate.pipeline.lookup import Kept
from mailgate.smtp.reply import Reply


class RequireTlsState(MessageCheck):
    def sender(self, envelope: Envelope) -> None:
        if envelope.session.tls is None:
            self.check.failed(envelope, "no TLS")


class RequireTls(ActingCheck):
    """Senders whose connection is not under TLS hear 550 5.7.10."""

    name = "check.require_tls"
    kept = Kept.IN_CONFIGURATION
    message_state = RequireTlsState
    refusal = Reply(550, "5.7.10", "Encryption needed, use STARTTLS")
