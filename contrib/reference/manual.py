"""The manual pages, in roff: mailgate.conf(5) from the declarations, mailgate(1) from the commands."""

from __future__ import annotations

import click

from contrib.reference.pages import heading, order, own_directives, paragraphs
from mailgate.cli import main
from mailgate.cli.doc import GLOBALS, facts, usage
from mailgate.config.schema import Block, Directive

LANGUAGE = {
    "Lines": """
        A directive is a line: a name, arguments, maybe a { block }. \\ alone at the end of a line joins the next one. # begins
        a comment where a word could begin. "…" quotes a word; \\" in it is a quote.""",
    "Macros and imports": """
        $(name) = value… defines a macro, $(name) puts its values in. (name) { … } defines a snippet, import name puts it in;
        import PATH reads a file, import DIR/*.conf many. {env:NAME} is the environment, {env:NAME:-fallback} with a fallback.""",
    "Instances": """
        At the top level, namespace.kind name { … } names an instance; &name refers to it from anywhere. The same module can
        stand inline: deliver_to lmtp unix:///run/dovecot/lmtp.""",
    "Values": """
        Durations have units: w d h m s ms us. Sizes have units: G M K B, factor 1024. Yes and no are written yes, no, on, off,
        true, false, 1, 0; the name of a directive alone means yes. Endpoints are tcp://HOST:PORT, tls://HOST:PORT,
        unix://PATH. A secret is written there, or file:PATH, or env:NAME.""",
}
"""The syntax in short; docs/configuration.md has it at length."""


def configuration_manual() -> str:
    """mailgate.conf(5)."""
    lines = _head("MAILGATE.CONF", 5, "mailgate.conf", "configuration of the mailgate mail gateway")
    lines += [
        ".SH DESCRIPTION",
        *_text("One file describes the gateway: what listens, which way each recipient goes, and where mail"),
    ]
    lines += _text("leaves. mailgate check says everything that is wrong with it; a file that passes will load.")
    for title, text in LANGUAGE.items():
        lines += [f".SS {title}", *_text(text)]
    blocks = order()
    described: set[Directive] = set()
    for name, block in blocks.items():
        lines.append(f".SH {'GLOBAL DIRECTIVES' if name == GLOBALS else name}")
        lines += _block(name, block, described)
    lines += [".SH FILES", ".TP", ".I /etc/mailgate/mailgate.conf", *_text("The configuration, unless -c names another.")]
    lines += [".SH SEE ALSO", ".BR mailgate (1),", ".BR twistd (1)"]
    return "\n".join(lines) + "\n"


def _block(name: str, block: type[Block], described: set[Directive]) -> list[str]:
    lines = [*_text(paragraphs(block).replace("\n\n", " "))]
    if name != GLOBALS:
        lines += [".PP", f".B {_escape(heading(name, block))}"]
    for argument in block.arguments:
        lines += [".TP", f".I {_escape(argument.metavar)}", *_text(argument.doc)]
    known = []
    for path, directive in own_directives(block):
        if directive in described:
            known += [path] if "." not in path else []
            continue
        described.add(directive)
        inside = f" \\fR(in {_escape(path.rpartition('.')[0])})" if "." in path else ""
        lines += [
            ".TP",
            f".B {_escape(usage(directive))}{inside}",
            *_text(directive.doc),
            f"({_escape('; '.join(facts(directive)))})",
        ]
    if known:
        lines += [".PP", *_text(f"Described above: {', '.join(known)}.")]
    return lines


def command_manual() -> str:
    """mailgate(1)."""
    lines = _head("MAILGATE", 1, "mailgate", "tools of the mailgate mail gateway")
    lines += [".SH SYNOPSIS", ".B mailgate", ".I COMMAND", "[", ".I OPTION …", "]", ".SH DESCRIPTION", *_text(main.help or "")]
    lines.append(".SH COMMANDS")
    for path, command in _commands("", main):
        context = click.Context(command, info_name=path)
        lines += [f".SS {_escape(' '.join([f'mailgate {path}', *command.collect_usage_pieces(context)]))}"]
        lines += _text((command.help or "").replace("\b", ""))
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and "--help" not in parameter.opts:
                lines += [".TP", f".B {_escape(record[0])}", *_text(record[1])]
    lines += [".SH EXIT STATUS", *_text("0 fine, 1 problem found, 2 wrong usage or a named file that cannot be read.")]
    lines += [".SH SEE ALSO", ".BR mailgate.conf (5),", ".BR twistd (1)"]
    return "\n".join(lines) + "\n"


def _commands(path: str, group: click.Group) -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name, command in sorted(group.commands.items()):
        full = f"{path} {name}".strip()
        found += _commands(full, command) if isinstance(command, click.Group) else [(full, command)]
    return found


def _head(title: str, section: int, name: str, what: str) -> list[str]:
    return [f'.TH {title} {section} "" mailgate', ".SH NAME", f"{_escape(name)} \\- {what}"]


def _text(text: str) -> list[str]:
    """Paragraphs as lines of roff."""
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        if lines:
            lines.append(".PP")
        lines.append(_escape(" ".join(paragraph.split())))
    return lines


def _escape(text: str) -> str:
    """Text that roff prints as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "\\&...").replace("→", "\\(->").replace("`", "")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped
