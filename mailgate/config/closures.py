"""Closures of typed operands: how the nodes of an expression compute.

A `Typed` is what the compiler knows of a node: its type, a closure over the variables, whether that closure is a coroutine
function (a table is looked up below it), and its value if it is constant. Constants fold.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mailgate.config.expression_types import Normal, Type

Evaluator = Callable[[Any], Any]


class EvaluationError(Exception):
    """An expression has no value this time: temporary."""


@dataclass(frozen=True, slots=True)
class Typed:
    """A node with its type and its closure; ``waits`` closures are coroutine functions."""

    type: Type
    call: Evaluator
    waits: bool = False
    constant: bool = False
    value: Any = None


def constant(kind: Type, value: Any) -> Typed:
    return Typed(kind, lambda _: value, constant=True, value=value)


async def value_of(made: Typed, env: Any) -> Any:
    return await made.call(env) if made.waits else made.call(env)


async def asked(question: Callable[[Any], Any], key: Any, what: str) -> Any:
    """The answer of a table or the like, which may be there already.

    :raises EvaluationError: it has none."""
    try:
        answer = question(key)
        return await answer if isinstance(answer, Awaitable) else answer
    except Exception as error:
        if type(error).__name__ == "CancelledError":  # Twisted's: this room does not import it
            raise
        raise EvaluationError(f"{what}: {error!r}") from error


def strict(result: Type, function: Callable[..., Any], operands: Sequence[Typed]) -> Typed:
    """A function of all its operands' values."""
    if any(operand.waits for operand in operands):

        async def call_waiting(env: Any) -> Any:
            return _call_guarded(function, [await value_of(operand, env) for operand in operands])

        return Typed(result, call_waiting, waits=True)
    checked = guarded(function) if function in _CAN_FAIL else function
    calls = [operand.call for operand in operands]
    if len(calls) == 1:
        (only,) = calls
        return folded(result, lambda env: checked(only(env)), operands)
    if len(calls) == 2:
        first, second = calls
        if operands[1].constant:  # a comparison with a literal: the usual case
            value = operands[1].value
            return folded(result, lambda env: checked(first(env), value), operands)
        return folded(result, lambda env: checked(first(env), second(env)), operands)
    return folded(result, lambda env: checked(*[call(env) for call in calls]), operands)


def folded(result: Type, call: Evaluator, operands: Sequence[Typed]) -> Typed:
    """A constant where all operands are.

    :raises EvaluationError: the constant has no value."""
    if all(operand.constant for operand in operands):
        return constant(result, call(None))
    return Typed(result, call)


_CAN_FAIL = (operator.truediv, operator.mod)


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*values: Any) -> Any:
        return _call_guarded(function, values)

    return call


def _call_guarded(function: Callable[..., Any], values: Sequence[Any]) -> Any:
    try:
        return function(*values)
    except (ArithmeticError, ValueError) as error:
        raise EvaluationError(str(error)) from error


def junction(result: Type, operands: Sequence[Typed], stops: bool) -> Typed:
    """``or`` (stops at true) and ``and`` (stops at false) of conditions, from left to right, no further than needed."""
    left = [operand for operand in operands if not operand.constant]
    if any(operand.constant and operand.value is stops for operand in operands):
        return constant(result, stops)
    if not left:
        return constant(result, not stops)
    if len(left) == 1:
        return left[0]
    if any(operand.waits for operand in left):

        async def call_waiting(env: Any) -> bool:
            for operand in left:
                if bool(await value_of(operand, env)) is stops:
                    return stops
            return not stops

        return Typed(result, call_waiting, waits=True)
    calls = [operand.call for operand in left]
    if len(calls) == 2:
        first, second = calls
        if stops:
            return Typed(result, lambda env: first(env) or second(env))
        return Typed(result, lambda env: first(env) and second(env))

    def call_each(env: Any) -> bool:
        for call in calls:
            if bool(call(env)) is stops:
                return stops
        return not stops

    return Typed(result, call_each)


def unset_is_false(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], bool]:
    def call(left: Any, right: Any) -> bool:
        return left is not None and right is not None and bool(compare(left, right))

    return call


def normal_text(normal: Normal, text: str) -> str:
    """A literal in a normal form; ``.example.org`` keeps its dot."""
    return "." + normal(text[1:]) if text.startswith(".") and len(text) > 1 else normal(text)


def in_network(address: Any, network: Any) -> bool:
    if address is None or address.version != network.version:
        return False
    return bool(address in network) if hasattr(network, "network_address") else bool(address == network)


def in_networks(address: Any, networks: Any) -> bool:
    return address is not None and any(in_network(address, network) for network in networks)


def in_domain(text: str | None, domain: str) -> bool:
    """``.example.org`` holds its sub-domains, any other text only itself."""
    if text is None:
        return False
    return text.endswith(domain) and len(text) > len(domain) if domain.startswith(".") else text == domain


def in_strings(text: str | None, texts: Any) -> bool:
    return text is not None and (text in texts or any(in_domain(text, one) for one in texts if one.startswith(".")))


def in_values(value: Any, values: Any) -> bool:
    return value is not None and value in values
