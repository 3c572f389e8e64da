"""One downstream transaction of one message: cut-through RCPT, failover before the final dot, one answer for each recipient.

The rules are those of docs/behaviour.md. A `Delivery` is what the client's commands are to next hops: it keeps the contract
(`IWholeDelivery`), sends content and reads what becomes of it. MAIL and RCPT are its `MailTransaction`'s (mail_transaction.py),
the choice of an endpoint its attempts' (attempts.py).

- The first RCPT goes out with MAIL in one write; the client hears the next hop's own answer. Who has the whole message has all
  recipients in that write, and DATA behind them (`offer`; RFC 2920). Up to the final dot the envelope can be said again elsewhere
  (*replayed*), since we hold it and the body: after a failure that moves, after the client kept a connection waiting for
  ``hold_timeout``, after `withdraw`, or when the content needs what MAIL did not say.
- Moving on: trouble with connecting, greeting, hello, TLS, AUTH, a drop, a timeout, garbage and 421 always, as does an endpoint
  that does not offer what the message needs; with ``tempfail`` also 4yz to MAIL, to DATA, or to a RCPT while nobody was
  accepted on that endpoint. 5yz never.
- A recipient that heard 250 and is refused by a replay gets 451 4.3.0: over LMTP only it, over SMTP all, and DATA is not sent.
- From the final dot on there is one try. Its outcome is `outcome.outcome`'s; an unknown one is logged as possible duplicate.
  A client that goes away then changes nothing: the answer is read and logged.
- ``total`` of failover bounds what one client command waits before the final dot; ``submission_timeout`` the answer to it. What
  one endpoint may take, from connecting to its last answer, is bounded by ``total`` of its timeouts.

Every message comes this way, so what waits in all of them is awaited in few nested coroutines, since each level is entered again
with every answer; what is judged in between are plain methods, and content follows the 354 without waking anybody (`_say_whole`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from twisted.internet.defer import CancelledError
from zope.interface import implementer

from mailgate.interfaces import IWholeDelivery
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.net.waiting import spawn
from mailgate.outbound.attempts import NextHops
from mailgate.outbound.connection import Connection
from mailgate.outbound.content import send_chunks, stream, whole
from mailgate.outbound.failure import ABORTED, NO_LONGER_ACCEPTED, Kind, Moved, Refused
from mailgate.outbound.line_length import has_longer, line_too_long
from mailgate.outbound.mail_transaction import NO_ADDRESS, MailTransaction
from mailgate.outbound.outcome import handed_up, outcome
from mailgate.outbound.parameters import NO_SMTPUTF8, find_needs, needs_utf8
from mailgate.smtp.client import Answer, Step
from mailgate.smtp.parameters import BodyType
from mailgate.smtp.reply import Reply

_OF_ONE = (NO_SMTPUTF8, NO_ADDRESS)
"""What is wrong with one recipient may be right with the others."""


@implementer(IWholeDelivery)
class Delivery:
    """See the module's docstring."""

    __slots__ = ("_aborted", "_envelope", "_final", "_hops", "_transaction")

    def __init__(self, hops: NextHops, envelope: Envelope) -> None:
        self._hops = hops
        self._envelope = envelope
        self._transaction = MailTransaction(hops, envelope)
        self._final: Reply | None = None
        """The answer to everything from here on."""
        self._aborted = False

    @property
    def endpoint(self) -> str:
        """Label of the endpoint that was heard of last, for the log."""
        return self._transaction.attempts.endpoint

    # IDelivery

    async def rcpt(self, recipient: Recipient) -> Reply:
        """See `IDelivery`."""
        if self._final is not None:
            return self._final
        transaction = self._transaction
        transaction.begin()
        try:
            connection = transaction.connection
            if connection is not None and transaction.is_open_for(connection, recipient.address):
                reply = await transaction.say_one(connection, recipient)
            else:
                reply = (await transaction.say((recipient,)))[0]
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
            transaction.accepted.append(recipient)
        transaction.hold()
        return reply

    async def offer(self, recipients: Sequence[Recipient], message: Message) -> list[Reply]:
        """See `IWholeDelivery`."""
        if self._final is not None:
            return [self._final] * len(recipients)
        transaction = self._transaction
        transaction.begin()
        attempts = transaction.attempts
        attempts.message = message
        try:
            if self._hops.settings.max_line_length:
                await self._check_lines(message, self._hops.settings.max_line_length)
            replies = await transaction.say(recipients)
        except Refused as refused:
            if len(recipients) > 1 and (refused.reply in _OF_ONE or attempts.is_about_one(refused.reply)):
                attempts.message = None
                return [await self.rcpt(recipient) for recipient in recipients]
            self._final = refused.reply
            return [refused.reply] * len(recipients)
        except CancelledError:
            if self._aborted:
                return [ABORTED] * len(recipients)
            self.abort()
            raise
        transaction.accepted += [one for one, reply in zip(recipients, replies, strict=True) if reply.code // 100 == 2]
        connection = transaction.connection
        if connection is not None and connection.session.content_open and not transaction.wire:
            connection.abort("it takes content for nobody")
        transaction.hold()
        return replies

    def withdraw(self, recipients: Sequence[Recipient]) -> None:
        """See `IDelivery`."""
        self._transaction.withdraw(recipients)

    async def send(self, message: Message) -> list[Reply]:
        """See `IDelivery`."""
        transaction = self._transaction
        accepted = len(transaction.accepted)
        if self._final is not None or not accepted:
            self.abort()
            return [self._final or ABORTED] * accepted
        transaction.begin()
        transaction.attempts.message = message
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
        transaction.attempts.message = None
        if transaction.connection is not None:
            transaction.give_back()
        return replies

    def abort(self) -> None:
        """See `IDelivery`."""
        if self._aborted:
            return
        self._aborted = True
        self._transaction.abort()

    def _is_about_one(self, refusal: Reply) -> bool:
        """Whether it refuses this recipient only: another may need no SMTPUTF8, or find its mailbox open."""
        utf8 = refusal is NO_SMTPUTF8 and not needs_utf8(self._envelope.sender)
        return utf8 or self._transaction.attempts.is_about_one(refusal)

    # What is known before content goes out

    def _check_content(self, message: Message) -> None:
        """Now that the content is here: does the open transaction suit it? If not, it is said again: there, if that may
        help, else at an endpoint that offers what it needs."""
        transaction = self._transaction
        connection = transaction.connection
        if connection is None or connection.trouble is not None or transaction.replay or transaction.data_reply is not None:
            return
        offered = connection.session.capabilities
        if offered.size and message.size > offered.size:
            transaction.replay = True
            return
        said = transaction.needs
        eight_bit = message.eight_bit or message.binary
        if not eight_bit and said.body is None and not self._envelope.parameters.smtputf8:
            return  # nearly always: what MAIL said holds for any content
        needs = find_needs(self._envelope, transaction.accepted, message)
        misses = needs.body is not None and needs.body is not said.body
        misses = misses or (needs.body is BodyType.EIGHT_BIT and not offered.eight_bit)
        transaction.replay = misses or (needs.utf8 and not said.utf8)

    async def _check_lines(self, message: Message, limit: int) -> None:
        declared = message.binary or self._envelope.parameters.body is BodyType.BINARY
        if not declared and await has_longer(message, limit):
            raise Refused(line_too_long(limit))

    # The content

    async def _transmit(self, message: Message) -> list[Reply]:
        """The content and what becomes of the final dot, in the open transaction or in one that is opened for it."""
        transaction = self._transaction
        connection = transaction.connection
        if connection is None or transaction.replay or transaction.is_lost(connection):
            await transaction.say()
            connection = transaction.connection
            assert connection is not None
        if transaction.lost and (not connection.settings.lmtp or not transaction.wire):
            return [NO_LONGER_ACCEPTED] * len(transaction.accepted)
        wire = transaction.wire
        session = connection.session
        refusal = None
        try:
            if session.capabilities.chunking and transaction.wants_chunks:
                refusal = await self._send_chunks(connection, message)
            else:
                if transaction.data_reply is None:
                    session.data()
                    answers = await transaction.exchange(connection, self._say_whole)
                elif self._say_whole() is not None:
                    transaction.waiting = waiting = connection.exchange()
                    answers = await waiting
                else:
                    answers = [Answer(Step.DATA, transaction.data_reply)]
                if transaction.connection is not None:
                    refusal = await self._send_blocks(connection, message, answers)
            if refusal is not None:
                return refusal
            if transaction.connection is not None:
                transaction.connection = None
                transaction.waiting = waiting = connection.exchange()
                answers = await waiting
        except CancelledError:
            if transaction.connection is None:  # the dot was said
                spawn(self._read_late(connection, wire)).addErrback(self._incident)
            raise
        replies = self._conclude(connection, answers, wire)
        return self._for_all(replies) if transaction.lost else list(replies)

    def _say_whole(self, _: Sequence[Answer] = ()) -> float | None:
        """Hears of the answer to DATA first: a message that fits into one write leaves with its final dot as soon as it may.
        None: there is more to it."""
        transaction = self._transaction
        connection, message = transaction.connection, transaction.attempts.message
        assert connection is not None
        assert message is not None
        if not connection.session.content_open or connection.early is not None:
            return None
        prepared = whole(message)
        if prepared is None:
            return None
        content, ending = prepared
        connection.session.end_content(ending, content)
        transaction.connection = None  # the final dot was said: from here on an abort has nothing to take back
        return inf

    async def _send_blocks(self, connection: Connection, message: Message, answers: Sequence[Answer]) -> list[Reply] | None:
        """Behind the answer to DATA, what `_say_whole` left: a refusal, which is returned, or a message in blocks."""
        transaction = self._transaction
        if not answers or (connection.trouble is not None and answers[0].reply.code == 354):
            raise transaction.broken(connection, Step.DATA)
        if not connection.session.content_open:
            return self._content_refused(connection, Step.DATA, answers[0].reply)
        transaction.waiting = streaming = spawn(stream(connection, message, transaction.attempts.stall))
        ending = await streaming
        if connection.early is not None:
            reply = connection.early
            connection.abort("an answer before the final dot")
            return self._content_refused(connection, Step.BODY, reply)
        if connection.trouble is not None:
            raise transaction.broken(connection, Step.BODY)
        connection.session.end_content(ending)
        return None

    async def _send_chunks(self, connection: Connection, message: Message) -> list[Reply] | None:
        """BDAT up to the last chunk, which is said. A refusal is returned."""
        transaction = self._transaction
        transaction.waiting = sending = spawn(send_chunks(connection, message, transaction.attempts.stall))
        refusal = await sending
        if refusal is not None:
            return self._content_refused(connection, Step.CHUNK, refusal)
        if connection.trouble is not None:
            raise transaction.broken(connection, Step.CHUNK)
        return None

    def _content_refused(self, connection: Connection, step: Step, reply: Reply) -> list[Reply]:
        """A reply to DATA that is not 354, to a chunk that is not 250, or one in the middle of the content."""
        self._transaction.judge(connection, step, reply, movable=True)
        self._transaction.attempts.ended(connection, step, reply)
        self._transaction.give_back()
        return self._for_all([handed_up(reply)] * len(self._transaction.wire))

    # The final answer

    def _conclude(self, connection: Connection, answers: Sequence[Answer], wire: Sequence[Recipient]) -> Sequence[Reply]:
        """The books of one transaction that was answered, or was not."""
        result = outcome(answers, len(wire), lmtp=connection.settings.lmtp)
        endpoint = connection.link.endpoint
        attempts = self._transaction.attempts
        attempts.endpoint = endpoint.settings.label
        if result.unknown:
            reason = connection.reason or "no reply that says whether it was taken"
            endpoint.circuit.failed(connection.trouble or Kind.GARBAGE, reason, attempts)
            connection.abort(reason)
            known = len(wire) - result.unknown
            attempts.concluded(connection, list(zip(wire[:known], result.replies, strict=False)), wire[known:])
            attempts.unknown(endpoint, wire[known:], reason)
            return result.replies
        connection.messages += 1
        endpoint.messages += 1
        attempts.concluded(connection, list(zip(wire, result.replies, strict=True)))
        if result.closing:
            endpoint.circuit.failed(Kind.CLOSING, "", attempts)
            connection.quit()
        else:
            endpoint.circuit.succeeded()
            self._hops.pool.give_back(connection)
        return result.replies

    async def _read_late(self, connection: Connection, wire: Sequence[Recipient]) -> None:
        """The client is gone, the message is on its way: hear what becomes of it."""
        answers = await connection.exchange()
        self._transaction.attempts.late(connection.link.endpoint, self._conclude(connection, answers, wire))

    def _for_all(self, replies: Sequence[Reply]) -> list[Reply]:
        """In the order of acceptance, with those that a replay lost."""
        by_recipient = dict(zip(self._transaction.wire, replies, strict=True))
        return [by_recipient.get(recipient, NO_LONGER_ACCEPTED) for recipient in self._transaction.accepted]

    def _incident(self, failure: Any) -> None:
        self._hops.log.incident(self._envelope.id, failure.value)
