"""One attempt at the recipients of a lease: a delivery like any other, with an intent written before it can become irrevocable.

The target sees what the client's transaction would have shown it: the envelope, the session the message came by, and where the
message stands in its life (`message.envelope.Attempt`), so that dynamic settings can tell a first attempt from a fifth. Whatever
goes wrong here is a reply; only the store's own trouble, and a cancellation, come out as exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.interfaces import Finality
from mailgate.message.envelope import Attempt, Envelope, Recipient, Session
from mailgate.message.header import tls_not_required
from mailgate.message.message import Message
from mailgate.outbound.failure import ABORTED, NO_LONGER_ACCEPTED, UNKNOWN_OUTCOME, Kind, kind_of
from mailgate.outbound.limited import LOCAL_LIMIT
from mailgate.outbound.record import AttemptRecord
from mailgate.queue.entry import NO_WAY, Entry, Fate, LastTry, Lease, Origin, Waiting, Way
from mailgate.queue.schedule import RETRY_AT_ONCE, Class, class_of, is_about_the_way
from mailgate.queue.store import StoreError
from mailgate.smtp.client import Step
from mailgate.smtp.reply import Reply, reply_for
from mailgate.values import value

TOO_LATE = Reply(554, "5.4.7", "Delivery time expired")
"""What was to be returned when it is late (RFC 2852 4.2.2)."""
NO_ANSWER = Reply(451, "4.3.0", "No answer of the next hop")

_OURS = frozenset(id(reply) for reply in (NO_ANSWER, UNKNOWN_OUTCOME, NO_LONGER_ACCEPTED, ABORTED))
"""What we say in the place of a next hop: the very objects, since a next hop that is one of these may use the same words."""
_ABOUT_THE_MESSAGE = frozenset(map(str, (Step.MAIL, Step.RCPT, Step.DATA, Step.BODY, Step.CHUNK, Step.DOT)))


@value
class Outcome:
    """What one recipient heard."""

    reply: Reply
    way: Way = NO_WAY
    remote: bool = True
    """The reply is a next hop's."""
    unknown: bool = False
    """It may have been delivered: the answer to the final dot is missing."""
    fate: Fate | None = None
    reports_itself: bool = False
    """The next hop took over the duty to report success (RFC 3461 5.2.2)."""

    @property
    def kind(self) -> Class | None:
        """The class of a temporary failure."""
        return None if self.reply.is_success or self.reply.is_permanent else class_of(self.reply)

    @property
    def blames_the_way(self) -> bool:
        """Others who wait for this destination need not be tried now."""
        return is_about_the_way(self.reply, remote=self.remote)

    @property
    def heard(self) -> bool:
        """Somebody at the destination answered."""
        return self.remote

    def last(self, now: float) -> LastTry:
        kind = self.kind
        reply = self.reply
        return LastTry(now, reply.code, reply.enhanced, reply.text, kind.value if kind else "", self.remote, self.way)


_AT_ONCE = Outcome(RETRY_AT_ONCE, remote=False)


async def try_lease(
    store: Any, lease: Lease, message: Message, target: Any, expire: float, adapters: Adapters, log: EventLog
) -> list[Outcome]:
    """One outcome per recipient of the lease, in its order.

    :raises StoreError: nothing was delivered, because the intent could not be written down."""
    entry = lease.entry
    by = entry.parameters.by
    if by is not None and by.returns and adapters.wall_time() >= entry.arrived + by.seconds:
        return [Outcome(TOO_LATE, remote=False)] * len(lease.recipients)
    envelope = _envelope(entry, lease.recipients, message, expire, adapters.wall_time())
    if any(row.in_doubt for row in lease.recipients):
        log.warn(
            Event.POSSIBLE_DUPLICATE,
            message=entry.message_id,
            target=target.label,
            recipients=", ".join(f"<{row.address}>" for row in lease.recipients if row.in_doubt),
            reason="an earlier delivery has no recorded answer",
        )
    records: list[AttemptRecord] = []
    envelope.on_attempt = records.append
    delivery: Any = None
    replies: dict[int, Reply] = {}
    try:
        delivery = target.open(envelope)
        accepted = await _offer(delivery, envelope, lease.recipients, message, replies)
        if accepted:
            if not lease.intended or adapters.reactor.seconds() >= lease.until:
                await store.intend(replace(lease, recipients=tuple(accepted)))
            answers = delivery.send(message)
            answers = answers if isinstance(answers, list) else await answers
            replies.update((row.number, answer) for row, answer in zip(accepted, answers, strict=False))
            for row in accepted[len(answers) :]:
                replies[row.number] = NO_ANSWER
        else:
            delivery.abort()
    except BaseException as error:
        if delivery is not None:
            delivery.abort()
        if isinstance(error, CancelledError) or not isinstance(error, Exception) or isinstance(error, StoreError):
            raise
        incident = f"{adapters.random.getrandbits(32):08x}"
        log.incident(incident, error, message=entry.message_id, target=target.label)
        answer = reply_for(error, incident)
        replies = {row.number: replies.get(row.number, answer) for row in lease.recipients}
        replies = {number: answer if reply.is_success else reply for number, reply in replies.items()}
    outcomes = [_outcome(row, replies.get(row.number, NO_ANSWER), records, target) for row in lease.recipients]
    if len(outcomes) > 1 and any(one.reply.is_success for one in outcomes):
        return [_AT_ONCE if one.remote and _is_one_too_many(one.reply) else one for one in outcomes]
    return outcomes


