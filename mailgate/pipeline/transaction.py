"""One mail transaction, from MAIL to the reply to the dot: what a listener drives and a client hears.

The order of things: `mail` judges and routes the sender; each `rcpt` runs checks and modifiers, decides what the recipient needs
(routing.py), asks whether that may be promised (answers.py), and only then offers it to next hops (offers.py), so that the client
hears their answer for each recipient (cut-through); `data` begins the content, `append` fills it, `end` judges it, adds Received,
sends it to every delivery at once (sending.py) and answers.

- A recipient is accepted only if all it expands to is; else what was already accepted of it is withdrawn.
- 250 to the dot means that every next hop said 2yz for every recipient it is said for. Missing replies are refusals.
- A step answers at once when nothing waits, otherwise with a `Wait`. Steps don't overlap.
- `abort` may come at any time, and must come after a step was cancelled: what waits is cancelled, deliveries are aborted (one
  that already wrote its final dot runs to its answer and logs it), checks closed, the body released. Nothing is left behind.
- A step never fails but by cancellation: exceptions of modules are 451 4.3.0 with an incident id and a traceback in the log.

It refuses: more than one irrevocable answer behind one reply (`on_split`), a full spool (452 4.3.1), loops (554 5.4.6).
RFC 5321 4.1.1, 4.4 (trace), 6.3 (loops); RFC 2033 (LMTP); RFC 8601 5 (forged results).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.events import Event, EventLog
from mailgate.message.body import Body, SpoolFull
from mailgate.message.envelope import Envelope, Recipient, Session
from mailgate.message.findings import change_envelopes
from mailgate.message.message import Message
from mailgate.net.waiting import Wait, spawn, start
from mailgate.pipeline.answers import (
    FinalAnswers,
    fold,
    internal_error,
    with_id,
)
from mailgate.pipeline.check import Refused
from mailgate.pipeline.checks import OpenCheck, ask_each
from mailgate.pipeline.content import Content, amend
from mailgate.pipeline.content_routes import ContentRoutes
from mailgate.pipeline.copies import copies_of, copy
from mailgate.pipeline.downstream import Accepted, Downstream
from mailgate.pipeline.log_lines import log_outcome
from mailgate.pipeline.notices import Notices
from mailgate.pipeline.offers import Offers
from mailgate.pipeline.phases import TwoPhases, is_two_phase
from mailgate.pipeline.router import Router
from mailgate.pipeline.routing import Path, Routing
from mailgate.pipeline.section import own_section
from mailgate.pipeline.sending import modified, send, send_all
from mailgate.pipeline.settings import TransactionSettings
from mailgate.smtp.address import Address
from mailgate.smtp.parameters import NO_MAIL_PARAMETERS, NO_RCPT_PARAMETERS, BodyType, MailParameters, RcptParameters
from mailgate.smtp.reply import MailError, Reply

MAIL_OK = Reply(250, "2.1.0", "Sender ok")
NO_RECIPIENTS = Reply(554, "5.5.1", "No valid recipients")
SPOOL_FULL = Reply(452, "4.3.1", "Insufficient system storage")
MOST_ADDED = 1000
"""Recipients of one message that filters may add."""
TOO_MANY_ADDED = Reply(554, "5.5.3", "Too many recipients")

_log = EventLog("mailgate.pipeline")


class Transaction:
    """See the module's docstring."""

    __slots__ = (
        "_answers",
        "_body",
        "_content",
        "_content_error",
        "_done",
        "_envelope",
        "_offers",
        "_path",
        "_router",
        "_routing",
        "_running",
        "_sender_refusal",
        "_session",
        "_settings",
        "_stage",
        "_started",
        "id",
    )

    def __init__(
        self,
        router: Router,
        session: Session,
        settings: TransactionSettings,
        message_id: str,
        routing: Routing | None = None,
    ) -> None:
        self.id = message_id
        self._router = router
        self._session = session
        self._settings = settings
        self._routing = Routing() if routing is None else routing
        self._answers = FinalAnswers(settings.split, per_recipient=settings.per_recipient)
        self._offers = Offers(self._routing, self._answers, settings.reports)
        self._envelope: Any = None
        self._path: Path | None = None
        self._sender_refusal: MailError | None = None
        self._content: Content | None = None
        """What checks have made of it, if there are any."""
        self._body: Body | None = None
        self._content_error: BaseException | None = None
        self._running: Any = None
        """The answer to the last step; a `Wait` may be waiting still."""
        self._stage = "start"
        self._started = 0.0
        self._done = False

    # The steps

    def mail(self, sender: Address, parameters: MailParameters = NO_MAIL_PARAMETERS) -> Reply | Awaitable[Reply]:
        self._stage = "mail"
        self._started = self._settings.adapters.reactor.seconds()
        self._envelope = Envelope(self.id, sender, self._session, parameters, attempt=self._settings.attempt)
        answer = self._running = start(self._mail())
        return answer

    def rcpt(self, address: Address, parameters: RcptParameters = NO_RCPT_PARAMETERS) -> Reply | Awaitable[Reply]:
        self._stage = "rcpt"
        answer = self._running = start(self._rcpt(Recipient(address, parameters)))
        return answer

    def data(self) -> Reply | None:
        """None: go on. A Reply refuses DATA."""
        self._stage = "data"
        if not self._offers.accepted:
            return NO_RECIPIENTS
        binary = self._envelope.parameters.body is BodyType.BINARY
        self._body = Body(self._settings.spool, self._settings.memory_limit, binary=binary)
        return None

    def append(self, content: bytes) -> Awaitable[None] | None:
        """Trouble with the spool is remembered and answered by `end`; the rest of the content is not kept."""
        if self._content_error is not None or self._body is None:
            return None
        try:
            waiting = self._body.append(content)
        except Exception as error:
            self._content_error = error
            return None
        if waiting is None:
            return None
        answer = self._running = start(self._appended(waiting))
        return answer

    def end(self) -> list[Reply] | Awaitable[list[Reply]]:
        """One reply for each accepted recipient; for SMTP exactly one."""
        self._stage = "end"
        answer = self._running = start(self._end())
        return answer

    def abort(self, reason: str = "") -> None:
        """The client is gone, or wants nothing more of this transaction."""
        if self._done:
            return
        self._done = self._offers.closed = True
        level = _log.info if self._offers.accepted else _log.debug
        level(Event.MESSAGE_ABORTED, message=self.id, session=self._session.id, stage=self._stage, reason=reason)
        if isinstance(self._running, Wait):
            self._running.cancel()
        self._release()

    # MAIL and RCPT

    async def _mail(self) -> Reply:
        try:
            self._path = await self._routing.enter(self._router, self._envelope)
            return MAIL_OK
        except CancelledError:
            raise
        except Exception as error:
            refusal = self._refusal(error)
        self._log_refusal(Event.SENDER_REFUSED, refusal)
        if self._settings.defer_sender_reject:
            self._sender_refusal = refusal
            return MAIL_OK
        if not self._done:
            self._done = True
            self._release()
        return refusal.reply

    async def _rcpt(self, recipient: Recipient) -> Reply:
        if self._path is None:
            assert self._sender_refusal is not None
            return self._sender_refusal.reply
        try:
            accepted, reply = await self._offers.offer(self._path, self._envelope, recipient)
        except CancelledError:
            raise
        except Exception as error:
            refusal = self._refusal(error)
            self._log_refusal(Event.RECIPIENT_REFUSED, refusal, str(recipient.address))
            if self._routing.opened:
                await self._tell_refused(Refused(recipient, refusal.reply))
            return refusal.reply
        self._offers.accepted.append(accepted)
        self._envelope.recipients.append(recipient)
        return reply

    async def _tell_refused(self, refused: Refused) -> None:
        """Some checks count whom others refuse."""
        for error in (await ask_each(self._routing.opened, "refused", refused)).values():
            self._refusal(error)

    # The content

    async def _appended(self, waiting: Awaitable[None]) -> None:
        try:
            await waiting
        except CancelledError:
            raise
        except Exception as error:
            self._content_error = error

    async def _end(self) -> list[Reply]:
        offers = self._offers
        message: Message | None = None
        try:
            if self._content_error is not None:
                raise self._content_error
            body = self._body
            assert body is not None
            finishing = body.finish()
            if finishing is not None:
                await finishing
            only = offers.accepted[0].name if len(offers.accepted) == 1 else ""
            utf8 = self._envelope.parameters.smtputf8
            message = Message(own_section(body.header, self._settings, self._session, self.id, only, utf8=utf8), body)
            refused: dict[Accepted, MailError] = {}
            if self._routing.opened or self._routing.waits_for_content:
                refused = await self._judge(message)
            deliveries = offers.drop_unused()
            if offers.notices is not None:
                await offers.notices.prepare(message, self._settings.spool)
            if len(deliveries) == 1 and not self._answers.are_several:  # nearly always
                await send(deliveries[0], message, self._content, self._refusal)
            else:
                await self._send_to_several(deliveries, message)
            final = [(one.name, offers.replies_for(one, refused)) for one in offers.accepted]
            added = [(one.name, offers.replies_for(one, refused)) for one in offers.added]
            if self._settings.per_recipient:
                answers = [with_id(fold([answer, *added]), self.id) for answer in final]
            else:
                answers = [with_id(fold([*final, *added]), self.id)]
            if offers.notices is not None:
                await self._settle_notices(offers.notices, answers)
        except CancelledError:
            raise
        except Exception as error:
            reply = with_id(self._refusal(error).reply, self.id)
            answers = [reply] * (len(offers.accepted) if self._settings.per_recipient else 1)
        if not self._done:
            self._conclude(message, answers)
        return answers

    def _conclude(self, message: Message | None, answers: list[Reply]) -> None:
        """The answers stand: the log has them, copies may go."""
        offers, opened = self._offers, self._routing.opened
        seconds = self._settings.adapters.reactor.seconds() - self._started
        size = self._body.size if self._body is not None else 0
        sent = offers.deliveries.values()
        log_outcome(self._envelope, offers.accepted, sent, opened, answers, self._settings.tally, size, seconds)
        self._done = True
        if offers.has_copies and message is not None:  # the client does not wait for them
            content = self._content or Content(message, {}, "")
            spawn(copy(self.id, content, copies_of(offers.accepted, offers.added, answers)))
        self._release()

    async def _settle_notices(self, notices: Notices, answers: list[Reply]) -> None:
        offers = self._offers
        if self._settings.per_recipient:
            taken = {one for one, answer in zip(offers.accepted, answers, strict=True) if answer.is_success}
        else:
            taken = set(offers.accepted) if answers[0].is_success else set()
        if taken:
            taken |= set(offers.added)
        await notices.settle(lambda one: one in taken)

    async def _judge(self, message: Message) -> dict[Accepted, MailError]:
        """What checks say of the content, what they change of the envelope, and whose way it decides. Returns who is refused, in
        LMTP.

        :raises MailError: SMTP: refused.
        """
        names, offers, routing = self._settings, self._offers, self._routing
        content = self._content = Content(message, self._envelope.findings, names.authserv_id or names.hostname)
        refused: dict[Accepted, MailError] = {}
        if routing.opened:
            refused = await content.judge(offers.accepted, self._refusal, per_recipient=names.per_recipient)
            for one in refused:
                offers.withdraw_all(one)
            if self._envelope.findings:
                staying = [one for one in offers.accepted if one not in refused]
                await self._amend(staying, routing.opened, refused)
        if routing.waits_for_content:
            await self._route_content(content, refused)
        return refused

    async def _amend(self, some: list[Accepted], asked: Sequence[OpenCheck], refused: dict[Accepted, MailError]) -> None:
        """What these checks change of the envelope of these. In LMTP who is refused because of it is ``refused``.

        :raises MailError: the message is refused."""
        if not change_envelopes(self._envelope.findings.values()):
            return
        assert self._content is not None
        offers = self._offers

        async def add(recipient: Recipient) -> None:
            if not any(one not in refused and one.is_for(recipient.address) for one in offers.everybody):
                await self._add(recipient, refused)

        checks = {one.check for one in asked}
        failed = await amend(self._content, some, checks, lambda: list(offers.deliveries.values()), offers.withdraw, add)
        for one in offers.accepted:
            for plan in one.plans:
                if plan.recipient in failed and self._settings.per_recipient:
                    refused[one], plan.delivery = failed.pop(plan.recipient), None
                    offers.withdraw_all(one)
        for error in failed.values():
            raise error

    async def _add(self, recipient: Recipient, refused: dict[Accepted, MailError]) -> None:
        """One more recipient, of a filter's making. :raises MailError: it is refused."""
        offers = self._offers
        if len(offers.added) == MOST_ADDED:
            raise MailError(TOO_MANY_ADDED, "a filter adds recipients without end")
        known = len(self._routing.opened)
        assert self._path is not None
        accepted, _ = await offers.offer(self._path, self._envelope, recipient)
        offers.added.append(accepted)
        opened = self._routing.opened[known:]
        if opened:
            assert self._content is not None
            await self._content.judge_added(accepted, opened, self._refusal)
            await self._amend([accepted], opened, refused)

    async def _route_content(self, content: Content, refused: dict[Accepted, MailError]) -> None:
        """Pass those who wait for the content through their `after_body`. :raises MailError: SMTP: refused."""
        offers = self._offers
        routes = ContentRoutes(self._routing, content, offers.deliveries, offers.withdraw)
        refusal = self._refusal if self._settings.per_recipient else None
        waiting = [one for one in offers.everybody if one not in refused]
        while waiting:
            known, asked = len(offers.added), len(self._routing.opened)
            finished = await routes.finish_all(waiting, refused, refusal)
            for one in offers.added:
                if one in refused:  # and so is the message
                    raise refused[one]
            for one, plan, expanded in finished:
                offers.has_copies = offers.has_copies or bool(one.copies)
                offers.note(self._envelope, one, plan.recipient, expanded=expanded)
            await self._amend([one for one, *_ in finished], self._routing.opened[asked:], refused)
            waiting = offers.added[known:]

    async def _send_to_several(self, deliveries: list[Downstream], message: Message) -> None:
        """In phases (phases.py) if some of them can be taken back, or if all are kept besides."""
        keeper: Any = self._settings.keeper if self._answers.are_several else None
        if keeper is None and (len(deliveries) < 2 or not any(is_two_phase(delivery) for delivery in deliveries)):
            await send_all(deliveries, message, self._content, self._refusal)
            return
        phases = TwoPhases(
            self.id,
            deliveries,
            lambda some: send_all(some, message, self._content, self._refusal),
            lambda one: modified(one, message, self._content),
            lambda error: self._refusal(error).reply,
            None if keeper is None else lambda one: keeper(one.target, one.envelope),
        )
        await phases.run(self._offers.everybody, per_recipient=self._settings.per_recipient)
        if self._offers.notices is not None:
            self._offers.notices.postpone(phases.kept)

    # The end

    def _release(self) -> None:
        """Let go of everything. Deliveries that have answered need no abort."""
        for delivery in self._offers.deliveries.values():
            if not delivery.replies:
                delivery.delivery.abort()
            if delivery.made is not None:
                delivery.release()
        if self._offers.notices is not None:
            self._offers.notices.abort()
        for check in self._routing.opened:
            try:
                check.close()
            except Exception as error:
                self._refusal(error)
        if self._body is not None:
            self._body.release()

    def _refusal(self, error: BaseException) -> MailError:
        """What an exception is for the client; what nobody foresaw goes to the log with its traceback."""
        if isinstance(error, MailError):
            return error
        if isinstance(error, SpoolFull):
            return MailError(SPOOL_FULL, str(error))
        incident = f"{self._settings.adapters.random.getrandbits(32):08x}"
        _log.incident(incident, error, message=self.id, session=self._session.id, stage=self._stage)
        return internal_error(incident)

    def _log_refusal(self, event: Event, refusal: MailError, to: str | None = None) -> None:
        if self._done:
            return  # aborted: nobody heard it
        fields = {"message": self.id, "session": self._session.id, "from": f"<{self._envelope.sender}>", "to": to and f"<{to}>"}
        _log.info(event, **fields, reply=refusal.reply, where=refusal.where, reason=refusal.reason)
