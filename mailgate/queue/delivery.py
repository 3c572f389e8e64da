"""One message on its way into a queue: the delivery that a pipeline sees (`interfaces.ITwoPhaseDelivery`).

Accepting costs one write, made durable together with everybody else's. Where other deliveries of the same message can't be taken
back it is two: `prepare`, and `commit` for those recipients whose client hears 2yz. The second one runs to its end also when that
client goes away meanwhile: what a disk has begun to write may stand there, and then somebody must deliver it.

The same two steps keep what others deliver: `keep` what a next hop has not taken (`on_split queue`), and `report` how it went to
whoever asked to hear of it (`reports`).
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError
from zope.interface import implementer

from mailgate.interfaces import ITwoPhaseDelivery
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.net.waiting import spawn, to_its_end
from mailgate.queue.engine import Queue
from mailgate.queue.entry import Draft, Entry, Fate, LastTry, Origin, Settled, Standing, Waiting, Way
from mailgate.queue.store import Full, StoreError
from mailgate.smtp.reply import Reply

ACCEPTED = Reply(250, "2.1.5", "Recipient ok")
QUEUED = Reply(250, "2.0.0", "queued")
FULL = Reply(452, "4.3.1", "Insufficient system storage")
UNAVAILABLE = Reply(451, "4.3.0", "The queue can't take mail at present, try again later")

HEAD_START = 600.0
"""Seconds of waiting that each step of priority is worth to those who wait in the store."""

_FATES = {"relayed": Fate.RELAYED, "delivered": Fate.DELIVERED, "expanded": Fate.EXPANDED}
"""By the action of a report."""


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
        kept = {id(one) for one in recipients}
        dropped = [number for number, one in enumerate(self._recipients) if id(one) not in kept]
        await self._finish(self._commit(self._entries, dropped))

    async def _commit(self, entries: Sequence[Entry], dropped: Sequence[int]) -> None:
        if not dropped:
            messages = [draft.message for draft in self._drafts]
            for message in messages:
                message.body.hold()  # the transaction may be over before this is
            try:
                await self._queue.commit(entries, messages)
            finally:
                for message in messages:
                    message.body.release()
            return
        for entry in entries:
            rows = [Settled(row.number, None if row.number in dropped else row) for row in entry.recipients]
            await self._queue.resolve(entry, rows)

    async def keep(self, replies: Sequence[Reply]) -> list[Reply]:
        """What the next hop answered to each recipient of what was prepared: those who heard 2yz are forgotten, the others are
        the queue's. The replies for the client, all of them 2yz.

        :raises StoreError: nothing was kept."""
        await self._finish(self._keep_rest(self._entries, replies))
        return [reply if reply.is_success else QUEUED for reply in replies]

    async def _keep_rest(self, entries: Sequence[Entry], replies: Sequence[Reply]) -> None:
        for entry in entries:
            await self._queue.keep_rest(entry, replies)

    async def report(self, endings: Sequence[Any]) -> None:
        """How it went for each recipient of what was prepared, which others have delivered: a `pipeline.notices.Ending`, or
        None where there is nothing to tell. The reports are owed from here on.

        :raises StoreError: they are not."""
        if any(ending is not None for ending in endings):
            await self._finish(self._owe(self._entries, endings))
        else:
            self.abort()

    async def _owe(self, entries: Sequence[Entry], endings: Sequence[Any]) -> None:
        for entry in entries:
            rows = [self._owed(row, ending) for row, ending in zip(entry.recipients, endings, strict=True)]
            await self._queue.resolve(entry, rows)

    def _owed(self, row: Waiting, ending: Any) -> Settled:
        if ending is None:
            return Settled(row.number, None)
        reply: Reply = ending.reply
        last = LastTry(self._now, reply.code, reply.enhanced, reply.text, remote=bool(ending.peer), way=Way(ending.peer))
        owed = replace(row, standing=Standing.OWED, fate=_FATES[ending.action], last=last)
        return Settled(row.number, owed, f"<{row.address}> {ending.action} {reply}")

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """The second phase. What fails leaves everything prepared, for `abort`; where nobody waits any more that is now."""
        entries, self._entries = self._entries, ()

        def late(error: BaseException) -> None:
            self._entries = entries
            self.abort()

        try:
            await to_its_end(work, late)
        except CancelledError:
            raise
        except BaseException:
            self._entries = entries
            raise

    def abort(self) -> None:
        entries, self._entries = self._entries, ()
        if entries:
            # What fails here is forgotten at the next start: nobody heard 250 for it.
            spawn(self._queue.abort(entries)).addErrback(lambda failure: failure.trap(StoreError) and None)

    def _draft(self, message: Message) -> Draft:
        envelope = self._envelope
        attempt, given = envelope.attempt, envelope.parameters
        priority = attempt.priority if given.priority is None else given.priority
        due = self._now
        if given.hold_for is not None or given.hold_until is not None:
            held = given.hold_until - self._now if given.hold_until is not None else float(given.hold_for or 0)
            due += max(held, 0.0)
            given = replace(given, hold_for=int(max(held, 0.0)), hold_until=None)
        elif priority > 0:
            due -= priority * HEAD_START
        return Draft(
            message_id=envelope.id,
            target=self._target,
            sender=envelope.sender,
            parameters=given,
            origin=Origin.of(envelope.session, attempt.source),
            arrived=self._now,
            message=message,
            recipients=tuple(self._row(number, one, due) for number, one in enumerate(self._recipients)),
            priority=priority,
        )

    def _row(self, number: int, recipient: Recipient, due: float) -> Waiting:
        return Waiting(
            number,
            recipient.address,
            self._queue.destination_of(self._target, recipient.address),
            recipient.parameters,
            recipient.original,
            due=due,
        )


def _refusal(error: StoreError) -> Reply:
    return FULL if isinstance(error, Full) else UNAVAILABLE
