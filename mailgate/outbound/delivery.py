"""One downstream transaction of one message: cut-through RCPT, failover before the final dot, one answer for each recipient.

The rules are those of docs/delivery.md. What is said here:

- The first RCPT goes out with MAIL in one write; the client hears the next hop's own answer. Up to the final dot the
  envelope can be said again elsewhere (*replayed*), since we hold it and the body: after a failure that moves, after the client
  kept a connection waiting for ``hold_timeout``, after `withdraw`, or when the content needs what MAIL did not say.
- Moving on: trouble with connecting, greeting, hello, TLS, AUTH, a drop, a timeout, garbage and 421 always; with ``tempfail``
  also 4yz to MAIL, to DATA, or to a RCPT while nobody was accepted on that endpoint. 5yz never.
- A reused connection that is gone, or says 421, before the reply to MAIL is replaced by a fresh one, silently, once.
- A recipient that heard 250 and is refused by a replay gets 451 4.3.0: over LMTP only it, over SMTP all, and DATA is never sent.
- From the final dot on there is one try. Its outcome is `outcome.outcome`'s; an unknown one is logged as possible duplicate. A client
  that goes away then changes nothing: the answer is read and logged.
- ``total`` bounds what one client command waits before the final dot; ``submission_timeout`` the answer to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from mailgate.events import Event, EventLog
from mailgate.interfaces import IDelivery
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.net.waiting import spawn
from mailgate.outbound.connection import Connection
from mailgate.outbound.content import stream, whole
from mailgate.outbound.endpoint import Endpoint, Selection
from mailgate.outbound.failure import ABORTED, NO_LONGER_ACCEPTED, AttemptFailed, Kind
from mailgate.outbound.outcome import Outcome, handed_up, outcome
from mailgate.outbound.parameters import Needs, mail_parameters, needs_utf8, rcpt_parameters, wire_address
from mailgate.outbound.pool import Pool
from mailgate.outbound.race import NoneLeft, Race
from mailgate.smtp.client import Answer, CommandError, Step
from mailgate.smtp.parameters import BodyType
from mailgate.smtp.reply import MailError, PermanentError, Reply


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    label: str = ""
    lmtp: bool = False
    tempfail: bool = True
    total: float = 240.0
    hold_timeout: float = 30.0
    fallback_delay: float = 3.0
    chunking: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class NextHops:
    """What all deliveries of one target share."""

    settings: DeliverySettings
    endpoints: Sequence[Endpoint]
    pool: Pool
    clock: Any
    log: EventLog


class _Moved(Exception):
    """This endpoint is done with; the next one gets the envelope."""


class _Refused(Exception):
    """The transaction has its answer, whatever else is tried."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@implementer(IDelivery)
