"""check.require_reverse_dns: the client's address has a name, and the name has that address (forward-confirmed).

What was found stands in Authentication-Results as the method `iprev` (RFC 8601 2.7.3), but with `verify no`, which is half of it.
"""

from __future__ import annotations

from mailgate.config import values as v
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import IPV4, IPV6, Resolver
from mailgate.message.envelope import Envelope
from mailgate.message.findings import MethodResult
from mailgate.modules.check._action import NamesCheck, at_once
from mailgate.registry import Directive
from mailgate.smtp.reply import Reply

MAX_NAMES = 5
"""PTR records that are confirmed: some addresses have hundreds."""


class RequireReverseDns(NamesCheck):
    """Clients whose address has no name, or none that leads back to it, hear 550 5.7.25. The listener's `reverse_lookup` has no
    part in it, so that nobody passes or fails by its timeout. Clients on unix sockets pass."""

    name = "check.require_reverse_dns"
    refusal = Reply(550, "5.7.25", "Your address has no reverse name that leads back to it")

    verify = Directive("verify", v.Boolean(), default=True, doc="Whether the name must have the client's address among its own.")

    @property
    def marks(self) -> bool:
        return self.verify or super().marks

    async def judge(self, envelope: Envelope, resolver: Resolver) -> None:
        if envelope.session.client_ip:
            try:
                await self._judge(envelope, resolver)
            except DnsFailure as failure:
                self._found(envelope, "temperror", str(failure))
                raise

    def _found(self, envelope: Envelope, result: str, reason: str = "") -> None:
        if self.verify:
            address = (("policy.iprev", envelope.session.client_ip),)
            envelope.findings_of(self).results.append(MethodResult("iprev", result, reason, address))

    async def _judge(self, envelope: Envelope, resolver: Resolver) -> None:
        client = envelope.session.client_ip
        names = await resolver.reverse(client)
        if not names:
            self._found(envelope, "permerror", "no name")
            self.failed(envelope, f"{client} has no name")
            return
        if not self.verify:
            return
        family = IPV6 if ":" in client else IPV4
        found = await at_once([resolver.addresses(name, (family,)) for name in names[:MAX_NAMES]])
        failure: DnsFailure | None = None
        for addresses in found:
            if isinstance(addresses, DnsFailure):
                failure = addresses
            elif client in (*addresses.ipv4, *addresses.ipv6):
                self._found(envelope, "pass")
                return
        if failure is not None:
            raise failure
        self._found(envelope, "fail", "no name of it leads back")
        self.failed(envelope, f"{client} is not among the addresses of {', '.join(names[:MAX_NAMES])}")
