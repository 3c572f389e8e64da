"""DANE for SMTP (RFC 7672): what the TLSA records of a host make of the TLS that is decided on for it.

`Lookup.policy` asks the DNS, `apply` decides, without I/O. Secure is what a trusted server says is secure (dns/resolver.py);
without one every answer is insecure and nothing is ever published.

    addresses of the host insecure, TLSA absent or insecure      nothing published
    TLSA (of the name at the end of a secure chain of aliases, else of the host) there and secure, some record usable
    … but none usable
    any of it can't be asked for (SERVFAIL, timeout, bogus)      `LookupFailed`: this host is left, never spoken to without DANE

                     dane             dane_require      dane_fallback_require_verify
    not published    as `optional`    host is left      as `require_verify`
    none usable      as `require`     host is left      as `require_verify`
    usable           TLS, and the peer must be whom a record names (tls/dane.py), in all three

A message that says `TLS-Required: No` is not bound by what others publish: under `dane` it goes as `optional`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from mailgate.config.source import Span
from mailgate.dns.answer import Status
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import Resolver
from mailgate.dns.service import servers_of
from mailgate.dns.wire import NS
from mailgate.events import Event, EventLog
from mailgate.net.waiting import spawn
from mailgate.outbound.failure import AttemptFailed, Kind
from mailgate.outbound.tls_policy import Decision, OnFailure, Policy, Start, TlsMode
from mailgate.registry import ModuleContext, Report
from mailgate.tls.dane import DANE_TA, Tlsa, usable


class Dane(Enum):
    """What `tls` asks for, besides the mode that holds where nothing is published."""

    TRY = "dane"
    REQUIRE = "dane_require"
    PREFER = "dane_fallback_require_verify"


MODES = {
    Dane.TRY.value: TlsMode.OPTIONAL,
    Dane.REQUIRE.value: TlsMode.REQUIRE_VERIFY,
    Dane.PREFER.value: TlsMode.REQUIRE_VERIFY,
}
"""The mode without DANE; that of dane_require is for REQUIRETLS alone, since its hosts are left."""


class Published(Enum):
    NOTHING = "nothing"
    UNUSABLE = "no usable record"
    USABLE = "usable records"


@dataclass(frozen=True, slots=True)
class DanePolicy:
    """What a host publishes. ``base`` is the name that has the records."""

    published: Published
    base: str = ""
    records: tuple[Tlsa, ...] = ()
    """Those that can be used."""
    texts: tuple[str, ...] = field(default=(), compare=False)
    """All records in the form of a zone file, for reports; at most `MAX_TEXTS`."""
    why: str = field(default="", compare=False)
    """Of what is not published: where the search ended."""


NOTHING = DanePolicy(Published.NOTHING, why="no TLSA record")
NOT_ASKED = DanePolicy(Published.NOTHING, why="the host's addresses are not proved by DNSSEC")
INSECURE = DanePolicy(Published.NOTHING, why="its TLSA records are not proved by DNSSEC")
MAX_TEXTS = 10


class LookupFailed(Exception):
    """What a host publishes can't be said."""


class DaneFailed(AttemptFailed):
    """A host is left for what it publishes, or for what can't be said of it (``policy`` None)."""

    def __init__(self, reason: str, policy: DanePolicy | None) -> None:
        super().__init__(Kind.DANE, "dane", reason)
        self.policy = policy


