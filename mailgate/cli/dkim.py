"""`mailgate dkim`: make keys for signatures, and see whether the DNS has their records.

`generate` writes a file that nobody else may read, never over another one, and prints the record that goes into the zone.
`check` asks the DNS for the record of every key that the configuration signs with, as the rest of the world does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum

import click

from mailgate.cli.common import UNREADABLE, config_option, json_option
from mailgate.cli.rehearse import TEMPORARY, adapters, fail, load, run
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import Resolver, texts
from mailgate.mailauth.dkim_keys import (
    ED25519_SHA256,
    GOOD_BITS,
    RSA_SHA256,
    BadKey,
    PrivateKey,
    new_key,
    parse_record,
    record_name,
    zone_line,
)
from mailgate.modules.modify._signing import SigningKey, signing_name

FORMAT_VERSION = 1
ALGORITHMS = {"rsa": RSA_SHA256, "ed25519": ED25519_SHA256}


@click.group()
def dkim() -> None:
    """Keys for signatures (DKIM, ARC), and their records."""


@dkim.command("generate")
@click.argument("domain")
@click.argument("selector")
@click.option("--key", "path", metavar="FILE", help="Where the private key goes; SELECTOR.pem by default.")
@click.option("--algorithm", type=click.Choice(tuple(ALGORITHMS)), default="rsa", show_default=True, help="The kind of key.")
@click.option(
    "--bits", type=click.Choice(("2048", "3072", "4096")), default=str(GOOD_BITS), show_default=True, help="Of an RSA key."
)
@json_option
def generate(domain: str, selector: str, path: str | None, algorithm: str, bits: str, as_json: bool) -> None:
    """Make a key for signatures of DOMAIN under SELECTOR, and print its record.

    The file is made with mode 0600; one that is there is never written over.

    Exit status: 0 made; 1 the file is there, or can't be written; 2 usage.
    """
    names = signing_name(domain), signing_name(selector)
    if "." not in names[0]:
        fail(f"`{domain}` is no domain that can sign", UNREADABLE)
    if not names[1]:
        fail(f"`{selector}` is no selector", UNREADABLE)
    path = path or f"{names[1]}.pem"
    key = new_key(ALGORITHMS[algorithm], int(bits))
    try:
        _write(path, key.pem)
    except FileExistsError:
        fail(f"{path} is there already: a key in use must not be lost. Remove it, or name another file by --key", 1)
    except OSError as error:
        fail(f"can't write {path}: {error.strerror or error}", 1)
    name = record_name(*names)
    if as_json:
        made = {"version": FORMAT_VERSION, "key": os.path.abspath(path), "name": name, "record": key.record}
        click.echo(json.dumps(made, indent=2))
        return
    click.echo(f"; the private key is in {path}. This goes into the zone:", err=True)
    click.echo(zone_line(name, key.record))
    click.echo(
        f"; then, where mail goes out:\n;   modify {{\n;       dkim {names[0]} {names[1]} {{\n;           key"
        f" {os.path.abspath(path)}\n;       }}\n;   }}\n; `mailgate dkim check` says whether the DNS has it.",
        err=True,
    )


def _write(path: str, content: bytes) -> None:
    """A file that only its owner can read, and that was not there.

    :raises OSError: nothing is left of it then."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask takes away
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        os.unlink(path)
        raise


class State(Enum):
    """What the DNS has of a key."""

    OK = "ok"
    MISSING = "missing"
    OTHER = "other key"
    UNUSABLE = "unusable"
    UNKNOWN = "no answer"


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    where: str
    state: str
    detail: str = ""
    record: str = ""
    """What should be there, of those that are not."""


@dkim.command("check")
@config_option
@json_option
def check(path: str, as_json: bool) -> None:
    """Ask the DNS for the records of all keys that the configuration signs with.

    Exit status: 0 all are there; 1 one is not, or another, or the file has errors; 2 usage, or the file can't be read; 75 the DNS
    does not answer.
    """
    outside = adapters(online=True)
    configuration = load(path, outside, names=True)
    keys = [module.signing_key for module in configuration.modules if hasattr(module, "signing_key")]
    resolver = configuration.context.adapters.resolver if configuration.context.adapters is not None else None
    assert resolver is not None  # `load` was asked for names
    findings = run([], published(keys, resolver), outside, online=True) if keys else []
    if as_json:
        click.echo(json.dumps({"version": FORMAT_VERSION, "keys": [asdict(one) for one in findings]}, indent=2))
    else:
        click.echo("\n".join(map(_line, findings)) or "the configuration signs with no key")
    states = {State(one.state) for one in findings}
    sys.exit(1 if states - {State.OK, State.UNKNOWN} else TEMPORARY if State.UNKNOWN in states else 0)


async def published(keys: Sequence[SigningKey], resolver: Resolver) -> list[Finding]:
    return [await _published(one, resolver) for one in keys]


async def _published(one: SigningKey, resolver: Resolver) -> Finding:
    name = record_name(one.domain, one.selector)
    try:
        found = texts(await resolver.txt(name))
    except DnsFailure as failure:
        return Finding(name, one.where, State.UNKNOWN.value, str(failure), one.key.record)
    state, detail = compare(one.key, found)
    return Finding(name, one.where, state.value, detail, "" if state is State.OK else one.key.record)


def compare(key: PrivateKey, found: Sequence[bytes]) -> tuple[State, str]:
    """What the world would make of our signatures."""
    if not found:
        return State.MISSING, ""
    if len(found) > 1:
        return State.UNUSABLE, "several records"
    try:
        public = parse_record(found[0])
    except BadKey as error:
        return State.UNUSABLE, str(error)
    if not key.is_of(public):
        return State.OTHER, ""
    return State.OK, "it says that it is being tried out (t=y)" if public.testing else ""


def _line(one: Finding) -> str:
    line = f"{one.state}: {one.name} ({one.where})" + (f": {one.detail}" if one.detail else "")
    return f"{line}\n    {zone_line(one.name, one.record)}" if one.record else line
