"""`mailgate tls probe`: can TLS to this host, or to the hosts of this domain, be trusted, and what would each mode make of it?"""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import click

from mailgate.adapters import Adapters
from mailgate.cli.common import UNREADABLE, json_option
from mailgate.cli.rehearse import TEMPORARY, adapters, fail, load, run
from mailgate.config.diagnostics import printable
from mailgate.dns.answer import Status
from mailgate.dns.failure import DnsFailure
from mailgate.dns.service import HostnameResolver, with_names
from mailgate.events import EventLog
from mailgate.outbound.dane import NOTHING, DanePolicy, Lookup, LookupFailed
from mailgate.outbound.endpoint_settings import EndpointSettings, Timeouts
from mailgate.outbound.mta_sts import PolicyStore, WithoutFiles
from mailgate.outbound.sts_fetch import PolicyHosts
from mailgate.outbound.sts_policy import StsPolicy
from mailgate.outbound.survey import dane_text, sts_text
from mailgate.outbound.tls_probe import ModeVerdict, Observation, by_mode, examine
from mailgate.registry import Configuration
from mailgate.smtp.address import ascii_domain
from mailgate.tls.client import ClientContext
from mailgate.tls.options import TlsError

FORMAT_VERSION = 1
PATIENCE = 15.0
"""Seconds for one address, from its first packet to STARTTLS."""
TOTAL = 120.0
MAX_HOSTS, MAX_ADDRESSES = 5, 4
SMTP, SUBMISSIONS = 25, 465


