"""What may stand behind EHLO and LHLO (RFC 5321 4.1.2): a domain, or an address literal in brackets."""

from __future__ import annotations

import ipaddress
import re

MAX_NAME = 255

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_is_domain = re.compile(rf"(?=.{{1,{MAX_NAME}}}\Z){_LABEL}(?:\.{_LABEL})*\Z").match


def is_ehlo_name(text: str) -> bool:
    """Letters, digits, hyphens and (as they are seen) underscores in labels; ``[192.0.2.1]``, ``[IPv6:2001:db8::1]``."""
    if _is_domain(text):
        return True
    if not (text.startswith("[") and text.endswith("]")):
        return False
    literal = text[1:-1]
    try:
        ipaddress.IPv6Address(literal[5:]) if literal[:5].casefold() == "ipv6:" else ipaddress.IPv4Address(literal)
    except ValueError:
        return False
    return True
