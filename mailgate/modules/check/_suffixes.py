"""Organizational domains, by the list of public suffixes (RFC 7489 3.2)."""

from __future__ import annotations

from functools import cache, lru_cache

from publicsuffixlist import PublicSuffixList


@cache
def suffixes() -> PublicSuffixList:
    """The list as the library brings it; reading it takes a tenth of a second."""
    return PublicSuffixList()


@lru_cache(maxsize=4096)
def organizational_domain(domain: str) -> str:
    """One label below the public suffix; a public suffix is its own. Names with A-labels in lower case."""
    return suffixes().privatesuffix(domain) or domain
