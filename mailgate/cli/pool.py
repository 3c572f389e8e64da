"""`mailgate pool`: the endpoints of the running gateway's targets, with evidence, and what an operator does about them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from mailgate.cli.common import UNREADABLE, config_option, json_option
from mailgate.cli.daemon import Daemon, socket_option, token_option

FORMAT_VERSION = 1
PATIENCE = 330.0
"""Seconds: a probe takes as long as the endpoint's timeouts let it."""

_common: tuple[Callable[..., Any], ...] = (config_option, socket_option, token_option, json_option)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_common):
        command = option(command)
    return command


@click.group()
def pool() -> None:
    """Look at the endpoints of targets, drain them, eject them, probe them.

    Targets and endpoints are named as in the configuration: `mailgate pool drain stores tcp://store1.internal:24`. What is done
    lasts until it is undone, over reloads too, but not over a restart.

    Exit status: 0 done, 1 not possible (or a probe failed), 2 usage or the file can't be read, 3 no gateway answers, 75 try
    again later.
    """


@pool.command("ls")
@click.argument("target", required=False)
@_options
def ls(target: str | None, path: str, socket_path: str | None, token_file: str | None, as_json: bool) -> None:
    """Show every target, or one: its endpoints, their state and why, their connections."""
    pools = Daemon(path, socket_path, token_file).get("/v1/pools").body["pools"]
    if target is not None:
        pools = [one for one in pools if one["target"] == target]
        if not pools:
            click.echo(f"error: there is no target {target}", err=True)
            sys.exit(1)
    if as_json:
        click.echo(json.dumps({"version": FORMAT_VERSION, "pools": pools}, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(line for one in pools for line in _lines(one)) or "no target has endpoints")


def _action(name: str, text: str) -> None:
    @pool.command(name, help=text)
    @click.argument("target")
    @click.argument("endpoint")
    @_options
    def act(target: str, endpoint: str, path: str, socket_path: str | None, token_file: str | None, as_json: bool) -> None:
        _act({"action": name, "target": target, "endpoint": endpoint}, Daemon(path, socket_path, token_file), as_json)


for _name, _text in {
    "drain": "No new messages go there; idle connections are closed, those in use finish.",
    "undrain": "It takes part again, as its health says.",
    "eject": "It counts as failed, until its back-off is over and a message or a probe finds it well.",
    "probe": "Connect and say hello now; its health hears of it.",
}.items():
    _action(_name, _text)


@pool.command("weight")
@click.argument("target")
@click.argument("endpoint")
@click.argument("weight", type=int)
@_options
def weight_command(
    target: str, endpoint: str, weight: int, path: str, socket_path: str | None, token_file: str | None, as_json: bool
) -> None:
    """Give it another weight, for a `balance` that has weights."""
    body = {"action": "weight", "target": target, "endpoint": endpoint, "weight": weight}
    _act(body, Daemon(path, socket_path, token_file), as_json)


def _act(body: dict[str, Any], daemon: Daemon, as_json: bool) -> None:
    reply = daemon.post("/v1/pools", body, PATIENCE)
    if reply.status != 200:
        click.echo(f"error: {reply.error}", err=True)
        sys.exit(UNREADABLE if reply.status == 400 else 1)
    failure = reply.body["failure"]
    if as_json:
        click.echo(json.dumps({"version": FORMAT_VERSION, **reply.body}, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_lines(reply.body["pool"])))
        if failure:
            click.echo(f"{body['action']} failed: {failure}", err=True)
    sys.exit(1 if failure else 0)


def _lines(report: dict[str, Any]) -> list[str]:
    leased = report["open"] - report["idle"]
    waiting = f", {report['waiting']} messages wait" if report["waiting"] else ""
    lines = [f"{report['target']}: {leased} leased, {report['idle']} idle of {report['max_connections']}{waiting}"]
    for one in report["endpoints"]:
        weight = f", weight {one['weight']}" if one["weight"] != 1 else ""
        lines.append(
            f"  {one['endpoint']}  {one['state']} for {_seconds(one['since'])}{weight},"
            f" {one['leased']} leased, {one['idle']} idle, {one['messages']} messages{_next(one)}"
        )
        lines += [f"      {_seconds(ago)} ago  {what}" for ago, what in one["evidence"]]
    return lines


def _next(endpoint: dict[str, Any]) -> str:
    words = []
    if endpoint["state"] == "down":
        words.append(f"tried again in {_seconds(endpoint['retry_in'])}")
    if endpoint["probe_in"] is not None:
        words.append(f"probed in {_seconds(endpoint['probe_in'])}")
    return "".join(f", {word}" for word in words)


def _seconds(number: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if number >= 2 * size:
            return f"{number / size:.0f}{unit}"
    return f"{number:.0f}s"
