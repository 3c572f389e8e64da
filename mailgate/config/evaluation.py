"""What expressions mean: a tree is typed at load and compiled to closures that run on the path of a message.

`compile_expression` gives an `Expression`: a plain call for each evaluation, or a coroutine where a table is looked up
(``waits``). Types never convert into each other but integer to float; a comparison of a string with a number is an error at
load. A variable that may be unset (no TLS, no login, a unix socket) is *optional*: every comparison with it is false, ``!=``
is true, ``??`` gives the next value, and as a condition it asks whether it is set; arithmetic and functions refuse it at load.

Texts with a normal form are compared in it: see `expression_types.Type`. Constants are computed at load, and so is everything
that follows from them: ``client_ip in []`` is false.

At run time only `EvaluationError` (division by zero, a table that failed) comes out; whoever evaluates makes that
451, or a temporary failure of the attempt.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mailgate.config import expression as syntax
from mailgate.config.closures import (
    EvaluationError,
    Evaluator,
    Typed,
    asked,
    constant,
    folded,
    guarded,
    in_domain,
    in_network,
    in_networks,
    in_strings,
    in_values,
    junction,
    normal_text,
    strict,
    unset_is_false,
    value_of,
)
from mailgate.config.expression import MAX_DEPTH, ExpressionError, Node
from mailgate.config.expression_types import (
    ARITHMETIC,
    BOOLEAN,
    CALCULATIONS,
    EMPTY_LIST,
    FUNCTIONS,
    NUMBERS,
    ORDERED,
    SPECIAL_FUNCTIONS,
    STRING,
    WORD,
    Function,
    Kind,
    NeverEqual,
    Normal,
    NoTable,
    Scope,
    Type,
    fits,
)
from mailgate.config.references import Reference
from mailgate.config.suggest import did_you_mean

__all__ = ["EvaluationError", "Expression", "ExpressionError", "Part", "compile_expression"]

UNKNOWN = "E0522"
TYPE = "E0523"
_UNSET_HINT = "give a value for that case: `… ?? …`"


@dataclass(frozen=True, slots=True)
class Part:
    """One condition of those that are joined by and, or, not: `explain` shows how each came out."""

    node: Node
    call: Evaluator
    waits: bool


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression: call it with the object whose attributes are the variables."""

    text: str
    node: Node
    type: Type
    waits: bool
    """True: a call gives a coroutine."""
    constant: bool
    """True: always `value`, whatever the variables are."""
    value: Any
    call: Evaluator
    parts: tuple[Part, ...]
    names: frozenset[str]
    """The variables in it."""
    asked: tuple[Any, ...] = ()
    """What `lookup` names in it: tables, or references to them."""

    @property
    def tables(self) -> tuple[Any, ...]:
        """The tables that `lookup` asks; known when all instances exist."""
        return tuple(table.target if isinstance(table, Reference) else table for table in self.asked)

    def __call__(self, variables: Any) -> Any:
        return self.call(variables)


def compile_expression(text: str, scope: Scope, expected: Type | None = None) -> Expression:
    """Parse, type and compile ``text``. With ``expected`` BOOLEAN, optional values are conditions too.

    :raises ExpressionError: the first mistake, with its place in ``text``.
    """
    node = syntax.parse_expression(text)
    compiler = _Compiler(scope)
    made = compiler.condition(node) if expected is not None and expected.kind is Kind.BOOLEAN else compiler.compile(node)
    if expected is not None and not fits(made.type, expected):
        raise _wrong(node, f"this is {made.type.named}, but {expected.named} is needed")
    if expected is not None and made.type.optional and not expected.optional:
        raise _wrong(node, "this may be unset", _UNSET_HINT)
    names = frozenset(compiler.names)
    return Expression(
        text,
        node,
        made.type,
        made.waits,
        made.constant,
        made.value,
        made.call,
        tuple(compiler.parts),
        names,
        tuple(compiler.tables),
    )


