"""`mailgate reload`: the running gateway reads its file again, checks it, and changes over to it or changes nothing."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from mailgate.cli.common import config_option, json_option
from mailgate.cli.daemon import TEMPORARY, Daemon, socket_option, token_option

FORMAT_VERSION = 1
PATIENCE = 300.0
"""Seconds: a reload waits for those before it, and for the new modules to start."""

STATUS = {"reloaded": 0, "fine": 0, "refused": 1, "stopping": TEMPORARY}
"""Exit status by verdict."""


@click.command("reload")
@config_option
@socket_option
@token_option
@click.option("--dry-run", is_flag=True, help="Check the file, run its tests, print what would change; change nothing.")
@json_option
def reload_command(path: str, socket_path: str | None, token_file: str | None, dry_run: bool, as_json: bool) -> None:
    """Reload the configuration of the running gateway.

    The gateway checks its file and runs its `test` blocks. If there is nothing wrong it changes over at once: new sessions have
    the new configuration, those that are open keep theirs. Else nothing changes.

    Exit status: 0 reloaded, 1 the file was refused, 2 usage or the file can't be read, 3 no gateway answers, 75 it stops.
    """
    reply = Daemon(path, socket_path, token_file).post("/v1/reload", {"dry_run": dry_run}, PATIENCE)
    verdict = reply.body.get("verdict", "")
    if verdict not in STATUS:
        click.echo(f"error: {reply.error}", err=True)
        sys.exit(TEMPORARY)
    if as_json:
        click.echo(json.dumps({"version": FORMAT_VERSION, **reply.body}, indent=2, ensure_ascii=False))
    else:
        _show(reply.body, dry_run)
    sys.exit(STATUS[verdict])


def _show(body: dict[str, Any], dry_run: bool) -> None:
    if body["rendered"]:
        click.echo(body["rendered"], err=True)
    if STATUS[body["verdict"]]:
        click.echo(f"nothing changed: {body['reason']}", err=True)
        return
    click.echo("\n".join(body["difference"]) or "no difference")
    if dry_run:
        click.echo("nothing changed: this was a dry run")
    else:
        click.echo(f"reloaded in {body['seconds']:g} s: generation {body['generation']}")
