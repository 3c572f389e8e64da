"""TLS-RPT (RFC 8460) without I/O: what a session says of a domain's TLS, where reports go, and what stands in one.

`policy_of_session` and `failure_of` read what a connection, or a failure to make one, came to; the result types are those of
section 4.3. Reports are about the domain of the recipient, whose `_smtp._tls` record asks for them; the policy in them is that
of the host (TLSA) or of the domain (MTA-STS).

    STARTTLS is not offered, or refused                      starttls-not-supported
    the certificate is not for the name, expired, untrusted  certificate-host-mismatch, -expired, -not-trusted
    … is not what a TLSA record of the host says             validation-failure, or as above where a name or date is wrong
    no TLSA record can be used                               tlsa-invalid
    … or asked for                                           dnssec-invalid
    … or is there, and `tls dane_require` wants one          dane-required
    the MTA-STS policy can't be had                          sts-policy-fetch-error, sts-policy-invalid, sts-webpki-invalid
    a host that it does not name, any other handshake        validation-failure

Trouble that says nothing of TLS is not counted, and neither is a host that only REQUIRETLS was not good enough for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import Any
from urllib.parse import unquote, urlsplit

from mailgate.outbound.dane import DaneFailed, DanePolicy, Published
from mailgate.outbound.failure import AttemptFailed, Kind
from mailgate.outbound.handshake import TlsFailed
from mailgate.outbound.record import ConnectionFacts
from mailgate.outbound.report_mail import Author
from mailgate.outbound.sts_policy import Mode, StsPolicy
from mailgate.outbound.tls_policy import Decision, Policy
from mailgate.smtp.address import Address, AddressError, parse_address
from mailgate.tls.verification import HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH

NOT_SUPPORTED = "starttls-not-supported"
HOST_MISMATCH = "certificate-host-mismatch"
EXPIRED = "certificate-expired"
NOT_TRUSTED = "certificate-not-trusted"
VALIDATION = "validation-failure"
TLSA_INVALID = "tlsa-invalid"
DNSSEC_INVALID = "dnssec-invalid"
DANE_REQUIRED = "dane-required"

_BY_CODE = {
    **dict.fromkeys((HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH), HOST_MISMATCH),
    10: EXPIRED,
    **dict.fromkeys((2, 18, 19, 20, 21, 24, 26, 27, 28), NOT_TRUSTED),
}
"""By OpenSSL's X509_V_ERR_…: issuer missing, self-signed, no authority, wrong purpose, not trusted, rejected."""
_OF_TLS = frozenset({Kind.TLS, Kind.NO_TLS, Kind.DANE, Kind.STS, Kind.STS_NO_TLS})

MAX_REASON = 200
MAX_RUA = 10
"""Places for reports that are tried."""


class PolicyType(Enum):
    TLSA = "tlsa"
    STS = "sts"
    NONE = "no-policy-found"


@dataclass(frozen=True, slots=True)
class AppliedPolicy:
    """What a session was judged by. ``strings`` are the policy as published, ``hosts`` the patterns of MTA-STS."""

    kind: PolicyType
    domain: str
    strings: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionFailure:
    """One row of a report's details."""

    result: str
    local: str = ""
    """Our address."""
    host: str = ""
    remote: str = ""
    reason: str = ""


# What a session came to


def policy_of_session(decision: Decision, sts: StsPolicy | None, domain: str) -> AppliedPolicy:
    published: DanePolicy | None = decision.published
    if decision.policy is Policy.DANE and published is not None:
        return of_tlsa(published)
    return of_sts(sts, domain)


def of_tlsa(published: DanePolicy) -> AppliedPolicy:
    return AppliedPolicy(PolicyType.TLSA, published.base, published.texts)


def of_sts(sts: StsPolicy | None, domain: str) -> AppliedPolicy:
    """The policy of a domain, also one that is only tested; without one, that there is none."""
    if sts is None or sts.mode is Mode.NONE:
        return AppliedPolicy(PolicyType.NONE, domain)
    hosts = sts.hosts[:50]
    lines = ("version: STSv1", f"mode: {sts.mode.value}", *(f"mx: {host}" for host in hosts), f"max_age: {sts.max_age}")
    return AppliedPolicy(PolicyType.STS, domain, lines, hosts)


def of_connection(facts: ConnectionFacts, decision: Decision, applied: AppliedPolicy, host: str) -> SessionFailure | None:
    """What was wrong with a connection that mail went over, all the same; None if nothing was."""
    if facts.tls is None:
        return _failure(facts, host, VALIDATION if facts.tls_error else NOT_SUPPORTED, facts.tls_error)
    published: DanePolicy | None = decision.published
    if applied.kind is PolicyType.TLSA and published is not None and published.published is Published.UNUSABLE:
        return _failure(facts, host, TLSA_INVALID, "no record can be used")
    if applied.kind is PolicyType.STS and not facts.tls.verified:
        return _failure(facts, host, _BY_CODE.get(facts.tls.code, VALIDATION), facts.tls.reason)
    return None


