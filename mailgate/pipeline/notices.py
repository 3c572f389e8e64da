"""Reports of success that a client asked for and that no next hop will make (RFC 3461 5.2): `reports &queue` of a listener.

The gateway answers what it hears, so a failure is always the client's to tell. A success is not: whoever asked for
NOTIFY=SUCCESS wants to hear of it, and where the next hop does not do DSN that falls to us:

    relayed     taken by a next hop that sends no reports (RFC 3461 5.2.2)
    delivered   taken by a target that answers for each recipient: over LMTP, or into a maildir
    expanded    one address became several; they are not asked to report success of their own (5.2.7.3)
    nothing     the next hop does DSN: what was asked for went along, and reports are its duty; or a queue has taken it, and
                reports for itself; or it was discarded

What is owed is prepared durably before anything is sent and let go when the client's answer is known, so a message whose reports
can't be kept is refused (451, 452) while that is still true. The null reverse-path hears nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.events import Event, EventLog
from mailgate.interfaces import Finality
from mailgate.message.body import Body, Spool
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.outbound.record import AttemptRecord
from mailgate.pipeline.routing import Plan
from mailgate.smtp.parameters import RcptParameters
from mailgate.smtp.reply import MailError, Reply

SUCCESS, NEVER = "SUCCESS", "NEVER"
NOT_KEPT = Reply(451, "4.3.0", "Reports could not be kept")

_log = EventLog("mailgate.pipeline")


@dataclass(frozen=True, slots=True)
class Ending:
    """How it went for a recipient: ``action`` as RFC 3464 2.3.3 calls it, what the next hop said, and which one it was."""

    action: str
    reply: Reply
    peer: str = ""


def quiet(plans: Sequence[Plan]) -> bool:
    """One recipient became these: whether it is several addresses. They are asked for everything but reports of success."""
    if len({plan.recipient.address for plan in plans}) < 2:
        return False
    for plan in plans:
        one = plan.recipient
        if SUCCESS in one.parameters.notify:
            plan.recipient = Recipient(one.address, without_success(one.parameters), one.original)
    return True


def without_success(parameters: RcptParameters) -> RcptParameters:
    return replace(parameters, notify=parameters.notify - {SUCCESS} or frozenset({NEVER}))


class _Asked:
    """One recipient whose sender wants to hear of its success, and what it became."""

    __slots__ = ("expanded", "name", "plan", "recipient")

    def __init__(self, name: object, recipient: Recipient, plan: Plan, *, expanded: bool) -> None:
        self.name = name
        self.recipient = recipient
        self.plan = plan
        self.expanded = expanded


class Notices:
    """Of one message. ``ledger(envelope)`` opens what keeps them: `queue.delivery.QueueDelivery`."""

    __slots__ = ("_asked", "_entry", "_envelope", "_ledger", "_postponed", "_records")

    def __init__(self, ledger: Callable[[Envelope], Any], envelope: Envelope) -> None:
        self._ledger = ledger
        self._envelope = envelope
        self._asked: list[_Asked] = []
        self._records: list[AttemptRecord] = []
        self._entry: Any = None
        self._postponed: frozenset[Recipient] = frozenset()

    def add(self, name: object, recipient: Recipient, plans: Sequence[Plan], *, expanded: bool) -> None:
        """A recipient was accepted; ``name`` finds its answer again in `settle`."""
        if self._envelope.sender.is_null or SUCCESS not in recipient.parameters.notify:
            return
        if expanded:
            self._asked.append(_Asked(name, recipient, plans[0], expanded=True))
            return
        plan = next((one for one in plans if one.is_irrevocable and one.target is not None), None)
        if plan is not None:
            plan.envelope.on_attempt = self._records.append
            self._asked.append(_Asked(name, plan.recipient, plan, expanded=False))

    async def prepare(self, message: Message, spool: Spool) -> None:
        """Make durable what may be owed. :raises MailError: that is not possible now."""
        if not self._asked:
            return
        self._entry = self._ledger(self._envelope)
        for one in self._asked:
            reply = self._entry.rcpt(one.recipient)
            if not reply.is_success:
                raise MailError(reply, "reports could not be kept")
        empty = Body(spool)
        try:
            empty.finish()
            replies = await self._entry.prepare(Message(message.header, empty))
        finally:
            empty.release()
        refused = next((reply for reply in replies if not reply.is_success), None)
        if refused is not None:
            raise MailError(refused, "reports could not be kept")

    def postpone(self, recipients: frozenset[Recipient]) -> None:
        """`on_split queue` has kept these: how they end, their queue will know."""
        self._postponed = recipients

    async def settle(self, taken: Callable[[object], bool]) -> None:
        """The answers are known; ``taken`` tells of each name whether its client hears 2yz."""
        if self._entry is None:
            return
        entry, self._entry = self._entry, None
        endings = [self._ending(one) if taken(one.name) else None for one in self._asked]
        try:
            await entry.report(endings)
        except CancelledError:
            raise
        except Exception as error:  # others have the message: it must not be sent again for want of a report
            _log.warn(
                Event.UNDELIVERABLE,
                message=self._envelope.id,
                to=f"<{self._envelope.sender}>",
                reason=f"its reports of success could not be kept: {type(error).__name__}: {error}",
                reply=NOT_KEPT,
            )

    def abort(self) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.abort()

    def _ending(self, one: _Asked) -> Ending | None:
        plan = one.plan
        if one.expanded:
            return Ending("expanded", Reply(250, "2.0.0", ""))
        reply = plan.delivery.replies.get(plan.recipient) if plan.delivery is not None else None
        if reply is None or not reply.is_success or plan.recipient in self._postponed:
            return None
        record = self._record(plan, str(plan.recipient.address))
        if record is not None and record.passed_on:
            return None
        action = "delivered" if plan.target.finality is Finality.RECIPIENT else "relayed"
        return Ending(action, reply, (record.mx or record.endpoint) if record is not None else "")

    def _record(self, plan: Plan, address: str) -> AttemptRecord | None:
        """The try that took it, where the target tells."""
        for record in reversed(self._records):
            if record.target == plan.target.label and any(to == address and answer.is_success for to, answer in record.results):
                return record
        return None
