"""`mailgate dmarc`: reports of what DMARC found, made by hand from the files that `check.dmarc` writes.

`dmarc_report` sends them by itself; this is for whoever wants to see one first, to send them by other means, or to add up the
files of several gateways. Nothing is written to the files, and nothing is sent.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from typing import Any

import click

from mailgate.cli.common import UNREADABLE, config_option, json_option
from mailgate.cli.rehearse import adapters, fail, load
from mailgate.mailauth.dmarc_report import Head, digest, file_name
from mailgate.modules._dmarc_file import Subject, head_of, merged, packed_of, subjects
from mailgate.outbound.report_mail import Author
from mailgate.registry import Configuration

FORMAT_VERSION = 1
_NAME = re.compile(r"[a-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Made:
    """One report."""

    day: str
    domain: str
    messages: int
    reports_to: tuple[str, ...]
    file: str


@click.group()
def dmarc() -> None:
    """What DMARC found, for the owners of domains."""


@dmarc.command("report")
@config_option
@click.option(
    "--file", "files", multiple=True, metavar="FILE", help="What check.dmarc has written; repeat it to add several gateways up."
)
@click.option("--day", metavar="YYYY-MM-DD", help="Of this day (UTC) only.")
@click.option("--domain", metavar="DOMAIN", help="About this domain's policy only.")
@click.option("--into", "directory", metavar="DIRECTORY", help="Write the reports there; without it they are only listed.")
@json_option
def report(path: str, files: tuple[str, ...], day: str | None, domain: str | None, directory: str | None, as_json: bool) -> None:
    """List the aggregate reports that can be made, or write them as compressed XML (RFC 7489, appendix C).

    The files are those of the configuration's `dmarc { reports { file … } }`, unless --file names others. In whose name they are
    is what its `dmarc_report` says, or else the gateway's own. A file that is there already is not written over.

    Exit status: 0 fine; 1 a report can't be written, or the configuration has errors; 2 usage, or a file can't be read.
    """
    configuration = load(path, adapters(online=False))
    try:
        wanted = date.fromisoformat(day).isoformat() if day else ""
    except ValueError:
        fail(f"`{day}` is no day", UNREADABLE)
    found = tuple(dict.fromkeys(map(os.path.realpath, files or _files(configuration))))
    if not found:
        fail(f"{path} has no `dmarc` with `reports`, and no --file is given", UNREADABLE)
    try:
        with closing(merged(found)) as database:
            made = [
                _report(database, subject, messages, reports_to, _author(configuration), directory)
                for subject, messages, reports_to in subjects(database)
                if wanted in ("", subject.day) and domain in (None, subject.policy_domain)
            ]
    except sqlite3.Error as error:
        fail(f"can't read {', '.join(found)}: {error}", UNREADABLE)
    except OSError as error:
        fail(f"can't write {error.filename}: {error.strerror}", 1)
    if as_json:
        click.echo(json.dumps({"version": FORMAT_VERSION, "reports": [_plain(one) for one in made]}, indent=2))
    else:
        click.echo("\n".join(map(_line, made)) or "no reports")
    sys.exit(0)


def _files(configuration: Configuration) -> list[str]:
    blocks = [getattr(module, "reports", None) for module in configuration.modules if type(module).name == "check.dmarc"]
    return [block.file for block in blocks if block is not None]


def _author(configuration: Configuration) -> Author:
    reporting: Any = next((one for one in configuration.modules if type(one).name == "dmarc_report"), None)
    if reporting is not None:
        author: Author = reporting.author()
        return author
    hostname = configuration.context.hostname
    return Author(hostname, f"postmaster@{hostname}", hostname)


def _report(
    database: sqlite3.Connection, subject: Subject, messages: int, reports_to: str, author: Author, directory: str | None
) -> Made:
    """:raises OSError: it can't be written."""
    written = ""
    if directory is not None and _NAME.fullmatch(subject.policy_domain):
        unique = digest("by hand", subject.day, subject.policy_domain, subject.policy)
        identity = f"{subject.day}.{unique}@{author.domain}"

        def head(error: str) -> Head:
            return head_of(subject, author.organization, author.contact, identity, error)

        name = file_name(author.domain, subject.policy_domain, date.fromisoformat(subject.day), unique)
        written = os.path.join(directory, name)
        with open(written, "xb") as file:
            file.write(packed_of(database, subject, head))
    return Made(subject.day, subject.policy_domain, messages, tuple(reports_to.split(",")) if reports_to else (), written)


def _plain(one: Made) -> dict[str, Any]:
    plain = {"day": one.day, "domain": one.domain, "messages": one.messages, "reports_to": list(one.reports_to)}
    return {**plain, "file": one.file} if one.file else plain


def _line(one: Made) -> str:
    to = " ".join(one.reports_to) or "nobody"
    line = f"{one.day} {one.domain}: {one.messages} message{'' if one.messages == 1 else 's'}, for {to}"
    return f"{line}\n    {one.file}" if one.file else line
