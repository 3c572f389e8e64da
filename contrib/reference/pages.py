"""docs/reference: one page for the global scope and for everything that can be named.

A directive that several blocks share is described on one page, the first in `order`; the others lead there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from contrib.reference.examples import Examples
from mailgate.cli.doc import GLOBALS, facts, named_blocks, usage
from mailgate.config.checker import arguments_syntax
from mailgate.config.schema import Block, Directive
from mailgate.registry import Module

FIRST = (GLOBALS, "msgpipeline", "smtp", "target.smtp")
"""Pages that describe what others share."""

HEAD = "<!-- Written by `make docs` from the declarations and from examples/: change those. -->"


def order() -> dict[str, type[Block]]:
    blocks = dict(named_blocks())
    return {
        name: blocks[name]
        for name in sorted(blocks, key=lambda name: (name not in FIRST, name not in FIRST or FIRST.index(name)))
    }


def pages(examples: Path) -> dict[str, str]:
    """Every page by its file name."""
    blocks = order()
    found = Examples(sorted(examples.glob("*.conf")))
    homes: dict[Directive, str] = {}
    written = {}
    for name, block in blocks.items():
        written[f"{name}.md"] = _page(name, block, found, homes)
    written["README.md"] = _index(blocks)
    return written


def _index(blocks: dict[str, type[Block]]) -> str:
    lines = [HEAD, "# Reference", "Everything that a configuration can name. `mailgate doc NAME` prints the same in a terminal."]
    for title, wanted in (("The language", False), ("Modules", True)):
        lines.append(f"## {title}")
        names = sorted(name for name in blocks if ("." in name) is wanted)
        lines.append(
            "\n".join(["| name | what it is |", "|---|---|", *(f"| [{n}]({n}.md) | {summary(blocks[n])} |" for n in names)])
        )
    lines.append("## Complete examples")
    lines.append("[examples/](examples) has files that use every directive; the tests load them.")
    return "\n\n".join(lines) + "\n"


def _page(name: str, block: type[Block], examples: Examples, homes: dict[Directive, str]) -> str:
    parts = [HEAD, f"# {name}", paragraphs(block)]
    if name != GLOBALS:
        parts.append(f"```\n{heading(name, block)}\n```")
    parts += [f"- `{argument.metavar}`: {argument.doc}" for argument in block.arguments]
    example = examples.of(block)
    if example and name != GLOBALS:
        parts.append(f"Example:\n\n```\n{example}\n```")
    elsewhere: dict[str, list[str]] = {}
    for path, directive in own_directives(block):
        home = homes.setdefault(directive, name)
        if home == name:
            parts.append(_section(path, directive, examples))
        elif "." not in path:
            elsewhere.setdefault(home, []).append(directive.name)
    for home, names in elsewhere.items():
        links = ", ".join(f"[{directive}]({home}.md#{directive})" for directive in names)
        parts.append(f"## As in {home}\n\n{links}")
    refused = [f"| {refused.name} | {refused.reason or 'planned'} |" for refused in block.refusals.values()]
    if refused:
        parts.append("\n".join(["## Not available in this version\n", "| directive | why |", "|---|---|", *refused]))
    return "\n\n".join(filter(None, parts)) + "\n"


def _section(path: str, directive: Directive, examples: Examples) -> str:
    parts = [f"## {path}", f"```\n{usage(directive)}\n```", directive.doc, f"*{'; '.join(facts(directive))}*"]
    inner = directive.block
    if inner is not None:
        parts.append(f"In its block: {', '.join(f'`{name}`' for name in sorted(inner.directives))}.")
    example = examples.of(directive)
    if example is not None and example != usage(directive):
        parts.append(f"Example:\n\n```\n{example}\n```")
    return "\n\n".join(parts)


def own_directives(block: type[Block]) -> Iterator[tuple[str, Directive]]:
    """Every directive of a block and of the blocks in it, each once, with its dotted path."""
    seen: set[Directive] = set()

    def walk(inner: type[Block], path: str) -> Iterator[tuple[str, Directive]]:
        blocks = []
        for name, directive in sorted(inner.directives.items()):
            if directive in seen or directive.copy_of is not None:
                continue
            seen.add(directive)
            yield f"{path}{name}", directive
            if directive.block is not None:
                blocks.append((f"{path}{name}.", directive.block))
        for inner_path, inner_block in blocks:
            yield from walk(inner_block, inner_path)

    return walk(block, "")


def heading(name: str, block: type[Block]) -> str:
    """How a block of this name begins."""
    instance = "NAME" if issubclass(block, Module) and not block.is_nameless else ""
    return " ".join(filter(None, (name, instance, arguments_syntax(block.arguments), "{ … }")))


def paragraphs(block: type[Block]) -> str:
    """The documentation of a block, its lines joined to paragraphs."""
    text = "\n".join(line.strip() for line in (block.__doc__ or "").strip().split("\n"))
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in text.split("\n\n"))


def summary(block: type[Block]) -> str:
    return (block.__doc__ or "").strip().partition("\n")[0]
