"""One mail transaction, from MAIL to the reply to the dot: what a listener drives and a client hears.

The order of things: `mail` judges and routes the sender; each `rcpt` runs checks and modifiers, decides what the recipient needs
(routing.py), asks whether that may be promised (answers.py), and only then offers it to next hops, so that the client
hears their answer for each recipient (cut-through); `data` begins the content, `append` fills it, `end` judges it, adds Received,
sends it to every delivery at once and answers.

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

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, DeferredList

from mailgate.events import Event, EventLog
from mailgate.message.body import Body, SpoolFull
from mailgate.message.envelope import Envelope, Recipient, Session
from mailgate.message.findings import change_envelopes
from mailgate.message.message import Message
from mailgate.net.waiting import Wait, as_deferred, spawn, start
from mailgate.pipeline.answers import (
    DISCARDED,
    NO_ANSWER,
    RCPT_OK,
    FinalAnswers,
    fold,
    internal_error,
    passed_up,
    with_id,
)
from mailgate.pipeline.check import Refused
from mailgate.pipeline.checks import OpenCheck, ask_each
from mailgate.pipeline.content import Content, amend
from mailgate.pipeline.content_routes import ContentRoutes
from mailgate.pipeline.copies import copies_of, copy
from mailgate.pipeline.downstream import Accepted, Downstream
from mailgate.pipeline.log_lines import log_outcome
from mailgate.pipeline.notices import Notices, quiet
from mailgate.pipeline.phases import TwoPhases, is_two_phase
from mailgate.pipeline.router import Router
from mailgate.pipeline.routing import Path, Plan, Routing
from mailgate.pipeline.section import own_section
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
        "_accepted",
        "_added",
        "_answers",
        "_body",
        "_content",
        "_content_error",
        "_deliveries",
        "_done",
        "_envelope",
        "_has_copies",
        "_notices",
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

    def __init__(self, router: Router, session: Session, settings: TransactionSettings, message_id: str) -> None:
        self.id = message_id
        self._router = router
        self._session = session
        self._settings = settings
        self._routing = Routing()
        self._answers = FinalAnswers(settings.split, per_recipient=settings.per_recipient)
        self._envelope: Any = None
        self._path: Path | None = None
        self._sender_refusal: MailError | None = None
        self._deliveries: dict[tuple[Any, ...], Downstream] = {}
        self._accepted: list[Accepted] = []
        self._added: list[Accepted] = []
        """Of filters' making: the client hears of them only where they fail."""
        self._content: Content | None = None
        """What checks have made of it, if there are any."""
        self._has_copies = False
        self._notices: Notices | None = None
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
        if not self._accepted:
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
        self._done = True
        level = _log.info if self._accepted else _log.debug
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
            accepted, reply = await self._offer(recipient)
        except CancelledError:
            raise
        except Exception as error:
            refusal = self._refusal(error)
            self._log_refusal(Event.RECIPIENT_REFUSED, refusal, str(recipient.address))
            if self._routing.opened:
                await self._tell_refused(Refused(recipient, refusal.reply))
            return refusal.reply
        self._accepted.append(accepted)
        self._envelope.recipients.append(recipient)
        return reply

    async def _tell_refused(self, refused: Refused) -> None:
        """Some checks count whom others refuse."""
        for error in (await ask_each(self._routing.opened, "refused", refused)).values():
            self._refusal(error)

    async def _offer(self, recipient: Recipient) -> tuple[Accepted, Reply]:
        """Route one recipient and offer it to its next hops. :raises Exception: it is refused, and nothing is left of it."""
        assert self._path is not None
        reply = RCPT_OK
        offered: list[Plan] = []
        try:
            plans = await self._routing.plan(self._path, recipient)
            for plan in plans:
                if plan.is_grouped:
                    await plan.find_group()
            is_alone = len(plans) == 1
            copies = [] if is_alone else [plan for plan in plans if plan.copy]
            if copies:
                plans = [plan for plan in plans if not plan.copy]
                is_alone = len(plans) == 1
            expanded = not is_alone and recipient.parameters is not NO_RCPT_PARAMETERS and quiet(plans)
            self._answers.admit(plans)
            for plan in plans:
                if plan.target is None:
                    continue
                delivery = self._deliveries.get(plan.key)
                if delivery is None:
                    delivery = self._deliveries[plan.key] = Downstream(plan)
                answer = delivery.delivery.rcpt(plan.recipient)
                reply = answer if answer.__class__ is Reply else await answer
                if reply.code // 100 != 2:
                    raise MailError(passed_up(reply), f"refused by {plan.target.label}: {reply}", plan.where)
                delivery.accepted.append(plan.recipient)
                plan.delivery = delivery
                offered.append(plan)
        except BaseException:
            for plan in offered:
                self._withdraw(plan)
            raise
        self._answers.accepted(plans)
        if len(self._deliveries) > 1 and self._answers.is_taken:
            self._drop_unused()
        if copies:
            self._has_copies = True
        accepted = Accepted(str(recipient.address), plans, copies)
        if recipient.parameters is not NO_RCPT_PARAMETERS and self._settings.reports is not None:
            self._note(self._settings.reports, accepted, recipient, expanded=expanded)
        return accepted, reply if is_alone and reply.code == 250 and reply.enhanced else RCPT_OK

    def _note(self, reports: Callable[[Envelope], Any], accepted: Accepted, recipient: Recipient, *, expanded: bool) -> None:
        """Whoever asked to hear of success may have to hear it from us."""
        if self._notices is None:
            self._notices = Notices(reports, self._envelope)
        self._notices.add(accepted, recipient, accepted.plans, expanded=expanded)

    def _drop_unused(self) -> None:
        """Deliveries that refused everybody they were offered give their connections back."""
        for key, delivery in list(self._deliveries.items()):
            if not delivery.accepted:
                del self._deliveries[key]
                delivery.delivery.abort()

    def _withdraw(self, plan: Plan) -> None:
        """Take one address out again; a delivery that is left for nobody gives its connection back."""
        if self._done:
            return
        delivery, plan.delivery = plan.delivery, None
        if delivery.accepted == [plan.recipient]:
            del self._deliveries[plan.key]
            delivery.delivery.abort()
        else:
            delivery.withdraw(plan.recipient)

    # The content

    async def _appended(self, waiting: Awaitable[None]) -> None:
        try:
            await waiting
        except CancelledError:
            raise
        except Exception as error:
            self._content_error = error

    async def _end(self) -> list[Reply]:
        message: Message | None = None
        try:
            if self._content_error is not None:
                raise self._content_error
            body = self._body
            assert body is not None
            finishing = body.finish()
            if finishing is not None:
                await finishing
            only = self._accepted[0].name if len(self._accepted) == 1 else ""
            utf8 = self._envelope.parameters.smtputf8
            message = Message(own_section(body.header, self._settings, self._session, self.id, only, utf8=utf8), body)
            refused: dict[Accepted, MailError] = {}
            if self._routing.opened:
                names = self._settings
                self._content = Content(message, self._envelope.findings, names.authserv_id or names.hostname)
                refused = await self._judge(self._content)
            if self._routing.waits_for_content:
                await self._route_content(message, refused)
            self._drop_unused()
            if self._notices is not None:
                await self._notices.prepare(message, self._settings.spool)
            deliveries = list(self._deliveries.values())
            keeper = self._settings.keeper
            if keeper is not None and self._answers.are_several:
                await self._send_in_phases(deliveries, message, keeper)
            elif len(deliveries) == 1:
                await self._send(deliveries[0], message)
            elif any(is_two_phase(delivery) for delivery in deliveries):
                await self._send_in_phases(deliveries, message)
            elif deliveries:
                await self._send_all(deliveries, message)
            final = [(one.name, self._replies_for(one, refused)) for one in self._accepted]
            added = [(one.name, self._replies_for(one, refused)) for one in self._added]
            if self._settings.per_recipient:
                answers = [with_id(fold([answer, *added]), self.id) for answer in final]
            else:
                answers = [with_id(fold([*final, *added]), self.id)]
            if self._notices is not None:
                await self._settle_notices(self._notices, answers)
        except CancelledError:
            raise
        except Exception as error:
            reply = with_id(self._refusal(error).reply, self.id)
            answers = [reply] * (len(self._accepted) if self._settings.per_recipient else 1)
        if not self._done:
            opened, seconds = self._routing.opened, self._settings.adapters.reactor.seconds() - self._started
            size = self._body.size if self._body is not None else 0
            tally, sent = self._settings.tally, self._deliveries.values()
            log_outcome(self._envelope, self._accepted, sent, opened, answers, tally, size, seconds)
            self._done = True
            if self._has_copies and message is not None:  # the client does not wait for them
                content = self._content or Content(message, {}, "")
                spawn(copy(self.id, content, copies_of(self._accepted, self._added, answers)))
            self._release()
        return answers

    async def _settle_notices(self, notices: Notices, answers: list[Reply]) -> None:
        if self._settings.per_recipient:
            taken = {one for one, answer in zip(self._accepted, answers, strict=True) if answer.is_success}
        else:
            taken = set(self._accepted) if answers[0].is_success else set()
        if taken:
            taken |= set(self._added)
        await notices.settle(lambda one: one in taken)

    async def _judge(self, content: Content) -> dict[Accepted, MailError]:
        """What checks say of the content, and what they change of the envelope. Returns who is refused, in LMTP.

        :raises MailError: SMTP: refused.
        """
        per_recipient = self._settings.per_recipient
        refused = await content.judge(self._accepted, self._refusal, per_recipient=per_recipient)
        for one in refused:
            self._withdraw_all(one)
        if self._envelope.findings:
            staying = [one for one in self._accepted if one not in refused]
            await self._amend(staying, self._routing.opened, refused)
        return refused

    async def _amend(self, some: list[Accepted], asked: Sequence[OpenCheck], refused: dict[Accepted, MailError]) -> None:
        """What these checks change of the envelope of these. In LMTP who is refused because of it is ``refused``.

        :raises MailError: the message is refused."""
        if not change_envelopes(self._envelope.findings.values()):
            return
        assert self._content is not None

        async def add(recipient: Recipient) -> None:
            if not any(one not in refused and one.is_for(recipient.address) for one in (*self._accepted, *self._added)):
                await self._add(recipient, refused)

        checks = {one.check for one in asked}
        failed = await amend(self._content, some, checks, lambda: list(self._deliveries.values()), self._withdraw, add)
        for one in self._accepted:
            for plan in one.plans:
                if plan.recipient in failed and self._settings.per_recipient:
                    refused[one], plan.delivery = failed.pop(plan.recipient), None
                    self._withdraw_all(one)
        for error in failed.values():
            raise error

    def _withdraw_all(self, one: Accepted) -> None:
        for plan in one.plans:
            if plan.target is not None and plan.delivery is not None:
                self._withdraw(plan)

    async def _add(self, recipient: Recipient, refused: dict[Accepted, MailError]) -> None:
        """One more recipient, of a filter's making. :raises MailError: it is refused."""
        if len(self._added) == MOST_ADDED:
            raise MailError(TOO_MANY_ADDED, "a filter adds recipients without end")
        known = len(self._routing.opened)
        accepted, _ = await self._offer(recipient)
        self._added.append(accepted)
        opened = self._routing.opened[known:]
        if opened:
            assert self._content is not None
            await self._content.judge_added(accepted, opened, self._refusal)
            await self._amend([accepted], opened, refused)

    async def _route_content(self, message: Message, refused: dict[Accepted, MailError]) -> None:
        """Pass those who wait for the content through their `after_body`. :raises MailError: SMTP: refused."""
        names = self._settings
        if self._content is None:
            self._content = Content(message, self._envelope.findings, names.authserv_id or names.hostname)
        routes = ContentRoutes(self._routing, self._content, self._deliveries, self._withdraw)
        refusal = self._refusal if self._settings.per_recipient else None
        waiting = [one for one in (*self._accepted, *self._added) if one not in refused]
        while waiting:
            known, asked = len(self._added), len(self._routing.opened)
            finished = await routes.finish_all(waiting, refused, refusal)
            for one in self._added:
                if one in refused:  # and so is the message
                    raise refused[one]
            for one, plan, expanded in finished:
                self._has_copies = self._has_copies or bool(one.copies)
                if self._settings.reports is not None:
                    self._note(self._settings.reports, one, plan.recipient, expanded=expanded)
            await self._amend([one for one, *_ in finished], self._routing.opened[asked:], refused)
            waiting = self._added[known:]

    async def _send_all(self, deliveries: list[Downstream], message: Message) -> None:
        """Send to all at once; returns when all have answered."""
        sending = [as_deferred(self._send(delivery, message)) for delivery in deliveries]
        outcomes: list[tuple[bool, Any]] = await DeferredList(sending, consumeErrors=True)
        for sent, failure in outcomes:
            if not sent:
                failure.raiseException()  # a cancellation: nothing else gets out of _send

    async def _send_in_phases(self, deliveries: list[Downstream], message: Message, keeper: Any = None) -> None:
        """Some of them can be taken back, or all are kept besides: see phases.py."""
        phases = TwoPhases(
            self.id,
            deliveries,
            lambda some: self._send_all(some, message),
            lambda one: self._modified(one, message),
            lambda error: self._refusal(error).reply,
            None if keeper is None else lambda one: keeper(one.target, one.envelope),
        )
        await phases.run([*self._accepted, *self._added], per_recipient=self._settings.per_recipient)
        if self._notices is not None:
            self._notices.postpone(phases.kept)

    async def _modified(self, delivery: Downstream, message: Message) -> Message:
        if delivery.marks and self._content is not None:
            message = self._content.variant(delivery.marks)
        return await delivery.modified(message) if delivery.body_modifiers else message

    async def _send(self, delivery: Downstream, message: Message) -> None:
        try:
            if delivery.body_modifiers or delivery.marks:
                message = await self._modified(delivery, message)
            replies = delivery.delivery.send(message)
            if replies.__class__ is not list:
                replies = list(await replies)
        except CancelledError:
            raise
        except Exception as error:
            # A modifier, or against the contract of IDelivery.send: nothing is known of what became of the message.
            delivery.delivery.abort()
            replies = [self._refusal(error).reply] * len(delivery.accepted)
        delivery.replies = dict(zip(delivery.accepted, replies, strict=False))

    def _replies_for(self, one: Accepted, refused: dict[Accepted, MailError]) -> list[Reply]:
        if one in refused:
            return [refused[one].reply]
        return [DISCARDED if plan.target is None else plan.delivery.replies.get(plan.recipient, NO_ANSWER) for plan in one.plans]

    # The end

    def _release(self) -> None:
        """Let go of everything. Deliveries that have answered need no abort."""
        for delivery in self._deliveries.values():
            if not delivery.replies:
                delivery.delivery.abort()
            delivery.release()
        if self._notices is not None:
            self._notices.abort()
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
