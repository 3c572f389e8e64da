"""Conditions in directives: `when EXPR { … }`. The words of the line become one expression again, typed and compiled at load.

An expression is read from the text as it stands in the file, so that a caret stands under the very part that is wrong. Where a
macro or the environment had a hand in a word, the word as a whole is the place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mailgate.config.diagnostics import Problem
from mailgate.config.evaluation import Expression, ExpressionError, compile_expression
from mailgate.config.expression import Node
from mailgate.config.expression_types import BOOLEAN, Function, Normal, NoTable, Scope, Type, Variable
from mailgate.config.lexer import Kind, Token
from mailgate.config.line import Line, Value
from mailgate.config.line import Scope as LineScope
from mailgate.config.source import Span

NO_QUESTIONS: Mapping[str, Function] = {}


@dataclass(frozen=True, slots=True)
class _Segment:
    """One word within the text of an expression. ``exact``: it stands in the file letter by letter."""

    start: int
    end: int
    span: Span
    exact: bool

    def part(self, start: int, end: int) -> Span:
        return self.span.part(max(start - self.start, 0), end - self.start) if self.exact else self.span


class Written:
    """The text of an expression, and where each part of it stands."""

    __slots__ = ("_segments", "is_literal", "text")

    def __init__(self, words: Sequence[Token]) -> None:
        pieces: list[str] = []
        self._segments: list[_Segment] = []
        position = 0
        for word in words:
            whole = word.span.text
            if word.literal and (whole.startswith('"') if word.quoted else whole == word.text):
                piece = whole
            else:
                piece = _quoted(word.text) if word.quoted else word.text
            self._segments.append(_Segment(position, position + len(piece), word.span, piece == whole))
            pieces.append(piece)
            position += len(piece) + 1
        self.text = " ".join(pieces)
        self.is_literal = all(word.literal and not _of_macro(word.span) for word in words)
        """No macro and no variable of the environment had a part in it."""

    def span(self, start: int, end: int) -> Span:
        """The place of ``text[start:end]``; of nothing, right behind what stands before."""
        if start >= end:
            segment = next((one for one in self._segments if one.end >= start), self._segments[-1])
            return segment.part(start, start) if start < segment.end else segment.span.behind()
        first = next((one for one in self._segments if one.end > start), self._segments[-1])
        last = next((one for one in self._segments if one.end >= end), self._segments[-1])
        place = first.part(start, min(end, first.end))
        if last is first or place.source is None:
            return place
        until = last.part(last.start, end)
        if until.source is not place.source or until.via != place.via or until.start < place.start:
            return place
        return place.source.span(place.start, until.end, place.via)


def _of_macro(span: Span) -> bool:
    return span.via is not None and any(step.kind == "macro" for step in span.via.chain())


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled expression and its places in the file."""

    expression: Expression
    written: Written

    def __str__(self) -> str:
        return self.expression.text

    @property
    def always(self) -> bool | None:
        """What it is whatever happens; None if that depends."""
        return bool(self.expression.value) if self.expression.constant else None

    def place(self, node: Node) -> Span:
        """Where a part of the expression stands."""
        return self.written.span(node.start, node.end)


def compile_words(words: Sequence[Token], names: Scope, scope: LineScope, expected: Type | None) -> Condition:
    """Type and compile what stands in ``words``; ``names`` says which variables and choices there are.

    :raises Problem: at the very part that is wrong."""
    written = Written(words)

    def table(name: str) -> Any:
        try:
            return scope.modules.reference(Token(Kind.WORD, f"&{name}", words[0].span), "table")
        except Problem as problem:
            raise NoTable(problem.message, problem.hint, problem.code, problem.notes) from None

    local = scope.local_domains
    names = replace(names, table=table, is_local=local.judge if local else None, local_waits=bool(local) and local.waits)
    try:
        return Condition(compile_expression(written.text, names, expected), written)
    except ExpressionError as error:
        place = written.span(error.start, error.end)
        raise Problem(place, error.message, code=error.code, hint=error.hint, notes=error.notes) from None


class ConditionValue(Value):
    """An expression that is true or false. ``variables`` are those it sees, ``questions`` functions of what it is evaluated on,
    ``absent`` names that exist elsewhere, and why."""

    metavar = "EXPRESSION"

    def __init__(
        self,
        variables: Mapping[str, Variable],
        absent: Mapping[str, str],
        *,
        table_key: Normal = str.casefold,
        questions: Mapping[str, Function] = NO_QUESTIONS,
    ) -> None:
        self.variables = variables
        self.questions = questions
        self.absent = absent
        self.table_key = table_key

    def parse_element(self, line: Line) -> Condition:
        words = [line.next(self.metavar), *line.rest()]
        names = Scope(self.variables, absent=self.absent, table_key=self.table_key, questions=self.questions)
        return compile_words(words, names, line.scope, BOOLEAN)

    def show(self, value: Any) -> str:
        return str(value)
