"""Where the mail of a domain would go, and why, without any of it being sent: what `mailgate route` shows.

The route, its hosts in order, the TLS that is decided on, source and name are found by the code that delivers: `Office.route`,
`Office.ways`, and the links of the endpoints. What is told beside it (records, policies, why a host is left out) is asked of the
resolver's cache afterwards. Hosts are not connected to.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mailgate.dns.answer import Status
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import Resolver
from mailgate.message.envelope import Envelope, Recipient
from mailgate.outbound.dane import DanePolicy, Lookup, LookupFailed, Published
from mailgate.outbound.endpoint import Endpoint, LinkKey
from mailgate.outbound.failure import AttemptFailed
from mailgate.outbound.mta_sts import Missing
from mailgate.outbound.mx_security import MxSecurity
from mailgate.outbound.remote import Office, Way
from mailgate.outbound.routes import DirectoryRules, Route
from mailgate.outbound.source_policy import SYSTEM_CHOOSES
from mailgate.outbound.sts_policy import Mode, StsPolicy
from mailgate.outbound.tls_policy import Decision, OnFailure, Policy, Start
from mailgate.outbound.variables import DeliveryVariables
from mailgate.smtp.reply import MailError, Reply, TemporaryError


@dataclass(frozen=True, slots=True)
class NamedHost:
    """One MX record. ``left_out`` says why none of its addresses would be tried; "" where some would."""

    host: str
    preference: int
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class Hop:
    """One address, in the order in which they would be tried."""

    host: str
    address: str
    preference: int | None
    sources: tuple[str, ...]
    """Our addresses, one of which is used; empty: the system chooses."""
    names: tuple[str, ...]
    """What is said in EHLO, by the address that is used."""
    tls: str
    why: tuple[str, ...]
    left: str = ""
    """Why it would not be connected to."""


@dataclass(frozen=True, slots=True)
class Survey:
    """``refusal`` is what a client would hear at RCPT, None where there are hops."""

    domain: str
    records: str
    """What the DNS says of its MX records."""
    secure: bool
    named: tuple[NamedHost, ...] = ()
    sts: str = ""
    """Its MTA-STS policy; "" where that is not looked up."""
    hops: tuple[Hop, ...] = ()
    refusal: Reply | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Surveyor:
    """Of one target.remote."""

    office: Office
    resolver: Resolver
    security: MxSecurity
    rules: DirectoryRules
    missing: Any
    """Why there is no MTA-STS policy of a domain; None where they are not looked up."""

    async def survey(self, envelope: Envelope, recipient: Recipient) -> Survey:
        try:
            route: Route = await self.office.route(envelope, recipient)
        except MailError as error:
            return Survey(recipient.address.domain, "", False, refusal=error.reply, reason=error.reason)
        ways: Sequence[Way] = ()
        refusal, reason = None, ""
        try:
            ways = await self.office.ways(envelope, recipient, route)
        except MailError as error:
            refusal, reason = error.reply, error.reason
        sts = "" if self.missing is None or route.answer is None else sts_text(route.policy, self.missing(route.domain))
        named = await self._named(route, {way.stop.host for way in ways})
        preferences = {one.host: one.preference for one in named}
        hops = [await self._hop(way, route, preferences, DeliveryVariables(envelope, (recipient,))) for way in ways]
        return Survey(route.domain, _records(route), route.secure, tuple(named), sts, tuple(hops), refusal, reason)

    async def _named(self, route: Route, tried: set[str]) -> list[NamedHost]:
        if route.answer is None or route.answer.status is not Status.FOUND:
            return []
        found = {
            record.exchange.to_text(omit_final_dot=True).lower(): record.preference for record in reversed(route.answer.records)
        }
        own = min((preference for host, preference in found.items() if host in self.rules.own_names), default=None)
        allowed = self.security.allowed(route.policy)
        named = []
        for host, preference in sorted(found.items(), key=lambda one: one[1]):
            if host in tried:
                reason = ""
            elif host in self.rules.own_names:
                reason = "this gateway"
            elif own is not None and preference >= own:
                reason = "behind this gateway"
            elif allowed is not None and not allowed(host):
                reason = "not named by the MTA-STS policy"
            else:
                reason = await self._without_address(host)
            named.append(NamedHost(host, preference, reason))
        return named

    async def _without_address(self, host: str) -> str:
        try:
            addresses = await self.resolver.addresses(host)
        except DnsFailure as failure:
            return str(failure)
        if addresses.status is not Status.FOUND:
            return "no address"
        if any(self.rules.is_own(address) for address in (*addresses.ipv4, *addresses.ipv6)):
            return "this gateway, by its address"
        return "beyond `mx_limit`, behind this gateway, or without an address that mail is sent to"

    async def _hop(self, way: Way, route: Route, preferences: dict[str, int], seen: DeliveryVariables) -> Hop:
        endpoint = self.office.hosts.endpoint(way)
        host, address = way.stop.host, way.stop.address
        published = await self._published(host)
        left = ""
        key = endpoint.link.key
        try:
            key = await _key(endpoint, seen)
        except AttemptFailed as failure:
            left = failure.reason
        except TemporaryError as error:
            left = error.reason
        policy = endpoint.settings.source or SYSTEM_CHOOSES
        sources = [one for one in key.sources or policy.sources if (":" in one.address) == (":" in address)]
        if policy.sources and not sources and not policy.fallback:
            left = left or "`source_ip` lists no address of its family"
        names = dict.fromkeys(one.hostname or key.hostname for one in sources) or (key.hostname,)
        return Hop(
            host,
            address,
            preferences.get(host),
            tuple(one.address for one in sources),
            tuple(names),
            tls_text(key.decision),
            tuple(self._why(route, key.decision, published)),
            left,
        )

    async def _published(self, host: str) -> DanePolicy | str:
        """What it publishes, or why that can't be said; "" where nobody looks."""
        if self.security.dane is None or not host:
            return ""
        try:
            return await Lookup(self.resolver).policy(host, self.office.hosts.settings.port)
        except LookupFailed as failure:
            return str(failure)

    def _why(self, route: Route, decision: Decision, published: DanePolicy | str) -> list[str]:
        said = f"`tls {self.security.tls.dane.value if self.security.tls.dane else self.security.tls.mode.value}`"
        reasons = [dane_text(published)] if published else []
        if decision.policy is Policy.OURS:
            reasons.append(said)
            if self.security.auth is not None and self.security.auth.raised(self.security.tls.mode) is not self.security.tls.mode:
                reasons.append("raised by `min_tls_level`")
        elif decision.policy is Policy.MTA_STS:
            reasons.append("an enforced MTA-STS policy names the host")
        return reasons


