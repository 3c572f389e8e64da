"""Can TLS to a host be trusted? One connection that says EHLO and STARTTLS and QUIT, and what each TLS mode would make of it.

`examine` connects as a delivery does (`dial`, `make_ready`), with a decision that ends at nothing; what it saw is an
`Observation`. `outcome` is pure: it reads a `Decision` beside an observation as `handshake` would have, so there is a verdict for
each mode without a connection for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mailgate.events import EventLog
from mailgate.net.waiting import Wait
from mailgate.outbound.connection import Connection
from mailgate.outbound.dane import MODES, Dane, DanePolicy, Published, apply
from mailgate.outbound.dialer import dial
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.endpoint_settings import EndpointSettings
from mailgate.outbound.failure import AttemptFailed
from mailgate.outbound.handshake import TlsFailed, make_ready
from mailgate.outbound.health import Circuit, HealthSettings
from mailgate.outbound.sts_policy import StsPolicy
from mailgate.outbound.tls_policy import PROTECTED_VERSION, Decision, OnFailure, Policy, Start, TlsMode, decide
from mailgate.tls.capture import PeerFacts
from mailgate.tls.dane import verify_dane
from mailgate.tls.verification import Verdict, verify_chain, verify_peer

MTA_STS = "mta-sts"
"""Beside the modes: a host under an enforced policy."""
_LOOK = Decision(Start.OFFERED, True, OnFailure.NEXT, OnFailure.IGNORE)


@dataclass(frozen=True, slots=True)
class Observation:
    """What one connection showed. ``trouble`` is why there is no more to see; ``verdicts`` are of the peer, by how it is judged:
    ``chain``, ``name``, ``dane``."""

    address: str
    trouble: str = ""
    starttls: str = ""
    """Why there was no handshake: "" if there was one, or no dialogue."""
    handshake: str = ""
    """Why it failed."""
    facts: PeerFacts | None = None
    verdicts: Mapping[str, Verdict] | None = None


@dataclass(frozen=True, slots=True)
class ModeVerdict:
    """``result``: verified, encrypted, clear, refused."""

    mode: str
    result: str
    why: str = ""


async def examine(
    settings: EndpointSettings, policy: DanePolicy, domain: str, reactor: Any, log: EventLog, chance: Any
) -> Observation:
    """Connect to the one address that ``settings`` name (``mx`` is the host's name), and look."""
    names = names_of(settings.mx, settings.host)
    decision = replace(_LOOK, names=names, sni=policy.base or settings.mx or None)
    if settings.scheme == "tls":
        decision = replace(decision, start=Start.IMPLICIT, allow_clear=False)
    endpoint = Endpoint(replace(settings, decision=decision, capture_peer=True), Circuit(HealthSettings(), reactor, chance))
    gone: Wait[None] = Wait()
    connection = Connection(endpoint.link, reactor, lambda _: gone.fire(None), log)
    connection.over_by = connection.after(settings.timeouts.total)
    try:
        await dial(reactor, connection, settings.timeouts.connect)
    except AttemptFailed as failure:
        return Observation(settings.host, trouble=f"{failure.stage}: {failure.reason}")
    try:
        await make_ready(connection)
        found = _observed(connection, policy, names_with(policy, settings.mx, domain))
        connection.quit()
    except TlsFailed as failure:
        found = Observation(connection.remote, handshake=failure.reason)
        connection.abort()
    except AttemptFailed as failure:
        found = Observation(connection.remote, trouble=f"{failure.stage}: {failure.reason}")
        connection.quit()
    except BaseException:
        connection.abort()
        raise
    await gone
    return found


def _observed(connection: Connection, policy: DanePolicy, dane_names: Sequence[str]) -> Observation:
    if connection.tls is None:
        offered = connection.session.capabilities.starttls
        return Observation(connection.remote, starttls="STARTTLS is refused" if offered else "STARTTLS is not offered")
    peer, settings = connection.tls_connection, connection.settings
    verdicts = {
        "chain": verify_chain(peer, settings.tls_context),
        "name": verify_peer(peer, settings.tls_context, settings.decision.names),
    }
    if policy.published is Published.USABLE:
        verdicts["dane"] = verify_dane(peer, policy.records, dane_names)
    return Observation(connection.remote, facts=connection.tls, verdicts=verdicts)


def names_of(host: str, address: str) -> tuple[str, ...]:
    return (host or address,)


def names_with(policy: DanePolicy, host: str, domain: str) -> tuple[str, ...]:
    """Those that a certificate under DANE-TA may have (RFC 7672 3.2.2)."""
    return tuple(dict.fromkeys(name for name in (policy.base, host, domain) if name))


def outcome(decision: Decision, seen: Observation) -> tuple[str, str]:
    """What a delivery under this decision would come to, and why."""
    enhanced = "4.7.5" if decision.policy is Policy.DANE else "4.7.4"
    if decision.start is Start.NEVER:
        return "clear", ""
    if seen.starttls:
        return ("clear", seen.starttls) if decision.allow_clear else ("refused", f"{enhanced} {seen.starttls}")
    if seen.handshake:
        return _failed(decision.on_handshake, seen.handshake)
    if seen.facts is None or seen.verdicts is None:
        return "refused", seen.trouble
    if seen.facts.version < decision.min_version:
        return "refused", f"4.7.5 {seen.facts.version} is too old"
    verdict = seen.verdicts["dane" if decision.tlsa else "name" if decision.names else "chain"]
    if verdict.ok:
        return "verified", verdict.matched_name or "chain"
    return _failed(decision.on_bad_peer, verdict.reason)


def _failed(then: OnFailure, reason: str) -> tuple[str, str]:
    if then is OnFailure.IGNORE:
        return "encrypted", reason
    return ("clear", f"{reason}: over a new connection") if then is OnFailure.CLEAR else ("refused", f"4.7.5 {reason}")


def by_mode(
    seen: Observation, published: DanePolicy | str, sts: StsPolicy | None, host: str, address: str, domain: str, *, implicit: bool
) -> list[ModeVerdict]:
    """The verdict of every mode of `tls`, and that of an enforced MTA-STS policy if there is a policy. ``published`` is a text
    where TLSA can't be asked for."""
    if seen.trouble:
        return []
    names = names_of(host, address)

    def made(mode: TlsMode) -> Decision:
        return decide(mode, implicit=implicit, names=names, sni=host or None)

    verdicts = [
        ModeVerdict(mode.value, *outcome(made(mode), seen)) for mode in TlsMode if not (implicit and mode is TlsMode.DISABLED)
    ]
    for dane in Dane:
        verdicts.append(_by_dane(dane, made(MODES[dane.value]), published, seen, host, domain))
    if sts is not None:
        verdicts.append(_by_sts(sts, made(TlsMode.REQUIRE_VERIFY), seen, host))
    return verdicts


def _by_dane(
    dane: Dane, decision: Decision, published: DanePolicy | str, seen: Observation, host: str, domain: str
) -> ModeVerdict:
    if isinstance(published, str):
        return ModeVerdict(dane.value, "refused", f"4.7.5 {published}")
    try:
        return ModeVerdict(dane.value, *outcome(apply(dane, published, decision, host, domain), seen))
    except AttemptFailed as failure:
        return ModeVerdict(dane.value, "refused", f"4.7.5 {failure.reason}")


def _by_sts(sts: StsPolicy, decision: Decision, seen: Observation, host: str) -> ModeVerdict:
    if not sts.allows(host):
        return ModeVerdict(MTA_STS, "refused", f"4.7.5 the policy does not name {host}")
    return ModeVerdict(MTA_STS, *outcome(replace(decision, min_version=PROTECTED_VERSION, policy=Policy.MTA_STS), seen))
