"""`mailgate log`: more of the running gateway's log, or less, for some minutes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import click

from mailgate.cli.common import UNREADABLE, config_option, json_option
from mailgate.cli.daemon import Daemon, socket_option, token_option

FORMAT_VERSION = 1
_UNITS = {"s": 1, "m": 60, "h": 3600}

_common: tuple[Callable[..., Any], ...] = (config_option, socket_option, token_option, json_option)


def _duration(ctx: click.Context, param: click.Parameter, value: str) -> float:
    match = re.fullmatch(r"(\d+)([smh])", value)
    seconds = int(match[1]) * _UNITS[match[2]] if match is not None else 0
    if not 0 < seconds <= 86400:
        raise click.BadParameter("say it as 90s, 10m or 2h, a day at most")
    return float(seconds)


_for_option: Callable[..., Any] = click.option(
    "--for",
    "seconds",
    callback=_duration,
    default="10m",
    show_default=True,
    metavar="DURATION",
    help="How long, or until a reload.",
)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_common):
        command = option(command)
    return command


@click.group()
def log() -> None:
    """Show more of what the running gateway does, or less, for some minutes.

    What is set ends by itself, and with a reload: what the configuration says is what stays.

    Exit status: 0 done, 1 not possible, 2 usage or the file can't be read, 3 no gateway answers.
    """


@log.command("show")
@_options
def show(path: str, socket_path: str | None, token_file: str | None, as_json: bool) -> None:
    """Show what is set, and for how long."""
    _print(Daemon(path, socket_path, token_file).get("/v1/log").body, as_json)


@log.command("level")
@click.argument("level", type=click.Choice(["debug", "info", "warn", "error"]))
@_for_option
@_options
def level_command(level: str, seconds: float, path: str, socket_path: str | None, token_file: str | None, as_json: bool) -> None:
    """Let every destination of the log show events from this level on."""
    body = {"action": "level", "level": level, "seconds": seconds}
    _act(body, Daemon(path, socket_path, token_file), as_json)


@log.command("watch")
@click.argument("subject", type=click.Choice(["listener", "peer", "target", "recipient"]))
@click.argument("value")
@_for_option
@_options
def watch(
    subject: str, value: str, seconds: float, path: str, socket_path: str | None, token_file: str | None, as_json: bool
) -> None:
    """Write dialogues line by line (`wire`), without passwords and content.

    Of a listener (its address as the configuration has it) or a peer (an address or network): sessions that begin from now on.
    Of a target: what is said to its next hops. Of a recipient (an address, or @domain): the deliveries it is in.
    """
    body = {"action": "watch", "subject": subject, "value": value, "seconds": seconds}
    _act(body, Daemon(path, socket_path, token_file), as_json)


@log.command("reset")
@_options
def reset(path: str, socket_path: str | None, token_file: str | None, as_json: bool) -> None:
    """End all of it now."""
    _act({"action": "reset"}, Daemon(path, socket_path, token_file), as_json)


def _act(body: dict[str, Any], daemon: Daemon, as_json: bool) -> None:
    reply = daemon.post("/v1/log", body)
    if reply.status != 200:
        click.echo(f"error: {reply.error}", err=True)
        sys.exit(UNREADABLE if reply.status == 400 else 1)
    _print(reply.body, as_json)


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"version": FORMAT_VERSION, **found}, indent=2, ensure_ascii=False))
        return
    level = found["level"]
    lines = [f"level {level['level']} for {level['seconds']}s"] if level else []
    lines += [f"{one['subject']} {one['value']} for {one['seconds']}s" for one in found["watches"]]
    click.echo("\n".join(lines) or "as the configuration says")
