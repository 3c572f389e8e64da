"""check.require_mx: mail could be sent back to the sender's domain (RFC 5321 5.1, RFC 7505)."""

from __future__ import annotations

from mailgate.dns.answer import Status
from mailgate.dns.resolver import Resolver
from mailgate.message.envelope import Envelope
from mailgate.modules.check._action import NamesCheck
from mailgate.smtp.reply import Reply

NULL_MX = Reply(550, "5.7.27", "The sender's domain says that it has no mail (null MX)")


class RequireMx(NamesCheck):
    """The sender's domain must exist and have an MX record, or at least an address: others hear 550 5.1.8, those with a null MX
    550 5.7.27. The null sender and address literals pass."""

    name = "check.require_mx"
    refusal = Reply(550, "5.1.8", "The sender's domain does not exist, or takes no mail")

    async def judge(self, envelope: Envelope, resolver: Resolver) -> None:
        domain = envelope.sender.domain
        if not domain or domain.startswith("["):
            return
        answer = await resolver.mx(domain)
        if answer.status is Status.FOUND:
            if all(record.exchange.to_text() == "." for record in answer.records):
                self.failed(envelope, f"{domain} has a null MX", NULL_MX)
            return
        if answer.status is Status.NODATA and (await resolver.addresses(domain)).status is Status.FOUND:
            return
        self.failed(envelope, f"{domain} has neither MX nor address: {answer.status.value}")
