"""SPF records: from text to terms, and macros (RFC 7208 4.5, 4.6, 5, 6, 7 and 12).

A record is read as a whole before any of it counts: one mistake anywhere makes it worth nothing (`BadRecord`, permerror). Macros
are read with it, so that nothing can be wrong with them later but what they expand to.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import quote

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_NAME = 253
"""Characters of a name; what a macro makes longer loses labels on the left (RFC 7208 7.3)."""
_MAX_LABEL = 63
_VERSION = re.compile(r"v=spf1(?: |\Z)", re.IGNORECASE)
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)\Z", re.DOTALL)
_DIRECTIVE = re.compile(r"([+?~-]?)([A-Za-z][A-Za-z0-9_.-]*)(.*)\Z", re.DOTALL)
_LENGTHS = re.compile(r"(.*?)(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]{0,2}))?\Z", re.DOTALL)
_END = re.compile(r"\.(?:[A-Za-z0-9]*[A-Za-z][A-Za-z0-9]*|[A-Za-z0-9]+-[A-Za-z0-9-]*[A-Za-z0-9])\.?\Z")
"""The last label of a domain-spec that is written out."""
_MACRO = re.compile(r"%\{([A-Za-z])([0-9]*)(r?)([.+,/_=-]*)\}|%([%_-])|([!-$&-~]+)", re.IGNORECASE)
_MACRO_IN_TEXT = re.compile(r"%\{([A-Za-z])([0-9]*)(r?)([.+,/_=-]*)\}|%([%_-])|([ !-$&-~]+)", re.IGNORECASE)
_LETTERS = frozenset("slodiphv")
_LETTERS_IN_TEXT = _LETTERS | frozenset("crt")
_ESCAPES = {"%": "%", "_": " ", "-": "%20"}


class BadRecord(ValueError):
    """The record breaks the rules; the text says where."""


class Qualifier(Enum):
    """What a directive says of those who match; the names are the results."""

    PASS = "+"
    FAIL = "-"
    SOFTFAIL = "~"
    NEUTRAL = "?"


@dataclass(frozen=True, slots=True)
class Macro:
    """``%{letter digits r delimiters}``."""

    letter: str
    digits: int
    """How many of the right-most parts; 0: all."""
    reverse: bool
    delimiters: str
    escape: bool
    """The letter is a capital: what comes out is escaped as in URLs."""

    def apply(self, value: str) -> str:
        if self.digits or self.reverse or self.delimiters != ".":
            parts = re.split(f"[{re.escape(self.delimiters)}]", value)
            if self.reverse:
                parts.reverse()
            value = ".".join(parts[-self.digits :] if self.digits else parts)
        return quote(value, safe="-._~") if self.escape else value


MacroString: TypeAlias = tuple["str | Macro", ...]
"""Texts and macros in turn."""


@dataclass(frozen=True, slots=True)
class Directive:
    """A mechanism with its qualifier. ``text`` is as written, for logs."""

    qualifier: Qualifier
    mechanism: str
    text: str
    domain: MacroString = ()
    """Empty: the domain whose record it is."""
    network: IPNetwork | None = None
    ip4_length: int = 32
    ip6_length: int = 128

    def covers(self, ip: IPAddress, address: str) -> bool:
        """Whether ``ip`` is in the network of that length around an address."""
        other = ipaddress.ip_address(address)
        if other.version != ip.version:
            return False
        shift = other.max_prefixlen - (self.ip4_length if ip.version == 4 else self.ip6_length)
        return int(other) >> shift == int(ip) >> shift


@dataclass(frozen=True, slots=True)
class Record:
    directives: tuple[Directive, ...]
    redirect: MacroString | None = None
    explanation: MacroString | None = None


def is_record(text: bytes) -> bool:
    """Whether a TXT record is one of SPF, good or bad (RFC 7208 4.5)."""
    return _VERSION.match(text[:7].decode("ascii", "replace")) is not None


@lru_cache(maxsize=2048)
def parse_record(text: bytes) -> Record:
    """:raises BadRecord:"""
    try:
        terms = text.decode("ascii")[6:].split(" ")
    except UnicodeDecodeError:
        raise BadRecord("the record is not ASCII") from None
    directives: list[Directive] = []
    modifiers: dict[str, MacroString] = {}
    for term in filter(None, terms):
        if match := _MODIFIER.match(term):
            _modifier(match[1].lower(), match[2], term, modifiers)
        else:
            directives.append(_directive(term))
    return Record(tuple(directives), modifiers.get("redirect"), modifiers.get("exp"))


def _modifier(name: str, value: str, term: str, modifiers: dict[str, MacroString]) -> None:
    if name not in ("redirect", "exp"):
        _macros(value, term, _MACRO, _LETTERS_IN_TEXT)  # unknown ones must be well-formed too (RFC 7208 12)
        return
    if name in modifiers:
        raise BadRecord(f"{name}= is given twice")
    modifiers[name] = _domain_spec(value, term)


def _directive(term: str) -> Directive:
    match = _DIRECTIVE.match(term)
    if match is None:
        raise BadRecord(f"`{term}` is no term")
    qualifier, mechanism, rest = Qualifier(match[1] or "+"), match[2].lower(), match[3]
    if mechanism == "all" and not rest:
        return Directive(qualifier, mechanism, term)
    if mechanism in ("ip4", "ip6"):
        return Directive(qualifier, mechanism, term, network=_network(mechanism, rest, term))
    if mechanism in ("include", "exists"):
        if not rest.startswith(":"):
            raise BadRecord(f"`{term}` needs a domain")
        return Directive(qualifier, mechanism, term, _domain_spec(rest[1:], term))
    if mechanism == "ptr" and (not rest or rest.startswith(":")):
        return Directive(qualifier, mechanism, term, _domain_spec(rest[1:], term) if rest else ())
    if mechanism in ("a", "mx"):
        return _with_lengths(qualifier, mechanism, rest, term)
    raise BadRecord(f"`{term}` is no mechanism")


def _with_lengths(qualifier: Qualifier, mechanism: str, rest: str, term: str) -> Directive:
    match = _LENGTHS.match(rest)
    assert match is not None  # everything before the lengths may be anything
    domain, ip4, ip6 = match[1], int(match[2] or 32), int(match[3] or 128)
    if match[2] == "0":
        ip4 = 0
    if match[3] == "0":
        ip6 = 0
    if ip4 > 32 or ip6 > 128 or (domain and not domain.startswith(":")):
        raise BadRecord(f"`{term}` is no mechanism")
    spec = _domain_spec(domain[1:], term) if domain else ()
    return Directive(qualifier, mechanism, term, spec, ip4_length=ip4, ip6_length=ip6)


def _network(mechanism: str, rest: str, term: str) -> IPNetwork:
    address, slash, length = rest[1:].partition("/")
    try:
        if not rest.startswith(":") or (slash and not re.fullmatch(r"0|[1-9][0-9]{0,2}", length)) or "%" in address:
            raise ValueError
        if mechanism == "ip4":
            return ipaddress.IPv4Network(f"{address}/{length or 32}", strict=False)
        return ipaddress.IPv6Network(f"{address}/{length or 128}", strict=False)
    except ValueError:
        raise BadRecord(f"`{term}` has no network") from None


def _domain_spec(text: str, term: str) -> MacroString:
    parts = _macros(text, term, _MACRO, _LETTERS)
    last = parts[-1] if parts else ""
    # It ends in a macro, or in a label that can't be taken for a number (RFC 7208 7.1: domain-end).
    if isinstance(last, Macro) or (_END.search(text) and not text.endswith(("%%", "%_", "%-"))):
        return parts
    raise BadRecord(f"`{term}` has no domain")


def parse_explanation(text: bytes) -> MacroString:
    """The text that an `exp` modifier leads to. :raises BadRecord:"""
    try:
        decoded = text.decode("ascii")
    except UnicodeDecodeError:
        raise BadRecord("the explanation is not ASCII") from None
    return _macros(decoded, "exp=", _MACRO_IN_TEXT, _LETTERS_IN_TEXT)


def _macros(text: str, term: str, pattern: re.Pattern[str], letters: frozenset[str]) -> MacroString:
    return tuple(_parts(text, term, pattern, letters))


def _parts(text: str, term: str, pattern: re.Pattern[str], letters: frozenset[str]) -> Iterator[str | Macro]:
    place = 0
    while place < len(text):
        match = pattern.match(text, place)
        if match is None or (match[2] and not 0 < int(match[2][:4]) < 1000):
            raise BadRecord(f"`{term}` has a damaged macro")
        place = match.end()
        if match[1]:
            letter = match[1].lower()
            if letter not in letters:
                raise BadRecord(f"`{term}` has a macro `{match[1]}`")
            yield Macro(letter, int(match[2] or 0), bool(match[3]), match[4] or ".", match[1].isupper())
        else:
            yield _ESCAPES[match[5]] if match[5] else match[6]


def shortened(name: str) -> str:
    """What is left of a name that a macro has made too long (RFC 7208 7.3)."""
    while len(name) > MAX_NAME and "." in name:
        name = name.partition(".")[2]
    return name


def is_domain(name: str) -> bool:
    """Whether a name can be looked up: labels of 1 to 63 octets, no more than 253 in all, of printable ASCII."""
    name = name.removesuffix(".")
    if not 0 < len(name) <= MAX_NAME or not name.isascii() or not name.isprintable():
        return False
    return all(0 < len(label) <= _MAX_LABEL for label in name.split("."))
