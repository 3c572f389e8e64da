"""`mailgate route`: which hosts the mail of a domain would go to, in what order, from where, and how TLS would be decided."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import click

from mailgate.cli.common import UNREADABLE, config_option, json_option
from mailgate.cli.rehearse import TEMPORARY, adapters, fail, load, run
from mailgate.config.diagnostics import printable
from mailgate.dns.service import HostnameResolver
from mailgate.message.envelope import FIRST_ATTEMPT, Envelope, Recipient, Session
from mailgate.modules.target.remote import RemoteTarget
from mailgate.outbound.survey import Hop, NamedHost, Survey
from mailgate.pipeline.explain import read_address
from mailgate.registry import Configuration
from mailgate.smtp.address import NULL_ADDRESS, Address, AddressError

FORMAT_VERSION = 1


@click.command("route")
@click.argument("domain")
@config_option
@click.option("--target", "name", metavar="NAME", help="Which target.remote; the first of the file by default.")
@click.option("--from", "sender", default="<>", metavar="ADDRESS", help="The sender, for settings that depend on it.")
@click.option("--retry", "retry_num", type=click.IntRange(min=0), default=0, help="Attempts before this one.")
@json_option
def route(domain: str, path: str, name: str | None, sender: str, retry_num: int, as_json: bool) -> None:
    """Show where mail for a DOMAIN, or an address, would go: MX records, addresses in order, our address and name, TLS and why.

    The DNS is asked, and the domain's MTA-STS policy is fetched; hosts are not connected to, and nothing is sent or kept.

    Exit status: 0 shown; 1 the file has errors, or mail is refused for good; 2 usage, or the file can't be read; 75 it can't be
    said at present, or mail would wait.
    """
    recipient, sender_address = _address(domain), _address(sender)
    outside = adapters(online=True)
    configuration = load(path, outside, names=True)
    target = _target(configuration, name, path)
    envelope = Envelope("route", sender_address, Session("route", "route", configuration.globals.hostname))
    envelope.attempt = replace(FIRST_ATTEMPT, retry_num=retry_num)
    found = run([configuration], survey(target, envelope, Recipient(recipient)), outside, online=True)
    if as_json:
        click.echo(json.dumps(as_dict(found, target.label), indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(lines_of(found, target.label)))
    sys.exit(status_of(found))


async def survey(target: RemoteTarget, envelope: Envelope, recipient: Recipient) -> Survey:
    outside = target.context.adapters
    assert outside is not None
    if hasattr(outside.reactor, "installNameResolver"):  # policy hosts are asked for by name
        outside.reactor.installNameResolver(HostnameResolver(outside.resolver))
    surveyor = target.surveyor()
    try:
        return await surveyor.survey(envelope, recipient)
    finally:
        await target.stop()


def _address(text: str) -> Address:
    """A domain stands for its postmaster."""
    try:
        return NULL_ADDRESS if text == "<>" else read_address(text if "@" in text else f"postmaster@{text}")
    except AddressError as error:
        fail(f"{text!r} is no domain and no address: {error}", UNREADABLE)


def _target(configuration: Configuration, name: str | None, path: str) -> RemoteTarget:
    targets = [module for module in configuration.modules if isinstance(module, RemoteTarget)]
    if name is None and targets:
        return targets[0]
    wanted = (name or "").removeprefix("&")
    found = next((target for target in targets if target.context.name == wanted), None)
    if found is None:
        known = ", ".join(target.label for target in targets)
        fail(f"{path} has no target.remote {wanted}".rstrip() + (f"; there is {known}" if known else ""), UNREADABLE)
    return found


def status_of(found: Survey) -> int:
    if found.refusal is None:
        return TEMPORARY if all(hop.left for hop in found.hops) else 0
    return 1 if found.refusal.is_permanent else TEMPORARY


def as_dict(found: Survey, target: str) -> dict[str, Any]:
    answer = {"version": FORMAT_VERSION, "target": target, **asdict(replace(found, refusal=None))}
    answer["refusal"] = None if found.refusal is None else str(found.refusal)
    return answer


def lines_of(found: Survey, target: str) -> Iterator[str]:
    yield f"{printable(found.domain)} through {target}"
    if found.records:
        secure = "proved by DNSSEC" if found.secure else "not proved by DNSSEC"
        yield f"  {found.records}, {secure}" if not found.named else f"  MX, {secure}:"
    yield from (f"    {_named(one)}" for one in found.named)
    if found.sts:
        yield f"  MTA-STS: {printable(found.sts)}"
    if found.refusal is not None:
        reason = found.reason if found.reason != str(found.refusal) else ""
        yield f"  {printable(str(found.refusal))}{f': {printable(reason)}' if reason else ''}"
    for number, hop in enumerate(found.hops, 1):
        yield from _hop(number, hop)


def _named(one: NamedHost) -> str:
    return f"{one.preference} {printable(one.host)}" + (f"  (not tried: {printable(one.left_out)})" if one.left_out else "")


def _hop(number: int, hop: Hop) -> Iterator[str]:
    yield f"  {number}. {f'{printable(hop.host)} ' if hop.host else ''}[{hop.address}]"
    sources = _either(hop.sources) if hop.sources else "an address that the system chooses"
    yield f"     from {sources} as {printable(_either(hop.names))}"
    yield f"     TLS {printable(hop.tls)}"
    yield from (f"       {printable(reason)}" for reason in hop.why)
    if hop.left:
        yield f"     left: {printable(hop.left)}"


def _either(words: Sequence[str]) -> str:
    return " or ".join(words)