def _wrong(node: Node, message: str, hint: str = "", code: str = TYPE) -> ExpressionError:
    return ExpressionError(node.start, node.end, message, hint, code)


class _Compiler:
    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._depth = 0
        self.parts: list[Part] = []
        self.names: set[str] = set()
        self.tables: list[Any] = []

    def compile(self, node: Node) -> Typed:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _wrong(node, f"more than {MAX_DEPTH} operations within each other", code="E0521")
        try:
            made: Typed = _METHODS[type(node)](self, node)
        except EvaluationError as error:
            raise _wrong(node, f"this never has a value: {error}") from None
        self._depth -= 1
        return made

    def condition(self, node: Node) -> Typed:
        """A node in the place of a condition: boolean, or optional and then "is set"."""
        made = self.compile(node)
        if made.type.kind is not Kind.BOOLEAN and not made.type.optional:
            hint = "compare it with something" if isinstance(node, syntax.Name) else ""
            raise _wrong(node, f"a condition is needed here, this is {made.type.named}", hint)
        if made.type.optional:
            is_set = bool if made.type.kind is Kind.BOOLEAN else _is_set
            made = strict(BOOLEAN, is_set, [made])
        if not (isinstance(node, syntax.Operation) and node.operator in ("and", "or", "not")):
            self.parts.append(Part(node, made.call, made.waits))
        return made

    # Leaves

    def _literal(self, node: syntax.Literal) -> Typed:
        return constant(Type(Kind[node.kind.upper()]), node.value)

    def _name(self, node: syntax.Name) -> Typed:
        variable = self._scope.variables.get(node.name)
        if variable is not None:
            self.names.add(node.name)
            return Typed(variable.type, operator.attrgetter(node.name))
        if node.name in self._scope.choices:
            return constant(WORD, node.name)
        if node.name in self._scope.absent:
            raise _wrong(node, f"there is no `{node.name}` here", self._scope.absent[node.name], UNKNOWN)
        known = [*self._scope.variables, *self._scope.choices]
        hint = did_you_mean(node.name, known)
        if not hint and node.name in (*FUNCTIONS, *SPECIAL_FUNCTIONS):
            hint = f"it is a function: {node.name}(…)"
        if not hint:
            hint = f"known here: {', '.join(sorted(known))}" if known else f'a text stands in quotes: "{node.name}"'
        raise _wrong(node, f"unknown name `{node.name}`", hint, UNKNOWN)

    def _table_name(self, node: syntax.TableName) -> Typed:
        raise _wrong(node, "a table stands only in lookup(&table, key)")

    def _list_of(self, node: syntax.ListOf) -> Typed:
        elements = [self.compile(element) for element in node.elements]
        if not elements:
            return constant(EMPTY_LIST, ())
        kinds = {element.type.kind for element in elements}
        for mixed, common in (({Kind.ADDRESS, Kind.NETWORK}, Kind.NETWORK), (set(NUMBERS), Kind.FLOAT)):
            if kinds == mixed:
                kinds = {common}
        for written, element in zip(node.elements, elements, strict=True):
            if len(kinds) > 1 and element.type.kind is not elements[0].type.kind:
                raise _wrong(written, f"a list holds one type: this is {element.type.named}, the first {elements[0].type.named}")
            if element.type.optional or element.type.kind is Kind.LIST:
                raise _wrong(written, "only a value that is always set can be in a list")
        return strict(Type(Kind.LIST, kinds.pop()), lambda *values: values, elements)

    # Operators

    def _operation(self, node: syntax.Operation) -> Typed:
        if node.operator in ("and", "or"):
            return junction(BOOLEAN, [self.condition(operand) for operand in node.operands], node.operator == "or")
        if node.operator == "not":
            (written,) = node.operands
            return strict(BOOLEAN, operator.not_, [self.condition(written)])
        if node.operator == "??":
            return self._coalesce(node)
        if node.operator in syntax.COMPARISONS:
            return self._comparison(node)
        return self._arithmetic(node)

    def _coalesce(self, node: syntax.Operation) -> Typed:
        left, right = (self.compile(operand) for operand in node.operands)
        if not left.type.optional:
            raise _wrong(node.operands[0], "this is always set: what stands behind `??` would never be used")
        if not fits(right.type, left.type):
            raise _wrong(node.operands[1], f"this is {right.type.named}, what stands before `??` {left.type.named}")
        result = replace(left.type, optional=right.type.optional)
        if left.waits or right.waits:

            async def coalesce(env: Any) -> Any:
                value = await value_of(left, env)
                return await value_of(right, env) if value is None else value

            return Typed(result, coalesce, waits=True)
        first, second = left.call, right.call

        def choose(env: Any) -> Any:
            value = first(env)
            return second(env) if value is None else value

        return Typed(result, choose)

    def _comparison(self, node: syntax.Operation) -> Typed:
        left, right = (self.compile(operand) for operand in node.operands)
        if node.operator == "matches":
            return self._matches(node, left, right)
        left, right = self._normalised(node.operands[0], left, right), self._normalised(node.operands[1], right, left)
        if node.operator == "in":
            if right.constant and right.value == ():
                return constant(BOOLEAN, False)
            return strict(BOOLEAN, _membership(node, left, right), [left, right])
        kinds = {left.type.kind, right.type.kind}
        if len(kinds) > 1 and not kinds <= set(NUMBERS):
            raise _mismatch(node, left, right)
        if node.operator in ("==", "!="):
            compare = operator.eq if node.operator == "==" else operator.ne
            return strict(BOOLEAN, compare, [left, right])
        if left.type.kind not in ORDERED:
            raise _wrong(node, f"{left.type.named} has no order: only == and != compare it")
        ordered = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}[node.operator]
        return strict(BOOLEAN, unset_is_false(ordered), [left, right])

    def _normalised(self, node: Node, made: Typed, other: Typed) -> Typed:
        """A literal in the normal form of what it is compared with."""
        normal = other.type.normal
        if normal is None or not made.constant:
            return made
        if made.type.kind is Kind.STRING:
            return constant(made.type, _normal(normal, node, made.value))
        if made.type.element is Kind.STRING:
            places = node.elements if isinstance(node, syntax.ListOf) else (node,) * len(made.value)
            return constant(made.type, tuple(map(_normal, (normal,) * len(places), places, made.value)))
        return made

    def _matches(self, node: syntax.Operation, left: Typed, right: Typed) -> Typed:
        subject, pattern = node.operands
        if left.type.kind is not Kind.STRING:
            raise _wrong(subject, f"only a string can match, this is {left.type.named}")
        if not right.constant or right.type.kind is not Kind.STRING:
            raise _wrong(pattern, "a regular expression in quotes is needed here")
        flags = re.IGNORECASE if left.type.normal is not None else 0
        try:
            search = re.compile(right.value, flags).search
        except (re.error, OverflowError, RecursionError) as error:
            place = pattern
            if isinstance(error, re.error) and error.pos is not None and '"' not in right.value:
                start = min(pattern.start + 1 + error.pos, pattern.end - 1)
                place = Node(start, max(pattern.end - 1, start + 1))
            raise _wrong(place, f"bad regular expression: {getattr(error, 'msg', error)}", code="E0521") from None
        return strict(BOOLEAN, lambda value: value is not None and search(value) is not None, [left])

    def _arithmetic(self, node: syntax.Operation) -> Typed:
        operands = [self.compile(operand) for operand in node.operands]
        for written, operand in zip(node.operands, operands, strict=True):
            if operand.type.optional:
                raise _wrong(written, "this may be unset", _UNSET_HINT)
        result = ARITHMETIC.get((node.operator, *(operand.type.kind for operand in operands)))
        if result is None:
            types = " and ".join(operand.type.named for operand in operands)
            raise _wrong(node, f"`{node.operator}` does not work with {types}")
        if node.operator in ("/", "%") and operands[1].constant and not operands[1].value:
            raise _wrong(node.operands[1], "division by zero")
        call = operator.neg if len(operands) == 1 else CALCULATIONS[node.operator]
        return strict(Type(result), call, operands)

    def _conditional(self, node: syntax.Conditional) -> Typed:
        condition = self.condition(node.condition)
        yes, no = self.compile(node.then), self.compile(node.otherwise)
        if not fits(no.type, yes.type) and not fits(yes.type, no.type):
            raise _wrong(node.otherwise, f"this is {no.type.named}, what stands behind `then` {yes.type.named}")
        wider = no.type if yes.type.kind is Kind.INTEGER else yes.type
        result = replace(wider, optional=yes.type.optional or no.type.optional)
        if condition.constant:
            return replace(yes if condition.value else no, type=result)
        if condition.waits or yes.waits or no.waits:

            async def decide(env: Any) -> Any:
                return await value_of(yes if await value_of(condition, env) else no, env)

            return Typed(result, decide, waits=True)
        test, first, second = condition.call, yes.call, no.call
        return folded(result, lambda env: first(env) if test(env) else second(env), [condition, yes, no])

    # Functions

    def _call(self, node: syntax.Call) -> Typed:
        if node.function == "lookup":
            return self._lookup(node)
        if node.function == "is_local":
            return self._is_local(node)
        question = self._scope.questions.get(node.function)
        if question is not None:
            return self._question(node, question)
        name = Node(node.start, node.start + len(node.function))
        if node.function in self._scope.absent:
            raise _wrong(name, f"there is no `{node.function}` here", self._scope.absent[node.function], UNKNOWN)
        function = FUNCTIONS.get(node.function)
        if function is None:
            known = [*FUNCTIONS, *SPECIAL_FUNCTIONS]
            hint = did_you_mean(node.function, known) or f"functions: {', '.join(sorted(known))}"
            raise _wrong(name, f"unknown function `{node.function}`", hint, UNKNOWN)
        arguments = self._arguments(node, function.parameters)
        if node.function == "hash" and arguments[1].constant and arguments[1].value < 1:
            raise _wrong(node.arguments[1], "hash needs at least one bucket")
        if node.function == "split" and arguments[1].constant and not arguments[1].value:
            raise _wrong(node.arguments[1], "split needs a separator")
        if function.compares and arguments[0].type.normal is not None and arguments[1].constant:
            arguments[1] = constant(STRING, arguments[1].value.casefold())
        return strict(function.result, guarded(function.call), arguments)

    def _question(self, node: syntax.Call, question: Function) -> Typed:
        asked = []
        for written, made in zip(node.arguments, self._arguments(node, question.parameters), strict=True):
            if not made.constant:
                raise _wrong(written, f"`{node.function}` is asked with a text as it is written: in quotes")
            try:
                asked.append(question.call(made.value))
            except ValueError as error:
                raise _wrong(written, str(error)) from None
        self.names.add(node.function)
        return Typed(question.result, operator.methodcaller(node.function, *asked))

    def _arguments(self, node: syntax.Call, parameters: tuple[Type, ...]) -> list[Typed]:
        if len(node.arguments) != len(parameters):
            count = f"{len(parameters)} argument{'s' if len(parameters) != 1 else ''}"
            raise _wrong(node, f"`{node.function}` takes {count}, not {len(node.arguments)}")
        compiled = []
        for written, parameter in zip(node.arguments, parameters, strict=True):
            made = self.compile(written)
            if not fits(made.type, parameter) and not (node.function == "len" and made.type.kind is Kind.LIST):
                raise _wrong(written, f"this is {made.type.named}, `{node.function}` needs {parameter.named}")
            if made.type.optional:
                raise _wrong(written, "this may be unset", _UNSET_HINT)
            compiled.append(made)
        return compiled

    def _lookup(self, node: syntax.Call) -> Typed:
        if len(node.arguments) != 2 or not isinstance(node.arguments[0], syntax.TableName):
            raise _wrong(node, "lookup is written lookup(&table, key)")
        named = node.arguments[0]
        try:
            if self._scope.table is None:
                raise NoTable("there are no tables here")
            table = self._scope.table(named.name)
        except NoTable as error:
            raise ExpressionError(named.start, named.end, str(error), error.hint, error.code, error.notes) from None
        key = self._arguments(replace(node, arguments=node.arguments[1:]), (STRING,))[0]
        form = self._scope.table_key
        self.tables.append(table)

        async def look_up(env: Any) -> str | None:
            asking = table.target if isinstance(table, Reference) else table
            values = await asked(asking.lookup, form(await value_of(key, env)), f"table &{named.name}")
            return values[0] if values else None

        return Typed(replace(STRING, optional=True), look_up, waits=True)

    def _is_local(self, node: syntax.Call) -> Typed:
        (domain,) = self._arguments(node, (STRING,))
        judge = self._scope.is_local
        if judge is None:
            raise _wrong(node, "is_local needs local_domains", "write `local_domains example.org` at the top", UNKNOWN)
        if not self._scope.local_waits:
            made = strict(BOOLEAN, judge, [domain])
            return replace(made, constant=False)

        async def is_local(env: Any) -> bool:
            return bool(await asked(judge, await value_of(domain, env), "local_domains"))

        return Typed(BOOLEAN, is_local, waits=True)


