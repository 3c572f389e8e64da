"""DMARC: what the owner of From's domain wants done, and whether SPF or DKIM speak for that domain (RFC 7489).

    record = choose(texts)                                  of _dmarc.DOMAIN, else of _dmarc.ORGANIZATIONAL_DOMAIN
    judged = evaluate(domain, policy, spf, dkim, organizational_domain)
    judged = sampled(judged, chance)

Without I/O. The organizational domain comes from the list of public suffixes, and so from outside, as a function.

- A result speaks for the domain if it passed and is *aligned*: the same domain (strict), or the same organizational domain.
- `p` is for the domain that has the record, `sp` for those below that have none; `pct` of the failing messages meet the policy,
  the others the next milder one (6.6.4).
- Neither SPF nor DKIM speaks for the domain, and one that might have could not be asked: temperror, not fail (6.6.2).
- A record without a usable `p` is `none` if it asks for reports, else it is no record (6.6.3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from mailgate.mailauth.dkim_keys import Malformed, parse_tags


class Wish(Enum):
    """What a domain asks for; each is milder than the next."""

    NONE = "none"
    QUARANTINE = "quarantine"
    REJECT = "reject"


class Outcome(Enum):
    """RFC 7489 11.2."""

    NONE = "none"
    PASS = "pass"
    FAIL = "fail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


@dataclass(frozen=True, slots=True)
class Record:
    """A record of `_dmarc`."""

    policy: Wish
    subdomains: Wish
    strict_dkim: bool = False
    strict_spf: bool = False
    percent: int = 100
    reports_to: tuple[str, ...] = ()
    """``rua``: URIs as they stand there."""
    failures: str = "0"
    """``fo``: of which failures it wants to hear one by one. Only repeated in reports."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The record that holds for a domain, and the domain that has it."""

    record: Record
    domain: str
    author: str
    """The domain of From."""

    @property
    def wish(self) -> Wish:
        return self.record.policy if self.domain == self.author else self.record.subdomains


@dataclass(frozen=True, slots=True)
class Evidence:
    """One result of SPF or DKIM: the domain it is about, and whether it passed, or could not be asked."""

    domain: str
    passed: bool
    unanswered: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """``wish`` is what is to become of the message: NONE unless it failed."""

    outcome: Outcome
    wish: Wish = Wish.NONE
    spf_aligned: bool = False
    dkim_aligned: bool = False
    sampled_out: bool = False
    """Its domain wants more, but not for every message (``pct``)."""
    vouched_by: str = ""
    """Its domain wants more, but this trusted sealer (ARC) has seen it pass."""


_WISHES = {wish.value: wish for wish in Wish}
_VERSION = re.compile(rb"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_FAILURES = re.compile(r"[01ds](?::[01ds]){0,3}")
MAX_URIS = 10
"""Addresses for reports that are kept of one record."""


def choose(texts: Iterable[bytes]) -> Record | None:
    """The record among the TXT records of a name (RFC 7489 6.6.3): of several none holds."""
    records = [text for text in texts if is_version_1(text)]
    return parse_record(records[0]) if len(records) == 1 else None


def is_version_1(text: bytes) -> bool:
    return _VERSION.match(text) is not None


@lru_cache(maxsize=1024)
def parse_record(text: bytes) -> Record | None:
    """None: it says nothing that can be used."""
    try:
        tags = parse_tags(text.decode("ascii"))
    except (Malformed, UnicodeDecodeError):
        return None
    tags = {name.lower(): value for name, value in tags.items()}
    reports_to = tuple(uri.strip() for uri in tags.get("rua", "").split(",") if uri.strip().lower().startswith("mailto:"))
    policy = _WISHES.get(tags.get("p", "").lower())
    subdomains = _WISHES.get(tags.get("sp", tags.get("p", "")).lower())
    if policy is None or subdomains is None:
        if not reports_to:
            return None
        policy = subdomains = Wish.NONE
    percent, failures = tags.get("pct", "100"), tags.get("fo", "0").lower()
    return Record(
        policy,
        subdomains,
        tags.get("adkim", "r").lower() == "s",
        tags.get("aspf", "r").lower() == "s",
        int(percent) if re.fullmatch(r"[0-9]{1,2}|100", percent) else 100,
        reports_to[:MAX_URIS],
        failures if _FAILURES.fullmatch(failures) else "0",
    )


def is_aligned(domain: str, author: str, organizational: Callable[[str], str], *, strict: bool) -> bool:
    """Names in lower case with A-labels (RFC 7489 3.1)."""
    return domain == author or (not strict and bool(domain) and organizational(domain) == organizational(author))


def evaluate(policy: Policy, spf: Evidence | None, dkim: Sequence[Evidence], organizational: Callable[[str], str]) -> Judged:
    """Whether SPF or DKIM speaks for the author's domain, and what the domain wants if none does."""
    record, author = policy.record, policy.author
    by_spf = [spf] if spf is not None and is_aligned(spf.domain, author, organizational, strict=record.strict_spf) else []
    by_dkim = [one for one in dkim if is_aligned(one.domain, author, organizational, strict=record.strict_dkim)]
    spf_aligned, dkim_aligned = any(one.passed for one in by_spf), any(one.passed for one in by_dkim)
    if spf_aligned or dkim_aligned:
        return Judged(Outcome.PASS, Wish.NONE, spf_aligned, dkim_aligned)
    if any(one.unanswered for one in (*by_spf, *by_dkim)):
        return Judged(Outcome.TEMPERROR)
    return Judged(Outcome.FAIL, policy.wish)


def vouched(judged: Judged, sealer: str) -> Judged:
    """It has failed here, since it was changed on its way, and passed where a trusted sealer saw it (RFC 8617 7.2.1)."""
    return judged if judged.wish is Wish.NONE else replace(judged, wish=Wish.NONE, vouched_by=sealer)


_MILDER = {Wish.REJECT: Wish.QUARANTINE, Wish.QUARANTINE: Wish.NONE, Wish.NONE: Wish.NONE}


def sampled(judged: Judged, percent: int, chance: float) -> Judged:
    """What is left of the wish for this one message; ``chance`` is from 0 up to 1 (RFC 7489 6.6.4)."""
    if judged.wish is Wish.NONE or chance * 100 < percent:
        return judged
    return replace(judged, wish=_MILDER[judged.wish], sampled_out=True)
