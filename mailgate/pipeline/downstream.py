"""What a transaction has open at its next hops, and for whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mailgate.message.body import Body
from mailgate.message.envelope import Recipient
from mailgate.message.findings import NewSender
from mailgate.message.message import Message
from mailgate.pipeline.answers import passed_up
from mailgate.pipeline.modifiers import envelope_for, modified
from mailgate.pipeline.routing import Plan
from mailgate.smtp.address import Address, rule_keys
from mailgate.smtp.reply import MailError, Reply


class Downstream:
    """One open downstream transaction and who takes part in it."""

    __slots__ = ("accepted", "body_modifiers", "delivery", "envelope", "made", "marks", "replies", "target")

    def __init__(self, plan: Plan) -> None:
        self.target = plan.target
        modifiers = plan.body_modifiers
        self.envelope = envelope = envelope_for(modifiers, plan.envelope) if modifiers else plan.envelope
        self.body_modifiers = modifiers
        self.marks = plan.marks
        self.delivery: Any = plan.target.open(envelope)
        self.made: list[Body] | None = None
        """What modifiers have put in the place of the body."""
        self.accepted: list[Recipient] = []
        self.replies: dict[Recipient, Reply] = {}

    async def modified(self, message: Message) -> Message:
        """The message as it goes to these recipients."""
        if self.made is None:
            self.made = []
        return await modified(self.body_modifiers, message, self.made)

    def release(self) -> None:
        """Nobody reads what was made for it any more."""
        for body in self.made or ():
            body.release()
        self.made = None

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

    def is_for(self, address: Address) -> bool:
        """Whether it brings the message there."""
        key = rule_keys(address)[0]
        return any(plan.is_to_deliver and rule_keys(plan.recipient.address)[0] == key for plan in self.plans)
