"""The words of one directive under the eyes of its type, and the types that are made of other types."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mailgate.config.diagnostics import Problem, Report
from mailgate.config.expression_types import WORD, Type
from mailgate.config.expression_types import Kind as TypeKind
from mailgate.config.lexer import Token
from mailgate.config.parser import Node
from mailgate.config.source import Span
from mailgate.config.suggest import did_you_mean


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Any = _Required()
"""Default of a directive that must be given."""


class Refused:
    """A word of the language that this version does not have: of a directive (as a class attribute) or of a choice."""

    def __init__(self, name: str, reason: str = "") -> None:
        self.name = name
        self.reason = reason

    def problem(self, place: Span) -> Problem:
        notes = (self.reason,) if self.reason else ()
        return Problem(place, f"`{self.name}` is not available in this version", code="E0408", notes=notes)


class Modules(Protocol):
    """What types that name modules need of the registry."""

    def inline(self, namespace: str, kind: Token, line: Line, *, takes_block: bool) -> Any:
        """An inline module: ``kind`` names it, the rest of the line is its arguments, the block (if it takes it) its own."""

    def knows(self, namespace: str, kind: str) -> bool:
        """Whether there is a module ``namespace.kind``."""

    def reference(self, name: Token, provides: str) -> Any:
        """What ``&name`` stands for, if it provides that."""

    def word(self, word: str, line: Line) -> Any:
        """A nameless instance of a top-level word, of the block of this line."""


@dataclass(slots=True)
class Scope:
    """What the words of a configuration are read against."""

    report: Report
    modules: Modules
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    state_dir: str = ""
    runtime_dir: str = ""
    inherited: dict[Any, Any] = field(default_factory=dict)
    """Values of the global scope that were written, by their declaration."""
    local_domains: Any = None
    """`mailgate.config.domains.LocalDomains` of the global scope."""
    blocks: list[Any] = field(default_factory=list)
    """Every block made, so that references in it can be settled."""
    opened: list[tuple[Any, Any]] = field(default_factory=list)
    """The addresses that the gateway is to listen on, with their places."""
    workers: int = 1
    """Processes that share what a `divided` directive allows."""


class Line:
    """The arguments of one directive, taken one by one, and its block, which one of them may take."""

    def __init__(self, node: Node, scope: Scope) -> None:
        self.node = node
        self.scope = scope
        self._words = node.arguments
        self._position = 0
        self.block_taken = False

    @property
    def exhausted(self) -> bool:
        return self._position >= len(self._words)

    @property
    def left(self) -> int:
        return len(self._words) - self._position

    @property
    def end(self) -> Span:
        """Right behind the last word: where something is missing."""
        return self.node.last.behind()

    @property
    def has_block(self) -> bool:
        return self.node.block is not None and not self.block_taken

    def next(self, metavar: str) -> Token:
        if self.exhausted:
            raise Problem(self.end, f"`{self.node.name.text}` needs {metavar} here", code="E0404")
        word = self._words[self._position]
        if word.text == "=" and not word.quoted and self._position == 0:
            raise Problem(word.span, "no `=` stands before a value", code="E0405", hint="remove it")
        self._position += 1
        return word

    def peek(self) -> Token | None:
        return None if self.exhausted else self._words[self._position]

    def rest(self) -> list[Token]:
        words = self._words[self._position :]
        self._position = len(self._words)
        return words

    def finish(self, syntax: str) -> None:
        """Everything must have been used."""
        word = self.peek()
        if word is not None:
            self._position = len(self._words)
            takes = f"`{self.node.name.text}` takes {syntax}" if syntax else f"`{self.node.name.text}` takes no argument"
            hint = "a comment begins with `#`" if word.text.startswith(("//", "/*")) else ""
            raise Problem(word.span, "too many arguments", code="E0405", hint=hint, notes=(takes,))


class Value:
    """A type of value.

    ``parse`` is for a directive that takes exactly this value, ``parse_element`` for one value among others: in a list each
    word is one value. A type of single words overrides ``parse_word`` only. ``syntax`` says in a few words what it takes.
    """

    metavar = "VALUE"

    @property
    def syntax(self) -> str:
        return self.metavar

    @property
    def words(self) -> tuple[str, ...]:
        """The closed set of first words, if it is one: for completion and documentation."""
        return ()

    def parse(self, line: Line) -> Any:
        return self.parse_element(line)

    def parse_element(self, line: Line) -> Any:
        return self.parse_word(line.next(self.syntax), line.scope)

    def parse_word(self, word: Token, scope: Scope) -> Any:
        raise NotImplementedError

    def show(self, value: Any) -> str:
        """A value as it is written in a configuration; for documentation."""
        return str(value)

    @property
    def result(self) -> Type | None:
        """What an expression has to be that computes it, where a directive is dynamic; None: it can't be computed."""
        return None

    def from_result(self, value: Any) -> Any:
        """What an expression computed, as `parse` would give it.

        :raises ValueError: it is not possible here."""
        return value


