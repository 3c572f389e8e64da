"""One downstream transaction of one message: cut-through RCPT, failover before the final dot, one answer for each recipient.

The rules are those of docs/behaviour.md. What is said here:

- The first RCPT goes out with MAIL in one write; the client hears the next hop's own answer. Who has the whole message has all
  recipients in that write, and DATA behind them (`offer`; RFC 2920). Up to the final dot the envelope can be said again elsewhere
  (*replayed*), since we hold it and the body: after a failure that moves, after the client kept a connection waiting for
  ``hold_timeout``, after `withdraw`, or when the content needs what MAIL did not say.
- Moving on: trouble with connecting, greeting, hello, TLS, AUTH, a drop, a timeout, garbage and 421 always, as does an endpoint
  that does not offer what the message needs; with ``tempfail`` also 4yz to MAIL, to DATA, or to a RCPT while nobody was
  accepted on that endpoint. 5yz never.
- A reused connection that is gone, or says 421, before the reply to MAIL is replaced by a fresh one, silently, once.
- A recipient that heard 250 and is refused by a replay gets 451 4.3.0: over LMTP only it, over SMTP all, and DATA is not sent.
- From the final dot on there is one try. Its outcome is `outcome.outcome`'s; an unknown one is logged as possible duplicate.
  A client that goes away then changes nothing: the answer is read and logged.
- ``total`` of failover bounds what one client command waits before the final dot; ``submission_timeout`` the answer to it. What
  one endpoint may take, from connecting to its last answer, is bounded by ``total`` of its timeouts.

Every message comes this way, so what waits in all of them is awaited in few nested coroutines, since each level is entered again
with every answer; what is judged in between are plain methods, and content follows the 354 without waking anybody (`_say_whole`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from twisted.internet.defer import CancelledError
from zope.interface import implementer

from mailgate.interfaces import IWholeDelivery
from mailgate.logs.detail import detail
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.net.waiting import Wait, spawn
from mailgate.outbound.attempts import Attempts, NextHops
from mailgate.outbound.connection import Connection
from mailgate.outbound.content import send_chunks, stream, whole
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.failure import ABORTED, NO_LONGER_ACCEPTED, AttemptFailed, Kind, Moved, Refused
from mailgate.outbound.line_length import has_longer, line_too_long
from mailgate.outbound.outcome import handed_up, outcome
from mailgate.outbound.parameters import (
    NO_NEEDS,
    NO_SMTPUTF8,
    find_needs,
    mail_parameters,
    needs_utf8,
    rcpt_parameters,
    wire_address,
)
from mailgate.outbound.race import NoneLeft
from mailgate.smtp.address import Address
from mailgate.smtp.client import Answer, ClientSession, CommandError, Step
from mailgate.smtp.parameters import NO_RCPT_PARAMETERS, BodyType
from mailgate.smtp.reply import MailError, Reply
from mailgate.smtp.xclient import Identity

_BEFORE_MAIL = (Step.RSET, Step.XFORWARD)
"""What is said in front of MAIL; its answers decide nothing."""
NO_ADDRESS = Reply(553, "5.1.3", "The address can't be passed on")
_NOBODY: Sequence[Recipient] = ()
_OF_ONE = (NO_SMTPUTF8, NO_ADDRESS)
"""What is wrong with one recipient may be right with the others."""


@implementer(IWholeDelivery)
class Delivery:
    """See the module's docstring."""

    __slots__ = (
        "_aborted",
        "_accepted",
        "_attempts",
        "_connection",
        "_data",
        "_envelope",
        "_final",
        "_hops",
        "_lost",
        "_message",
        "_needs",
        "_replay",
        "_waiting",
        "_wire",
    )

    def __init__(self, hops: NextHops, envelope: Envelope) -> None:
        self._hops = hops
        self._envelope = envelope
        self._attempts = Attempts(hops, envelope)
        self._accepted: list[Recipient] = []
        self._lost: list[Recipient] = []
        """Accepted once, refused by a replay."""
        self._wire: list[Recipient] = []
        """Accepted in the transaction that is open on the connection."""
        self._connection: Connection | None = None
        self._data: Reply | None = None
        """The answer to DATA, where that was said with the envelope."""
        self._replay = False
        """What was said on the connection is not what is wanted any more."""
        self._final: Reply | None = None
        self._message: Message | None = None
        self._needs = NO_NEEDS
        """What MAIL said."""
        self._waiting: Any = None
        """What `abort` cancels; it may have fired already."""
        self._aborted = False

    @property
    def endpoint(self) -> str:
        """Label of the endpoint that was heard of last, for the log."""
        return self._attempts.endpoint

    # IDelivery

    async def rcpt(self, recipient: Recipient) -> Reply:
        """See `IDelivery`."""
        if self._final is not None:
            return self._final
        self._begin()
        try:
            connection = self._connection
            if connection is None or self._replay or connection.trouble is not None or self._utf8_is_missing(recipient.address):
                reply = (await self._say_envelope((recipient,)))[0]
            else:
                reply = await self._say_recipient(connection, recipient)
        except Refused as refused:
            if not self._is_about_one(refused.reply):
                self._final = refused.reply
            return refused.reply
        except CancelledError:
            if self._aborted:
                return ABORTED
            self.abort()
            raise
        if reply.code // 100 == 2:
            self._accepted.append(recipient)
        self._hold()
        return reply

    async def offer(self, recipients: Sequence[Recipient], message: Message) -> list[Reply]:
        """See `IWholeDelivery`."""
        if self._final is not None:
            return [self._final] * len(recipients)
        self._begin()
        self._message = self._attempts.message = message
        try:
            if self._hops.settings.max_line_length:
                await self._check_lines(message, self._hops.settings.max_line_length)
            replies = await self._say_envelope(recipients)
        except Refused as refused:
            if len(recipients) > 1 and (refused.reply in _OF_ONE or self._attempts.is_about_one(refused.reply)):
                self._message = self._attempts.message = None
                return [await self.rcpt(recipient) for recipient in recipients]
            self._final = refused.reply
            return [refused.reply] * len(recipients)
        except CancelledError:
            if self._aborted:
                return [ABORTED] * len(recipients)
            self.abort()
            raise
        self._accepted += [one for one, reply in zip(recipients, replies, strict=True) if reply.code // 100 == 2]
        if self._connection is not None and self._connection.session.content_open and not self._wire:
            self._connection.abort("it takes content for nobody")
        self._hold()
        return replies

    def _hold(self) -> None:
        """The connection is the client's for a while."""
        connection = self._connection
        if connection is not None and connection.trouble is None:
            connection.arm(connection.heard_at + self._hops.settings.hold_timeout, self._give_back)

    def _is_about_one(self, refusal: Reply) -> bool:
        """Whether it refuses this recipient only: another may need no SMTPUTF8, or find its mailbox open."""
        utf8 = refusal is NO_SMTPUTF8 and not needs_utf8(self._envelope.sender)
        return utf8 or self._attempts.is_about_one(refusal)

    def withdraw(self, recipients: Sequence[Recipient]) -> None:
        """See `IDelivery`."""
        self._accepted = [recipient for recipient in self._accepted if recipient not in recipients]
        self._lost = [recipient for recipient in self._lost if recipient not in recipients]
        self._replay = True
        if self._data is not None:  # nothing but content can be said there now
            self._give_back()

    async def send(self, message: Message) -> list[Reply]:
        """See `IDelivery`."""
        accepted = len(self._accepted)
        if self._final is not None or not accepted:
            self.abort()
            return [self._final or ABORTED] * accepted
        self._begin()
        self._message = self._attempts.message = message
        replies: list[Reply] | None = None
        try:
            self._check_content(message)
            if self._hops.settings.max_line_length:
                await self._check_lines(message, self._hops.settings.max_line_length)
            while replies is None:
                try:
                    replies = await self._transmit(message)
                except Moved:
                    continue
        except Refused as refused:
            replies = [refused.reply] * accepted
        except CancelledError:
            if not self._aborted:
                self.abort()
                raise
            replies = [ABORTED] * accepted
        self._message = self._attempts.message = None
        if self._connection is not None:
            self._give_back()
        return replies

    def abort(self) -> None:
        """See `IDelivery`."""
        if self._aborted:
            return
        self._aborted = True
        if self._waiting is not None:
            self._waiting.cancel()
        if self._connection is not None:
            self._attempts.given_up(self._connection)
        self._give_back()

    def _begin(self) -> None:
        """A client command has come."""
        now = self._hops.clock.seconds()
        self._attempts.begin(now)
        if self._connection is not None:
            self._connection.go_on(now)

    # The envelope

    async def _say_envelope(self, new: Sequence[Recipient] = _NOBODY) -> list[Reply]:
        """Say MAIL, all accepted recipients and ``new`` on one endpoint after another, until one takes the transaction.
        Returns the answers to ``new``."""
        connection = self._connection
        while True:
            try:
                recipients = self._accepted if not self._lost else [r for r in self._accepted if r not in self._lost]
                if new:
                    recipients = [*recipients, *new]
                if connection is None or connection.trouble is not None:
                    connection = self._attempts.take(recipients)
                    if connection is None:
                        connection = await self._search()
                self._needs = find_needs(self._envelope, recipients, self._message)
                whole = self._message is not None and new is not _NOBODY
                self._say(connection, recipients, whole=whole)
                answers = await self._exchange(connection)
                stuck = bool(answers) and answers[0].step is Step.RSET and not answers[0].reply.is_success
                while answers and answers[0].step in _BEFORE_MAIL:
                    del answers[0]
                if answers and answers[-1].step is Step.DATA:
                    self._data = answers.pop().reply
                # A kept connection turned out to be gone: closed, or 421, before the answer to MAIL; or it refuses RSET.
                gone = answers[0].reply.code == 421 if answers else connection.trouble in (Kind.LOST, Kind.CLOSING)
                if stuck or (gone and connection.reused):
                    connection.quit()
                    connection = await self._search(again=connection.link.endpoint)
                    continue
                replies = self._judge_envelope(connection, recipients, answers, new)
                if whole and self._wire and self._is_lost(connection):
                    raise self._broken(connection, Step.DATA)
                return replies
            except Moved:
                connection = None

    def _say(self, connection: Connection, recipients: Sequence[Recipient], *, whole: bool) -> None:
        """MAIL and RCPT, and DATA if the message is ``whole``. One that is open is RSET first, with an answer in front."""
        session = connection.session
        self._data = None
        if connection.reused:
            connection.timings = []
            if connection is not self._connection:
                connection.begin_attempt()
        self._connection = connection
        if detail.active or connection.watched:
            self._watch(connection, recipients)
        envelope, offered = self._envelope, session.capabilities
        sender, trusted = envelope.sender, bool(envelope.session.auth_user)
        if not sender.domain.isascii():
            sender = wire_address(sender, utf8=self._needs.utf8)
        try:
            parameters = mail_parameters(envelope.parameters, self._needs, offered, lmtp=session.lmtp, trusted=trusted)
            if session.in_transaction:
                session.rset()
            if connection.settings.xforward is not None:
                session.xforward(self._origin(connection.settings.xforward))
            session.mail(sender, parameters)
            for recipient in recipients:
                self._say_rcpt(session, recipient)
            if whole and offered.pipelining and not (offered.chunking and self._wants_chunks):
                session.data()
        except MailError as error:
            session.unsay()
            self._attempts.unsuitable(connection, error.reply)
            self._give_back()
            raise Moved from error
        except CommandError as error:
            session.unsay()
            self._give_back()
            raise Refused(NO_ADDRESS) from error

    def _watch(self, connection: Connection, recipients: Sequence[Recipient]) -> None:
        connection.watch(detail.watches_delivery(self._hops.settings.label, [str(one.address) for one in recipients]))

    def _origin(self, identity: Callable[[Envelope], Identity]) -> Identity:
        """Where the message comes from; what the client itself passes on goes before what we know of the client."""
        known, passed = identity(self._envelope), self._envelope.session.xforward
        return known if passed is None else known.with_more(passed)

    def _say_rcpt(self, session: ClientSession, recipient: Recipient) -> None:
        address = recipient.address
        if not address.domain.isascii():
            address = wire_address(address, utf8=self._needs.utf8)
        given = recipient.parameters
        if given is NO_RCPT_PARAMETERS:
            session.rcpt(address)
        else:
            session.rcpt(address, rcpt_parameters(given, session.capabilities, lmtp=session.lmtp))

    def _exchange(self, connection: Connection, then: Callable[[list[Answer]], float | None] | None = None) -> Wait[list[Answer]]:
        """What was said goes out; its answers, within what is left for the client's command."""
        self._waiting = waiting = connection.exchange(self._attempts.patience, then)
        return waiting

    async def _say_recipient(self, connection: Connection, recipient: Recipient) -> Reply:
        """One more RCPT in the open transaction."""
        if detail.active and not connection.watched:
            self._watch(connection, [recipient])
        try:
            self._say_rcpt(connection.session, recipient)
        except CommandError:
            return NO_ADDRESS
        answers = await self._exchange(connection)
        try:
            if not answers:
                raise self._broken(connection, Step.RCPT)
            return self._judge_recipient(connection, recipient, answers[0].reply, movable=not self._wire)
        except Moved:
            return (await self._say_envelope((recipient,)))[0]

    def _judge_envelope(
        self, connection: Connection, recipients: Sequence[Recipient], answers: Sequence[Answer], new: Sequence[Recipient]
    ) -> list[Reply]:
        """The answers to MAIL and RCPT, fewer if there is trouble; those to ``new``, the last of the recipients, are returned."""
        self._replay = False
        self._wire = []
        if not answers:
            raise self._broken(connection, Step.MAIL)
        reply = answers[0].reply
        if reply.code // 100 != 2:
            self._judge(connection, Step.MAIL, reply, movable=True)
            self._attempts.ended(connection, Step.MAIL, reply)
            self._give_back()
            raise Refused(handed_up(reply))
        if len(answers) <= len(recipients):
            raise self._broken(connection, Step.RCPT)
        if len(recipients) == 1 and new:  # nearly always
            return [self._judge_recipient(connection, new[0], answers[1].reply, movable=True)]
        kept = len(recipients) - len(new)
        for recipient, answer in zip(recipients[:kept], answers[1:], strict=False):
            if self._judge_recipient(connection, recipient, answer.reply, movable=not self._wire).code // 100 != 2:
                self._lost.append(recipient)
        movable = not self._wire and not any(answer.reply.code // 100 == 2 for answer in answers[kept + 1 :])
        return [
            self._judge_recipient(connection, recipient, answer.reply, movable=movable)
            for recipient, answer in zip(new, answers[kept + 1 :], strict=True)
        ]

    def _judge_recipient(self, connection: Connection, recipient: Recipient, reply: Reply, *, movable: bool) -> Reply:
        if reply.code // 100 == 2:
            self._wire.append(recipient)
            return reply if reply.enhanced else handed_up(reply)
        self._judge(connection, Step.RCPT, reply, movable=movable)
        self._attempts.refused.append((recipient, reply))
        return handed_up(reply)

    def _judge(self, connection: Connection, step: Step, reply: Reply, *, movable: bool) -> None:
        """A reply that is no success: returns if it is the answer, raises if the connection or the endpoint is left for it."""
        if reply.code == 421:
            raise self._failed(connection, AttemptFailed(Kind.CLOSING, step, "421", reply))
        if not (reply.is_temporary or reply.is_permanent):
            raise self._failed(connection, AttemptFailed(Kind.GARBAGE, step, "an unexpected reply", reply))
        endpoint = connection.link.endpoint
        endpoint.circuit.succeeded()
        if movable and reply.is_temporary and self._hops.settings.tempfail and self._attempts.has_next(endpoint):
            self._attempts.answered(connection, step, reply)
            self._give_back()
            raise Moved

    def _utf8_is_missing(self, address: Address) -> bool:
        """Whether MAIL would have to say SMTPUTF8 for this one, and did not."""
        return not (address.local_part + address.domain).isascii() and not self._needs.utf8 and needs_utf8(address)

    # The content

    def _check_content(self, message: Message) -> None:
        """Now that the content is here: does the open transaction suit it? If not, it is said again: there, if that may
        help, else at an endpoint that offers what it needs."""
        connection = self._connection
        if connection is None or connection.trouble is not None or self._replay or self._data is not None:
            return
        offered = connection.session.capabilities
        if offered.size and message.size > offered.size:
            self._replay = True
            return
        eight_bit = message.eight_bit or message.binary
        if not eight_bit and self._needs.body is None and not self._envelope.parameters.smtputf8:
            return  # nearly always: what MAIL said holds for any content
        needs, said = find_needs(self._envelope, self._accepted, message), self._needs
        misses = needs.body is not None and needs.body is not said.body
        misses = misses or (needs.body is BodyType.EIGHT_BIT and not offered.eight_bit)
        self._replay = misses or (needs.utf8 and not said.utf8)

    async def _check_lines(self, message: Message, limit: int) -> None:
        declared = message.binary or self._envelope.parameters.body is BodyType.BINARY
        if not declared and await has_longer(message, limit):
            raise Refused(line_too_long(limit))

    async def _transmit(self, message: Message) -> list[Reply]:
        """The content and what becomes of the final dot, in the open transaction or in one that is opened for it."""
        connection = self._connection
        if connection is None or self._replay or self._is_lost(connection):
            await self._say_envelope()
            connection = self._connection
            assert connection is not None
        if self._lost and (not connection.settings.lmtp or not self._wire):
            return [NO_LONGER_ACCEPTED] * len(self._accepted)
        wire = self._wire
        session = connection.session
        refusal = None
        try:
            if session.capabilities.chunking and self._wants_chunks:
                refusal = await self._send_chunks(connection, message)
            else:
                if self._data is None:
                    session.data()
                    answers = await self._exchange(connection, self._say_whole)
                elif self._say_whole() is not None:
                    self._waiting = waiting = connection.exchange()
                    answers = await waiting
                else:
                    answers = [Answer(Step.DATA, self._data)]
                if self._connection is not None:
                    refusal = await self._send_blocks(connection, message, answers)
            if refusal is not None:
                return refusal
            if self._connection is not None:
                self._connection = None
                self._waiting = waiting = connection.exchange()
                answers = await waiting
        except CancelledError:
            if self._connection is None:  # the dot was said
                spawn(self._read_late(connection, wire)).addErrback(self._incident)
            raise
        replies = self._conclude(connection, answers, wire)
        return self._for_all(replies) if self._lost else list(replies)

    def _is_lost(self, connection: Connection) -> bool:
        """It can't be gone on with, and has not refused DATA before."""
        return connection.trouble is not None and (self._data is None or self._data.code == 354)

    @property
    def _wants_chunks(self) -> bool:
        """BDAT (RFC 3030) in place of DATA, where it is offered."""
        return self._hops.settings.chunking or self._needs.body is BodyType.BINARY

    def _say_whole(self, _: Sequence[Answer] = ()) -> float | None:
        """Hears of the answer to DATA first: a message that fits into one write leaves with its final dot as soon as it may.
        None: there is more to it."""
        connection, message = self._connection, self._message
        assert connection is not None
        assert message is not None
        if not connection.session.content_open or connection.early is not None:
            return None
        prepared = whole(message)
        if prepared is None:
            return None
        content, ending = prepared
        connection.session.end_content(ending, content)
        self._connection = None  # the final dot was said: from here on an abort has nothing to take back
        return inf

    async def _send_blocks(self, connection: Connection, message: Message, answers: Sequence[Answer]) -> list[Reply] | None:
        """Behind the answer to DATA, what `_say_whole` left: a refusal, which is returned, or a message in blocks."""
        if not answers or (connection.trouble is not None and answers[0].reply.code == 354):
            raise self._broken(connection, Step.DATA)
        if not connection.session.content_open:
            return self._content_refused(connection, Step.DATA, answers[0].reply)
        self._waiting = streaming = spawn(stream(connection, message, self._attempts.stall))
        ending = await streaming
        if connection.early is not None:
            reply = connection.early
            connection.abort("an answer before the final dot")
            return self._content_refused(connection, Step.BODY, reply)
        if connection.trouble is not None:
            raise self._broken(connection, Step.BODY)
        connection.session.end_content(ending)
        return None

    async def _send_chunks(self, connection: Connection, message: Message) -> list[Reply] | None:
        """BDAT up to the last chunk, which is said. A refusal is returned."""
        self._waiting = sending = spawn(send_chunks(connection, message, self._attempts.stall))
        refusal = await sending
        if refusal is not None:
            return self._content_refused(connection, Step.CHUNK, refusal)
        if connection.trouble is not None:
            raise self._broken(connection, Step.CHUNK)
        return None

    def _content_refused(self, connection: Connection, step: Step, reply: Reply) -> list[Reply]:
        """A reply to DATA that is not 354, to a chunk that is not 250, or one in the middle of the content."""
        self._judge(connection, step, reply, movable=True)
        self._attempts.ended(connection, step, reply)
        self._give_back()
        return self._for_all([handed_up(reply)] * len(self._wire))

    def _conclude(self, connection: Connection, answers: Sequence[Answer], wire: Sequence[Recipient]) -> Sequence[Reply]:
        """The books of one transaction that was answered, or was not."""
        result = outcome(answers, len(wire), lmtp=connection.settings.lmtp)
        endpoint = connection.link.endpoint
        self._attempts.endpoint = endpoint.settings.label
        if result.unknown:
            reason = connection.reason or "no reply that says whether it was taken"
            endpoint.circuit.failed(connection.trouble or Kind.GARBAGE, reason)
            connection.abort(reason)
            known = len(wire) - result.unknown
            self._attempts.concluded(connection, list(zip(wire[:known], result.replies, strict=False)), wire[known:])
            self._attempts.unknown(endpoint, wire[known:], reason)
            return result.replies
        connection.messages += 1
        endpoint.messages += 1
        self._attempts.concluded(connection, list(zip(wire, result.replies, strict=True)))
        if result.closing:
            endpoint.circuit.failed(Kind.CLOSING)
            connection.quit()
        else:
            endpoint.circuit.succeeded()
            self._hops.pool.give_back(connection)
        return result.replies

    async def _read_late(self, connection: Connection, wire: Sequence[Recipient]) -> None:
        """The client is gone, the message is on its way: hear what becomes of it."""
        answers = await connection.exchange()
        self._attempts.late(connection.link.endpoint, self._conclude(connection, answers, wire))

    def _for_all(self, replies: Sequence[Reply]) -> list[Reply]:
        """In the order of acceptance, with those that a replay lost."""
        by_recipient = dict(zip(self._wire, replies, strict=True))
        return [by_recipient.get(recipient, NO_LONGER_ACCEPTED) for recipient in self._accepted]

    # Connections

    async def _search(self, again: Endpoint | None = None) -> Connection:
        """A connection of another endpoint; or a new one to the endpoint whose idle one was gone, ``again``, if that can be.

        :raises Refused: when no endpoint is left."""
        self._connection = None
        self._waiting = searching = self._attempts.search(again=again)
        try:
            connection = await searching
        except NoneLeft:
            raise Refused(self._attempts.refusal()) from None
        except AttemptFailed as failure:
            raise Refused(self._attempts.refusal(failure.kind.reply)) from failure
        except MailError as error:
            raise Refused(error.reply) from error
        self._attempts.found(connection, self._hops.clock.seconds())
        return connection

    def _broken(self, connection: Connection, step: Step) -> Moved | Refused:
        kind = connection.trouble or Kind.GARBAGE
        return self._failed(connection, AttemptFailed(kind, step, connection.reason or "no answer"))

    def _failed(self, connection: Connection, failure: AttemptFailed) -> Moved | Refused:
        """This endpoint failed in the dialogue: what to raise."""
        connection.abort(failure.reason)
        self._connection = None
        self._attempts.failed(connection, failure)
        return Refused(Kind.TOTAL.reply) if self._attempts.expired else Moved()

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disarm()
            connection.link.endpoint.circuit.abandoned()
            self._hops.pool.give_back(connection)

    def _incident(self, failure: Any) -> None:
        self._hops.log.incident(self._envelope.id, failure.value)
