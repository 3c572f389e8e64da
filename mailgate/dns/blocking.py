"""Addresses for the command line, which has no event loop: `mailgate check --online` asks the servers that the gateway would ask.

Here dnspython's own resolver does the work. The gateway itself never calls this.
"""

from __future__ import annotations

import dns.exception
import dns.nameserver
import dns.resolver

from mailgate.dns.system import read_hosts
from mailgate.registry.names import ResolverBlock


def lookup(block: ResolverBlock, host: str) -> list[str]:
    """The addresses of a host name, /etc/hosts first.

    :raises OSError: it has none, or nobody answered.
    """
    if local := read_hosts().addresses.get(host.lower()):
        return list(local)
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [dns.nameserver.Do53Nameserver(server.host, server.port) for server in block.servers]
    resolver.timeout = block.timeout
    resolver.lifetime = block.timeout * block.attempts * len(block.servers)
    try:
        found = resolver.resolve_name(host)
    except dns.exception.DNSException as error:
        raise OSError(str(error)) from error
    return list(dict.fromkeys(found.addresses()))
