"""`mailgate help`: what a diagnostic code means, a file that has it, and the same file put right."""

from __future__ import annotations

import json
import sys

import click

from mailgate.cli.common import json_option
from mailgate.config.codes import CODES, Entry
from mailgate.config.suggest import nearest

FORMAT_VERSION = 1


@click.command("help")
@click.argument("code", required=False)
@json_option
def help_command(code: str | None, as_json: bool) -> None:
    """Explain the diagnostic CODE, such as E0401. Without a CODE, list them all.

    Exit status: 0 printed, 1 there is no such code.
    """
    if code is None:
        listed = {code: entry.title for code, entry in sorted(CODES.items(), key=lambda item: item[0][1:])}
        if as_json:
            click.echo(json.dumps({"version": FORMAT_VERSION, "codes": listed}, indent=2, ensure_ascii=False))
        else:
            click.echo("\n".join(f"{code}  {title}" for code, title in listed.items()))
        return
    wanted = code.upper()
    entry = CODES.get(wanted)
    if entry is None:
        near = nearest(wanted, CODES)
        hint = f"; did you mean {', '.join(f'`{other}`' for other in near)}?" if near else ""
        click.echo(f"error: there is no code `{code}`{hint}", err=True)
        sys.exit(1)
    click.echo(_json(wanted, entry) if as_json else explained(wanted, entry))


def explained(code: str, entry: Entry) -> str:
    """An entry as text."""
    kind = "an error" if code.startswith("E") else "a warning"
    parts = [f"{code}: {entry.title} ({kind})", click.wrap_text(entry.text, 100)]
    if entry.needs:
        parts.append(f"There is no example: it takes {entry.needs}.")
    else:
        parts += [f"A file that has it:\n\n{_indented(entry.bad)}", f"And put right:\n\n{_indented(entry.good)}"]
    for path, content in entry.files.items():
        mode = f", mode {entry.modes.get(path, 0o600):04o}" if entry.modes else ""
        parts.append(f"The file {path}{mode}:\n\n{_indented(content)}")
    return "\n\n".join(parts)


def _indented(text: str) -> str:
    shown = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "\n".join(f"    {line}".rstrip() for line in shown.splitlines())


def _json(code: str, entry: Entry) -> str:
    answer = {
        "version": FORMAT_VERSION,
        "code": code,
        "severity": "error" if code.startswith("E") else "warning",
        "title": entry.title,
        "text": entry.text,
        "bad": entry.bad or None,
        "good": entry.good or None,
        "files": {path: content.encode("utf-8", "backslashreplace").decode() for path, content in entry.files.items()},
    }
    return json.dumps(answer, indent=2, ensure_ascii=False)
