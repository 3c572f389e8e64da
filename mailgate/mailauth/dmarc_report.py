"""DMARC's aggregate reports without I/O: where they go, and what stands in them (RFC 7489 6.2, 7.1, 7.2, appendix C).

    places_of(record.reports_to)          the addresses of `rua`, each with the size it takes (`mailto:a@example.org!10m`)
    asks_elsewhere(domain, place, …)      the name that must have a record before somebody else's address is believed
    confirmed(texts, place)               what that record makes of it
    compose(head, records, file)          the XML

- An address under another organizational domain than the policy's gets nothing unless that domain says that it wants it: else
  anybody could have the world's gateways write to anybody. The record may name other addresses, of the same host only.
- The XML is that of appendix C, but without its namespace, as everybody writes and most read it. Characters that XML can't
  have are replaced; IPv6 addresses are written out, which is the one form that the schema takes.
- A report that leaves records out says so in `error`. The same report has the same id however often it is made.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Protocol
from urllib.parse import unquote
from xml.sax.saxutils import escape

from mailgate.mailauth.dkim_keys import Malformed, parse_tags
from mailgate.mailauth.dmarc import MAX_URIS, is_version_1
from mailgate.smtp.address import Address, AddressError, parse_address

_SIZE = re.compile(r"([0-9]{1,12})([kmgt]?)", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


# Where reports go


@dataclass(frozen=True, slots=True)
class Place:
    """``limit``: octets that a message to it may have; 0 is any number."""

    address: Address
    limit: int = 0

    @property
    def host(self) -> str:
        return self.address.domain.lower()


def places_of(uris: Iterable[str]) -> tuple[Place, ...]:
    """Each address once. What is no `mailto:` that can be read is nothing."""
    found: dict[str, Place] = {}
    for uri in uris:
        place = _place(uri.strip())
        if place is not None:
            found.setdefault(str(place.address), place)
    return tuple(found.values())[:MAX_URIS]


def _place(uri: str) -> Place | None:
    """Section 6.2: a "!" in the address itself is %21."""
    bare, mark, size = uri.partition("!")
    scheme, _, rest = bare.partition(":")
    match = _SIZE.fullmatch(size) if mark else None
    if scheme.lower() != "mailto" or (mark and match is None):
        return None
    try:
        address = parse_address(unquote(rest.partition("?")[0]))
    except AddressError:
        return None
    if not address.domain or address.domain.startswith("["):
        return None
    return Place(address, int(match[1]) << _UNITS[match[2].lower()] if match else 0)


def asks_elsewhere(domain: str, place: Place, organizational: Callable[[str], str]) -> str:
    """The name that must confirm that it wants the reports of ``domain`` (section 7.1); "" where it is the same organization."""
    if organizational(place.host) == organizational(domain):
        return ""
    return f"{domain}._report._dmarc.{place.host}"


def confirmed(texts: Iterable[bytes], place: Place) -> tuple[Place, ...]:
    """Where to, by the TXT records of that name: nowhere, there, or to other addresses of the same host."""
    for text in texts:
        if not is_version_1(text):
            continue
        try:
            tags = parse_tags(text.decode("ascii"))
        except (Malformed, UnicodeDecodeError):
            continue
        if "rua" not in tags:
            return (place,)
        return tuple(other for other in places_of(tags["rua"].split(",")) if other.host == place.host)
    return ()


# What stands in a report


@dataclass(frozen=True, slots=True)
class Head:
    """All but the records. ``policy`` is what was published: p, sp, pct, adkim, aspf, fo."""

    organization: str
    contact: str
    identity: str
    domain: str
    day: date
    policy: Mapping[str, object]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What was found of ``messages`` that are alike. ``signatures`` are of DKIM: domain, selector, result."""

    source_ip: str
    messages: int
    disposition: str
    dkim_aligned: bool
    spf_aligned: bool
    override: str
    """Type, and behind a blank a comment; or ""."""
    header_from: str
    spf: tuple[str, str, str]
    """Domain, scope, result."""
    signatures: tuple[tuple[str, str, str], ...] = ()


class Writes(Protocol):
    def write(self, data: bytes, /) -> object: ...


def bounds(day: date) -> tuple[int, int]:
    """The first and the last second of a day (UTC)."""
    begin = (day - date(1970, 1, 1)).days * 86400
    return begin, begin + 86399


def digest(*words: str) -> str:
    """What tells one report from the others of whoever reports."""
    return hashlib.sha256("\0".join(words).encode("utf-8", "replace")).hexdigest()[:20]


def file_name(submitter: str, domain: str, day: date, unique: str, ending: str = "xml.gz") -> str:
    """Section 7.2.1.1: ``receiver!policy-domain!begin!end!unique-id.xml.gz``."""
    begin, end = bounds(day)
    return f"{submitter}!{domain}!{begin}!{end}!{unique}.{ending}"


def compose(head: Head, records: Iterable[Record], file: Writes) -> None:
    """Write it, record by record."""
    begin, end = bounds(head.day)
    published = {name: str(value) for name, value in head.policy.items()}
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        "<feedback>",
        _leaf("version", "1.0"),
        "<report_metadata>",
        _leaf("org_name", head.organization),
        _leaf("email", head.contact),
        _leaf("report_id", head.identity),
        f"<date_range>{_leaf('begin', str(begin))}{_leaf('end', str(end))}</date_range>",
        *([_leaf("error", head.error)] if head.error else ()),
        "</report_metadata>",
        "<policy_published>",
        _leaf("domain", head.domain),
        *(_leaf(name, published.get(name, default)) for name, default in _PUBLISHED),
        "</policy_published>",
        "",
    ]
    file.write("\n".join(lines).encode())
    for record in records:
        file.write(_record(record).encode())
    file.write(b"</feedback>\n")


_PUBLISHED = (("adkim", "r"), ("aspf", "r"), ("p", "none"), ("sp", "none"), ("pct", "100"), ("fo", "0"))
_UNSPEAKABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 can't have, not even escaped (section 2.2 there)."""


def _leaf(name: str, text: str) -> str:
    return f"<{name}>{escape(_UNSPEAKABLE.sub('?', text))}</{name}>"


def _record(record: Record) -> str:
    kind, _, comment = record.override.partition(" ")
    reason = f"<reason>{_leaf('type', kind)}{_leaf('comment', comment) if comment else ''}</reason>" if kind else ""
    spf_domain, scope, spf_result = record.spf
    signatures = "".join(
        f"<dkim>{_leaf('domain', domain)}{_leaf('selector', selector)}{_leaf('result', result)}</dkim>"
        for domain, selector, result in record.signatures
    )
    return (
        f"<record><row>{_leaf('source_ip', _written_out(record.source_ip))}{_leaf('count', str(record.messages))}"
        f"<policy_evaluated>{_leaf('disposition', record.disposition)}{_leaf('dkim', _word(record.dkim_aligned))}"
        f"{_leaf('spf', _word(record.spf_aligned))}{reason}</policy_evaluated></row>\n"
        f"<identifiers>{_leaf('envelope_from', spf_domain if scope == 'mfrom' else '')}"
        f"{_leaf('header_from', record.header_from)}</identifiers>\n"
        f"<auth_results>{signatures}<spf>{_leaf('domain', spf_domain)}{_leaf('scope', scope)}{_leaf('result', spf_result)}</spf>"
        "</auth_results></record>\n"
    )


def _word(aligned: bool) -> str:
    return "pass" if aligned else "fail"


def _written_out(address: str) -> str:
    return ipaddress.ip_address(address.partition("%")[0]).exploded