def of_failure(
    failure: AttemptFailed, sts: StsPolicy | None, host: str, domain: str
) -> tuple[AppliedPolicy, SessionFailure] | None:
    """What a host that was left says of its TLS; None: nothing."""
    if isinstance(failure, DaneFailed):
        return _of_dane(failure, host, domain)
    if failure.kind not in _OF_TLS or failure.decision is None:
        return None
    facts = failure.facts
    if failure.kind is not Kind.TLS and not isinstance(failure, TlsFailed):
        result = NOT_SUPPORTED
    elif facts.tls is not None and not facts.tls.verified:
        result = _BY_CODE.get(facts.tls.code, VALIDATION)
    else:
        result = VALIDATION
    return policy_of_session(failure.decision, sts, domain), _failure(facts, host, result, failure.reason)


def _of_dane(failure: DaneFailed, host: str, domain: str) -> tuple[AppliedPolicy, SessionFailure]:
    published = failure.policy
    if published is None:
        return AppliedPolicy(PolicyType.TLSA, host), SessionFailure(DNSSEC_INVALID, host=host, reason=failure.reason[:MAX_REASON])
    if published.published is Published.NOTHING:
        return AppliedPolicy(PolicyType.NONE, domain), SessionFailure(DANE_REQUIRED, host=host, reason=published.why)
    return of_tlsa(published), SessionFailure(TLSA_INVALID, host=host, reason="no record can be used")


def _failure(facts: ConnectionFacts, host: str, result: str, reason: str) -> SessionFailure:
    return SessionFailure(result, _bare(facts.local), host, _bare(facts.remote), reason[:MAX_REASON])


def _bare(place: str) -> str:
    """An address without its port."""
    return place.rpartition(":")[0].strip("[]")


# Where reports go


@dataclass(frozen=True, slots=True)
class MailPlace:
    address: Address


@dataclass(frozen=True, slots=True)
class WebPlace:
    url: str


def places_of(texts: Iterable[bytes]) -> tuple[MailPlace | WebPlace, ...]:
    """Of the TXT records of ``_smtp._tls.DOMAIN`` (section 3): nowhere without exactly one that is well-formed."""
    records = [text for text in texts if text.startswith(b"v=TLSRPTv1;")]
    if len(records) != 1:
        return ()
    try:
        fields = [field.strip() for field in records[0].decode("ascii").split(";")[1:]]
    except UnicodeDecodeError:
        return ()
    named = [field.partition("=")[2] for field in fields if field.partition("=")[0].strip() == "rua"]
    if len(named) != 1:
        return ()
    found = (_place(uri.strip()) for uri in named[0].split(",")[:MAX_RUA])
    return tuple(place for place in found if place is not None)


def _place(uri: str) -> MailPlace | WebPlace | None:
    scheme, colon, rest = uri.partition(":")
    if scheme.lower() == "mailto" and colon:
        try:
            return MailPlace(parse_address(unquote(rest.partition("?")[0])))
        except AddressError:
            return None
    try:
        parts = urlsplit(uri)
        good = parts.scheme.lower() == "https" and parts.hostname and parts.username is None and parts.port != 0
    except ValueError:
        return None
    return WebPlace(uri) if good and uri.isascii() and uri.isprintable() and " " not in uri else None


# What stands in a report


class Tally:
    """What was counted of one policy."""

    __slots__ = ("failures", "successes")

    def __init__(self, successes: int = 0, failures: Mapping[SessionFailure, int] | None = None) -> None:
        self.successes = successes
        self.failures = dict(failures or {})


def report_id(author: Author, domain: str, day: date) -> str:
    """The same however often a report is tried again."""
    digest = hashlib.sha256(f"{author.domain} {domain} {day.isoformat()} {author.part}".encode()).hexdigest()[:20]
    return f"{day.isoformat()}.{digest}@{author.domain}"


def compose(author: Author, domain: str, day: date, tallies: Mapping[AppliedPolicy, Tally]) -> bytes:
    """The report of one domain and day (UTC), as JSON (section 4.4)."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    end = start + timedelta(days=1, seconds=-1)
    report = {
        "organization-name": author.organization,
        "date-range": {"start-datetime": _timestamp(start), "end-datetime": _timestamp(end)},
        "contact-info": author.contact,
        "report-id": report_id(author, domain, day),
        "policies": [_policy(applied, tally) for applied, tally in tallies.items()],
    }
    return json.dumps(report, ensure_ascii=True, indent=1).encode()


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _policy(applied: AppliedPolicy, tally: Tally) -> dict[str, Any]:
    policy: dict[str, Any] = {"policy-type": applied.kind.value, "policy-domain": applied.domain}
    if applied.strings:
        policy["policy-string"] = list(applied.strings)
    if applied.hosts:
        policy["mx-host"] = list(applied.hosts)
    failed = sum(tally.failures.values())
    summary = {"total-successful-session-count": tally.successes, "total-failure-session-count": failed}
    found: dict[str, Any] = {"policy": policy, "summary": summary}
    if tally.failures:
        found["failure-details"] = [_details(failure, count) for failure, count in tally.failures.items()]
    return found


def _details(failure: SessionFailure, count: int) -> dict[str, Any]:
    said = {
        "sending-mta-ip": failure.local,
        "receiving-mx-hostname": failure.host,
        "receiving-ip": failure.remote,
        "failure-reason-code": failure.reason,
    }
    kept = {name: value for name, value in said.items() if value}
    return {"result-type": failure.result, **kept, "failed-session-count": count}
