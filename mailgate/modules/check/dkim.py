"""check.dkim: whose signatures a message bears, and whether they hold (RFC 6376).

A signature that does not hold says no more than none (RFC 6376 6.3): many a list breaks them. So nothing is refused unless
the operator says so, and a message passes if one signature holds. Each has a result of its own in Authentication-Results; no more
than `max_signatures` are looked at. Those by a key that says it is being tried out (`t=y`) count as none when they fail.

Judged is the message as it came, all of it: a signature of a part of the body, or one that leaves out a field of
`required_fields` that the message has, does not count (`policy`). Clients that are ours (`_authentication.py`) are not judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Directive
from mailgate.mailauth.dkim import Outcome, Result
from mailgate.message.envelope import Envelope
from mailgate.message.findings import MethodResult
from mailgate.message.header import Header
from mailgate.message.message import Message
from mailgate.modules.check._action import ACTION, IGNORE, ON_ERROR, REJECT, UNANSWERED, ActingCheck, take
from mailgate.modules.check._authentication import MOST_SIGNATURES, Authentication, ContentState, as_domain, authentication
from mailgate.smtp.address import ascii_domain
from mailgate.smtp.reply import Reply

NOT_VALID = Reply(550, "5.7.20", "No passing DKIM signature found")
"""RFC 7372 3.1, as the next one."""
NOT_THE_AUTHORS = Reply(550, "5.7.22", "No valid author-matched DKIM signature found")


class DkimState(ContentState):
    def take_part(self, known: Authentication) -> None:
        known.most_signatures = max(known.most_signatures, self.check.max_signatures)


class Dkim(ActingCheck):
    """Verifies the signatures of a message."""

    name = "check.dkim"
    message_state = DkimState
    refusal = NOT_VALID

    on_fail = Directive(
        "on_fail",
        ACTION,
        default=IGNORE,
        doc="What a message meets that has signatures, none of which holds.",
        origin="maddy",
    )
    on_none = Directive("on_none", ACTION, default=IGNORE, doc="What a message meets that has no signature.", origin="maddy")
    on_error = Directive(
        "on_error",
        ON_ERROR,
        default=v.Chosen("defer"),
        doc="What a message meets when no signature holds, and the DNS gives no answer for a key.",
        origin="maddy",
    )
    required_fields = Directive(
        "required_fields",
        v.Strings("FIELD"),
        default=("From", "Subject"),
        doc="Fields that a signature must have signed, if the message has them, to count.",
        origin="maddy",
    )
    required_for = Directive(
        "required_for",
        v.Strings("DOMAIN"),
        default=(),
        doc="Domains, with those below, that are known to sign all of their mail: a message that is From one of them needs its"
        " signature.",
    )
    on_missing = Directive(
        "on_missing", ACTION, default=REJECT, doc="What a message meets that lacks a signature by `required_for`."
    )
    max_signatures = Directive(
        "max_signatures",
        v.Integer(minimum=1, maximum=50),
        default=MOST_SIGNATURES,
        doc="How many signatures are looked at, top first: each costs a lookup.",
    )

    @property
    def marks(self) -> bool:
        return True

    def configure(self, report: Report) -> None:
        for domain in self.required_for:
            if not ascii_domain(domain):
                report.error(self.span_of("required_for"), f"`{domain}` is no domain", code="E0795")

    async def judge(self, envelope: Envelope, message: Message) -> None:
        """:raises MailError: refused."""
        known = authentication(self, envelope)
        known.content(message)
        results = self._with_required_fields(known.header, await known.signatures.get())
        findings = envelope.findings_of(self)
        findings.results += [method_result(result) for result in results]
        self._require_authors(envelope, known.authors, results)
        self._act(envelope, results)

    def _act(self, envelope: Envelope, results: Sequence[Result]) -> None:
        outcomes = {Outcome.NONE if one.testing else one.outcome for one in results}
        if Outcome.PASS in outcomes:
            return
        if Outcome.TEMPERROR in outcomes:
            take(self, self.on_error, UNANSWERED, envelope, "no answer for a key")
        elif outcomes != {Outcome.NONE}:
            reasons = "; ".join(f"{one.domain}: {one.reason}" for one in results)
            take(self, self.on_fail, NOT_VALID, envelope, reasons)
        elif self.on_none.word != "ignore":
            take(self, self.on_none, NOT_VALID, envelope, "no signature")

    def _require_authors(self, envelope: Envelope, authors: Sequence[str], results: Sequence[Result]) -> None:
        signers = {one.domain for one in results if one.outcome is Outcome.PASS}
        for author in authors:
            if not any(_is_below(author, as_domain(domain)) for domain in self.required_for):
                continue
            if any(_is_below(author, signer) for signer in signers):
                continue
            if any(one.outcome is Outcome.TEMPERROR and _is_below(author, one.domain) for one in results):
                take(self, self.on_error, UNANSWERED, envelope, f"no answer for a key of {author}")
            else:
                take(self, self.on_missing, NOT_THE_AUTHORS, envelope, f"no signature of {author}")

    def _with_required_fields(self, header: Header, results: Sequence[Result]) -> list[Result]:
        there = {field.name for field in header.fields}
        needed = {name.lower() for name in self.required_fields} & there
        return [_with_required(one, needed) for one in results]


def _with_required(result: Result, needed: set[str]) -> Result:
    unsigned = needed.difference(result.names)
    if result.outcome is not Outcome.PASS or not unsigned:
        return result
    return replace(result, outcome=Outcome.POLICY, reason=f"{min(unsigned)} is not signed")


def _is_below(name: str, domain: str) -> bool:
    return name == domain or name.endswith(f".{domain}")


def method_result(one: Result) -> MethodResult:
    """RFC 8601 2.7.1."""
    properties = (
        ("header.d", one.domain),
        ("header.i", one.identity if one.identity != f"@{one.domain}" else ""),
        ("header.s", one.selector),
        ("header.a", one.algorithm),
        ("header.b", one.signature),
    )
    return MethodResult("dkim", one.outcome.value, one.reason, properties)
