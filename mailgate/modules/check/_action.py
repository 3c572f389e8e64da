"""What checks have in common: what becomes of a message that fails one, and of one that can't be judged.

`on_fail` is for what a check has found: `reject`, with a reply of the operator's if one is given, or `ignore`, which writes a
line to the log (`check.ignored`) and lets the message pass: how a new check is tried out. `on_error` is for what could not be
asked: by default 451, so that nobody passes because a name server is down.

A check of names is asked at stage sender, where the client, its hello name and the reverse-path are all known. It asks the
resolver of its listener, or the global one.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar

from mailgate.config import values as v
from mailgate.config.line import Line
from mailgate.config.schema import Directive, Refused
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import Resolver
from mailgate.events import Event, EventLog
from mailgate.message.envelope import Envelope
from mailgate.net.waiting import Wait, start
from mailgate.pipeline.check import Check, MessageCheck
from mailgate.pipeline.router import place
from mailgate.smtp.reply import MailError, Reply

UNANSWERED = Reply(451, "4.4.3", "Can't be checked at present, try again later")

_log = EventLog("mailgate.checks")
_LATER = "this version has no verdicts that a later rule could use: `reject` or `ignore`"


class _Refusal(v.ReplyCode):
    """A reply, or None where the check's own is meant."""

    def parse_element(self, line: Line) -> Any:
        return None if line.peek() is None else super().parse_element(line)


class ActingCheck(Check):
    """A check whose failure the operator may choose the answer to."""

    refusal: ClassVar[Reply]
    """What a client hears if the operator says nothing else."""

    on_fail = Directive(
        "on_fail",
        v.OneOf(
            {
                "reject": _Refusal(),
                "ignore": v.Nothing(),
                **{word: Refused(word, _LATER) for word in ("quarantine", "score", "tag")},
            }
        ),
        default=v.Chosen("reject", None),
        doc="What a message meets that fails: a refusal, with this reply in place of the check's own, or a line in the log.",
        origin="maddy",
    )

    def failed(self, envelope: Envelope, reason: str, reply: Reply | None = None) -> None:
        """The message fails: returns if that is ignored.

        :raises MailError: it is refused.
        """
        self._act(self.on_fail, reply or self.refusal, envelope, reason)

    def _act(self, action: v.Chosen, reply: Reply, envelope: Envelope, reason: str) -> None:
        where = place(self.span)
        reply = action.value or reply
        if action.word != "ignore":
            raise MailError(reply, f"{self.name}: {reason}", where)
        fields = {"message": envelope.id, "session": envelope.session.id, "check": self.name, "where": where}
        _log.info(Event.CHECK_IGNORED, **fields, reply=reply, reason=reason)


class NamesState(MessageCheck):
    def sender(self, envelope: Envelope) -> Any:
        return self.check.ask(envelope)


class NamesCheck(ActingCheck):
    """A check that asks the DNS; its subclass judges."""

    message_state = NamesState

    on_error = Directive(
        "on_error",
        v.OneOf({"defer": v.Nothing(), "reject": _Refusal(), "ignore": v.Nothing()}),
        default=v.Chosen("defer", None),
        doc="What a message meets when the DNS gives no answer: 451, a refusal for good, or a line in the log.",
    )

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
            self._act(self.on_error, reply, envelope, str(failure))


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
