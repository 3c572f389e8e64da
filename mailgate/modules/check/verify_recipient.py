"""check.verify_recipient: ask the next hop whether it knows a recipient, before anything is sent there (call-ahead).

The question is MAIL, RCPT, RSET over a connection of the target's pool, with its failover and its limits. Only what the next hop
says about the recipient is an answer: 2yz passes, 5yz refuses, with its words, and both are remembered for a while. Everything
else (it can't be reached, 4yz, the sender of the question is refused) is temporary and forgotten: nobody passes unasked.

Who asks for the same recipient at the same time waits for one answer. The cache is shared by all listeners that use the check and
goes on over a reload, if the same target is asked the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred

from mailgate.config import values as v
from mailgate.config.schema import DEFAULTS, Block
from mailgate.message.envelope import Envelope, Recipient
from mailgate.net.waiting import Wait, spawn
from mailgate.outbound.record import AttemptRecord
from mailgate.outbound.target import Downstream
from mailgate.pipeline.check import Check, MessageCheck
from mailgate.registry import Argument, Directive, Module, Report
from mailgate.smtp.address import NULL_ADDRESS, Address, AddressError, domain_key, parse_address
from mailgate.smtp.client import Step
from mailgate.smtp.parameters import NO_MAIL_PARAMETERS
from mailgate.smtp.reply import Reply

UNKNOWN = Reply(451, "4.4.3", "The recipient can't be verified at present, try again later")
OK = Reply(250, "2.1.5", "Ok")


class CacheBlock(Block):
    """How long answers are remembered."""

    positive = Directive("positive", v.Duration(), default=3600.0, doc="That a recipient is known; 0: not at all.")
    negative = Directive("negative", v.Duration(), default=300.0, doc="That one is not; 0: not at all.")
    size = Directive("size", v.Integer(minimum=0), default=10_000, doc="Recipients, at most; the oldest are forgotten.")


class VerifyRecipientState(MessageCheck):
    def rcpt(self, recipient: Recipient) -> Any:
        return self.check.verify(self.envelope, recipient.address)


class VerifyRecipient(Check):
    """Recipients that the next hop does not know are refused at RCPT, also where something between us and it would take them."""

    name = "check.verify_recipient"
    message_state = VerifyRecipientState

    target = Argument("&TARGET", v.ReferenceTo("target"), doc="Who is asked: a target.smtp or target.lmtp.", origin="halon")
    sender = Directive("sender", v.String("ADDRESS"), default="<>", doc="In whose name it is asked.")
    cache = Directive("cache", block=CacheBlock, default=DEFAULTS, doc="How long answers are remembered.")

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._sender: Address = NULL_ADDRESS
        self._answers = Answers(self.cache.positive, self.cache.negative, self.cache.size)
        self._questions: dict[tuple[str, str], Question] = {}

    def configure(self, report: Report) -> None:
        if not isinstance(self.target, Downstream):
            report.error(self.span, "only a target.smtp or target.lmtp can be asked about recipients", code="E0791")
        sender = self.sender.removeprefix("<").removesuffix(">")
        try:
            self._sender = parse_address(sender) if sender else NULL_ADDRESS
        except AddressError:
            report.error(self.span_of("sender"), f"`{sender}` is no address", code="E0791", hint="`<>`, or user@domain")

    def inherit_state(self, old: Module) -> None:
        if isinstance(old, VerifyRecipient) and self._asks_as(old):
            self._answers = old._answers.with_limits(self.cache.positive, self.cache.negative, self.cache.size)

    def _asks_as(self, old: VerifyRecipient) -> bool:
        mine, before = self.target, old.target
        same = [settings.label for settings in mine.endpoint_settings] == [s.label for s in before.endpoint_settings]
        return bool(same and mine.label == before.label and self._sender == old._sender)

    def verify(self, envelope: Envelope, address: Address) -> Any:
        """None if the recipient may be offered, else the refusal; or an awaitable of that."""
        key = (address.local_part, domain_key(address.domain))
        known = self._answers.get(key, self._now())
        if known is not None:
            return None if known.is_success else known
        return self._ask(key, envelope, address)

    async def _ask(self, key: tuple[str, str], envelope: Envelope, address: Address) -> Reply | None:
        question = self._questions.get(key)
        if question is None:
            question = self._questions[key] = Question(lambda answer: self._answered(key, answer))
            question.begin(self._dialogue(envelope, address))
        answer = await question.join()
        return None if answer.is_success else answer

    def _answered(self, key: tuple[str, str], answer: Reply | None) -> None:
        del self._questions[key]
        if answer is not None and not answer.is_temporary:
            self._answers.keep(key, answer, self._now())

    async def _dialogue(self, envelope: Envelope, address: Address) -> Reply:
        """The answer of the next hop about the recipient, or a temporary one."""
        records: list[AttemptRecord] = []
        asked = replace(envelope, sender=self._sender, parameters=NO_MAIL_PARAMETERS, recipients=[], extra={})
        asked.on_attempt = records.append
        delivery = self.target.open(asked)
        try:
            reply: Reply = await delivery.rcpt(Recipient(address))
        finally:
            delivery.abort()
        if reply.is_success:
            return OK
        is_about_recipient = bool(records) and records[-1].stage == Step.RCPT
        return reply if reply.is_temporary or (reply.is_permanent and is_about_recipient) else UNKNOWN

    def _now(self) -> float:
        adapters = self.context.adapters
        return float(adapters.reactor.seconds()) if adapters is not None else 0.0


class Question:
    """One dialogue for all who want its answer; given up when none of them waits any more. ``answered`` hears of its end, with
    None if there was no answer."""

    def __init__(self, answered: Callable[[Reply | None], None]) -> None:
        self._answered = answered
        self._waiting: list[Wait[Reply]] = []
        self._dialogue: Deferred[Any] | None = None
        self._outcome: Reply | BaseException | None = None

    def begin(self, dialogue: Any) -> None:
        self._dialogue = spawn(dialogue)
        self._dialogue.addCallbacks(self._end, lambda failure: self._end(failure.value))

    def join(self) -> Wait[Reply]:
        wait: Wait[Reply] = Wait(lambda: self._leave(wait))
        if self._outcome is None:
            self._waiting.append(wait)
        else:
            _tell(wait, self._outcome)
        return wait

    def _leave(self, wait: Wait[Reply]) -> None:
        self._waiting.remove(wait)
        if not self._waiting and self._dialogue is not None:
            self._dialogue.cancel()

    def _end(self, outcome: Reply | BaseException) -> None:
        self._outcome = outcome
        self._answered(outcome if isinstance(outcome, Reply) else None)
        waiting, self._waiting = self._waiting, []
        for wait in waiting:
            _tell(wait, outcome)


def _tell(wait: Wait[Reply], outcome: Reply | BaseException) -> None:
    if isinstance(outcome, Reply):
        wait.fire(outcome)
    else:
        wait.fail(outcome)


class Answers:
    """What next hops have said about recipients, each for its time."""

    def __init__(self, positive: float, negative: float, size: int) -> None:
        self._positive = positive
        self._negative = negative
        self._size = size
        self._known: dict[tuple[str, str], tuple[float, Reply]] = {}

    def with_limits(self, positive: float, negative: float, size: int) -> Answers:
        """The same answers under other limits."""
        answers = Answers(positive, negative, size)
        answers._known = dict(list(self._known.items())[-size:]) if size else {}
        return answers

    def get(self, key: tuple[str, str], now: float) -> Reply | None:
        if key not in self._known:
            return None
        until, reply = self._known[key]
        if now < until:
            return reply
        del self._known[key]
        return None

    def keep(self, key: tuple[str, str], reply: Reply, now: float) -> None:
        lifetime = self._positive if reply.is_success else self._negative
        self._known.pop(key, None)
        if not lifetime or not self._size:
            return
        if len(self._known) >= self._size:
            del self._known[next(iter(self._known))]
        self._known[key] = (now + lifetime, reply)
