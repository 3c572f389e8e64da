"""The mail transaction at a next hop (RFC 5321 3.3) as far as the content: MAIL, RCPT and their parameters, what the answers to
them are, and whether they still agree with what the client has heard.

A `MailTransaction` belongs to one `Delivery` and outlives the connections it is said on. What it knows is what can be said again:

- ``accepted`` is the promise: who has heard 250. ``wire`` is the fact: who is accepted on the connection at hand. ``lost`` are
  those of the promise whom a replay refused.
- `say` says the whole envelope on one endpoint after another until one takes it, and `say_one` adds a recipient to what is open.
  Both go out in one write each; what is judged in between waits for nothing.
- A host that is left for another raises `Moved`, an answer that holds whoever else might be asked raises `Refused`. What moves is
  decided in `judge` for answers and in `failed` for trouble, by the rules in delivery.py.
- A kept connection that is gone, says 421 or refuses RSET before the answer to MAIL is replaced by a fresh one to the same
  endpoint: it was ours that was old, the endpoint has not failed.

Refused here: a recipient whose address can't be said (553 5.1.3), an envelope that no endpoint can take (parameters.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from mailgate.logs.detail import detail
from mailgate.message.envelope import Envelope, Recipient
from mailgate.net.waiting import Wait
from mailgate.outbound.attempts import Attempts, NextHops
from mailgate.outbound.connection import Connection
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.failure import AttemptFailed, Kind, Moved, Refused
from mailgate.outbound.outcome import handed_up
from mailgate.outbound.parameters import (
    NO_NEEDS,
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


class MailTransaction:
    """See the module's docstring."""

    __slots__ = (
        "_envelope",
        "_hops",
        "accepted",
        "attempts",
        "connection",
        "data_reply",
        "lost",
        "needs",
        "replay",
        "waiting",
        "wire",
    )

    def __init__(self, hops: NextHops, envelope: Envelope) -> None:
        self._hops = hops
        self._envelope = envelope
        self.attempts = Attempts(hops, envelope)
        self.accepted: list[Recipient] = []
        self.lost: list[Recipient] = []
        """Accepted once, refused by a replay."""
        self.wire: list[Recipient] = []
        """Accepted in the transaction that is open on the connection."""
        self.connection: Connection | None = None
        """Where it is open; None: nowhere, or the final dot was said there."""
        self.data_reply: Reply | None = None
        """The answer to DATA, where that was said with the envelope."""
        self.replay = False
        """What was said on the connection is not what is wanted any more."""
        self.needs = NO_NEEDS
        """What MAIL said."""
        self.waiting: Any = None
        """What an abort cancels; it may have fired already."""

    def begin(self) -> None:
        """A client command has come."""
        now = self._hops.clock.seconds()
        self.attempts.begin(now)
        connection = self.connection
        if connection is not None and connection.over_by != inf:
            connection.go_on(now)

    def hold(self) -> None:
        """The connection is the client's for a while."""
        connection = self.connection
        if connection is not None and connection.trouble is None:
            connection.arm(connection.heard_at + self._hops.settings.hold_timeout, self.give_back)

    def is_open_for(self, connection: Connection, address: Address) -> bool:
        """Whether one more RCPT may follow there: nothing has to be said again for it."""
        if self.replay or connection.trouble is not None:
            return False
        return self.needs.utf8 or (address.local_part + address.domain).isascii() or not needs_utf8(address)

    def withdraw(self, recipients: Sequence[Recipient]) -> None:
        """The promise to these is taken back; the transaction is said anew without them if it goes on."""
        self.accepted = [recipient for recipient in self.accepted if recipient not in recipients]
        self.lost = [recipient for recipient in self.lost if recipient not in recipients]
        self.replay = True
        if self.data_reply is not None:  # nothing but content can be said there now
            self.give_back()

    def abort(self) -> None:
        """Nobody wants to hear more of it."""
        if self.waiting is not None:
            self.waiting.cancel()
        if self.connection is not None:
            self.attempts.given_up(self.connection)
        self.give_back()

    # What is said

    async def say(self, new: Sequence[Recipient] = _NOBODY) -> list[Reply]:
        """Say MAIL, all accepted recipients and ``new`` on one endpoint after another, until one takes the transaction.
        Returns the answers to ``new``."""
        connection = self.connection
        while True:
            try:
                recipients = self.accepted if not self.lost else [r for r in self.accepted if r not in self.lost]
                if new:
                    recipients = [*recipients, *new]
                if connection is None or connection.trouble is not None:
                    if connection is not None:  # it went while the client paused
                        self.attempts.left(connection)
                    connection = self.attempts.take(recipients)
                    if connection is None:
                        connection = await self._search()
                self.needs = find_needs(self._envelope, recipients, self.attempts.message)
                whole = self.attempts.message is not None and new is not _NOBODY
                self._say_on(connection, recipients, whole=whole)
                answers = await self.exchange(connection)
                stuck = bool(answers) and answers[0].step is Step.RSET and not answers[0].reply.is_success
                while answers and answers[0].step in _BEFORE_MAIL:
                    del answers[0]
                if answers and answers[-1].step is Step.DATA:
                    self.data_reply = answers.pop().reply
                # A kept connection turned out to be gone: closed, or 421, before the answer to MAIL; or it refuses RSET.
                gone = answers[0].reply.code == 421 if answers else connection.trouble in (Kind.LOST, Kind.CLOSING)
                if stuck or (gone and connection.reused):
                    connection.quit()
                    connection = await self._search(again=connection.link.endpoint)
                    continue
                replies = self._judge_envelope(connection, recipients, answers, new)
                if whole and self.wire and self.is_lost(connection):
                    raise self.broken(connection, Step.DATA)
                return replies
            except Moved:
                connection = None

    async def say_one(self, connection: Connection, recipient: Recipient) -> Reply:
        """One more RCPT in the open transaction."""
        if detail.active and not connection.watched:
            self._watch(connection, [recipient])
        try:
            self._say_rcpt(connection.session, recipient)
        except CommandError:
            return NO_ADDRESS
        answers = await self.exchange(connection)
        try:
            if not answers:
                raise self.broken(connection, Step.RCPT)
            return self._judge_recipient(connection, recipient, answers[0].reply, movable=not self.wire)
        except Moved:
            return (await self.say((recipient,)))[0]

    def _say_on(self, connection: Connection, recipients: Sequence[Recipient], *, whole: bool) -> None:
        """MAIL and RCPT, and DATA if the message is ``whole``. One that is open is RSET first, with an answer in front."""
        session = connection.session
        self.data_reply = None
        if connection.reused:
            connection.timings = []
            if connection is not self.connection:
                connection.begin_attempt()
        self.connection = connection
        if detail.active or connection.watched:
            self._watch(connection, recipients)
        envelope, offered = self._envelope, session.capabilities
        sender, trusted = envelope.sender, bool(envelope.session.auth_user)
        if not sender.domain.isascii():
            sender = wire_address(sender, utf8=self.needs.utf8)
        try:
            parameters = mail_parameters(envelope.parameters, self.needs, offered, lmtp=session.lmtp, trusted=trusted)
            if session.in_transaction:
                session.rset()
            if connection.settings.xforward is not None:
                session.xforward(self._origin(connection.settings.xforward))
            session.mail(sender, parameters)
            for recipient in recipients:
                self._say_rcpt(session, recipient)
            if whole and offered.pipelining and not (offered.chunking and self.wants_chunks):
                session.data()
        except MailError as error:
            session.unsay()
            self.attempts.unsuitable(connection, error.reply)
            self.give_back()
            raise Moved from error
        except CommandError as error:
            session.unsay()
            self.give_back()
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
            address = wire_address(address, utf8=self.needs.utf8)
        given = recipient.parameters
        if given is NO_RCPT_PARAMETERS:
            session.rcpt(address)
        else:
            session.rcpt(address, rcpt_parameters(given, session.capabilities, lmtp=session.lmtp))

    @property
    def wants_chunks(self) -> bool:
        """BDAT (RFC 3030) in place of DATA, where it is offered."""
        return self._hops.settings.chunking or self.needs.body is BodyType.BINARY

    def exchange(self, connection: Connection, then: Callable[[list[Answer]], float | None] | None = None) -> Wait[list[Answer]]:
        """What was said goes out; its answers, within what is left for the client's command."""
        self.waiting = waiting = connection.exchange(self.attempts.patience, then)
        return waiting

    # What is heard

    def _judge_envelope(
        self, connection: Connection, recipients: Sequence[Recipient], answers: Sequence[Answer], new: Sequence[Recipient]
    ) -> list[Reply]:
        """The answers to MAIL and RCPT, fewer if there is trouble; those to ``new``, the last of the recipients, are returned."""
        self.replay = False
        self.wire = []
        if not answers:
            raise self.broken(connection, Step.MAIL)
        reply = answers[0].reply
        if reply.code // 100 != 2:
            self.judge(connection, Step.MAIL, reply, movable=True)
            self.attempts.ended(connection, Step.MAIL, reply)
            self.give_back()
            raise Refused(handed_up(reply))
        if len(answers) <= len(recipients):
            raise self.broken(connection, Step.RCPT)
        if len(recipients) == 1 and new:  # nearly always
            return [self._judge_recipient(connection, new[0], answers[1].reply, movable=True)]
        kept = len(recipients) - len(new)
        for recipient, answer in zip(recipients[:kept], answers[1:], strict=False):
            if self._judge_recipient(connection, recipient, answer.reply, movable=not self.wire).code // 100 != 2:
                self.lost.append(recipient)
        movable = not self.wire and not any(answer.reply.code // 100 == 2 for answer in answers[kept + 1 :])
        return [
            self._judge_recipient(connection, recipient, answer.reply, movable=movable)
            for recipient, answer in zip(new, answers[kept + 1 :], strict=True)
        ]

    def _judge_recipient(self, connection: Connection, recipient: Recipient, reply: Reply, *, movable: bool) -> Reply:
        if reply.code // 100 == 2:
            self.wire.append(recipient)
            return reply if reply.enhanced else handed_up(reply)
        self.judge(connection, Step.RCPT, reply, movable=movable)
        self.attempts.refused.append((recipient, reply))
        return handed_up(reply)

    def judge(self, connection: Connection, step: Step, reply: Reply, *, movable: bool) -> None:
        """A reply that is no success: returns if it is the answer, raises if the connection or the endpoint is left for it."""
        if reply.code == 421:
            raise self._failed(connection, AttemptFailed(Kind.CLOSING, step, "421", reply))
        if not (reply.is_temporary or reply.is_permanent):
            raise self._failed(connection, AttemptFailed(Kind.GARBAGE, step, "an unexpected reply", reply))
        endpoint = connection.link.endpoint
        endpoint.circuit.succeeded()
        if movable and reply.is_temporary and self._hops.settings.tempfail and self.attempts.has_next(endpoint):
            self.attempts.answered(connection, step, reply)
            self.give_back()
            raise Moved

    def is_lost(self, connection: Connection) -> bool:
        """It can't be gone on with, and has not refused DATA before."""
        return connection.trouble is not None and (self.data_reply is None or self.data_reply.code == 354)

    # Whom it is said to

    async def _search(self, again: Endpoint | None = None) -> Connection:
        """A connection of another endpoint; or a new one to the endpoint whose idle one was gone, ``again``, if that can be.

        :raises Refused: when no endpoint is left."""
        self.connection = None
        self.waiting = searching = self.attempts.search(again=again)
        try:
            connection = await searching
        except NoneLeft:
            raise Refused(self.attempts.refusal()) from None
        except AttemptFailed as failure:
            raise Refused(self.attempts.refusal(failure.kind.reply)) from failure
        except MailError as error:
            raise Refused(error.reply) from error
        self.attempts.found(connection, self._hops.clock.seconds())
        return connection

    def broken(self, connection: Connection, step: Step) -> Moved | Refused:
        """Its answers ended before those to ``step``: what to raise."""
        kind = connection.trouble or Kind.GARBAGE
        return self._failed(connection, AttemptFailed(kind, step, connection.reason or "no answer"))

    def _failed(self, connection: Connection, failure: AttemptFailed) -> Moved | Refused:
        """This endpoint failed in the dialogue: what to raise."""
        connection.abort(failure.reason)
        self.connection = None
        self.attempts.failed(connection, failure)
        return Refused(Kind.TOTAL.reply) if self.attempts.expired else Moved()

    def give_back(self) -> None:
        """Done with the connection; the pool looks at what state it is in."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.disarm()
            self.attempts.left(connection)
            self._hops.pool.give_back(connection)
