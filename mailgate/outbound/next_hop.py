"""Next hops as people write them: a domain, with ``mx://`` in front or without, or in brackets a host or an address."""

from __future__ import annotations

from ipaddress import ip_address

from mailgate.outbound.host_names import is_ehlo_name
from mailgate.smtp.address import ascii_domain

MX = "mx://"


def is_next_hop(text: str) -> bool:
    """Whether mail could be routed there."""
    if text.startswith("["):
        return bool(literal_address(text) or host_in(text))
    return bool(_host(text.removeprefix(MX)))


def literal_address(text: str) -> str:
    """The address of ``[192.0.2.1]`` or ``[IPv6:2001:db8::1]``; "" where it is none."""
    inner = text.strip("[]")
    try:
        return str(ip_address(inner[5:] if inner[:5].casefold() == "ipv6:" else inner))
    except ValueError:
        return ""


def host_in(text: str) -> str:
    """The host name in brackets, with A-labels; "" where it can't be one."""
    if not (text.startswith("[") and text.endswith("]")):
        return ""
    return _host(text[1:-1])


def _host(text: str) -> str:
    name = ascii_domain(text.removesuffix(".")) or ""
    return name if is_ehlo_name(name) else ""
