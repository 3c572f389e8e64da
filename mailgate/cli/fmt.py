"""`mailgate fmt`: a configuration file in the one style (mailgate/config/formatter.py)."""

from __future__ import annotations

import difflib
import os
import sys
import tempfile

import click

from mailgate.cli.common import UNREADABLE, config_option
from mailgate.config.diagnostics import render
from mailgate.config.expand import read_source
from mailgate.config.formatter import format_text


@click.command()
@config_option
@click.option("--check", "only_check", is_flag=True, help="Write nothing; exit with 1 if the file would change.")
@click.option("--diff", "show_diff", is_flag=True, help="Write nothing; print what would change.")
def fmt(path: str, only_check: bool, show_diff: bool) -> None:
    """Rewrite a configuration file in place: one style, comments kept, same meaning.

    A file that does not parse is left alone. Exit status: 0 fine, 1 it does not parse or (with --check) would change, 2 it can't
    be read or written.
    """
    try:
        text = read_source(path).text
    except UnicodeDecodeError as error:
        click.echo(f"error: {path} is not UTF-8: byte {error.start} is no character", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"error: can't read {path}: {error.strerror or error}", err=True)
        sys.exit(UNREADABLE)
    formatted, diagnostics = format_text(text, path)
    if formatted is None:
        click.echo(render(diagnostics, color=sys.stderr.isatty()), err=True)
        click.echo(f"\n{path}: left as it is", err=True)
        sys.exit(1)
    if show_diff:
        click.echo(_difference(text, formatted, path), nl=False)
    if only_check and formatted != text:
        click.echo(f"{path}: not in the one style", err=True)
        sys.exit(1)
    if formatted != text and not (only_check or show_diff):
        try:
            replace_file(path, formatted)
        except OSError as error:
            click.echo(f"error: can't write {path}: {error.strerror or error}", err=True)
            sys.exit(UNREADABLE)


def _difference(before: str, after: str, path: str) -> str:
    lines = difflib.unified_diff(_lines(before), _lines(after), path, f"{path} (formatted)")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ no newline at the end\n" for line in lines)


def _lines(text: str) -> list[str]:
    return [line + "\n" for line in text.split("\n")[:-1]] + ([last] if (last := text.rpartition("\n")[2]) else [])


def replace_file(path: str, text: str) -> None:
    """Put a new text in the place of a file, whole or not at all; mode, owner and symbolic links to it stay.

    :raises OSError: nothing was changed.
    """
    real = os.path.realpath(path)
    status = os.stat(real)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(real)}.", dir=os.path.dirname(real))
    try:
        with open(descriptor, "wb") as file:
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), status.st_mode & 0o7777)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, real)
    except BaseException:
        os.unlink(temporary)
        raise