@dataclass(frozen=True, slots=True)
class Probed:
    """One address of one host."""

    host: str
    address: str
    dane: str
    seen: Observation
    verdicts: tuple[ModeVerdict, ...]

    @property
    def trusted(self) -> bool:
        """Some mode would know whom it speaks to."""
        return any(verdict.result == "verified" for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class Probe:
    """``trouble`` is why no host could be asked."""

    domain: str
    secure: bool = False
    sts: str = ""
    probed: tuple[Probed, ...] = ()
    trouble: str = ""


@click.group()
def tls() -> None:
    """Look at TLS."""


@tls.command("probe")
@click.argument("place", metavar="HOST|DOMAIN")
@click.option("-c", "--config", "path", metavar="FILE", help="For its resolver and name; without it the system's are used.")
@click.option("--host", "is_host", is_flag=True, help="It is a host: its MX records are not asked for.")
@click.option("--port", type=click.IntRange(1, 65535), help="25 by default; 465 with --implicit.")
@click.option("--implicit", is_flag=True, help="TLS from the first byte in place of STARTTLS.")
@click.option(
    "--root-ca", type=click.Path(dir_okay=False), multiple=True, help="Trust these authorities in place of the system's."
)
@json_option
def probe(
    place: str, path: str | None, is_host: bool, port: int | None, implicit: bool, root_ca: tuple[str, ...], as_json: bool
) -> None:
    """Connect to a host, or to each host of a domain, take it through STARTTLS, and say what every TLS mode would make of it.

    Shown are the certificates, how they are judged by authorities and name, by DANE and by MTA-STS, and the verdict of each mode
    of `tls` with its reason. Said are EHLO, STARTTLS and QUIT.

    Exit status: 0 every host can be verified, by its certificate or by DANE; 1 one can't; 2 usage, or a file can't be read; 75
    nobody was reached, or names could not be looked up.
    """
    name, own_port = _place(place)
    outside, configuration = _outside(path)
    try:
        context = ClientContext(root_ca, use_default_ca=not root_ca)
    except TlsError as error:
        fail(str(error), UNREADABLE)
    hostname = configuration[0].globals.hostname if configuration else "localhost"
    settings = EndpointSettings(
        "tls" if implicit else "tcp",
        place,
        port=own_port or port or (SUBMISSIONS if implicit else SMTP),
        hostname=hostname,
        tls_context=context,
        timeouts=Timeouts(connect=PATIENCE, total=PATIENCE),
    )
    looking = look(name, settings, outside, by_domain=not (is_host or own_port or implicit), root_ca=root_ca)
    found = run(configuration, looking, outside, online=True, seconds=TOTAL)
    if as_json:
        click.echo(json.dumps(as_dict(found), indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(lines_of(found)))
    sys.exit(status_of(found))


def _place(text: str) -> tuple[str, int]:
    """A name or an address, and its port; 0 where none is given."""
    name = text
    if text.startswith("["):
        name, _, rest = text[1:].partition("]")
        name, digits = name.removeprefix("IPv6:"), rest.removeprefix(":")
    elif text.count(":") == 1:
        name, _, digits = text.partition(":")
    else:
        digits = ""
    if digits and not (digits.isdigit() and 0 < int(digits) < 65536):
        fail(f"`{digits}` is no port", UNREADABLE)
    if not _is_address(name):
        name = ascii_domain(name.removesuffix(".")) or fail(f"{text!r} is no host and no domain", UNREADABLE)
    return name, int(digits or 0)


def _outside(path: str | None) -> tuple[Adapters, Sequence[Configuration]]:
    outside = adapters(online=True)
    if path is None:
        return with_names(None, outside), ()
    configuration = load(path, outside, names=True)
    return with_names(configuration.globals.resolver, outside), (configuration,)


async def look(
    name: str, settings: EndpointSettings, outside: Adapters, *, by_domain: bool, root_ca: Sequence[str] = ()
) -> Probe:
    """``name`` is a domain if ``by_domain`` and it has MX records, else a host."""
    resolver = outside.resolver
    if _is_address(name):
        return Probe("", probed=(await _probe("", name, "", settings, NOTHING, None, outside),))
    log = EventLog("mailgate.tls", lambda event: None)
    if hasattr(outside.reactor, "installNameResolver"):  # policy hosts are asked for by name
        outside.reactor.installNameResolver(HostnameResolver(resolver))
    domain, hosts, secure, policy, sts = "", [name], False, None, ""
    try:
        if by_domain:
            answer = await resolver.mx(name)
            if answer.status is Status.NXDOMAIN:
                return Probe(name, trouble="there is no such domain")
            secure = answer.secure
            if answer.status is Status.FOUND:
                hosts = [record.exchange.to_text(omit_final_dot=True).lower() for record in answer.records]
                hosts = list(dict.fromkeys(host for host in hosts if host not in ("", ".", "@")))
            if not hosts:
                return Probe(name, secure, trouble="a null MX: this domain takes no mail")
            domain = name
            store = PolicyStore(
                resolver, PolicyHosts(outside.reactor, root_ca).fetch, WithoutFiles(""), outside, log, patience=PATIENCE
            )
            policy = await store.policy(domain)
            sts = sts_text(policy, store.missing(domain))
    except DnsFailure as failure:
        return Probe(name, secure, trouble=str(failure))
    probed: list[Probed] = []
    for host in hosts[:MAX_HOSTS]:
        probed += await _probe_host(host, domain, settings, policy, outside)
    return Probe(domain, secure, sts, tuple(probed))


async def _probe_host(
    host: str, domain: str, settings: EndpointSettings, sts: StsPolicy | None, outside: Adapters
) -> list[Probed]:
    published: DanePolicy | str
    try:
        found = await outside.resolver.addresses(host)
    except DnsFailure as failure:
        return [Probed(host, "", "", Observation("", trouble=str(failure)), ())]
    try:
        published = await Lookup(outside.resolver).policy(host, settings.port)
    except LookupFailed as failure:
        published = str(failure)
    addresses = [*found.ipv4, *found.ipv6][:MAX_ADDRESSES]
    if not addresses:
        return [Probed(host, "", dane_text(published), Observation("", trouble="the host has no address"), ())]
    return [await _probe(host, address, domain, settings, published, sts, outside) for address in addresses]


async def _probe(
    host: str,
    address: str,
    domain: str,
    settings: EndpointSettings,
    published: DanePolicy | str,
    sts: StsPolicy | None,
    outside: Adapters,
) -> Probed:
    quiet = EventLog("mailgate.tls", lambda event: None)
    policy = NOTHING if isinstance(published, str) else published
    seen = await examine(replace(settings, host=address, mx=host), policy, domain, outside.reactor, quiet, outside.random)
    verdicts = by_mode(seen, published, sts, host, address, domain, implicit=settings.scheme == "tls")
    return Probed(host, address, dane_text(published) if host else "", seen, tuple(verdicts))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def status_of(found: Probe) -> int:
    if found.trouble or all(one.seen.trouble for one in found.probed):
        return TEMPORARY
    return 0 if all(one.trusted for one in found.probed) else 1


def as_dict(found: Probe) -> dict[str, Any]:
    probed = [
        {
            "host": one.host,
            "address": one.address,
            "trouble": one.seen.trouble or one.seen.starttls or one.seen.handshake,
            "tls": _facts(one.seen),
            "dane": one.dane,
            "verdicts": [asdict(verdict) for verdict in one.verdicts],
        }
        for one in found.probed
    ]
    rest = {"domain": found.domain, "secure": found.secure, "mta_sts": found.sts, "trouble": found.trouble}
    return {"version": FORMAT_VERSION, **rest, "hosts": probed}


def _facts(seen: Observation) -> dict[str, Any] | None:
    facts = seen.facts
    if facts is None or facts.peer is None:
        return None
    judged = {kind: {"ok": verdict.ok, "reason": verdict.reason} for kind, verdict in (seen.verdicts or {}).items()}
    return {
        "version": facts.version,
        "cipher": facts.cipher,
        "chain": list(facts.peer.subjects),
        "certificate": facts.peer.fingerprint,
        "key": facts.peer.key_fingerprint,
        "judged": judged,
    }


def lines_of(found: Probe) -> Iterator[str]:
    if found.domain:
        yield f"{found.domain}: MX records {'proved' if found.secure else 'not proved'} by DNSSEC"
        if found.sts:
            yield f"  MTA-STS: {printable(found.sts)}"
    if found.trouble:
        yield f"  {printable(found.trouble)}"
    for one in found.probed:
        yield f"{printable(one.host)} [{one.address}]".strip()
        yield from (f"  {printable(line)}" for line in _lines(one))


def _lines(one: Probed) -> Iterator[str]:
    seen = one.seen
    if seen.trouble:
        yield seen.trouble
    if seen.starttls or seen.handshake:
        yield seen.starttls or f"the handshake fails: {seen.handshake}"
    if seen.facts is not None and seen.facts.peer is not None:
        yield f"{seen.facts.version} {seen.facts.cipher}"
        yield from (f"certificate {subject}" for subject in seen.facts.peer.subjects)
        yield f"certificate SHA-256 {seen.facts.peer.fingerprint}"
        yield f"key SHA-256 {seen.facts.peer.key_fingerprint}"
    for kind, verdict in (seen.verdicts or {}).items():
        yield f"{kind}: {'good' if verdict.ok else verdict.reason}"
    if one.dane:
        yield one.dane
    width = max((len(verdict.mode) for verdict in one.verdicts), default=0)
    for found in one.verdicts:
        yield f"tls {found.mode:{width}}  {found.result}{f': {found.why}' if found.why else ''}"
