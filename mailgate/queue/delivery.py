"""One message on its way into a queue: the delivery that a pipeline sees (`interfaces.ITwoPhaseDelivery`).

Accepting costs one write, made durable together with everybody else's. Where other deliveries of the same message can't be taken
back it is two: `prepare`, and `commit` for those recipients whose client hears 2yz.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import CancelledError
from zope.interface import implementer

from mailgate.interfaces import ITwoPhaseDelivery
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.net.waiting import spawn
from mailgate.queue.engine import Queue
from mailgate.queue.entry import Draft, Entry, Origin, Settled, Waiting
from mailgate.queue.store import Full, StoreError
from mailgate.smtp.reply import Reply

ACCEPTED = Reply(250, "2.1.5", "Recipient ok")
QUEUED = Reply(250, "2.0.0", "queued")
FULL = Reply(452, "4.3.1", "Insufficient system storage")
UNAVAILABLE = Reply(451, "4.3.0", "The queue can't take mail at present, try again later")


@implementer(ITwoPhaseDelivery)
class QueueDelivery:
    """See the module's docstring. ``target`` is the name of the target that entries are for."""

    __slots__ = ("_drafts", "_entries", "_envelope", "_now", "_queue", "_recipients", "_target")

    def __init__(self, queue: Queue, target: str, envelope: Envelope, now: float) -> None:
        self._queue = queue
        self._target = target
        self._envelope = envelope
        self._now = now
        self._recipients: list[Recipient] = []
        self._drafts: list[Draft] = []
        self._entries: tuple[Entry, ...] = ()

    def rcpt(self, recipient: Recipient) -> Reply:
        if self._queue.paused:
            return UNAVAILABLE
        self._recipients.append(recipient)
        return ACCEPTED

    def withdraw(self, recipients: Sequence[Recipient]) -> None:
        gone = {id(one) for one in recipients}
        self._recipients = [one for one in self._recipients if id(one) not in gone]

    async def send(self, message: Message) -> list[Reply]:
        try:
            await self._queue.accept([self._draft(message)])
        except StoreError as error:
            return [_refusal(error)] * len(self._recipients)
        return [QUEUED] * len(self._recipients)

    async def prepare(self, message: Message) -> list[Reply]:
        self._drafts = [self._draft(message)]
        try:
            self._entries = await self._queue.prepare(self._drafts)
        except StoreError as error:
            return [_refusal(error)] * len(self._recipients)
        return [QUEUED] * len(self._recipients)

    async def commit(self, recipients: Sequence[Recipient]) -> None:
        entries, self._entries = self._entries, ()
        kept = {id(one) for one in recipients}
        dropped = [number for number, one in enumerate(self._recipients) if id(one) not in kept]
        try:
            if not dropped:
                await self._queue.commit(entries, [draft.message for draft in self._drafts])
                return
            for entry in entries:
                rows = [Settled(row.number, None if row.number in dropped else row) for row in entry.recipients]
                await self._queue.resolve(entry, rows)
        except CancelledError:
            raise
        except BaseException:
            self._entries = entries
            raise

    async def keep(self, replies: Sequence[Reply]) -> list[Reply]:
        """What the next hop answered to each recipient of what was prepared: those who heard 2yz are forgotten, the others are
        the queue's. The replies for the client, all of them 2yz.

        :raises StoreError: nothing was kept."""
        entries, self._entries = self._entries, ()
        try:
            for entry in entries:
                await self._queue.keep_rest(entry, replies)
        except StoreError:
            self._entries = entries
            raise
        return [reply if reply.is_success else QUEUED for reply in replies]

    def abort(self) -> None:
        entries, self._entries = self._entries, ()
        if entries:
            # What fails here is forgotten at the next start: nobody heard 250 for it.
            spawn(self._queue.abort(entries)).addErrback(lambda failure: failure.trap(StoreError) and None)

    def _draft(self, message: Message) -> Draft:
        envelope = self._envelope
        attempt = envelope.attempt
        return Draft(
            message_id=envelope.id,
            target=self._target,
            sender=envelope.sender,
            parameters=envelope.parameters,
            origin=Origin.of(envelope.session, attempt.source),
            arrived=self._now,
            message=message,
            recipients=tuple(self._row(number, one) for number, one in enumerate(self._recipients)),
            priority=attempt.priority,
        )

    def _row(self, number: int, recipient: Recipient) -> Waiting:
        return Waiting(
            number,
            recipient.address,
            self._queue.destination_of(self._target, recipient.address),
            recipient.parameters,
            recipient.original,
            due=self._now,
        )


def _refusal(error: StoreError) -> Reply:
    return FULL if isinstance(error, Full) else UNAVAILABLE