def _is_one_too_many(reply: Reply) -> bool:
    """Of a recipient beyond those that a host takes in one transaction. Where it took some, the others go in the next one
    (RFC 5321 4.5.3.1.10)."""
    return reply.enhanced == "4.5.3" or (reply.code == 452 and reply.enhanced == "4.0.0")


async def _offer(
    delivery: Any, envelope: Envelope, rows: Sequence[Waiting], message: Message, replies: dict[int, Reply]
) -> list[Waiting]:
    """Who was accepted. All at once where the target can do that: one wait for the next hop, however many there are."""
    recipients = [Recipient(row.address, row.parameters, row.original) for row in rows]
    offer = getattr(delivery, "offer", None)
    answers = await offer(recipients, message) if offer is not None else None
    accepted = []
    for number, (row, recipient) in enumerate(zip(rows, recipients, strict=True)):
        if answers is None:
            answer = delivery.rcpt(recipient)
            reply = answer if isinstance(answer, Reply) else await answer
        else:
            reply = answers[number]
        replies[row.number] = reply
        if reply.is_success:
            accepted.append(row)
            envelope.recipients.append(recipient)
    return accepted


def _envelope(entry: Entry, rows: Sequence[Waiting], message: Message, expire: float, now: float) -> Envelope:
    """What the target is opened with: of several recipients the one that was tried least speaks for all."""
    row = rows[0] if len(rows) == 1 else min(rows, key=lambda one: one.retries)
    parameters = entry.parameters if entry.parameters.size == message.size else replace(entry.parameters, size=message.size)
    if parameters.by is not None:
        left = parameters.by.seconds - int(max(now - entry.arrived, 0.0))
        parameters = replace(parameters, by=replace(parameters.by, seconds=left))
    attempt = attempt_of(entry, row, now, expire)
    free = tls_not_required(message.header)
    session = session_of(entry.origin)
    return Envelope(entry.message_id, entry.sender, session, parameters, attempt=attempt, tls_required_no=free)


def attempt_of(entry: Entry, row: Waiting, now: float, expire: float | None) -> Attempt:
    """Where a recipient stands, for dynamic settings; ``expire`` is the age at which it will be given up, if that is known."""
    last = row.last
    age = max(now - entry.arrived, 0.0)
    return Attempt(
        retry_num=row.retries,
        notify_num=row.notified,
        expires_in=None if expire is None else max(expire - age, 0.0),
        queue_age=age,
        last_status="" if last is None else "unknown" if row.in_doubt else "temporary",
        last_error=last.kind if last is not None else "",
        last_code=last.code if last is not None else 0,
        priority=entry.priority,
        source=entry.origin.source,
        queued=True,
    )


def session_of(origin: Origin) -> Session:
    """The session a message came by, as far as it was kept."""
    return Session(
        id=origin.session,
        listener=origin.listener,
        hostname="",
        client_ip=origin.client_ip,
        client_name=origin.client_name,
        helo=origin.helo,
        protocol=origin.protocol or "SMTP",
        auth_user=origin.auth_user,
    )


def outcome_of(reply: Reply) -> Outcome:
    """What a reply alone tells."""
    if reply is LOCAL_LIMIT or kind_of(reply) is Kind.LEASE:
        return _AT_ONCE
    remote = kind_of(reply) is None and id(reply) not in _OURS
    return Outcome(reply, remote=remote, unknown=reply is UNKNOWN_OUTCOME)


def _outcome(row: Waiting, reply: Reply, records: Sequence[AttemptRecord], target: Any) -> Outcome:
    """``records`` are the tries of this attempt, at one endpoint after another, the last that speaks of the recipient counts."""
    spoken = next((record for record in reversed(records) if _speaks(record, str(row.address))), None)
    record = spoken if spoken is not None else records[-1] if records else None
    way = _way(record) if record is not None else NO_WAY
    if not reply.is_success:
        heard = outcome_of(reply)
        return Outcome(heard.reply, way, heard.remote and spoken is not None, heard.unknown)
    fate = Fate.DELIVERED if target.finality is Finality.RECIPIENT else None
    return Outcome(reply, way, fate=fate, reports_itself=record is not None and record.passed_on)


def _speaks(record: AttemptRecord, address: str) -> bool:
    """Whether a next hop judged this recipient or the message. What it says before that is trouble; and what no record tells of
    was said here, by a lookup or by a target that delivers nowhere else."""
    if record.results:
        return any(address == to for to, _ in record.results)
    return record.reply is not None and record.stage in _ABOUT_THE_MESSAGE


def _way(record: AttemptRecord) -> Way:
    connection = record.connection
    tls = connection.tls.version if connection.tls is not None else ""
    return Way(record.mx or record.endpoint, connection.remote, connection.local, tls, record.stage)
