"""Whom an address counts for, wherever something is counted for each client: connections, messages, guesses at passwords.

An IPv4 address is one client, or the many behind one router. An IPv6 client has a whole /64 (RFC 6177, RFC 4291 2.5.1) and may
come from another of its 2^64 addresses each time, so its /64 is what counts. Addresses of one link are hosts by themselves, and
those of NAT64 (RFC 6052) stand for IPv4 addresses: they count one by one.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_network

CLIENT_PREFIX = 64
"""Bits of an IPv6 address that are the client's network."""
_NAT64 = IPv6Network("64:ff9b::/96")


def counted_as(address: str) -> str:
    """What a client with this address is counted as: ``192.0.2.1``, ``2001:db8:1:2::/64``. "" (a unix socket) is itself."""
    return _of_ipv6(address) if ":" in address else address


@lru_cache(maxsize=8192)
def _of_ipv6(address: str) -> str:
    try:
        ip = IPv6Address(address)
    except ValueError:
        return address
    if ip.is_link_local or ip.is_loopback or ip in _NAT64 or ip.ipv4_mapped is not None:
        return address
    return network_of(address, 32, CLIENT_PREFIX)


@lru_cache(maxsize=8192)
def network_of(ip: str, v4: int, v6: int) -> str:
    """The network that an address is counted in: ``192.0.2.0/24``. "" of what is no address."""
    try:
        return str(ip_network(f"{ip.partition('%')[0]}/{v6 if ':' in ip else v4}", strict=False))
    except ValueError:
        return ""
