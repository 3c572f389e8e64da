"""check.arc: the chain of those who have passed a message on (RFC 8617).

Lists and forwarders change messages, which breaks their signatures, and send them from elsewhere; with ARC they say under their
seal what they had found before. The state of the chain stands in Authentication-Results. It counts for nothing more unless the
sealer is one of `trust`: a message that fails DMARC passes `check.dmarc` all the same if a trusted sealer found a pass, and
everybody who has sealed since is trusted too. Clients that are ours (`_authentication.py`) are not judged.
"""

from __future__ import annotations

from typing import Any

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Directive
from mailgate.mailauth.arc import MOST_SETS, Outcome
from mailgate.message.envelope import Envelope
from mailgate.message.findings import MethodResult
from mailgate.message.message import Message
from mailgate.modules.check._action import ACTION, IGNORE, ON_ERROR, UNANSWERED, ActingCheck, take
from mailgate.modules.check._authentication import Authentication, ContentState, as_domain, authentication
from mailgate.smtp.address import ascii_domain
from mailgate.smtp.reply import Reply

BROKEN = Reply(550, "5.7.29", "ARC validation failure")
"""RFC 8617 9 and the registry of enhanced status codes."""


class ArcState(ContentState):
    def take_part(self, known: Authentication) -> None:
        known.trusted_sealers |= self.check.trusted
        known.most_sets = self.check.max_sets


class Arc(ActingCheck):
    """Verifies the chain of seals of a message, and says whose word on DMARC counts."""

    name = "check.arc"
    message_state = ArcState
    refusal = BROKEN

    trust = Directive(
        "trust",
        v.Strings("DOMAIN"),
        default=(),
        doc="Sealers that are believed: what they found to pass DMARC is not refused by `check.dmarc`.",
    )
    max_sets = Directive(
        "max_sets",
        v.Integer(minimum=1, maximum=MOST_SETS),
        default=20,
        doc="How many hands a message may have gone through: each costs lookups.",
    )
    on_fail = Directive("on_fail", ACTION, default=IGNORE, doc="What a message meets whose chain is broken.")
    on_error = Directive(
        "on_error", ON_ERROR, default=v.Chosen("ignore"), doc="What a message meets when the DNS gives no answer for a key."
    )

    @property
    def marks(self) -> bool:
        return True

    @property
    def trusted(self) -> frozenset[str]:
        return self._trusted

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._trusted = frozenset(map(as_domain, self.trust))

    def configure(self, report: Report) -> None:
        for domain in self.trust:
            if not ascii_domain(domain):
                report.error(self.span_of("trust"), f"`{domain}` is no domain", code="E0795")

    async def judge(self, envelope: Envelope, message: Message) -> None:
        """:raises MailError: refused."""
        known = authentication(self, envelope)
        known.content(message)
        verdict = await known.chain.get()
        sealers = ":".join(hand.sealer for hand in reversed(verdict.hands))
        findings = envelope.findings_of(self)
        findings.results.append(MethodResult("arc", verdict.outcome.value, verdict.reason, (("arc.chain", sealers),)))
        if verdict.outcome is Outcome.FAIL and self.on_fail.word != "ignore":
            take(self, self.on_fail, BROKEN, envelope, verdict.reason)
        if verdict.outcome is Outcome.TEMPERROR:
            take(self, self.on_error, UNANSWERED, envelope, verdict.reason)