_METHODS: dict[type[Node], Callable[[Any, Any], Typed]] = {
    syntax.Literal: _Compiler._literal,
    syntax.Name: _Compiler._name,
    syntax.TableName: _Compiler._table_name,
    syntax.ListOf: _Compiler._list_of,
    syntax.Operation: _Compiler._operation,
    syntax.Conditional: _Compiler._conditional,
    syntax.Call: _Compiler._call,
}


def _is_set(value: Any) -> bool:
    return value is not None


def _normal(normal: Normal, node: Node, text: str) -> str:
    try:
        return normal_text(normal, text)
    except NeverEqual as error:
        raise _wrong(node, str(error), error.hint) from None


def _membership(node: syntax.Operation, left: Typed, right: Typed) -> Callable[[Any, Any], bool]:
    """What ``in`` does, by the types of both sides."""
    kind = left.type.kind
    within = right.type.element if right.type.kind is Kind.LIST else right.type.kind
    if kind is Kind.ADDRESS and within in (Kind.NETWORK, Kind.ADDRESS):
        return in_networks if right.type.kind is Kind.LIST else in_network
    if kind is Kind.STRING and within is Kind.STRING:
        return in_strings if right.type.kind is Kind.LIST else in_domain
    if right.type.kind is Kind.LIST and (within is None or within is kind or {kind, within} <= set(NUMBERS)):
        return in_values
    raise _mismatch(node, left, right)


def _mismatch(node: syntax.Operation, left: Typed, right: Typed) -> ExpressionError:
    hint = ""
    kinds = {left.type.kind, right.type.kind}
    if Kind.STRING in kinds | {left.type.element, right.type.element} and kinds & {Kind.ADDRESS, Kind.NETWORK}:
        hint = "write the address without quotes"
    elif kinds == {Kind.ADDRESS, Kind.NETWORK}:
        hint = "to ask whether an address is in a network, write `in`"
    elif Kind.STRING in kinds and kinds & {Kind.INTEGER, Kind.FLOAT, Kind.DURATION}:
        hint = "a number stands without quotes; nothing is converted"
    elif Kind.LIST in kinds and node.operator == "==":
        hint = "to ask whether a value is in a list, write `in`"
    elif Kind.WORD in kinds:
        hint = "a bare word is one of the setting's choices; a text stands in quotes"
    return _wrong(node, f"`{node.operator}` can't compare {left.type.named} with {right.type.named}", hint)
