"""`mailgate doc`: what the language has, printed from the declarations the parser itself uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from mailgate.config.checker import arguments_syntax
from mailgate.config.schema import DEFAULTS, Argument, Block, Directive
from mailgate.config.suggest import nearest
from mailgate.registry import Globals, Module, Unavailable, find, known_names

GLOBALS = "global"
"""Under this name the directives of the top level are found."""


@click.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="The whole reference, as Markdown.")
def doc(name: str | None, everything: bool) -> None:
    """Print what a module, a top-level word or a directive does: `target.smtp`, `smtp`, `connect_timeout`.

    Without a NAME, list everything that can be named. Exit status: 0 printed, 1 nothing has that name.
    """
    blocks = dict(named_blocks())
    if everything:
        click.echo("\n\n".join(_markdown(title, block) for title, block in blocks.items()))
    elif name is None:
        width = max(map(len, blocks))
        click.echo("\n".join(f"{title:<{width}}  {_summary(block)}" for title, block in blocks.items()))
    elif name in blocks:
        click.echo(_block_text(name, blocks[name]))
    else:
        found = [
            f"in {title}:\n{_directive_text(directive)}"
            for title, block in blocks.items()
            for path, directive in walk(block)
            if name in (directive.name, f"{title}.{path}")
        ]
        if not found:
            names = [*blocks, *(directive.name for block in blocks.values() for _, directive in walk(block))]
            near = nearest(name, names)
            hint = f"; did you mean {', '.join(f'`{other}`' for other in near)}?" if near else ""
            click.echo(f"error: nothing is called `{name}`{hint}", err=True)
            sys.exit(1)
        click.echo("\n\n".join(dict.fromkeys(found)))


def named_blocks() -> Iterator[tuple[str, type[Block]]]:
    """Everything that can be named, with its class: the global scope first; what can't be loaded is left out."""
    yield GLOBALS, Globals
    for name in sorted(known_names(), key=lambda name: ("." in name, name)):
        try:
            found = find(name)
        except Unavailable:
            continue
        if found is not None:
            yield name, found


def walk(block: type[Block], path: str = "", above: tuple[type[Block], ...] = ()) -> Iterator[tuple[str, Directive]]:
    """Every directive of a block and of the blocks within it, each with its dotted path; a block within itself once."""
    for name, directive in sorted(block.directives.items()):
        yield f"{path}{name}", directive
        inner = directive.block
        if inner is not None and inner is not block and inner not in above:
            yield from walk(inner, f"{path}{name}.", (*above, block))


def usage(directive: Directive) -> str:
    """How it is written: ``targets ENDPOINT…``."""
    words = [directive.name]
    if directive.type is not None:
        words.append(directive.type.syntax)
    elif directive.block is not None:
        words.append(arguments_syntax(directive.block.arguments))
    if directive.block is not None:
        words.append("{ … }")
    return " ".join(filter(None, words))


def facts(directive: Directive) -> list[str]:
    """What holds for it besides: default, repetition, inheritance, division, origin."""
    found = ["required" if directive.required else f"default: {default_of(directive)}"]
    if directive.repeatable:
        found.append("may be repeated")
    if directive.inherit is not None:
        found.append("inherited from the top level")
    if directive.dynamic is not None:
        found.append(f"dynamic, by {', '.join(directive.dynamic.known)}")
    if directive.divided:
        found.append("divided among workers")
    found.append(f"from {directive.origin}")
    return found


def default_of(directive: Directive | Argument) -> str:
    default = directive.default
    if default is None or default == () or default == "":
        return "none"
    if default is DEFAULTS:
        return "the defaults of its block"
    return directive.type.show(default) if directive.type is not None else str(default)


def _summary(block: type[Block]) -> str:
    return (block.__doc__ or "").strip().partition("\n")[0]


def _heading(title: str, block: type[Block]) -> str:
    if not issubclass(block, Module):
        return title
    name = "" if block.is_nameless else "NAME"
    return " ".join(filter(None, (title, name, arguments_syntax(block.arguments), "{ … }")))


def _block_text(title: str, block: type[Block]) -> str:
    parts = [f"{_heading(title, block)}\n    {_summary(block)}"]
    parts += [f"  {argument.metavar}\n    {argument.doc}" for argument in block.arguments]
    parts += [_directive_text(block.directives[name]) for name in sorted(block.directives)]
    parts += [f"  {refused.name}\n    Not available in this version. {refused.reason}" for refused in block.refusals.values()]
    return "\n\n".join(parts)


def _directive_text(directive: Directive) -> str:
    return f"  {usage(directive)}\n    {directive.doc}\n    ({'; '.join(facts(directive))})"


def _markdown(title: str, block: type[Block]) -> str:
    parts = [f"## {title}", (block.__doc__ or "").strip(), f"    {_heading(title, block)}" if title != GLOBALS else ""]
    parts += [f"- `{argument.metavar}`: {argument.doc}" for argument in block.arguments]
    for path, directive in walk(block):
        parts.append(f"### {path}\n\n    {usage(directive)}\n\n{directive.doc}\n\n*{'; '.join(facts(directive))}*")
    parts += [f"### {refused.name}\n\nNot available in this version. {refused.reason}" for refused in block.refusals.values()]
    return "\n\n".join(filter(None, parts))
