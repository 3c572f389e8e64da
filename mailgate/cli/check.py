"""`mailgate check`: will this file load? Everything that is wrong with it, at once, and no side effects."""

from __future__ import annotations

import json
import sys

import click

from mailgate.cli.common import UNREADABLE, config_option
from mailgate.config.diagnostics import Diagnostic, as_dict, render
from mailgate.registry import build

FORMAT_VERSION = 1


@click.command()
@config_option
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print.")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
def check(path: str, style: str, strict: bool) -> None:
    """Check a configuration file.

    Exit status: 0 clean, 1 errors (with --strict warnings too), 2 the file can't be read.
    """
    try:
        diagnostics = build(path).diagnostics
    except OSError as error:
        click.echo(f"error: can't read {path}: {error.strerror or error}", err=True)
        sys.exit(UNREADABLE)
    errors = sum(diagnostic.is_error for diagnostic in diagnostics)
    click.echo(_as_json(path, diagnostics) if style == "json" else _as_text(path, diagnostics))
    sys.exit(1 if errors or (strict and diagnostics) else 0)


def _as_text(path: str, diagnostics: list[Diagnostic]) -> str:
    if not diagnostics:
        return f"{path}: no errors"
    errors = sum(diagnostic.is_error for diagnostic in diagnostics)
    counts = [_count(errors, "error"), _count(len(diagnostics) - errors, "warning")]
    return f"{render(diagnostics, color=sys.stdout.isatty())}\n\n{path}: {', '.join(filter(None, counts))}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number > 1 else ''}" if number else ""


def _as_json(path: str, diagnostics: list[Diagnostic]) -> str:
    errors = sum(diagnostic.is_error for diagnostic in diagnostics)
    answer = {
        "version": FORMAT_VERSION,
        "file": path,
        "errors": errors,
        "warnings": len(diagnostics) - errors,
        "diagnostics": [as_dict(diagnostic) for diagnostic in diagnostics],
    }
    return json.dumps(answer, indent=2, ensure_ascii=False)
