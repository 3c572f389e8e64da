"""check.dmarc: does SPF or DKIM speak for the domain in From, and what does its owner want done if not (RFC 7489).

It asks both itself, so it needs no `spf` and `dkim` beside it; with them, nothing is looked up twice. What the owner wants is one
thing, what is done another: `on_reject` and `on_quarantine` say it, by default just that. `none` changes nothing ever.

- A message with several domains in From is judged for each, and what the strictest wants counts. None at all is `permerror`.
- A message that fails, and whose chain of ARC is by sealers that `check.arc` trusts, meets nothing if one of them found a pass.
- `pct` is drawn for each message: one that is left out meets the next milder wish.
- A name server that does not answer makes it `temperror`, and 451, unless what is known is enough. Who is told to come again is
  counted for reports when they do.
- Clients that are ours (`_authentication.py`) are not judged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import REQUIRED, Block, Directive
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import texts
from mailgate.mailauth import dkim, spf
from mailgate.mailauth.dmarc import Evidence, Judged, Outcome, Policy, Wish, choose, evaluate, sampled, vouched
from mailgate.message.envelope import Envelope
from mailgate.message.findings import MethodResult
from mailgate.message.message import Message
from mailgate.modules.check._action import ACTION, IGNORE, ON_ERROR, REJECT, UNANSWERED, take
from mailgate.modules.check._authentication import Authentication, ContentState, authentication
from mailgate.modules.check._dmarc_data import Observations, row
from mailgate.modules.check._suffixes import organizational_domain, suffixes
from mailgate.net.shared import Shared
from mailgate.pipeline.check import Check
from mailgate.smtp.reply import Reply

REFUSED = Reply(550, "5.7.1", "Refused by the DMARC policy of the sender's domain")
NO_AUTHOR = Reply(550, "5.7.1", "From has no domain")
_REPORT = re.compile(r"\s*Report\s+Domain:\s*\S+\s+Submitter:\s*\S+\s+Report-ID:", re.IGNORECASE)
MOST_AUTHORS = 5
"""Domains in From that are asked about: honest mail has one."""


class ReportsBlock(Block):
    """Where it is written down what was found, for reports to the owners of domains."""

    file = Directive("file", v.Path("FILE"), default=REQUIRED, doc="An SQLite file; its table is described in the guide.")
    keep = Directive("keep", v.Duration(minimum=86400), default=30 * 86400.0, doc="How long a day is kept.")
    max_rows = Directive(
        "max_rows", v.Integer(minimum=1000), default=1_000_000, doc="Rows in it: what would be one more is not written."
    )
    send = Directive("send", v.ReferenceTo("dmarc_report"), doc="Who sends reports of it, once a day. Nobody without it.")


class DmarcState(ContentState):
    def take_part(self, known: Authentication) -> None:
        if known.policies is None:
            known.policies = Shared(lambda: self.check.find_policies(known))


class Dmarc(Check):
    """Judges the domain in From by SPF and DKIM, and does what its owner wants done with messages that fail."""

    name = "check.dmarc"
    message_state = DmarcState

    on_reject = Directive(
        "on_reject", ACTION, default=REJECT, doc="What a message meets that fails, and whose domain wants it refused."
    )
    on_quarantine = Directive(
        "on_quarantine",
        ACTION,
        default=v.Chosen("quarantine"),
        doc="What a message meets that fails, and whose domain wants it quarantined.",
    )
    on_permerror = Directive("on_permerror", ACTION, default=IGNORE, doc="What a message meets that has no domain in From.")
    on_error = Directive(
        "on_error", ON_ERROR, default=v.Chosen("defer"), doc="What a message meets when the DNS gives no answer."
    )

    reports = Directive(
        "reports", block=ReportsBlock, block_required=True, doc="Write down what was found. Nothing is written without it."
    )

    _observations: Observations | None = None

    @property
    def marks(self) -> bool:
        return True

    def configure(self, report: Report) -> None:
        suffixes()
        if self.reports is not None and not os.path.isdir(os.path.dirname(self.reports.file)):
            directory = os.path.dirname(self.reports.file)
            report.warning(self.reports.span_of("file"), f"there is no directory `{directory}`", code="W0796")

    async def start(self) -> None:
        adapters, reports = self.context.adapters, self.reports
        if reports is not None and adapters is not None and self.context.spool is not None:  # a dry run writes nothing
            self._observations = Observations(adapters, reports.file, reports.keep, reports.max_rows)
            if reports.send is not None:
                reports.send.add_file(reports.file)

    async def stop(self) -> None:
        if self._observations is not None:
            await self._observations.close()

    async def find_policies(self, known: Authentication) -> tuple[Policy, ...]:
        """:raises DnsFailure: one can't be asked for."""
        found = [await self._policy(known, author) for author in known.authors[:MOST_AUTHORS]]
        return tuple(policy for policy in found if policy is not None)

    async def _policy(self, known: Authentication, author: str) -> Policy | None:
        """That of the domain itself, else of its organizational domain (RFC 7489 6.6.3)."""
        for domain in dict.fromkeys((author, organizational_domain(author))):
            record = choose(texts(await known.resolver.txt(f"_dmarc.{domain}")))
            if record is not None:
                return Policy(record, domain, author)
        return None

    async def judge(self, envelope: Envelope, message: Message) -> None:
        """:raises MailError: refused."""
        known = authentication(self, envelope)
        known.content(message)
        findings = envelope.findings_of(self)
        if not known.authors:
            findings.results.append(MethodResult("dmarc", Outcome.PERMERROR.value, "no domain in From"))
            take(self, self.on_permerror, NO_AUTHOR, envelope, "no domain in From")
            return
        assert known.policies is not None  # DmarcState has seen to it
        try:
            policies = await known.policies.get()
        except DnsFailure as failure:
            findings.results.append(_result(known.authors[0], Judged(Outcome.TEMPERROR), str(failure)))
            take(self, self.on_error, UNANSWERED, envelope, str(failure))
            return
        if not policies:
            findings.results.append(_result(known.authors[0], Judged(Outcome.NONE)))
            return
        evidence = await _spf_evidence(known), [_dkim_evidence(one) for one in await known.signatures.get()]
        judged = [(policy, self._judged(policy, *evidence)) for policy in policies]
        if any(one.wish is not Wish.NONE for _, one in judged) and (sealer := await known.vouched_for()):
            judged = [(policy, vouched(one, sealer)) for policy, one in judged]
        findings.results += [_result(policy.author, one, _reason(policy, one)) for policy, one in judged]
        action, policy = self._action(judged)
        deferred = any(one.outcome is Outcome.TEMPERROR and failed.wish is not Wish.NONE for failed, one in judged)
        if self._observations is not None and not (deferred and self.on_error.word == "defer") and not _is_report(known, judged):
            await self._note(self._observations, known, judged, _disposition(action))
        for failed, one in judged:
            if one.outcome is Outcome.TEMPERROR and failed.wish is not Wish.NONE:
                take(self, self.on_error, UNANSWERED, envelope, f"{failed.author}: SPF or DKIM has no answer")
        if action is not None and policy is not None:
            reply = REFUSED.with_text(f"Refused by the DMARC policy of {policy.domain}")
            take(self, action, reply, envelope, f"{policy.author} fails, {_reason(policy, Judged(Outcome.FAIL))}")

    def _judged(self, policy: Policy, of_spf: Evidence, of_dkim: Sequence[Evidence]) -> Judged:
        adapters = self.context.adapters
        assert adapters is not None
        judged = evaluate(policy, of_spf, of_dkim, organizational_domain)
        return sampled(judged, policy.record.percent, adapters.random.random())

    def _action(self, judged: Sequence[tuple[Policy, Judged]]) -> tuple[v.Chosen | None, Policy | None]:
        """What the strictest wish is answered with."""
        wishes = {one.wish: policy for policy, one in judged}
        for wish, action in ((Wish.REJECT, self.on_reject), (Wish.QUARANTINE, self.on_quarantine)):
            if wish in wishes:
                return action, wishes[wish]
        return None, None

    async def _note(
        self, observations: Observations, known: Authentication, judged: Sequence[tuple[Policy, Judged]], disposition: Wish
    ) -> None:
        adapters = self.context.adapters
        assert adapters is not None
        verdict = await known.mail_from.get()
        signatures = await known.signatures.get()
        for policy, one in judged:
            observed = row(
                policy,
                one,
                source_ip=known.envelope.session.client_ip,
                disposition=disposition if one.wish is not Wish.NONE else Wish.NONE,
                spf=(known.sender_domain, "mfrom" if known.envelope.sender.domain else "helo", verdict.outcome.value),
                signatures=signatures,
                now=adapters.wall_time(),
            )
            observations.note(observed)


