"""Expressions: any text gives a value or a mistake at its place, and what is computed is what Python computes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.evaluation import EvaluationError, ExpressionError, compile_expression
from mailgate.config.expression import parse_expression, tokenize
from mailgate.config.expression_types import BOOLEAN
from tests.config.expressions import TYPES, VALUES, run, scope, value_of

WORDS = [
    *TYPES,
    "lower(name)",
    "lookup(&people, name)",
    "is_local(name)",
    "ipv4_only",
    '"x"',
    '"',
    "1",
    "2.5",
    "5m",
    "10.0.0.0/8",
]
WORDS += [
    "::1",
    ".x",
    "[",
    "]",
    "(",
    ")",
    ",",
    "and",
    "or",
    "not",
    "in",
    "matches",
    "if",
    "then",
    "else",
    "==",
    "<",
    "+",
    "-",
    "/",
]
WORDS += [
    "%",
    "??",
    "&&",
    "||",
    "!",
    "&people",
    "true",
    "é",
    "\\",
    "#",
    "=",
    "'",
    "$(x)",
    "hash(name, 3)",
    "split(name, name)",
    "[1]",
]
TEXTS = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join))

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
CALCULATE: dict[str, Callable[[Any, Any], Any]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def number(depth: int) -> st.SearchStrategy[tuple[str, Callable[[Any], Any]]]:
    leaf = st.one_of(
        st.integers(0, 20).map(lambda value: (str(value), lambda env: value)),
        st.just(("count", lambda env: env.count)),
        st.just(("(score ?? 7)", lambda env: 7 if env.score is None else env.score)),
    )
    if not depth:
        return leaf

    def combine(parts: Any) -> tuple[str, Callable[[Any], Any]]:
        (left, one), sign, (right, other) = parts
        return f"({left} {sign} {right})", lambda env: CALCULATE[sign](one(env), other(env))

    return st.one_of(leaf, st.tuples(number(depth - 1), st.sampled_from(sorted(CALCULATE)), number(depth - 1)).map(combine))


def boolean(depth: int) -> st.SearchStrategy[tuple[str, Callable[[Any], Any]]]:
    def compare(parts: Any) -> tuple[str, Callable[[Any], Any]]:
        (left, one), sign, (right, other) = parts
        return f"{left} {sign} {right}", lambda env: COMPARE[sign](one(env), other(env))

    leaf = st.one_of(
        st.sampled_from([("true", lambda env: True), ("false", lambda env: False), ("tls", lambda env: env.tls)]),
        st.just(("user", lambda env: env.user is not None)),
        st.just(('lookup(&people, "ann") == "1st"', lambda env: True)),
        st.tuples(number(1), st.sampled_from(sorted(COMPARE)), number(1)).map(compare),
    )
    if not depth:
        return leaf

    def join(parts: Any) -> tuple[str, Callable[[Any], Any]]:
        word, operands = parts
        every = all if word in ("and", "&&") else any
        text = f" {word} ".join(f"({text})" for text, _ in operands)
        return text, lambda env: every(oracle(env) for _, oracle in operands)

    inner = boolean(depth - 1)
    joined = st.tuples(st.sampled_from(["and", "or", "&&", "||"]), st.lists(inner, min_size=2, max_size=4)).map(join)
    negated = inner.map(lambda part: (f"not ({part[0]})", lambda env: not part[1](env)))
    return st.one_of(leaf, joined, negated)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=200, deadline=None)
    @given(TEXTS)
    def test_any_text_gives_a_value_or_a_mistake_with_a_place(self, text: str) -> None:
        for expected in (None, BOOLEAN):
            try:
                expression = compile_expression(text, scope(), expected)
            except ExpressionError as error:
                self.assertTrue(0 <= error.start <= error.end <= len(text), text)
                self.assertTrue(error.message)
                continue
            try:
                value = run(expression)
            except EvaluationError:
                continue
            if expected is not None:
                self.assertIn(value, (True, False))

    @settings(max_examples=150, deadline=None)
    @given(boolean(2), st.integers(0, 20), st.booleans(), st.none() | st.text(max_size=3), st.none() | st.integers(0, 20))
    def test_agreement_with_python(
        self, written: tuple[str, Callable[[Any], Any]], count: int, tls: bool, user: str | None, score: int | None
    ) -> None:
        text, oracle = written
        values = {"count": count, "tls": tls, "user": user, "score": score}
        self.assertIs(value_of(text, BOOLEAN, **values), bool(oracle(SimpleNamespace(**{**VALUES, **values}))), text)

    @settings(max_examples=100, deadline=None)
    @given(boolean(2))
    def test_constants_are_what_python_says(self, written: tuple[str, Callable[[Any], Any]]) -> None:
        text, oracle = written
        expression = compile_expression(text, scope(), BOOLEAN)
        if expression.constant:
            self.assertEqual(expression.value, oracle(SimpleNamespace(**VALUES)), text)

    @settings(max_examples=100, deadline=None)
    @given(boolean(2))
    def test_white_space_means_nothing(self, written: tuple[str, Callable[[Any], Any]]) -> None:
        tokens = [token.text for token in tokenize(written[0])]
        wide = parse_expression(" \t ".join(tokens))
        self.assertEqual(type(wide), type(parse_expression(written[0])))
        self.assertIs(
            run(compile_expression(" \t ".join(tokens), scope(), BOOLEAN)),
            run(compile_expression(written[0], scope(), BOOLEAN)),
        )
