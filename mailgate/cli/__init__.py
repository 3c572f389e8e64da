"""The `mailgate` command: one file per subcommand.

Exit status: 0 fine, 1 problem found, 2 usage or the named file can't be read, 3 no gateway answers, 75 try again later.
"""

from __future__ import annotations

import json
from importlib import metadata

import click

from mailgate.cli.attempt import attempt
from mailgate.cli.check import check
from mailgate.cli.common import json_option
from mailgate.cli.config import config
from mailgate.cli.dkim import dkim
from mailgate.cli.dmarc import dmarc
from mailgate.cli.doc import doc
from mailgate.cli.dsn import dsn
from mailgate.cli.explain import explain
from mailgate.cli.fmt import fmt
from mailgate.cli.health import health, status
from mailgate.cli.help import help_command
from mailgate.cli.init import init
from mailgate.cli.log import log
from mailgate.cli.lsp import lsp
from mailgate.cli.pool import pool
from mailgate.cli.queue import queue
from mailgate.cli.reload import reload_command
from mailgate.cli.route import route
from mailgate.cli.table import table
from mailgate.cli.tls import tls


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mailgate", prog_name="mailgate")
def main() -> None:
    """A mail gateway's tools: its configuration, what becomes of mail, and what the running gateway does and holds.

    The service itself is `twistd mailgate`. Exit status of all commands: 0 fine, 1 a problem was found, 2 wrong usage or the
    named file can't be read, 3 no gateway answers, 75 try again later.
    """


@main.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version."""
    number = metadata.version("mailgate")
    click.echo(json.dumps({"version": 1, "mailgate": number}) if as_json else number)


main.add_command(attempt)
main.add_command(check)
main.add_command(config)
main.add_command(dkim)
main.add_command(dmarc)
main.add_command(doc)
main.add_command(dsn)
main.add_command(explain)
main.add_command(fmt)
main.add_command(health)
main.add_command(help_command)
main.add_command(init)
main.add_command(log)
main.add_command(lsp)
main.add_command(pool)
main.add_command(queue)
main.add_command(reload_command)
main.add_command(route)
main.add_command(status)
main.add_command(table)
main.add_command(tls)
