"""SPF: whether a client may send in the name of a domain (RFC 7208).

    verdict = await check_host(Question(ip, domain, sender, helo, …), lookups)

The evaluation knows no network: it asks `Lookups`, which raise `NoAnswer` where servers do not answer; everything else that may
happen is a `Verdict`. It is bounded whatever a domain publishes:

- ten terms that ask the DNS in all, includes and redirects with theirs (4.6.4), else permerror;
- two lookups that find nothing, else permerror; ten hosts of an `mx`, else permerror; ten names of a `ptr`, the rest is not seen;
- a deadline over everything is the caller's.

An explanation (`exp=`, 6.2) is a stranger's text: printable ASCII, one line, cut.

Deviations: none known; the suite of openspf.org for RFC 7208 passes whole. Where it allows several results we take the one that
RFC 7208 prefers.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from mailgate.mailauth.spf_record import (
    BadRecord,
    Directive,
    IPAddress,
    Macro,
    MacroString,
    Qualifier,
    Record,
    is_domain,
    is_record,
    parse_explanation,
    parse_record,
    shortened,
)

MOST_LOOKUPS = 10
"""Terms that ask the DNS (RFC 7208 4.6.4): a record can't be used to make us flood others."""
MOST_VOID = 2
"""Lookups that find nothing (RFC 7208 4.6.4, 11.1)."""
MOST_HOSTS = 10
"""Hosts of one `mx`, names of one `ptr` (RFC 7208 4.6.4)."""
MAX_EXPLANATION = 200
"""Characters of an explanation in a reply."""
_UNPRINTABLE = re.compile(r"[^ -~]+")


class Outcome(Enum):
    """RFC 7208 2.6."""

    NONE = "none"
    NEUTRAL = "neutral"
    PASS = "pass"
    FAIL = "fail"
    SOFTFAIL = "softfail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


_OUTCOMES = {qualifier: Outcome[qualifier.name] for qualifier in Qualifier}


class NoAnswer(Exception):
    """Servers gave no answer to a lookup: temperror."""


class Lookups(Protocol):
    """The DNS. Names without final dot; what does not exist, and what has no such record, is an empty tuple.

    :raises NoAnswer: it can't be said now."""

    async def txt(self, name: str) -> tuple[bytes, ...]: ...

    async def addresses(self, name: str, version: int) -> tuple[str, ...]:
        """A records for ``version`` 4, AAAA for 6."""

    async def mx(self, name: str) -> tuple[str, ...]:
        """Hosts, most preferred first."""

    async def names(self, ip: IPAddress) -> tuple[str, ...]:
        """PTR."""


@dataclass(frozen=True, slots=True)
class Question:
    """``ip`` is the client's, IPv4 never in its mapped form; ``domain`` whose record is asked for; ``sender`` an address.
    ``receiver`` is our name; ``now`` is in seconds since the epoch: explanations may name both."""

    ip: IPAddress
    domain: str
    sender: str
    helo: str
    receiver: str = "unknown"
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """``reason`` is for logs: the mechanism that matched, or what was wrong. ``explanation`` is the domain's own, of a fail."""

    outcome: Outcome
    reason: str = ""
    explanation: str = ""


