"""`mailgate config`: the values in force, and what differs between two files (mailgate/registry/effective.py)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from mailgate.cli.common import UNREADABLE, config_option
from mailgate.config.diagnostics import render
from mailgate.config.formatter import INDENT
from mailgate.registry import build
from mailgate.registry.effective import Change, Origin, Setting, differences, effective

FORMAT_VERSION = 1


@click.group()
def config() -> None:
    """Show the values in force, compare two configurations."""


@config.command("effective")
@config_option
@click.option("--origins", is_flag=True, help="Say of each value where it comes from.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def effective_command(path: str, origins: bool, as_json: bool) -> None:
    """Print every value in force: macros and imports replaced, defaults filled in, secrets as ***.

    Exit status: 0 fine, 1 the file has errors, 2 it can't be read.
    """
    settings = _read(path)
    if as_json:
        rows = [_row(where, setting) for where, setting in _flat(settings)]
        click.echo(json.dumps({"version": FORMAT_VERSION, "file": path, "settings": rows}, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_text(settings, origins)))


@config.command("diff")
@click.argument("old")
@click.argument("new")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def diff_command(old: str, new: str, as_json: bool) -> None:
    """Print what NEW does differently from OLD, however the two are written.

    Exit status: 0 nothing, 1 something differs or a file has errors, 2 one can't be read.
    """
    changes = differences(_read(old), _read(new))
    if as_json:
        rows = [_change_row(change) for change in changes]
        click.echo(json.dumps({"version": FORMAT_VERSION, "old": old, "new": new, "changes": rows}, indent=2, ensure_ascii=False))
    elif not changes:
        click.echo("no difference")
    else:
        click.echo("\n".join(_difference(changes)))
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
    lines = list(_lines(settings, 0))
    width = max((len(text) for text, _ in lines), default=0)
    for text, setting in lines:
        yield f"{text:<{min(width, 60)}}  # {_origin(setting)}" if origins and setting is not None else text


def _lines(settings: Iterable[Setting], depth: int) -> Iterator[tuple[str, Setting | None]]:
    indent = INDENT * depth
    for setting in settings:
        yield f"{indent}{setting.line}{' {' if setting.block else ''}", setting
        if setting.block:
            yield from _lines(setting.block, depth + 1)
            yield f"{indent}}}", None


def _origin(setting: Setting) -> str:
    if setting.origin is Origin.DEFAULT or setting.span is None:
        return setting.origin.value
    inherited = "inherited from " if setting.origin is Origin.INHERITED else ""
    return f"{inherited}{setting.span.place}"


def _flat(settings: Iterable[Setting], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Setting]]:
    for setting in settings:
        yield path, setting
        yield from _flat(setting.block or (), (*path, setting.line))


def _row(path: tuple[str, ...], setting: Setting) -> dict[str, Any]:
    return {
        "path": list(path),
        "name": setting.name,
        "value": setting.value,
        "origin": setting.origin.value,
        "file": setting.span.path if setting.span else None,
        "line": setting.span.line if setting.span else None,
    }


def _difference(changes: Iterable[Change]) -> Iterator[str]:
    """Changes under the lines of the blocks they are in."""
    shown: tuple[str, ...] = ()
    for change in changes:
        common = 0
        while common < min(len(shown), len(change.path)) and shown[common] == change.path[common]:
            common += 1
        for depth in range(common, len(change.path)):
            yield f"  {INDENT * depth}{change.path[depth]} {{"
        shown = change.path
        for sign, setting in (("-", change.before), ("+", change.after)):
            if setting is not None:
                block = [] if change.before is not None and change.after is not None else (setting.block or ())
                written = list(_written(block))
                opens = " {" if written else ""
                yield f"{sign} {INDENT * len(shown)}{setting.line}{opens}  # {_origin(setting)}"
                yield from (f"{sign} {text}" for text, _ in _lines(written, len(shown) + 1))
                if written:
                    yield f"{sign} {INDENT * len(shown)}}}"
        if change.order:
            yield f"~ {INDENT * len(shown)}in another order: {', '.join(change.order)}"


def _written(settings: Iterable[Setting]) -> Iterator[Setting]:
    """Without defaults: of a block that came or went, what was said."""
    for setting in settings:
        if setting.origin is Origin.WRITTEN:
            block = None if setting.block is None else tuple(_written(setting.block))
            yield Setting(setting.name, setting.value, setting.origin, setting.span, block)


def _change_row(change: Change) -> dict[str, Any]:
    return {
        "path": list(change.path),
        "old": None if change.before is None else _row(change.path, change.before),
        "new": None if change.after is None else _row(change.path, change.after),
        "order": list(change.order) or None,
    }
