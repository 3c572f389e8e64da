"""`check.trap`: who writes to an address that nobody has is not listened to for a while."""

from __future__ import annotations

from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Argument, Directive
from mailgate.limits.buckets import Buckets
from mailgate.message.envelope import Envelope, Recipient
from mailgate.pipeline.check import Check, MessageCheck, SessionCheck
from mailgate.registry import ModuleContext
from mailgate.smtp.address import rule_keys
from mailgate.smtp.reply import Reply

CAUGHT = Reply(554, "5.7.1", "You have written to a trap")


class Connection(SessionCheck):
    """What is kept of one connection: whether its client has stepped into a trap."""

    caught = False

    def connection(self) -> Reply | None:
        return CAUGHT if self.check.remembers(self.session.client_ip) else None


class Message(MessageCheck):
    """What is kept of one message: nothing, here."""

    def sender(self, envelope: Envelope) -> Reply | None:
        return CAUGHT if self.of_session is not None and self.of_session.caught else None

    def rcpt(self, recipient: Recipient) -> Reply | None:
        if rule_keys(recipient.address)[0] not in self.check.keys:
            return None
        self.check.remember(self.envelope.session.client_ip)
        if self.of_session is not None:
            self.of_session.caught = True
        return CAUGHT


class Trap(Check):
    """Addresses that no honest client knows. At the top of a listener's block it also refuses connections of those who were
    caught before."""

    name = "check.trap"
    session_state = Connection
    message_state = Message

    addresses = Argument("ADDRESS", v.String("ADDRESS"), rest=True, minimum=1, doc="The traps.")
    time = Directive("time", v.Duration(minimum=1), default=3600.0, doc="How long a client is remembered.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self.keys = {address.casefold() for address in self.addresses}
        self._caught: Any = None

    async def start(self) -> None:
        # One token for each client that comes back after `time`: bounded, and nobody has to clear it.
        self._caught = Buckets(1, self.time, self._now)

    def remember(self, client: str) -> None:
        self._caught.take(client, self._now)

    def remembers(self, client: str) -> bool:
        return bool(self._caught.wait(client, self._now))

    @property
    def _now(self) -> float:
        """Never the system's clock: a test has its own."""
        assert self.context.adapters is not None
        seconds: float = self.context.adapters.reactor.seconds()
        return seconds