class _Stop(Exception):
    """The evaluation ends with an error."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.verdict = Verdict(outcome, reason)


async def check_host(question: Question, lookups: Lookups) -> Verdict:
    """RFC 7208 4. Nothing is raised but what ``lookups`` raise besides `NoAnswer`."""
    evaluation = _Evaluation(question, lookups)
    try:
        return await evaluation.check(question.domain, explain=True)
    except _Stop as stop:
        return stop.verdict
    except NoAnswer as error:
        return Verdict(Outcome.TEMPERROR, str(error))


@dataclass(slots=True)
class _Evaluation:
    """One question, through all records that it leads to."""

    question: Question
    lookups: Lookups
    used: int = 0
    void: int = 0
    validated: dict[str, str] = field(default_factory=dict)
    """By domain: the name for its ``%{p}``."""

    async def check(self, domain: str, *, explain: bool) -> Verdict:
        domain = domain.removesuffix(".")
        if not is_domain(domain) or "." not in domain:
            return Verdict(Outcome.NONE, f"`{domain}` is no domain")
        texts = [text for text in await self.lookups.txt(domain) if is_record(text)]
        if not texts:
            return Verdict(Outcome.NONE, f"{domain} has no record")
        if len(texts) > 1:
            raise _Stop(Outcome.PERMERROR, f"{domain} has several records")
        try:
            record = parse_record(texts[0])
        except BadRecord as error:
            raise _Stop(Outcome.PERMERROR, f"{domain}: {error}") from None
        return await self._evaluate(record, domain, explain=explain)

    async def _evaluate(self, record: Record, domain: str, *, explain: bool) -> Verdict:
        for directive in record.directives:
            if not await self._matches(directive, domain):
                continue
            outcome = _OUTCOMES[directive.qualifier]
            said = ""
            if outcome is Outcome.FAIL and explain and record.explanation is not None:
                said = await self._explanation(record.explanation, domain)
            return Verdict(outcome, f"{domain}: {directive.text}", said)
        if record.redirect is None:
            return Verdict(Outcome.NEUTRAL, f"{domain}: nothing matches")
        self._count()
        target = await self._expand_domain(record.redirect, domain)
        verdict = await self.check(target, explain=explain)
        if verdict.outcome is Outcome.NONE:
            raise _Stop(Outcome.PERMERROR, f"{domain}: redirect={target} leads to no record")
        return verdict

    def _count(self) -> None:
        self.used += 1
        if self.used > MOST_LOOKUPS:
            raise _Stop(Outcome.PERMERROR, f"more than {MOST_LOOKUPS} terms that ask the DNS")

    def _count_void(self, found: tuple[str, ...]) -> None:
        if found:
            return
        self.void += 1
        if self.void > MOST_VOID:
            raise _Stop(Outcome.PERMERROR, f"more than {MOST_VOID} lookups that find nothing")

    # Mechanisms

    async def _matches(self, directive: Directive, domain: str) -> bool:
        if directive.mechanism == "all":
            return True
        if directive.network is not None:
            return self.question.ip in directive.network
        self._count()
        target = await self._expand_domain(directive.domain, domain) if directive.domain else domain
        return await _MECHANISMS[directive.mechanism](self, directive, target)

    async def _include(self, directive: Directive, target: str) -> bool:
        verdict = await self.check(target, explain=False)
        if verdict.outcome is Outcome.NONE:
            raise _Stop(Outcome.PERMERROR, f"{directive.text} leads to no record")
        return verdict.outcome is Outcome.PASS

    async def _a(self, directive: Directive, target: str) -> bool:
        return is_domain(target) and await self._is_host(directive, target)

    async def _is_host(self, directive: Directive, host: str) -> bool:
        addresses = await self.lookups.addresses(host, self.question.ip.version)
        self._count_void(addresses)
        return any(directive.covers(self.question.ip, address) for address in addresses)

    async def _mx(self, directive: Directive, target: str) -> bool:
        if not is_domain(target):
            return False
        hosts = await self.lookups.mx(target)
        self._count_void(hosts)
        if len(hosts) > MOST_HOSTS:
            raise _Stop(Outcome.PERMERROR, f"{target} has more than {MOST_HOSTS} MX hosts")
        for host in hosts:
            if is_domain(host) and await self._is_host(directive, host):
                return True
        return False

    async def _exists(self, directive: Directive, target: str) -> bool:
        if not is_domain(target):
            return False
        addresses = await self.lookups.addresses(target, 4)
        self._count_void(addresses)
        return bool(addresses)

    async def _ptr(self, directive: Directive, target: str) -> bool:
        return any(_is_below(name, target) for name in await self._validated_names())

    async def _validated_names(self) -> list[str]:
        """The names of the client's address that lead back to it (RFC 7208 5.5). What is not answered counts for nothing."""
        ip = self.question.ip
        try:
            names = await self.lookups.names(ip)
        except NoAnswer:
            return []
        self._count_void(names)
        validated = []
        for name in names[:MOST_HOSTS]:
            try:
                addresses = await self.lookups.addresses(name, ip.version) if is_domain(name) else ()
            except NoAnswer:
                continue
            if str(ip) in addresses:
                validated.append(name.lower())
        return validated

    # Macros

    async def _expand_domain(self, spec: MacroString, domain: str) -> str:
        return shortened((await self._expand(spec, domain)).removesuffix("."))

    async def _expand(self, spec: MacroString, domain: str) -> str:
        parts = []
        for part in spec:
            parts.append(part.apply(await self._value(part.letter, domain)) if isinstance(part, Macro) else part)
        return "".join(parts)

    async def _value(self, letter: str, domain: str) -> str:
        if letter == "p":
            return await self._validated_name(domain)
        return _VALUES[letter](self.question, domain)

    async def _validated_name(self, domain: str) -> str:
        """Of several the domain itself is best, then one below it (RFC 7208 7.3)."""
        if domain not in self.validated:
            names = await self._validated_names()
            best = [name for name in names if name == domain.lower()] or [name for name in names if _is_below(name, domain)]
            self.validated[domain] = (best or names or ["unknown"])[0]
        return self.validated[domain]

    async def _explanation(self, spec: MacroString, domain: str) -> str:
        """ "" where anything is wrong with it (RFC 7208 6.2)."""
        try:
            target = await self._expand_domain(spec, domain)
            texts = await self.lookups.txt(target) if is_domain(target) else ()
            text = await self._expand(parse_explanation(texts[0]), domain) if len(texts) == 1 else ""
        except (NoAnswer, BadRecord, _Stop):
            return ""
        return _UNPRINTABLE.sub("?", text)[:MAX_EXPLANATION].strip()


_MECHANISMS: dict[str, Callable[[_Evaluation, Directive, str], Awaitable[bool]]] = {
    "include": _Evaluation._include,
    "a": _Evaluation._a,
    "mx": _Evaluation._mx,
    "ptr": _Evaluation._ptr,
    "exists": _Evaluation._exists,
}


def _is_below(name: str, domain: str) -> bool:
    """The domain itself is."""
    return f".{name.lower().removesuffix('.')}".endswith(f".{domain.lower().removesuffix('.')}")


def _sender(question: Question) -> tuple[str, str]:
    local_part, _, domain = question.sender.rpartition("@")
    return local_part or "postmaster", domain


def _dotted(ip: IPAddress) -> str:
    """``192.0.2.1``, or 32 nibbles; capitals, as the suite has them: names don't care."""
    return str(ip) if ip.version == 4 else ".".join(ip.exploded.replace(":", "").upper())


_VALUES: dict[str, Callable[[Question, str], str]] = {
    "s": lambda question, _: "@".join(_sender(question)),
    "l": lambda question, _: _sender(question)[0],
    "o": lambda question, _: _sender(question)[1],
    "d": lambda _, domain: domain,
    "i": lambda question, _: _dotted(question.ip),
    "v": lambda question, _: "in-addr" if question.ip.version == 4 else "ip6",
    "h": lambda question, _: question.helo,
    "c": lambda question, _: str(question.ip),
    "r": lambda question, _: question.receiver,
    "t": lambda question, _: str(int(question.now)),
}
"""What the letters of macros stand for, but ``p`` (RFC 7208 7.2)."""
