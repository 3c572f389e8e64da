"""`mailgate config`: the values in force, and what differs between two files (mailgate/registry/effective.py)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator

import click

from mailgate.cli.common import UNREADABLE, config_option, json_option
from mailgate.config.diagnostics import render
from mailgate.registry import build
from mailgate.registry.changes import change_row, difference_lines, origin_of, setting_lines, setting_row
from mailgate.registry.effective import Setting, differences, effective

FORMAT_VERSION = 1


@click.group()
def config() -> None:
    """Show the values in force, compare two configurations."""


@config.command("effective")
@config_option
@click.option("--origins", is_flag=True, help="Say of each value where it comes from.")
@json_option
def effective_command(path: str, origins: bool, as_json: bool) -> None:
    """Print every value in force: macros and imports replaced, defaults filled in, secrets as ***.

    Exit status: 0 fine, 1 the file has errors, 2 it can't be read.
    """
    settings = _read(path)
    if as_json:
        rows = [setting_row(where, setting) for where, setting in _flat(settings)]
        click.echo(json.dumps({"version": FORMAT_VERSION, "file": path, "settings": rows}, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_text(settings, origins)))


@config.command("diff")
@click.argument("old")
@click.argument("new")
@json_option
def diff_command(old: str, new: str, as_json: bool) -> None:
    """Print what NEW does differently from OLD, however the two are written.

    Exit status: 0 nothing, 1 something differs or a file has errors, 2 one can't be read.
    """
    changes = differences(_read(old), _read(new))
    if as_json:
        rows = [change_row(change) for change in changes]
        click.echo(json.dumps({"version": FORMAT_VERSION, "old": old, "new": new, "changes": rows}, indent=2, ensure_ascii=False))
    elif not changes:
        click.echo("no difference")
    else:
        click.echo("\n".join(difference_lines(changes)))
    sys.exit(1 if changes else 0)


def _read(path: str) -> list[Setting]:
    try:
        built = build(path)
    except OSError as error:
        click.echo(f"error: can't read {path}: {error.strerror or error}", err=True)
        sys.exit(UNREADABLE)
    if built.configuration is None:
        errors = [diagnostic for diagnostic in built.diagnostics if diagnostic.is_error]
        click.echo(render(errors, color=sys.stderr.isatty()), err=True)
        sys.exit(1)
    return effective(built.configuration)


def _text(settings: Iterable[Setting], origins: bool) -> Iterator[str]:
    lines = list(setting_lines(settings))
    width = max((len(text) for text, _ in lines), default=0)
    for text, setting in lines:
        yield f"{text:<{min(width, 60)}}  # {origin_of(setting)}" if origins and setting is not None else text


def _flat(settings: Iterable[Setting], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Setting]]:
    for setting in settings:
        yield path, setting
        yield from _flat(setting.block or (), (*path, setting.line))