def _is_report(known: Authentication, judged: Sequence[tuple[Policy, Judged]]) -> bool:
    """An aggregate report itself (RFC 7489 7.2.1.1), and genuine. It is not counted: else two gateways that each have sent one
    to the other would go on for ever, reporting nothing but reports."""
    if any(one.outcome is not Outcome.PASS for _, one in judged):
        return False
    subject = b" ".join(known.header.values("subject")[:1])
    return _REPORT.match(subject.decode("latin-1")) is not None


def _disposition(action: v.Chosen | None) -> Wish:
    return {"reject": Wish.REJECT, "quarantine": Wish.QUARANTINE}.get(action.word if action is not None else "", Wish.NONE)


async def _spf_evidence(known: Authentication) -> Evidence:
    verdict = await known.mail_from.get()
    passed, unanswered = verdict.outcome is spf.Outcome.PASS, verdict.outcome is spf.Outcome.TEMPERROR
    return Evidence(known.sender_domain, passed, unanswered)


def _dkim_evidence(one: dkim.Result) -> Evidence:
    return Evidence(one.domain, one.outcome is dkim.Outcome.PASS, one.outcome is dkim.Outcome.TEMPERROR)


def _reason(policy: Policy, judged: Judged) -> str:
    text = f"policy {policy.wish.value} of {policy.domain}"
    if judged.vouched_by:
        return f"{text}, but {judged.vouched_by} has sealed a pass"
    return f"{text}, not for this one of {policy.record.percent}%" if judged.sampled_out else text


def _result(author: str, judged: Judged, reason: str = "") -> MethodResult:
    return MethodResult("dmarc", judged.outcome.value, reason, (("header.from", author),))
