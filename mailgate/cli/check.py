"""`mailgate check`: will this file load, and is it safe? Everything that is wrong with it, at once.

No side effects: files are read, and nothing else is touched, unless ``--online`` asks for the next hops to be tried (online.py).
The `test` blocks of the file are run when it has no errors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from mailgate.cli.common import UNREADABLE, config_option
from mailgate.cli.sarif import as_sarif
from mailgate.config.diagnostics import Diagnostic, as_dict, in_order, render
from mailgate.pipeline.testblock import run_tests
from mailgate.registry import build

FORMAT_VERSION = 1


@click.command()
@config_option
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "json", "sarif"]),
    default="text",
    show_default=True,
    help="How to print; sarif is SARIF 2.1.0.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.option("--online", is_flag=True, help="Try the next hops too: resolve, connect, TLS. Nothing is sent or changed.")
@click.option("--workers", type=click.IntRange(1), default=1, help="For so many of `twistd mailgate --workers`.")
def check(path: str, style: str, as_json: bool, strict: bool, online: bool, workers: int) -> None:
    """Check a configuration file.

    Exit status: 0 clean, 1 errors (with --strict warnings too), 2 the file can't be read. `mailgate help CODE` explains.
    """
    try:
        diagnostics = examine(path, online=online, workers=workers)
    except OSError as error:
        click.echo(f"error: can't read {path}: {error.strerror or error}", err=True)
        sys.exit(UNREADABLE)
    status = 1 if any(strict or diagnostic.is_error for diagnostic in diagnostics) else 0
    style = "json" if as_json else style
    if style == "sarif":
        click.echo(as_sarif(diagnostics, status))
    else:
        click.echo(_as_json(path, diagnostics) if style == "json" else _as_text(path, diagnostics))
    sys.exit(status)


def examine(path: str, *, online: bool = False, workers: int = 1) -> list[Diagnostic]:
    """Everything there is to say of a file. :raises OSError: it can't be read."""
    built = build(path, workers=workers)
    if built.configuration is None:
        return built.diagnostics
    found = [*built.diagnostics, *run_tests(built.configuration)]
    if online:
        from mailgate.cli.online import check_online

        found += check_online(built.configuration)
    return in_order(found)


def _as_text(path: str, diagnostics: Sequence[Diagnostic]) -> str:
    if not diagnostics:
        return f"{path}: no errors"
    errors = sum(diagnostic.is_error for diagnostic in diagnostics)
    counts = [_count(errors, "error"), _count(len(diagnostics) - errors, "warning")]
    return f"{render(diagnostics, color=sys.stdout.isatty())}\n\n{path}: {', '.join(filter(None, counts))}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number > 1 else ''}" if number else ""


def _as_json(path: str, diagnostics: Sequence[Diagnostic]) -> str:
    errors = sum(diagnostic.is_error for diagnostic in diagnostics)
    answer = {
        "version": FORMAT_VERSION,
        "file": path,
        "errors": errors,
        "warnings": len(diagnostics) - errors,
        "diagnostics": [as_dict(diagnostic) for diagnostic in diagnostics],
    }
    return json.dumps(answer, indent=2, ensure_ascii=False)
