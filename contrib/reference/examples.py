"""How a directive is used: cut out of the example files, which the tests load."""

from __future__ import annotations

from pathlib import Path

from mailgate.config import load
from mailgate.config.parser import Node
from mailgate.config.schema import Block, Directive
from mailgate.registry.outline import outline

MAX_LINES = 14
"""Of one example; the middle of a longer one is left out."""


class Examples:
    """The shortest use of every directive and of every block that can be named."""

    def __init__(self, files: list[Path]) -> None:
        self._found: dict[object, str] = {}
        for path in files:
            loaded = load(str(path), environment={})
            if loaded.diagnostics:
                raise ValueError(f"{path}: {loaded.diagnostics[0]}")
            for row in outline(loaded.tree):
                text = _written(row.node)
                if row.directive is not None:
                    self._add(row.directive, text)
                for used in row.modules:
                    self._add(used.module, text)

    def _add(self, key: object, text: str) -> None:
        before = self._found.get(key)
        if before is None or text.count("\n") < before.count("\n"):
            self._found[key] = text

    def of(self, what: Directive | type[Block]) -> str | None:
        text = self._found.get(what)
        return None if text is None else _shortened(text)


def _written(node: Node) -> str:
    """A directive as it stands in its file, without the indentation it has there."""
    source = node.span.source
    assert source is not None
    end = node.closed.end if node.closed is not None else node.last.end
    text = source.text[node.span.start : end]
    return text.replace("\n" + " " * (node.span.column - 1), "\n")


def _shortened(text: str) -> str:
    lines = text.split("\n")
    if len(lines) <= MAX_LINES:
        return text
    return "\n".join([*lines[: MAX_LINES - 2], "    …", lines[-1]])
