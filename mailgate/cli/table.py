"""`mailgate table`: ask a table of the configuration, and see what it answers and by which steps."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from mailgate.cli.common import UNREADABLE, config_option, json_option
from mailgate.cli.rehearse import ONLINE, TEMPORARY, adapters, fail, load, run, tables
from mailgate.config.diagnostics import printable
from mailgate.pipeline.lookup import Lookup, Lookups, look_up
from mailgate.registry import Configuration
from mailgate.smtp.reply import MailError

FORMAT_VERSION = 1
NO_MATCH = 1


@click.group()
def table() -> None:
    """Tables: addresses, people, domains, wherever they are kept."""


@table.command("get")
@click.argument("name")
@click.argument("key")
@config_option
@click.option("--steps", is_flag=True, help="Every table that was asked on the way, its answer and where that stands.")
@json_option
def get(name: str, key: str, path: str, steps: bool, as_json: bool) -> None:
    """Ask the table NAME for KEY, as the gateway would: a directory or a database is really asked.

    The key is given as it would come: an address without angle brackets, a domain, an IP address. Each value stands in a line of
    its own; a match without a value is an empty line.

    Exit status: 0 a match; 1 no match, or the file has errors; 2 usage, or the file can't be read; 75 the table can't answer.
    """
    outside = adapters(online=True)
    configuration = load(path, outside, names=True)
    wanted = _table(configuration, name, path)
    with Lookups(tables(configuration), ONLINE) as lookups:
        values, trouble = run([configuration], _asked(wanted, key), outside, online=True)
        made = lookups.since(0)
    if as_json:
        _print_json(_full_name(wanted), key, values, trouble, made if steps else [])
    else:
        for step in made if steps else []:
            click.echo(_step(step), err=True)
        for value in values or ():
            click.echo(printable(value))
        if trouble:
            click.echo(f"error: {printable(trouble)}", err=True)
        elif not values:
            click.echo("no match", err=True)
    sys.exit(TEMPORARY if trouble else 0 if values else NO_MATCH)


async def _asked(wanted: Any, key: str) -> tuple[tuple[str, ...] | None, str]:
    """The values, or why there are none to be had."""
    try:
        return await look_up(wanted, key), ""
    except MailError as error:
        return None, error.reason or str(error.reply)


def _table(configuration: Configuration, name: str, path: str) -> Any:
    wanted = name.removeprefix("&")
    named = [one for one in tables(configuration) if one.context.name]
    found = next((one for one in named if wanted in (one.context.name, _full_name(one))), None)
    if found is None:
        known = ", ".join(map(_full_name, named))
        fail(f"{path} has no table {wanted}" + (f"; there is {known}" if known else ""), UNREADABLE)
    return found


def _full_name(one: Any) -> str:
    """``table.static people``; the kind alone of one that stands inline."""
    return f"{type(one).name} {one.context.name}".strip()


def _step(step: Lookup) -> str:
    if step.values is None:
        answer = "could not answer"
    elif not step.values:
        answer = "no match"
    else:
        answer = ", ".join(f'"{printable(value)}"' for value in step.values)
    return f'{_full_name(step.table)} "{printable(step.key)}": {answer}' + (f"  ({step.where})" if step.where else "")


def _print_json(name: str, key: str, values: tuple[str, ...] | None, trouble: str, steps: list[Lookup]) -> None:
    answer: dict[str, Any] = {"version": FORMAT_VERSION, "table": name, "key": key, "values": values, "error": trouble}
    if steps:
        answer["steps"] = [
            {"table": _full_name(step.table), "key": step.key, "values": step.values, "where": step.where} for step in steps
        ]
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
