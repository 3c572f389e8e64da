"""A target's `limits { … }`: how many messages go to it, in all, of a sender or user, to a domain (docs/behaviour.md, "Limits").

Who would be too many waits, at most ``lease_timeout`` where the line has no `wait`, and then hears 451 4.3.2. That is a limit of
ours and not an attempt: no endpoint was asked, none is to blame, and no attempt is recorded. A message is counted from its
first RCPT to its end; one to a domain once, however many recipients there. A target without limits has none of this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError
from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive
from mailgate.interfaces import IWholeDelivery
from mailgate.limits.limits import Exceeded, Gate, Lease, Limits, Scope, Subject
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.net.waiting import Wait
from mailgate.outbound.failure import ABORTED
from mailgate.registry import Report
from mailgate.smtp.address import rule_keys
from mailgate.smtp.reply import Reply

PER_MESSAGE = (Scope.ALL, Scope.USER, Scope.SOURCE)
PER_DOMAIN = (Scope.DESTINATION,)
LOCAL_LIMIT = Reply(451, "4.3.2", "Too much mail for the next hop at present, try again later")


@dataclass(frozen=True, slots=True)
class Gates:
    """Where a target asks its limits; None where no line is about what is judged there."""

    message: Gate | None
    domain: Gate | None


class LimitsDirective(Block):
    """A part of targets that go somewhere."""

    limits = Directive(
        "limits",
        v.BlockOrReference("limits"),
        doc="How many messages may go there: in all, of a user, from a domain of senders, to a domain of recipients.",
    )

    def check_limits(self, report: Report) -> None:
        if self.limits is not None:
            self.limits.check_place("target", {*PER_MESSAGE, *PER_DOMAIN}, self.span_of("limits"), report)

    def inherit_limits(self, old: LimitsDirective) -> None:
        if self.limits is not None:
            self.limits.inherit_inline(old.limits)

    def make_gates(self, label: str, patience: float) -> Gates | None:
        """None without limits. ``patience``: the wait where a line says none."""
        if self.limits is None:
            return None
        limits: Limits = self.limits.limits
        return Gates(
            limits.gate(PER_MESSAGE, label, patience=patience),
            limits.gate(PER_DOMAIN, label, patience=patience),
        )


@implementer(IWholeDelivery)
class LimitedDelivery:
    """A delivery that is let through by the limits of its target, or isn't."""

    __slots__ = ("_aborted", "_delivery", "_envelope", "_gates", "_leases", "_let_in", "_refused", "_waiting")

    def __init__(self, gates: Gates, envelope: Envelope, delivery: Any) -> None:
        self._gates = gates
        self._envelope = envelope
        self._delivery = delivery
        self._leases: list[Lease] = []
        self._let_in: set[str] = set()
        """What was let in: the message, as "", and domains of recipients."""
        self._refused: set[str] = set()
        """What was not, and is not to wait again."""
        self._waiting: Any = None
        self._aborted = False

    async def rcpt(self, recipient: Recipient) -> Reply:
        """See `IDelivery`."""
        refusal = await self._let_through(recipient)
        if refusal is not None:
            return refusal
        reply = self._delivery.rcpt(recipient)
        return reply if isinstance(reply, Reply) else await reply

    async def offer(self, recipients: Sequence[Recipient], message: Message) -> list[Reply]:
        """See `IWholeDelivery`."""
        refusals = [await self._let_through(recipient) for recipient in recipients]
        free = [recipient for recipient, refusal in zip(recipients, refusals, strict=True) if refusal is None]
        answers: Iterator[Reply] = iter(await self._delivery.offer(free, message) if free else ())
        return [next(answers) if refusal is None else refusal for refusal in refusals]

    async def _let_through(self, recipient: Recipient) -> Reply | None:
        """None: it may go; else what is said instead."""
        envelope = self._envelope
        source = Subject(user=envelope.session.auth_user.casefold(), source=rule_keys(envelope.sender)[1])
        if not await self._pass(self._gates.message, "", source):
            return ABORTED if self._aborted else LOCAL_LIMIT
        domain = rule_keys(recipient.address)[1]
        if domain and not await self._pass(self._gates.domain, domain, Subject(destination=domain)):
            return ABORTED if self._aborted else LOCAL_LIMIT
        return None

    def withdraw(self, recipients: Sequence[Recipient]) -> None:
        """See `IDelivery`."""
        self._delivery.withdraw(recipients)

    async def send(self, message: Message) -> list[Reply]:
        """See `IDelivery`."""
        try:
            replies: list[Reply] = await self._delivery.send(message)
            return replies
        finally:
            self._release()

    def abort(self) -> None:
        """See `IDelivery`."""
        self._aborted = True
        if isinstance(self._waiting, Wait):
            self._waiting.cancel()
        try:
            self._delivery.abort()
        finally:
            self._release()

    async def _pass(self, gate: Gate | None, what: str, subject: Subject) -> bool:
        if gate is None or what in self._let_in:
            return True
        if what in self._refused or self._aborted:
            return False
        answer = gate.acquire(subject)
        if isinstance(answer, Wait):
            self._waiting = answer
            try:
                answer = await answer
            except CancelledError:
                if self._aborted:
                    return False
                raise
        if isinstance(answer, Exceeded):
            self._refused.add(what)
            return False
        self._leases.append(answer)
        self._let_in.add(what)
        return True

    def _release(self) -> None:
        leases, self._leases = self._leases, []
        for lease in leases:
            lease.release()