class Lookup:
    """Asks for the records of hosts."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def policy(self, host: str, port: int) -> DanePolicy:
        """:raises LookupFailed: some answer is missing."""
        nothing = NOTHING
        try:
            addresses = await self._resolver.addresses(host)
            if not addresses.secure:
                return NOT_ASKED
            for base in dict.fromkeys((addresses.canonical, host.lower().removesuffix("."))):
                answer = await self._resolver.tlsa(base, port)
                if answer.status is Status.FOUND and answer.secure:
                    return policy_of(base, [_record(record) for record in answer.records])
                nothing = INSECURE if answer.status is Status.FOUND else nothing
        except DnsFailure as failure:
            raise LookupFailed(str(failure)) from failure
        return nothing


def policy_of(base: str, records: Sequence[Tlsa]) -> DanePolicy:
    fitting = usable(records)
    texts = tuple(f"{one.usage} {one.selector} {one.matching} {one.data.hex()}" for one in records[:MAX_TEXTS])
    return DanePolicy(Published.USABLE if fitting else Published.UNUSABLE, base, fitting, texts)


def _record(record: Any) -> Tlsa:
    return Tlsa(record.usage, record.selector, record.mtype, bytes(record.cert))


def apply(dane: Dane, policy: DanePolicy, decision: Decision, host: str, domain: str = "") -> Decision:
    """The decision for a host, from the one without DANE. ``domain`` is the recipient's where that led to the host, else "".

    :raises DaneFailed: the host is left.
    """
    if policy.published is Published.USABLE:
        by_name = any(record.usage == DANE_TA for record in policy.records)
        names = tuple(dict.fromkeys(name for name in (policy.base, host, domain) if name)) if by_name else ()
        start = Start.IMPLICIT if decision.start is Start.IMPLICIT else Start.ALWAYS
        sni, records = policy.base, policy.records
        next_host = OnFailure.NEXT
        return Decision(start, False, next_host, next_host, names, sni, decision.min_version, records, Policy.DANE, policy)
    if dane is Dane.REQUIRE:
        raise DaneFailed(f"{host}: {policy.published.value} by TLSA, and `tls dane_require` wants it", policy)
    if policy.published is Published.UNUSABLE and decision.allow_clear:
        bound = replace(decision, start=Start.ALWAYS, allow_clear=False, policy=Policy.DANE, published=policy)
        return replace(bound, on_handshake=OnFailure.NEXT, on_bad_peer=OnFailure.IGNORE)
    return decision


class DaneVary:
    """Completes the key of a connection by what its host publishes; see `EndpointSettings.vary`. ``by_domain``: the recipient's
    domain named the host."""

    def __init__(self, dane: Dane, lookup: Lookup | None, port: int, *, by_domain: bool = False) -> None:
        self._dane = dane
        self._lookup = lookup
        self._port = port
        self._by_domain = by_domain

    async def __call__(self, key: Any, variables: Any) -> Any:
        if self._dane is Dane.TRY and variables.envelope.is_free_of_policies:
            return key
        host = variables.mx or ""
        policy = NOTHING
        if self._lookup is not None and not _is_address(host):
            try:
                policy = await self._lookup.policy(host, self._port)
            except LookupFailed as failure:
                raise DaneFailed(str(failure), None) from failure
        decision = apply(self._dane, policy, key.decision, host, variables.rcpt_domain if self._by_domain else "")
        return key if decision == key.decision else replace(key, decision=decision)


def begin_self_check(resolver: Resolver, log: EventLog, target: str) -> Deferred[None]:
    """`self_check` beside the start, which does not wait for it; cancel it to end it."""
    checking = spawn(self_check(resolver, log, target))
    checking.addErrback(lambda failure: failure.trap(CancelledError))
    return checking


async def self_check(resolver: Resolver, log: EventLog, target: str) -> None:
    """Does the resolver that is trusted to validate do so? The root of the DNS is signed, and its name servers don't change."""
    try:
        answer = await resolver.query(".", NS)
        reason = "" if answer.secure else "the answer about the root is not secure: the resolver does not validate"
    except DnsFailure as failure:
        reason = str(failure)
    if reason:
        log.warn(Event.DNSSEC_MISSING, target=target, reason=reason)


def dane_vary(dane: Dane | None, resolver: Resolver | None, port: int, *, by_domain: bool = False) -> tuple[DaneVary, ...]:
    """As a part of `EndpointSettings.vary`; without a resolver nothing is published."""
    if dane is None:
        return ()
    return (DaneVary(dane, None if resolver is None else Lookup(resolver), port, by_domain=by_domain),)


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def report_trust(context: ModuleContext, dane: Dane | None, place: Span | None, report: Report) -> None:
    """DANE without a resolver whose AD bit is believed finds nothing: an error where it is required, else worth a warning."""
    if dane is None or _is_trusted(context):
        return
    hint = "a validating resolver on this machine, or `trusted yes` in `resolver`"
    if dane is Dane.REQUIRE:
        report.error(place, "`tls dane_require` needs a resolver that is trusted to validate", code="E0739", hint=hint)
    else:
        text = f"`tls {dane.value}` finds no TLSA record: no resolver is trusted to validate"
        report.warning(place, text, code="W0739", hint=hint)


def _is_trusted(context: ModuleContext) -> bool:
    if context.adapters is not None and context.adapters.resolver is not None:
        return bool(context.adapters.resolver.trusted)
    return any(server.trusted for server in servers_of(context.resolver))
