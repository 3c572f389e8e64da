"""What checks have in common: what becomes of a message that fails one, and of one that can't be judged.

An action is one of these, and `take` does it:

    reject [CODE] [ENHANCED] ["TEXT"]   a refusal, with the check's own reply if none is given
    quarantine                          it passes, with X-Mailgate-Quarantine; routes behind the content may ask for it
    score NUMBER                        it passes, and counts so much
    tag ["TEXT"]                        it passes, with X-Mailgate-Tag; without a text the name of the check
    ignore                              it passes, with a line in the log (`check.ignored`): how a new check is tried out

All but the refusal write that line. `on_fail` is for what a check has found, `on_error` for what could not be asked: by default
451, so that nobody passes because a name server is down.

A check of names is asked at stage sender, where the client, its hello name and the reverse-path are all known. It asks the
resolver of its listener, or the global one.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar

from mailgate.config import values as v
from mailgate.config.line import Line
from mailgate.config.schema import Directive
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import Resolver
from mailgate.events import Event, EventLog
from mailgate.message.envelope import Envelope
from mailgate.net.waiting import Wait, start
from mailgate.pipeline.check import Check, MessageCheck
from mailgate.pipeline.router import place
from mailgate.smtp.reply import MailError, Reply

UNANSWERED = Reply(451, "4.4.3", "Can't be checked at present, try again later")
UNJUDGED = Reply(451, "4.3.0", "Can't be checked at present, try again later")

_log = EventLog("mailgate.checks")


class OptionalReply(v.ReplyCode):
    """A reply, or None where the check's own is meant."""

    def parse_element(self, line: Line) -> Any:
        return None if line.peek() is None else super().parse_element(line)


class _Tag(v.String):
    """A text, or None where the check's name is meant."""

    def parse_element(self, line: Line) -> Any:
        return None if line.peek() is None else super().parse_element(line)


IGNORE = v.Chosen("ignore")
REJECT = v.Chosen("reject")
_PASSING = {"quarantine": v.Nothing(), "score": v.Float(), "tag": _Tag("TEXT"), "ignore": v.Nothing()}
ACTION = v.OneOf({"reject": OptionalReply(), **_PASSING})
"""What may become of a message."""
ON_ERROR = v.OneOf({"defer": v.Nothing(), "reject": OptionalReply(), **_PASSING})
"""The same for one that can't be judged: `defer` is 451."""
_MARKING = frozenset({"quarantine", "score", "tag"})


def leaves_mark(action: v.Chosen) -> bool:
    """Whether a message that it lets pass looks different afterwards."""
    return action.word in _MARKING


def take(check: Check, action: v.Chosen, reply: Reply, envelope: Envelope, reason: str) -> None:
    """Do what the operator wants done; ``reply`` is said where he gives none. Returns if the message passes.

    :raises MailError: it is refused.
    """
    where = place(check.span)
    if action.word in ("reject", "defer"):
        raise MailError(action.value or reply, f"{check.name}: {reason}", where)
    if action.word in _MARKING:
        findings = envelope.findings_of(check)
        if action.word == "score":
            findings.count(action.value)
        elif action.word == "tag":
            findings.tag(action.value or check.name.partition(".")[2])
        else:
            findings.quarantined = True
    fields = {"message": envelope.id, "session": envelope.session.id, "check": check.name, "where": where}
    _log.info(Event.CHECK_IGNORED, **fields, action=action.word, reply=reply, reason=reason)


class ActingCheck(Check):
    """A check whose failure the operator may choose the answer to."""

    refusal: ClassVar[Reply]
    """What a client hears if the operator says nothing else."""

    on_fail = Directive(
        "on_fail",
        ACTION,
        default=REJECT,
        doc="What a message meets that fails: a refusal, with this reply in place of the check's own; it passes, marked for"
        " quarantine, with a score or with a tag; or it passes with a line in the log.",
        origin="maddy",
    )

    @property
    def marks(self) -> bool:
        return leaves_mark(self.on_fail)

    def failed(self, envelope: Envelope, reason: str, reply: Reply | None = None) -> None:
        """The message fails: returns if it passes all the same.

        :raises MailError: it is refused.
        """
        take(self, self.on_fail, reply or self.refusal, envelope, reason)


class AskingCheck(ActingCheck):
    """A check that asks a server, a table or a program, which may not answer."""

    on_error = Directive(
        "on_error",
        ON_ERROR,
        default=v.Chosen("defer", None),
        doc="What a message meets that can't be judged, because who was asked does not answer: 451, a refusal for good, or one of"
        " the ways to pass.",
        origin="maddy",
    )

    @property
    def marks(self) -> bool:
        return leaves_mark(self.on_fail) or leaves_mark(self.on_error)

    def unable(self, envelope: Envelope, reason: str) -> None:
        """The message can't be judged: returns if it passes all the same.

        :raises MailError: it does not.
        """
        take(self, self.on_error, self.refusal if self.on_error.word == "reject" else UNJUDGED, envelope, reason)


class NamesState(MessageCheck):
    def sender(self, envelope: Envelope) -> Any:
        return self.check.ask(envelope)


class NamesCheck(ActingCheck):
    """A check that asks the DNS; its subclass judges."""

    message_state = NamesState

    on_error = Directive(
        "on_error",
        ON_ERROR,
        default=v.Chosen("defer", None),
        doc="What a message meets when the DNS gives no answer: 451, a refusal for good, or one of the ways to pass.",
    )

    @property
    def marks(self) -> bool:
        return leaves_mark(self.on_fail) or leaves_mark(self.on_error)

    async def judge(self, envelope: Envelope, resolver: Resolver) -> None:
        """Call `failed` if the message fails.

        :raises DnsFailure: it can't be said.
        """
        raise NotImplementedError

    async def ask(self, envelope: Envelope) -> None:
        """The stage: see `judge`."""
        resolver = envelope.session.resolver or self.context.adapters.resolver  # type: ignore[union-attr]
        if resolver is None:
            raise RuntimeError(f"{self.name} needs a resolver")
        try:
            await self.judge(envelope, resolver)
        except DnsFailure as failure:
            reply = self.refusal if self.on_error.word == "reject" else UNANSWERED
            take(self, self.on_error, reply, envelope, str(failure))


async def at_once(questions: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Ask the DNS several things at the same time: each answer, or the `DnsFailure` in its place, in order."""
    under_way: list[Any] = []
    try:
        for question in questions:
            under_way.append(start(_answer_or_failure(question)))
        return [await answer if isinstance(answer, Wait) else answer for answer in under_way]
    finally:
        for answer in under_way:
            if isinstance(answer, Wait):
                answer.cancel()


async def _answer_or_failure(question: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await question
    except DnsFailure as failure:
        return failure