class Nothing(Value):
    """No argument at all."""

    metavar = ""

    def parse_element(self, line: Line) -> None:
        return None


class Args(Value):
    """Several values in a fixed order; the last may take all that are left. The value is a tuple."""

    def __init__(self, *elements: Value) -> None:
        self.elements = elements

    @property
    def syntax(self) -> str:
        return " ".join(element.syntax for element in self.elements)

    def parse_element(self, line: Line) -> tuple[Any, ...]:
        return tuple(element.parse_element(line) for element in self.elements)

    def show(self, value: Any) -> str:
        return " ".join(element.show(part) for element, part in zip(self.elements, value, strict=False))


class List(Value):
    """One value per word, at least ``minimum``. Each wrong word is reported by itself."""

    def __init__(self, element: Value, *, minimum: int = 1) -> None:
        self.element = element
        self.minimum = minimum

    @property
    def syntax(self) -> str:
        return f"{self.element.syntax}…" if self.minimum else f"[{self.element.syntax}…]"

    @property
    def words(self) -> tuple[str, ...]:
        return self.element.words

    def parse_element(self, line: Line) -> tuple[Any, ...]:
        values: list[Any] = []
        problems: list[Problem] = []
        while not line.exhausted:
            try:
                values.append(self.element.parse_element(line))
            except Problem as problem:
                problems.append(problem)
        if problems:
            for earlier in problems[:-1]:
                line.scope.report.problem(earlier)
            raise problems[-1]
        if len(values) < self.minimum:
            line.next(self.element.syntax)
        return tuple(values)

    def show(self, value: Any) -> str:
        return " ".join(map(self.element.show, value))

    @property
    def result(self) -> Type | None:
        element = self.element.result
        return None if element is None or element.kind is TypeKind.LIST else Type(TypeKind.LIST, element.kind)

    def from_result(self, value: Any) -> tuple[Any, ...]:
        if len(value) < self.minimum:
            raise ValueError(f"at least {self.minimum} are needed")
        return tuple(map(self.element.from_result, value))


class Choice(Value):
    """One of a closed set of words."""

    def __init__(self, *words: str | Refused) -> None:
        self._words = tuple(word for word in words if isinstance(word, str))
        self._refused = {word.name: word for word in words if isinstance(word, Refused)}

    @property
    def syntax(self) -> str:
        return " | ".join(self._words)

    @property
    def words(self) -> tuple[str, ...]:
        return self._words

    @property
    def result(self) -> Type:
        return WORD

    def parse_word(self, word: Token, scope: Scope) -> str:
        if word.text in self._words:
            return word.text
        raise _not_of_set(word, self._words, self._refused)

    def parse_element(self, line: Line) -> str:
        return self.parse_word(line.next(f"one of {', '.join(self._words)}"), line.scope)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a `OneOf` gives: the word, and the value behind it (None for `Nothing`)."""

    word: str
    value: Any = None


class OneOf(Value):
    """A word that says what follows: ``OneOf({"off": Nothing(), "plain": Args(String("USER"), Secret("PASSWORD"))})``. The form
    of the word "", if there is one, is for everything else."""

    def __init__(self, forms: Mapping[str, Value | Refused]) -> None:
        self.forms = {word: form for word, form in forms.items() if isinstance(form, Value)}
        self._refused = {word: form for word, form in forms.items() if isinstance(form, Refused)}

    @property
    def syntax(self) -> str:
        return " | ".join(f"{word} {form.syntax}".strip() for word, form in self.forms.items())

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(word for word in self.forms if word)

    def parse_element(self, line: Line) -> Chosen:
        word = line.peek()
        other = self.forms.get("")
        if other is not None and (word is None or (word.text not in self.forms and word.text not in self._refused)):
            return Chosen("", other.parse_element(line))
        word = line.next(f"one of {', '.join(self.words)}")
        form = self.forms.get(word.text)
        if form is None:
            line.rest()
            raise _not_of_set(word, self.words, self._refused)
        return Chosen(word.text, form.parse_element(line))

    def show(self, value: Any) -> str:
        if not isinstance(value, Chosen):
            return str(value)
        return f"{value.word} {self.forms[value.word].show(value.value) if value.value is not None else ''}".strip()


def _not_of_set(word: Token, words: tuple[str, ...], refused: Mapping[str, Refused]) -> Problem:
    if word.text in refused:
        return refused[word.text].problem(word.span)
    hint = did_you_mean(word.text, words)
    return Problem(
        word.span, f"`{word.shown}` is not possible here", code="E0505", hint=hint, notes=(f"possible: {', '.join(words)}",)
    )
