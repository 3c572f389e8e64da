"""check.require_auth: no message from somebody who has not logged in."""

from __future__ import annotations

from mailgate.message.envelope import Envelope
from mailgate.modules.check._action import ActingCheck
from mailgate.pipeline.check import MessageCheck
from mailgate.pipeline.lookup import Kept
from mailgate.smtp.reply import Reply


class RequireAuthState(MessageCheck):
    def sender(self, envelope: Envelope) -> None:
        if not envelope.session.auth_user:
            self.check.failed(envelope, "no login")


class RequireAuth(ActingCheck):
    """Senders who have not logged in hear 530 5.7.0: for parts of a listener; for all of it there is `auth_required`."""

    name = "check.require_auth"
    kept = Kept.IN_CONFIGURATION
    message_state = RequireAuthState
    refusal = Reply(530, "5.7.0", "Authentication required")
