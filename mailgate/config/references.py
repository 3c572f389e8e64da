"""The types that name modules: inline ones, references, lists of them.

What a reference stands for is known only when all instances exist: until `settle`, its place in a value is held by a `Reference`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mailgate.config.diagnostics import Problem
from mailgate.config.lexer import Token
from mailgate.config.line import Chosen, Line, Scope, Value
from mailgate.config.parser import NodeKind

GROUPS = {"check": "checks", "modify": "modifiers"}
"""The top-level word whose instances are named lists of a namespace."""


class Reference:
    """What ``&name`` stands for, once `target` is set. ``spread``: the members of a group take its place."""

    __slots__ = ("name", "spread", "target")

    def __init__(self, name: str) -> None:
        self.name = name
        self.spread = False
        self.target: Any = None


class Settling:
    """A value that holds others: `settled` gives it with every reference in it replaced, itself where there is none."""

    __slots__ = ()

    def settled(self) -> Any:
        raise NotImplementedError


def settle(value: Any) -> Any:
    """``value`` with every reference in it replaced by what it stands for."""
    if isinstance(value, Reference):
        return value.target
    if isinstance(value, Settling):
        return value.settled()
    if isinstance(value, tuple) and type(value) is tuple:
        settled: list[Any] = []
        for element in value:
            if isinstance(element, Reference) and element.spread:
                settled += element.target.modules if element.target is not None else ()
            else:
                settled.append(settle(element))
        return (
            tuple(settled)
            if any(a is not b for a, b in zip(settled, value, strict=False)) or len(settled) != len(value)
            else value
        )
    if isinstance(value, Chosen):
        inner = settle(value.value)
        return value if inner is value.value else Chosen(value.word, inner)
    return value


def is_reference(word: Token | None) -> bool:
    return word is not None and not word.quoted and word.text.startswith("&")


class ReferenceTo(Value):
    """``&name`` alone, of something that provides what is asked for ("target", "table", …); ``prefix`` is another spelling
    of the ``&``."""

    def __init__(self, provides: str, *, prefix: str = "&") -> None:
        self.provides = provides
        self.prefix = prefix

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return f"&{self.provides.upper()}"

    def parse_word(self, word: Token, scope: Scope) -> Any:
        if word.text.startswith(self.prefix) and not word.quoted:
            word = replace(word, text="&" + word.text.removeprefix(self.prefix))
        if not is_reference(word):
            hint = f"did you mean `&{word.shown}`?"
            raise Problem(word.span, f"a reference to a {self.provides} is needed here", code="E0512", hint=hint)
        return scope.modules.reference(word, self.provides)


class ModuleLine(Value):
    """A module by reference, or inline: its kind, its arguments, and (``block="module"``) the block of the line."""

    def __init__(self, namespace: str, *, block: str = "module") -> None:
        self.namespace = namespace
        self.block = block

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return self.namespace.upper()

    def parse_element(self, line: Line) -> Any:
        word = line.next(f"a {self.namespace}")
        if is_reference(word):
            return line.scope.modules.reference(word, self.namespace)
        return line.scope.modules.inline(self.namespace, word, line, takes_block=self.block == "module")


class ModuleList(Value):
    """A block whose directives are inline modules of one namespace, or a reference to a named group of them."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.group = GROUPS.get(namespace, namespace)

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return f"{{ {self.namespace.upper()}… }} | &NAME"

    def parse_element(self, line: Line) -> tuple[Any, ...]:
        word = line.peek()
        if word is not None:
            line.next("")
            if not is_reference(word):
                hint = f"write `{{ {word.shown} … }}`"
                raise Problem(
                    word.span, f"a block of {self.group}, or a reference to one, is needed here", code="E0512", hint=hint
                )
            reference = line.scope.modules.reference(word, self.group)
            reference.spread = True
            return (reference,)
        if not line.has_block:
            raise Problem(line.end, f"a block of {self.group}, or a reference to one, is needed here", code="E0407")
        line.block_taken = True
        members = []
        failed: Problem | None = None
        for node in line.node.block or ():
            if node.kind is NodeKind.BROKEN:
                continue
            inner = Line(node, line.scope)
            try:
                members.append(line.scope.modules.inline(self.namespace, node.name, inner, takes_block=True))
                inner.finish("")
                if inner.has_block:
                    raise Problem(node.opened, f"`{node.name.text}` has no block", code="E0406")
            except Problem as problem:
                if failed is not None:
                    line.scope.report.problem(failed)
                failed = problem
        if failed is not None:
            raise failed
        return tuple(members)


class BlockOrReference(Value):
    """`tls_client { … }` or `tls_client &name`: a nameless or a named instance of the top-level word."""

    def __init__(self, word: str) -> None:
        self.word = word

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return "{ … } | &NAME"

    def parse_element(self, line: Line) -> Any:
        word = line.peek()
        if is_reference(word):
            return line.scope.modules.reference(line.next(""), self.word)
        if word is None and not line.has_block:
            raise Problem(line.end, f"a block, or a reference to a `{self.word}`, is needed here", code="E0407")
        return line.scope.modules.word(self.word, line)