class Delivery:
    """See the module's docstring."""

    __slots__ = (
        "_accepted",
        "_best",
        "_connection",
        "_deadline",
        "_done",
        "_envelope",
        "_final",
        "_hops",
        "_irrevocable",
        "_lost",
        "_message",
        "_needs",
        "_replay",
        "_selection",
        "_started",
        "_waiting",
        "_wire",
        "endpoint",
    )

    def __init__(self, hops: NextHops, envelope: Envelope) -> None:
        self._hops = hops
        self._envelope = envelope
        self._accepted: list[Recipient] = []
        self._lost: list[Recipient] = []
        """Accepted once, refused by a replay."""
        self._wire: list[Recipient] = []
        """Accepted in the transaction that is open on the connection."""
        self._connection: Connection | None = None
        self._replay = False
        """What was said on the connection is not what is wanted any more."""
        self._final: Reply | None = None
        self._message: Message | None = None
        self._needs = Needs()
        self._selection: Selection | None = None
        self._best: Reply | None = None
        self._deadline = 0.0
        self._started = 0.0
        self._waiting: Deferred[Any] | None = None
        self._irrevocable = False
        self._done = False
        self.endpoint = ""
        """Label of the endpoint that gave the last answer."""

    # IDelivery

    async def rcpt(self, recipient: Recipient) -> Reply:
        """See `IDelivery`."""
        if self._final is not None:
            return self._final
        self._begin_command()
        try:
            connection = self._connection
            if connection is None or self._replay or connection.trouble is not None or self._utf8_is_missing(recipient):
                reply = await self._say_envelope(recipient)
            else:
                reply = await self._say_recipient(connection, recipient)
        except _Refused as refused:
            self._final = refused.reply
            return refused.reply
        except CancelledError:
            if self._done:
                return ABORTED
            self.abort()
            raise
        if reply.is_success:
            self._accepted.append(recipient)
        connection = self._connection
        if connection is not None and connection.trouble is None:
            connection.arm(self._hops.settings.hold_timeout, self._held_too_long)
        return reply

    def withdraw(self, recipients: Sequence[Recipient]) -> None:
        """See `IDelivery`."""
        self._accepted = [recipient for recipient in self._accepted if recipient not in recipients]
        self._lost = [recipient for recipient in self._lost if recipient not in recipients]
        self._replay = True

    async def send(self, message: Message) -> list[Reply]:
        """See `IDelivery`."""
        accepted = len(self._accepted)
        if self._final is not None or not accepted:
            self.abort()
            return [self._final or ABORTED] * accepted
        self._begin_command()
        self._message = message
        try:
            replies = await self._send(message)
        except _Refused as refused:
            replies = [refused.reply] * accepted
        except CancelledError:
            if not self._done:
                self.abort()
                raise
            replies = [ABORTED] * accepted
        self._finish()
        return replies

    def abort(self) -> None:
        """See `IDelivery`."""
        if self._done:
            return
        self._done = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
        if not self._irrevocable:
            self._give_back()

    # The envelope

    def _begin_command(self) -> None:
        self._started = self._hops.clock.seconds()
        self._deadline = self._started + self._hops.settings.total
        self._selection = None
        self._best = None

    async def _say_envelope(self, new: Recipient | None) -> Reply:
        """Say MAIL, all accepted recipients and ``new`` on one endpoint after another, until one takes the transaction.
        Returns the answer to ``new`` (without one: of the last recipient)."""
        connection = self._connection
        if connection is not None and connection.trouble is not None:
            connection = self._connection = None
        while True:
            if connection is None:
                connection = await self._acquire()
            try:
                return await self._try_envelope(connection, new)
            except _Moved:
                connection = None

    async def _try_envelope(self, connection: Connection, new: Recipient | None) -> Reply:
        """One endpoint's turn. A reused connection gets a second, fresh one."""
        recipients = [r for r in self._accepted if r not in self._lost]
        if new is not None:
            recipients.append(new)
        while True:
            self._connection = connection
            self._needs = self._find_needs(recipients)
            resetting = connection.session.in_transaction
            try:
                self._say(connection, recipients)
            except (PermanentError, CommandError) as error:
                self._give_back()
                raise _Refused(_local_refusal(error)) from error
            answers = await self._ask(connection, connection.settings.timeouts.command)
            if resetting and answers:
                answers = answers[1:]
            gone = not answers and connection.trouble is not None
            closing = bool(answers) and answers[0].reply.code == 421
            if not ((gone or closing) and connection.reused and not resetting):
                break
            connection.quit()
            connection = await self._acquire_fresh(connection)
        self._replay = False
        self.endpoint = connection.settings.label
        if not answers:
            raise self._failed(connection, connection.trouble or Kind.GARBAGE, Step.MAIL, connection.reason)
        self._judge_mail(connection, answers[0].reply)
        replies = [answer.reply for answer in answers[1:]]
        if len(replies) < len(recipients):
            raise self._failed(connection, connection.trouble or Kind.GARBAGE, Step.RCPT, connection.reason)
        self._wire = []
        last = replies[-1]
        for recipient, reply in zip(recipients, replies, strict=True):
            last = self._judge_recipient(connection, recipient, reply, new)
        return last

    def _say(self, connection: Connection, recipients: Sequence[Recipient]) -> None:
        session = connection.session
        offered = session.capabilities
        needs = self._needs
        lmtp = self._hops.settings.lmtp
        parameters = mail_parameters(self._envelope.parameters, needs, offered, lmtp=lmtp)
        if session.in_transaction:
            session.rset()
        session.mail(wire_address(self._envelope.sender, utf8=needs.utf8), parameters)
        for recipient in recipients:
            session.rcpt(
                wire_address(recipient.address, utf8=needs.utf8), rcpt_parameters(recipient.parameters, offered, lmtp=lmtp)
            )

    async def _say_recipient(self, connection: Connection, recipient: Recipient) -> Reply:
        session = connection.session
        try:
            session.rcpt(
                wire_address(recipient.address, utf8=self._needs.utf8),
                rcpt_parameters(recipient.parameters, session.capabilities, lmtp=self._hops.settings.lmtp),
            )
        except CommandError as error:
            return _local_refusal(error)
        answers = await self._ask(connection, connection.settings.timeouts.command)
        try:
            if not answers:
                raise self._failed(connection, connection.trouble or Kind.GARBAGE, Step.RCPT, connection.reason)
            return self._judge_recipient(connection, recipient, answers[0].reply, recipient)
        except _Moved:
            return await self._say_envelope(recipient)

    def _judge_mail(self, connection: Connection, reply: Reply) -> None:
        if reply.is_success:
            return
        if reply.code == 421:
            raise self._failed(connection, Kind.CLOSING, Step.MAIL, str(reply), reply)
        if not (reply.is_temporary or reply.is_permanent):
            raise self._failed(connection, Kind.GARBAGE, Step.MAIL, str(reply))
        self._settle(connection)
        if reply.is_temporary and self._may_move(reply):
            raise self._answered(connection, Step.MAIL, reply)
        self._give_back()
        raise _Refused(handed_up(reply))

    def _judge_recipient(self, connection: Connection, recipient: Recipient, reply: Reply, new: Recipient | None) -> Reply:
        if reply.is_success:
            self._wire.append(recipient)
            return handed_up(reply)
        if reply.code == 421:
            raise self._failed(connection, Kind.CLOSING, Step.RCPT, str(reply), reply)
        if not (reply.is_temporary or reply.is_permanent):
            raise self._failed(connection, Kind.GARBAGE, Step.RCPT, str(reply))
        if reply.is_temporary and not self._wire and self._may_move(reply):
            self._settle(connection)
            self._give_back()
            raise self._answered(connection, Step.RCPT, reply)
        if recipient is not new:
            self._lost.append(recipient)
        return handed_up(reply)

    def _find_needs(self, recipients: Sequence[Recipient]) -> Needs:
        given = self._envelope.parameters
        message = self._message
        utf8 = needs_utf8(self._envelope.sender) or any([needs_utf8(recipient.address) for recipient in recipients])
        if message is None:
            return Needs(given.size, False, None if given.body is BodyType.SEVEN_BIT else given.body, utf8)
        body = BodyType.BINARY if given.body is BodyType.BINARY else BodyType.EIGHT_BIT if message.eight_bit else None
        return Needs(message.size, True, body, utf8 or (given.smtputf8 and message.utf8_header))

    def _utf8_is_missing(self, recipient: Recipient) -> bool:
        return not self._needs.utf8 and not recipient.address.local_part.isascii()

    # The content

    async def _send(self, message: Message) -> list[Reply]:
        connection = self._connection
        if connection is not None and connection.trouble is None and not self._replay:
            needs = self._find_needs(self._accepted)
            if needs.body is not None or needs.utf8:
                self._replay = (needs.body, needs.utf8) != (self._needs.body, self._needs.utf8)
                self._needs = needs
            self._check_size(connection, message)
            self._check_body(connection, needs)
        while True:
            connection = self._connection
            if connection is None or self._replay or connection.trouble is not None:
                await self._say_envelope(None)
                connection = self._connection
                assert connection is not None
            if self._lost and (not self._hops.settings.lmtp or not self._wire):
                return [NO_LONGER_ACCEPTED] * len(self._accepted)
            try:
                return await self._transmit(connection, message)
            except _Moved:
                continue

    def _check_size(self, connection: Connection, message: Message) -> None:
        limit = connection.session.capabilities.size
        if limit and message.size > limit:
            raise _Refused(Reply(552, "5.3.4", f"The next hop takes at most {limit} octets"))

    def _check_body(self, connection: Connection, needs: Needs) -> None:
        """Refuse at once what a replay on the same connection would refuse."""
        offered = connection.session.capabilities
        try:
            mail_parameters(self._envelope.parameters, needs, offered, lmtp=self._hops.settings.lmtp)
        except PermanentError as error:
            raise _Refused(error.reply) from error

    async def _transmit(self, connection: Connection, message: Message) -> list[Reply]:
        session = connection.session
        session.data()
        timeouts = connection.settings.timeouts
        answers = await self._ask(connection, timeouts.command)
        if not answers or (connection.trouble is not None and not session.content_open and answers[0].reply.code == 354):
            raise self._failed(connection, connection.trouble or Kind.GARBAGE, Step.DATA, connection.reason)
        if not session.content_open:
            return self._judge_content(connection, Step.DATA, answers[0].reply)
        prepared = whole(message)
        if prepared is not None:
            session.content(prepared[0])
            ending = prepared[1]
        else:
            self._waiting = streaming = spawn(stream(connection, message, timeouts.command))
            try:
                ending = await streaming
            finally:
                self._waiting = None
        early = connection.early
        if early is not None:
            connection.abort("an answer before the final dot")
            return self._judge_content(connection, Step.BODY, early)
        if connection.trouble is not None:
            raise self._failed(connection, connection.trouble, Step.BODY, connection.reason)
        session.end_content(ending)
        return await self._await_outcome(connection)

    def _judge_content(self, connection: Connection, step: Step, reply: Reply) -> list[Reply]:
        """A reply to DATA that is not 354, or one in the middle of the content."""
        if reply.code == 421:
            raise self._failed(connection, Kind.CLOSING, step, str(reply), reply)
        if not (reply.is_temporary or reply.is_permanent):
            raise self._failed(connection, Kind.GARBAGE, step, str(reply))
        if connection.trouble is None:
            self._settle(connection)
        if reply.is_temporary and self._may_move(reply):
            self._give_back()
            raise self._answered(connection, step, reply)
        self._give_back()
        return self._for_all([handed_up(reply)] * len(self._wire))

    async def _await_outcome(self, connection: Connection) -> list[Reply]:
        self._irrevocable = True
        wire = self._wire
        self._waiting = waiting = connection.exchange(connection.settings.timeouts.submission)
        try:
            answers = await waiting
        except CancelledError:
            self._done = True
            spawn(self._read_late(connection, wire)).addErrback(self._incident)
            raise
        finally:
            self._waiting = None
        return self._for_all(self._conclude(connection, outcome(answers, len(wire), lmtp=self._hops.settings.lmtp), wire))

    def _conclude(self, connection: Connection, result: Outcome, wire: Sequence[Recipient]) -> tuple[Reply, ...]:
        hops = self._hops
        self._connection = None
        if result.unknown:
            reason = connection.reason or "no reply that says whether it was taken"
            connection.abort(reason)
            if connection.trouble is not None:
                connection.link.endpoint.circuit.failed(connection.trouble, reason)
            hops.log.warn(
                Event.POSSIBLE_DUPLICATE,
                message=self._envelope.id,
                target=hops.settings.label,
                endpoint=connection.settings.label,
                recipients=", ".join(f"<{recipient.address}>" for recipient in wire[len(wire) - result.unknown :]),
                reason=reason,
            )
            return result.replies
        connection.messages += 1
        connection.link.endpoint.circuit.succeeded()
        if any([reply.code >= 400 for reply in result.replies]):
            for reply in dict.fromkeys(result.replies):
                if not reply.is_success:
                    self._record(connection.link.endpoint, Step.DOT.value, str(reply), connection)
        hops.pool.give_back(connection)
        return result.replies

    async def _read_late(self, connection: Connection, wire: Sequence[Recipient]) -> None:
        """The client is gone, the message is on its way: hear what becomes of it."""
        answers = await connection.exchange(connection.settings.timeouts.submission)
        replies = self._conclude(connection, outcome(answers, len(wire), lmtp=self._hops.settings.lmtp), wire)
        for reply in dict.fromkeys(replies):
            self._hops.log.warn(
                Event.DELIVERY_LATE,
                message=self._envelope.id,
                target=self._hops.settings.label,
                endpoint=connection.settings.label,
                reply=reply,
                reason="client gone",
            )

    def _for_all(self, replies: Sequence[Reply]) -> list[Reply]:
        """In the order of acceptance, with those that a replay lost."""
        if not self._lost:
            return list(replies)
        by_recipient = dict(zip(self._wire, replies, strict=True))
        return [by_recipient.get(recipient, NO_LONGER_ACCEPTED) for recipient in self._accepted]

    # Connections

    async def _acquire(self) -> Connection:
        """A ready connection of the first endpoint that gives one. :raises _Refused: when there is none."""
        hops = self._hops
        requiretls = self._envelope.parameters.requiretls
        if self._selection is None:
            first = hops.endpoints[0]
            if first.circuit.closed:
                connection = hops.pool.take(first.requiretls_link if requiretls else first.link)
                if connection is not None:
                    return connection
            self._selection = Selection(hops.endpoints)
        race = Race(
            hops.pool,
            self._selection,
            hops.clock,
            self._record_failure,
            requiretls=requiretls,
            fallback_delay=hops.settings.fallback_delay,
        )
        self._waiting = searching = race.run(self._deadline - hops.clock.seconds())
        try:
            return await searching
        except NoneLeft:
            raise _Refused(self._best or Kind.CONNECT.reply) from None
        except AttemptFailed as failure:
            raise _Refused(self._best or failure.kind.reply) from failure
        finally:
            self._waiting = None

    async def _acquire_fresh(self, stale: Connection) -> Connection:
        """A new connection in the place of a reused one that was gone; if there is none, this endpoint failed."""
        hops = self._hops
        endpoint = stale.link.endpoint
        try:
            self._waiting = leasing = spawn(hops.pool.lease(stale.link, fresh=True))
            return await leasing
        except AttemptFailed as failure:
            endpoint.circuit.failed(failure.kind, failure.reason)
            self._record_failure(endpoint, failure)
            self._leave(endpoint)
            raise _Moved from failure
        finally:
            self._waiting = None

    async def _ask(self, connection: Connection, seconds: float) -> list[Answer]:
        """Everything that was said, and its answers; fewer if there is trouble. Not beyond the command's time."""
        left = self._deadline - self._hops.clock.seconds()
        self._waiting = waiting = connection.exchange(seconds if seconds < left else max(left, 0.001))
        try:
            return await waiting
        finally:
            self._waiting = None

    def _may_move(self, reply: Reply) -> bool:
        """A 4yz leads to another endpoint, if there is another."""
        if not self._hops.settings.tempfail or self._connection is None:
            return False
        if self._selection is None:
            self._selection = Selection(self._hops.endpoints)
        self._selection.tried.add(self._connection.link.endpoint)
        return self._selection.peek() is not None

    def _leave(self, endpoint: Endpoint) -> None:
        if self._selection is None:
            self._selection = Selection(self._hops.endpoints)
        self._selection.tried.add(endpoint)

    def _failed(
        self, connection: Connection, kind: Kind, step: Step, reason: str, answer: Reply | None = None
    ) -> _Moved | _Refused:
        """This endpoint failed in the dialogue: what to raise."""
        endpoint = connection.link.endpoint
        connection.abort(reason)
        self._connection = None
        endpoint.circuit.failed(kind, reason)
        self._record_failure(endpoint, AttemptFailed(kind, step.value, reason, answer), connection)
        self._leave(endpoint)
        if self._hops.clock.seconds() >= self._deadline:
            return _Refused(Kind.TOTAL.reply)
        return _Moved()

    def _answered(self, connection: Connection, step: Step, reply: Reply) -> _Moved:
        """It answered 4yz: the best answer so far, and on to the next."""
        self._best = handed_up(reply)
        self._record(connection.link.endpoint, step.value, str(reply), connection)
        self._leave(connection.link.endpoint)
        self._give_back()
        return _Moved()

    def _settle(self, connection: Connection) -> None:
        """It answered about the message: it is well."""
        connection.link.endpoint.circuit.succeeded()

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disarm()
            connection.link.endpoint.circuit.abandoned()
            self._hops.pool.give_back(connection)

    def _held_too_long(self) -> None:
        self._give_back()

    def _finish(self) -> None:
        self._done = True
        self._message = None
        if not self._irrevocable:
            self._give_back()

    # Records

    def _record_failure(self, endpoint: Endpoint, failure: AttemptFailed, connection: Connection | None = None) -> None:
        if self._best is None or self._best.code // 100 != 4 or self._best in _KIND_REPLIES:
            self._best = failure.kind.reply
        self._record(endpoint, failure.stage, failure.reason, connection)

    def _record(self, endpoint: Endpoint, stage: str, reason: str, connection: Connection | None) -> None:
        hops = self._hops
        self.endpoint = endpoint.settings.label
        hops.log.info(
            Event.DELIVERY_ATTEMPT,
            message=self._envelope.id,
            target=hops.settings.label,
            endpoint=endpoint.settings.label,
            stage=stage,
            reply=reason,
            tls=connection.tls.version if connection is not None and connection.tls is not None else "",
            seconds=hops.clock.seconds() - self._started,
        )

    def _incident(self, failure: Any) -> None:
        self._hops.log.incident(self._envelope.id, failure.value)


_KIND_REPLIES = frozenset(kind.reply for kind in Kind)


def _local_refusal(error: MailError | CommandError) -> Reply:
    if isinstance(error, MailError):
        return error.reply
    return Reply(553, "5.1.3", "The address can't be passed on")
