"""Whose name a message bears: the domains of the addresses in From."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mailgate.smtp.address import domain_key

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_COMMENT = re.compile(r"\((?:[^()\\]|\\.)*\)", re.DOTALL)
_DOMAIN = re.compile(r"@\s*([^\s<>,;:@]+)")
_MOST_NESTED = 10


def author_domains(fields: Sequence[bytes]) -> list[str]:
    """The domains of all addresses in From fields, in the form of rules. Whatever looks like an address outside of quotes and
    comments is one: rather one too many than one left out for a field that is oddly written."""
    found: dict[str, None] = {}
    for field in fields:
        text = _QUOTED.sub("", field.decode("utf-8", "replace"))
        for _ in range(_MOST_NESTED):
            text, number = _COMMENT.subn("", text)
            if not number:
                break
        found.update((domain_key(domain), None) for domain in _DOMAIN.findall(text))
    return list(found)