async def _key(endpoint: Endpoint, seen: DeliveryVariables) -> LinkKey:
    if endpoint.constant:
        return endpoint.link.key
    link = endpoint.link_for(seen.to(endpoint.settings.host, endpoint.settings.mx), requiretls=False)
    found = await link if inspect.isawaitable(link) else link
    key: LinkKey = found.key
    return key


def _records(route: Route) -> str:
    if route.answer is None:
        return f"the host {route.host}, by `route`" if route.host else "an address literal"
    return "MX" if route.answer.status is Status.FOUND else "no MX records: the domain itself"


def sts_text(policy: StsPolicy | None, missing: Missing | None) -> str:
    """What is known of a domain's policy, in words."""
    trouble = "" if missing is None else f"; {missing.trouble.value}: {missing.reason}"
    if policy is None:
        return f"none{trouble}"
    if policy.mode is Mode.NONE:
        return f"none, said by the policy{trouble}"
    return f"{policy.mode.value}: {' '.join(policy.hosts)}; max_age {policy.max_age}{trouble}"


def dane_text(published: DanePolicy | str) -> str:
    """What a host publishes, in words."""
    if isinstance(published, str):
        return f"TLSA can't be asked for: {published}"
    if published.published is Published.NOTHING:
        return f"DANE: {published.why}"
    records = ", ".join(f"{text[:22]}…" if len(text) > 23 else text for text in published.texts)
    return f"DANE: {published.published.value} at {published.base}: {records}"


def tls_text(decision: Decision) -> str:
    """A decision in words."""
    if decision.start is Start.NEVER:
        return "none: plain text"
    if decision.tlsa:
        return "required, verified by DANE"
    if decision.on_bad_peer is OnFailure.IGNORE:
        verified = "not verified"
    else:
        verified = f"verified for {' or '.join(decision.names)}" if decision.names else "verified for no name"
    oldest = f", {decision.min_version} or newer" if decision.min_version else ""
    if decision.allow_clear:
        return f"where it is offered, {verified}; else plain text"
    return f"required, {verified}{oldest}"
