"""`modify.srs`: forwarded mail gets a sender of ours that leads back to the real one (SRS), so that SPF passes at the next hop.

Senders are rewritten but the null one, those of our own domains (`local_domains`), and those of DOMAIN itself. Recipients at
DOMAIN that are such addresses, bounces on their way back, are turned into the sender they stand for; one that we have not made,
or too long ago, is refused: 550 5.1.1. So the same line may stand where mail goes out and where bounces come in; `rewrite` says
which it is to do.

A local part with quotes stays, since it can't be part of another one.
"""

from __future__ import annotations

from typing import Any

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.domains import NOTHING_LOCAL
from mailgate.config.schema import Argument, Directive
from mailgate.mailauth.srs import NotOurs, Rewriter, is_rewritten
from mailgate.message.envelope import Envelope, Recipient
from mailgate.net.waiting import begin
from mailgate.pipeline.lookup import look_up
from mailgate.pipeline.modifiers import Modifier
from mailgate.pipeline.router import place
from mailgate.registry.module import Globals
from mailgate.smtp.address import Address, AddressError, ascii_domain, domain_key, parse_address
from mailgate.smtp.reply import MailError, Reply

REFUSED = Reply(550, "5.1.1", "No such address: it is not one of ours, or has expired")
LEAST_SECRET = 8
"""Characters: who guesses it sends bounces through us."""


class Srs(Modifier):
    """Rewrites senders of forwarded mail into addresses at a domain of ours, and recipients of bounces back."""

    name = "modify.srs"

    domain = Argument("DOMAIN", v.String("DOMAIN"), doc="Where rewritten addresses are: bounces to it must come here.")
    secrets = Directive(
        "secret",
        v.Secret(),
        repeatable=True,
        doc="What addresses are made with; several so that it can be replaced: the first makes them, all bring them back.",
    )
    rewrite = Directive(
        "rewrite", v.Choice("both", "sender", "recipient"), default="both", doc="Senders on their way out, bounces, or both."
    )
    max_age = Directive(
        "max_age", v.Duration(minimum=86400, maximum=1000 * 86400), default=21 * 86400.0, doc="How long bounces may come back."
    )
    local_domains = Directive(
        "local_domains",
        v.DomainsOrTable(),
        default=NOTHING_LOCAL,
        inherit=Globals.local_domains,
        doc="Domains whose senders stay as they are: they may send from here.",
    )

    def configure(self, report: Report) -> None:
        if not ascii_domain(self.domain) or "." not in self.domain:
            report.error(self.span, f"`{self.domain}` is no domain that addresses can be at", code="E0829")
        if not self.secrets:
            report.error(self.span, "there is no secret to make addresses with", code="E0829", hint="`secret file:…`")
        for secret in self.secrets:
            if len(secret.reveal()) < LEAST_SECRET:
                message = f"a secret of fewer than {LEAST_SECRET} characters can be guessed"
                report.error(self.span_of("secret"), message, code="E0829")
        self._rewriter = Rewriter([secret.reveal() for secret in self.secrets], int(self.max_age // 86400))
        self._domain_key = domain_key(self.domain)

    def sender(self, envelope: Envelope) -> Any:
        sender = envelope.sender
        if self.rewrite == "recipient" or not sender.domain or sender.local_part.startswith('"'):
            return sender
        key = domain_key(sender.domain)
        if key == self._domain_key or key in self.local_domains.domains:
            return sender
        return begin(self._unless_local(sender, key)) if self.local_domains.waits else self._rewritten(sender)

    async def _unless_local(self, sender: Address, key: str) -> Address:
        return sender if await look_up(self.local_domains.table, key) else self._rewritten(sender)

    def _rewritten(self, sender: Address) -> Address:
        return Address(self._rewriter.forward(sender.local_part, sender.domain, self._now()), self.domain)

    def rcpt(self, recipient: Recipient) -> Any:
        address = recipient.address
        if self.rewrite == "sender" or domain_key(address.domain) != self._domain_key or not is_rewritten(address.local_part):
            return (address,)
        try:
            local_part, domain = self._rewriter.reverse(address.local_part, self._now())
            return (parse_address(f"{local_part}@{domain}"),)
        except (NotOurs, AddressError) as error:
            raise MailError(REFUSED, f"SRS: {error}", place(self.span)) from error

    def _now(self) -> float:
        adapters = self.context.adapters
        assert adapters is not None
        return float(adapters.wall_time())
