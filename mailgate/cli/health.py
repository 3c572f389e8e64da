"""`mailgate status` and `mailgate health`: is it there, does it take mail, what is it doing."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from mailgate.cli.common import config_option, json_option
from mailgate.cli.daemon import TEMPORARY, Daemon, socket_option, token_option
from mailgate.cli.queue_text import plain

FORMAT_VERSION = 1


@click.command()
@config_option
@socket_option
@token_option
@json_option
def status(path: str, socket_path: str | None, token_file: str | None, as_json: bool) -> None:
    """Show what the running gateway is doing.

    Exit status: 0 it serves, 75 it starts or drains, 2 the file can't be read, 3 no gateway answers.
    """
    reply = Daemon(path, socket_path, token_file).get("/v1/status")
    body = reply.body
    if as_json:
        click.echo(json.dumps({"version": FORMAT_VERSION, "status": body}, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_lines(body)))
    sys.exit(0 if body["state"] == "serving" else TEMPORARY)


def _lines(body: dict[str, Any]) -> list[str]:
    lines = [
        f"mailgate {body['version']}, pid {body['pid']}: {body['state']}, since {body['started'] or 'now'}",
        f"configuration {body['configuration']}, generation {body['generation']}, in force since {body['reloaded'] or 'now'}",
        f"{body['sessions']} sessions",
    ]
    if body["old_configurations"]:
        lines.append(f"{body['old_configurations']} older configurations still have sessions")
    last = body["last_reload"]
    if last is not None and last["reason"]:
        lines.append(f"last reload {last['verdict']}: {last['reason']}")
    lines += [f"  {_worker(one)}" for one in body.get("workers", ())]
    lines += [f"  {one['kind']} {' '.join(one['addresses'])}: {one['sessions']} sessions" for one in body["listeners"]]
    lines += [f"  {line}" for one in body["queues"] for line in _queue(one)]
    return lines


def _worker(one: dict[str, Any]) -> str:
    ended = f", {one['restarts']} restarts, the last after {plain(one['last_end'])}" if one["restarts"] else ""
    return f"worker {one['worker']}: {one['state']}, pid {one['pid'] or '-'}, {one['sessions']} sessions{ended}"


def _queue(one: dict[str, Any]) -> list[str]:
    paused = [f"  paused: {plain(one['paused'])}"] if one["paused"] else []
    if "waiting" not in one:
        return [f"queue {one['queue']}:", *paused]
    counts = ", ".join(f"{one[name]} {name.replace('_', ' ')}" for name in ("waiting", "held", "in_flight"))
    oldest = f", oldest {one['oldest']}" if one["oldest"] else ""
    return [f"queue {one['queue']}: {counts}{oldest}", *paused]


@click.command()
@config_option
@socket_option
@click.option("--live", "what", flag_value="live", help="Does it answer at all?")
@click.option("--ready", "what", flag_value="ready", default=True, help="Does it take mail? (default)")
@json_option
def health(path: str, socket_path: str | None, what: str, as_json: bool) -> None:
    """Ask whether the running gateway is well, by exit status.

    Exit status: 0 yes, 75 not ready (it starts or drains), 2 the file can't be read, 3 no gateway answers.
    """
    reply = Daemon(path, socket_path).get(f"/health/{what}")
    well = reply.status == 200
    if as_json:
        click.echo(json.dumps({"version": FORMAT_VERSION, "asked": what, "well": well, "health": reply.body}, indent=2))
    else:
        click.echo(what if well else f"not ready: {reply.body.get('state', reply.status)}")
    sys.exit(0 if well else TEMPORARY)
