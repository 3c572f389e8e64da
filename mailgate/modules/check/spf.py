"""check.spf: whether the client may send for the domain that it sends for (RFC 7208).

Judged is the reverse-path, for the null sender the hello name; with `identity helo mail` the hello name besides, first. Each
result has an action of its own, and stands in Authentication-Results.

- The lookups begin at MAIL. The result counts when the content is here, unless `early yes`, so that DMARC comes first: mail that
  was forwarded fails SPF and passes DKIM. Where a `check.dmarc` judges the message and the domain of From has a policy, `on_fail`
  and `on_softfail` leave it to that (RFC 7489 10.1 warns of refusing earlier).
- Clients that have logged in, with private addresses, and on unix sockets are not judged.
"""

from __future__ import annotations

from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.mailauth.spf import Outcome, Verdict
from mailgate.message.envelope import Envelope
from mailgate.message.findings import MethodResult
from mailgate.message.message import Message
from mailgate.modules.check._action import ACTION, IGNORE, ON_ERROR, UNANSWERED, ActingCheck, take
from mailgate.modules.check._authentication import Authentication, authentication, is_stranger
from mailgate.net.waiting import Wait, start
from mailgate.pipeline.check import MessageCheck
from mailgate.smtp.reply import Reply

FAILED = Reply(550, "5.7.23", "SPF validation failed")
"""RFC 7372 3.2."""
BROKEN = Reply(550, "5.7.24", "SPF validation error")
_LEFT_TO_DMARC = frozenset({Outcome.FAIL, Outcome.SOFTFAIL})


class SpfState(MessageCheck):
    """One message. What was begun at MAIL and nobody waits for any more ends with it."""

    begun: Any = None

    def sender(self, envelope: Envelope) -> Any:
        if not is_stranger(envelope.session):
            return None
        if self.check.early:
            return self.check.judge(envelope, None)
        self.begun = start(self.check.ask(envelope))
        return None

    def body(self, message: Message) -> Any:
        return None if self.begun is None else self.check.judge(self.envelope, message)

    def close(self) -> None:
        if isinstance(self.begun, Wait):
            self.begun.cancel()


class Spf(ActingCheck):
    """The client must be one that the sender's domain allows to send for it: others hear 550 5.7.23. The null sender is judged by
    the hello name."""

    name = "check.spf"
    message_state = SpfState
    refusal = FAILED

    identity = Directive(
        "identity",
        v.List(v.Choice("mail", "helo")),
        default=("mail",),
        doc="Who is judged: the sender (`mail`), the hello name (`helo`), or both, in this order.",
    )
    early = Directive(
        "early",
        v.Boolean(),
        default=False,
        doc="Act at MAIL, before the content comes and DMARC can be asked; forwarded mail is refused then.",
        origin="maddy",
    )
    on_softfail = Directive("on_softfail", ACTION, default=IGNORE, doc="What `softfail` (~all) meets.", origin="maddy")
    on_neutral = Directive("on_neutral", ACTION, default=IGNORE, doc="What `neutral` (?all) meets.", origin="maddy")
    on_none = Directive("on_none", ACTION, default=IGNORE, doc="What a domain without a record meets.", origin="maddy")
    on_permerror = Directive(
        "on_permerror",
        ACTION,
        default=IGNORE,
        doc="What a domain meets whose record is damaged or asks too much.",
        origin="maddy",
    )
    on_error = Directive(
        "on_error",
        ON_ERROR,
        default=v.Chosen("defer"),
        doc="What a message meets when the DNS gives no answer (temperror).",
        origin="maddy",
    )

    @property
    def marks(self) -> bool:
        return True

    async def ask(self, envelope: Envelope) -> list[tuple[str, Verdict]]:
        """The results, by identity."""
        known = authentication(self, envelope)
        return [(identity, await (known.mail_from if identity == "mail" else known.helo).get()) for identity in self.identity]

    async def judge(self, envelope: Envelope, message: Message | None) -> None:
        """:raises MailError: refused."""
        known = authentication(self, envelope)
        results = await self.ask(envelope)
        findings = envelope.findings_of(self)
        findings.results += [_result(identity, verdict, envelope, known) for identity, verdict in results]
        if message is not None and known.policies is not None and any(one.outcome in _LEFT_TO_DMARC for _, one in results):
            known.content(message)
            if await known.policies.get():
                results = [(identity, one) for identity, one in results if one.outcome not in _LEFT_TO_DMARC]
        for identity, verdict in results:
            await self._act(identity, verdict, envelope, known)

    async def _act(self, identity: str, verdict: Verdict, envelope: Envelope, known: Authentication) -> None:
        action = getattr(self, _ACTIONS[verdict.outcome], None) if verdict.outcome in _ACTIONS else None
        if action is None or (action.word == "ignore" and verdict.outcome in _QUIET):
            return
        take(
            self, action, self._reply(identity, verdict, envelope, known), envelope, f"{verdict.outcome.value}: {verdict.reason}"
        )

    def _reply(self, identity: str, verdict: Verdict, envelope: Envelope, known: Authentication) -> Reply:
        if verdict.outcome is Outcome.TEMPERROR:
            return UNANSWERED
        if verdict.outcome is Outcome.PERMERROR:
            return BROKEN.with_text(f"SPF record in error: {verdict.reason}")
        domain = known.helo_domain if identity == "helo" else known.sender_domain
        text = f"{envelope.session.client_ip} may not send mail for {domain}"
        if verdict.explanation:
            # RFC 7208 6.2: it must be plain whose words these are.
            text += f"; {domain} explains: {verdict.explanation}"
        return FAILED.with_text(text)


_ACTIONS = {
    Outcome.FAIL: "on_fail",
    Outcome.SOFTFAIL: "on_softfail",
    Outcome.NEUTRAL: "on_neutral",
    Outcome.NONE: "on_none",
    Outcome.PERMERROR: "on_permerror",
    Outcome.TEMPERROR: "on_error",
}
_QUIET = frozenset({Outcome.SOFTFAIL, Outcome.NEUTRAL, Outcome.NONE})
"""Ignoring these is nothing that the log has a line for: the result stands in `message.done`."""


def _result(identity: str, verdict: Verdict, envelope: Envelope, known: Authentication) -> MethodResult:
    """RFC 8601 2.7.2: the name that was judged; of an address the domain is what counts."""
    if identity == "mail" and envelope.sender.domain:
        judged = ("smtp.mailfrom", f"{envelope.sender.local_part}@{known.sender_domain}")
    else:
        judged = ("smtp.helo", known.helo_domain)
    return MethodResult("spf", verdict.outcome.value, verdict.reason, (judged,))
