"""check.matching_helo: the client says a name at EHLO that is its own."""

from __future__ import annotations

import ipaddress

from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import IPV4, IPV6, Resolver
from mailgate.message.envelope import Envelope
from mailgate.modules.check._action import NamesCheck, at_once
from mailgate.smtp.address import domain_key
from mailgate.smtp.reply import Reply


class MatchingHelo(NamesCheck):
    """The name behind EHLO must have the client's address, or be a name of it (PTR); an address literal must be it. Others hear
    550 5.7.1. Clients on unix sockets pass."""

    name = "check.matching_helo"
    refusal = Reply(550, "5.7.1", "The name that you say behind EHLO is not yours")

    async def judge(self, envelope: Envelope, resolver: Resolver) -> None:
        client, helo = envelope.session.client_ip, envelope.session.helo
        if not client:
            return
        literal = _address_in(helo)
        if literal or helo.startswith("["):
            # Bare addresses are no hello names (RFC 5321 4.1.3), even if they are right.
            if helo.startswith("[") and literal == client:
                return
            self.failed(envelope, f"{helo} is not [{client}]")
            return
        family = IPV6 if ":" in client else IPV4
        addresses, names = await at_once([resolver.addresses(helo, (family,)), resolver.reverse(client)])
        if not isinstance(addresses, DnsFailure) and client in (*addresses.ipv4, *addresses.ipv6):
            return
        if not isinstance(names, DnsFailure) and domain_key(helo) in {domain_key(name) for name in names}:
            return
        for answer in (addresses, names):
            if isinstance(answer, DnsFailure):
                raise answer
        self.failed(envelope, f"{helo} is no name of {client}")


def _address_in(helo: str) -> str:
    """The address of a literal, with or without its brackets; "" if it is none."""
    inner = helo.strip("[]")
    inner = inner[5:] if inner[:5].lower() == "ipv6:" else inner
    try:
        return str(ipaddress.ip_address(inner))
    except ValueError:
        return ""
