"""What a transaction has open at its next hops, and for whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mailgate.message.envelope import Recipient
from mailgate.message.findings import NewSender
from mailgate.pipeline.answers import passed_up
from mailgate.pipeline.routing import Plan
from mailgate.smtp.reply import MailError, Reply


class Downstream:
    """One open downstream transaction and who takes part in it."""

    __slots__ = ("accepted", "body_modifiers", "delivery", "envelope", "marks", "replies", "target")

    def __init__(self, plan: Plan) -> None:
        self.target = plan.target
        self.envelope = plan.envelope
        self.body_modifiers = plan.body_modifiers
        self.marks = plan.marks
        self.delivery: Any = plan.target.open(plan.envelope)
        self.accepted: list[Recipient] = []
        self.replies: dict[Recipient, Reply] = {}

    def withdraw(self, recipient: Recipient) -> None:
        self.accepted.remove(recipient)
        self.delivery.withdraw([recipient])

    def is_from(self, sender: NewSender) -> bool:
        """Whether it is so already."""
        envelope = self.envelope
        return sender.address == envelope.sender and sender.parameters(envelope.parameters) == envelope.parameters

    async def begin_again(self, sender: NewSender) -> dict[Recipient, MailError]:
        """The same from another sender. Returns whom the next hop does not take any more."""
        self.delivery.abort()
        parameters = sender.parameters(self.envelope.parameters)
        self.envelope = replace(self.envelope, sender=sender.address, parameters=parameters)
        self.delivery = self.target.open(self.envelope)
        offered, self.accepted = self.accepted, []
        refused: dict[Recipient, MailError] = {}
        for recipient in offered:
            answer = self.delivery.rcpt(recipient)
            reply: Reply = answer if isinstance(answer, Reply) else await answer
            if reply.is_success:
                self.accepted.append(recipient)
            else:
                refused[recipient] = MailError(passed_up(reply), f"refused by {self.target.label}: {reply}")
        return refused


@dataclass(slots=True, eq=False)
class Accepted:
    """One recipient that heard 250: what the client said, and all it became."""

    name: str
    """The address as text."""
    plans: list[Plan]
    copies: list[Plan]
