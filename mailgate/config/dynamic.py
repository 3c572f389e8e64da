"""Dynamic settings: a value that depends on the message, chosen or computed each time it is asked for.

A directive that is declared with ``dynamic=VARIABLES`` may be written in three ways::

    hostname mx.example.org                         a constant: the value itself, as without `dynamic`
    hostname {                                      chosen: the first true `if`, else the `else`
        if local_ip == 192.0.2.11 then mx2.example.org
        else mx.example.org
    }
    hostname (lower(sender_domain))                 computed: one parenthesised expression

Behind ``then`` and ``else`` stand values in the setting's own syntax, as many as it takes, or a computed one. Everything is typed
at load, every mistake is said at its place: unknown names, variables that do not exist yet when the setting is decided, wrong
types, a missing ``else``, anything else in the block. What turns out to be constant is the plain value, and costs nothing.

How to declare and to use one::

    hostname = Directive("hostname", v.String("NAME"), dynamic=outbound(Stage.SOURCE), doc="…")

    for name, place in alternatives(target.hostname):           # in `configure`: whatever it may turn out to be, but computed
        check_host_name(name, place)
    if isinstance(target.hostname, Dynamic):                    # per message, and only then
        name = target.hostname.value(variables)                 # an object whose attributes are the variables
        if target.hostname.waits:                               # lookup() is in it: `value` gave an awaitable
            name = await name

`Dynamic.value` raises `TemporaryError` (451 4.3.0), which names the setting and its place for the log, when it has no value this
time: a table that failed, a division by zero, a result out of range. What is computed comes from messages: who uses a computed
text checks it as if a client had said it. A type can be computed if it says so (`Value.result`); of others, values are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from mailgate.config.conditions import Condition, compile_words
from mailgate.config.diagnostics import Problem
from mailgate.config.dynamic_variables import Variables
from mailgate.config.evaluation import EvaluationError
from mailgate.config.expression_types import BOOLEAN, Kind, Type
from mailgate.config.expression_types import Scope as Names
from mailgate.config.lexer import Kind as TokenKind
from mailgate.config.lexer import Token
from mailgate.config.line import Line, Scope, Value
from mailgate.config.parser import Node, NodeKind
from mailgate.config.references import Settling, settle
from mailgate.config.source import Span
from mailgate.config.suggest import did_you_mean
from mailgate.smtp.reply import TemporaryError

IF, THEN, ELSE = "if", "then", "else"


@dataclass(frozen=True, slots=True)
class Constant:
    """One value as it is written."""

    value: Any
    place: Span

    def written(self, show: Callable[[Any], str]) -> str:
        return show(self.value)


@dataclass(frozen=True, slots=True)
class Computed:
    """One parenthesised expression."""

    test: Condition
    finish: Callable[[Any], Any]
    """From its result to the value. :raises ValueError: it is not possible here."""
    place: Span

    def written(self, show: Callable[[Any], str]) -> str:
        return self.test.expression.text


Result: TypeAlias = "Constant | Computed"


@dataclass(frozen=True, slots=True)
class Branch:
    """``condition`` is None for what stands behind `else`, or alone."""

    condition: Condition | None
    result: Result


class Dynamic(Settling):
    """See the module's docstring. The last of its ``branches`` has no condition."""

    __slots__ = ("_evaluate", "branches", "name", "names", "span", "waits")

    def __init__(self, name: str, span: Span, branches: Sequence[Branch]) -> None:
        self.name = name
        self.span = span
        self.branches = tuple(branches)
        expressions = [test.expression for test in self._conditions()]
        self.names = frozenset(name for expression in expressions for name in expression.names)
        """The variables it depends on."""
        self.waits = any(expression.waits for expression in expressions)
        """True: `value` gives an awaitable."""
        steps = [(branch.condition.expression, _maker(branch.result)) for branch in self.branches if branch.condition]
        last = _maker(self.branches[-1].result)
        self._evaluate = _waiting(steps, last) if self.waits else _plain(steps, last)

    def value(self, variables: Any) -> Any:
        """Its value for these variables: an object that has them as attributes.

        :raises TemporaryError: it has none this time."""
        if self.waits:
            return self._value_later(variables)
        try:
            return self._evaluate(variables)
        except (EvaluationError, ValueError) as error:
            raise self._no_value(error) from error

    async def _value_later(self, variables: Any) -> Any:
        try:
            return await self._evaluate(variables)
        except (EvaluationError, ValueError) as error:
            raise self._no_value(error) from error

    def _no_value(self, error: Exception) -> TemporaryError:
        return TemporaryError("Temporary lookup failure", reason=f"`{self.name}`: {error}", where=self.span.place)

    def alternatives(self) -> Iterator[tuple[Any, Span]]:
        """Every value that is written in it, with its place."""
        for branch in self.branches:
            if isinstance(branch.result, Constant):
                yield branch.result.value, branch.result.place

    @property
    def is_computed(self) -> bool:
        """Whether it may have values that nobody wrote down."""
        return any(isinstance(branch.result, Computed) for branch in self.branches)

    def settled(self) -> Dynamic:
        branches = [replace(branch, result=_settled(branch.result)) for branch in self.branches]
        same = all(a.result is b.result for a, b in zip(branches, self.branches, strict=True))
        return self if same else Dynamic(self.name, self.span, branches)

    def lines(self, show: Callable[[Any], str]) -> Iterator[tuple[str, str]]:
        """As it is written: (``if``, ``CONDITION then VALUE``), …, (``else``, ``VALUE``)."""
        for branch in self.branches:
            value = branch.result.written(show)
            yield (IF, f"{branch.condition} {THEN} {value}") if branch.condition is not None else (ELSE, value)

    def _conditions(self) -> Iterator[Condition]:
        for branch in self.branches:
            if branch.condition is not None:
                yield branch.condition
            if isinstance(branch.result, Computed):
                yield branch.result.test

    def __repr__(self) -> str:
        return f"<Dynamic {self.name} at {self.span}>"


def alternatives(value: Any, place: Span | None = None) -> Iterator[tuple[Any, Span | None]]:
    """What a setting may be: each value of a `Dynamic` with its place, or the one there is with ``place``."""
    if isinstance(value, Dynamic):
        yield from value.alternatives()
    else:
        yield value, place


# Evaluation

_Maker: TypeAlias = "tuple[Callable[[Any], Any], Callable[[Any], Any] | None, bool]"
"""A call, what becomes of its result (None: nothing), and whether the call gives an awaitable."""


def _maker(result: Result) -> _Maker:
    if isinstance(result, Constant):
        value = result.value
        return (lambda _: value), None, False
    expression = result.test.expression
    return expression.call, result.finish, expression.waits


def _plain(steps: Sequence[tuple[Any, _Maker]], last: _Maker) -> Callable[[Any], Any]:
    tests = [(expression.call, make, finish) for expression, (make, finish, _) in steps]
    last_make, last_finish, _ = last

    def evaluate(env: Any) -> Any:
        make, finish = last_make, last_finish
        for test, this_make, this_finish in tests:
            if test(env):
                make, finish = this_make, this_finish
                break
        value = make(env)
        return value if finish is None else finish(value)

    return evaluate


def _waiting(steps: Sequence[tuple[Any, _Maker]], last: _Maker) -> Callable[[Any], Any]:
    async def evaluate(env: Any) -> Any:
        chosen = last
        for expression, maker in steps:
            holds = expression.call(env)
            if await holds if expression.waits else holds:
                chosen = maker
                break
        make, finish, waits = chosen
        value = make(env)
        value = await value if waits else value
        return value if finish is None else finish(value)

    return evaluate


def _settled(result: Result) -> Result:
    if isinstance(result, Computed):
        return result
    value = settle(result.value)
    return result if value is result.value else replace(result, value=value)


# Reading


def is_dynamic(node: Node) -> bool:
    """Whether a directive that may be dynamic is written so: with a block, or in parentheses."""
    return node.block is not None or any(map(_opens_expression, node.arguments))


def read_dynamic(name: str, type_: Value, variables: Variables, node: Node, scope: Scope) -> Any:
    """The value of a directive: a `Dynamic`, or what is constant all the same.

    :raises Problem: the last mistake; the others are in the report."""
    return _Reader(name, type_, variables, scope).read(node)


def _opens_expression(word: Token) -> bool:
    return not word.quoted and word.text.startswith("(")


class _Reader:
    def __init__(self, name: str, type_: Value, variables: Variables, scope: Scope) -> None:
        self.name = name
        self.type = type_
        self.names = Names(variables.known, absent=variables.absent, table_key=variables.table_key)
        self.scope = scope
        self.problems: list[Problem] = []

    def read(self, node: Node) -> Any:
        if node.block is None:
            branches = [Branch(None, self._result(node.name, node.arguments))]
        elif node.arguments:
            hint = "put the value behind `else`"
            raise Problem(node.opened, f"`{self.name}` has a value already", code="E0532", hint=hint)
        else:
            branches = self._block(node)
        if self.problems:
            for problem in self.problems[:-1]:
                self.scope.report.problem(problem)
            raise self.problems[-1]
        return self._folded(node, branches)

    def _block(self, node: Node) -> list[Branch]:
        branches: list[Branch] = []
        otherwise: Node | None = None
        damaged = False
        for line in node.block or ():
            try:
                if line.kind is NodeKind.BROKEN:
                    damaged = True
                    continue
                if line.name.text not in (IF, ELSE):
                    raise self._stranger(line, branches)
                if otherwise is not None:
                    notes = (f"the `else` is at {otherwise.span}",)
                    raise Problem(line.span, "nothing stands behind `else`", code="E0532", notes=notes)
                if line.name.text == ELSE:
                    otherwise = line
                branches.append(self._otherwise(line) if line is otherwise else self._branch(line))
            except Problem as problem:
                self.problems.append(problem)
        if otherwise is None and not damaged:
            self.problems.append(self._no_else(node))
        if damaged:  # which has been reported: the rest is read for its own mistakes
            branches.append(Branch(None, Constant(None, node.span)))
        return branches

    def _stranger(self, line: Node, branches: Sequence[Branch]) -> Problem:
        hint = did_you_mean(line.name.text, (IF, ELSE))
        if not hint and not branches and not line.arguments:
            hint = f"without a choice, write `{self.name} {line.name.text}`"
        notes = (f"in the block of `{self.name}` stand lines `if EXPR then {self.type.syntax}`, and `else` last",)
        return Problem(line.span, f"`{line.name.shown}` begins neither `if` nor `else`", code="E0532", hint=hint, notes=notes)

    def _no_else(self, node: Node) -> Problem:
        hint = f"`else {self.type.syntax}` as its last line"
        return Problem(node.closed or node.span, f"`{self.name}` needs an `else`", code="E0531", hint=hint)

    def _branch(self, line: Node) -> Branch:
        words = line.arguments
        then = next((number for number, word in enumerate(words) if word.text == THEN and not word.quoted), len(words))
        if then == len(words):
            raise Problem(line.last.behind(), "`then` and a value are missing here", code="E0533")
        if not then:
            raise Problem(words[0].span, "a condition is missing before `then`", code="E0533")
        problem: Problem | None = None
        condition: Condition | None = None
        try:
            condition = compile_words(words[:then], self.names, self.scope, BOOLEAN)
        except Problem as error:
            problem = error
        if line.block is not None:
            raise Problem(line.opened, "`if` has no block", code="E0406", hint="nothing belongs here")
        if problem is not None:
            self.problems.append(problem)
        result = self._result(words[then], words[then + 1 :])
        return Branch(condition, result)

    def _otherwise(self, line: Node) -> Branch:
        words = line.arguments
        if words and words[0].text == IF and not words[0].quoted:
            hint = "write the next `if` line without `else`"
            raise Problem(line.span, "`else if` is no line of its own", code="E0532", hint=hint)
        if line.block is not None:
            raise Problem(line.opened, "`else` has no block", code="E0406", hint="nothing belongs here")
        return Branch(None, self._result(line.name, words))

    def _result(self, before: Token, words: list[Token]) -> Result:
        """The value in ``words``, which stand behind the word ``before``."""
        if not words:
            raise Problem(before.span.behind(), f"a value is missing here: {self.type.syntax}", code="E0533")
        if any(map(_opens_expression, words)):
            return self._computed(words)
        misplaced = next((word for word in words if word.text == ELSE and not word.quoted), None)
        if misplaced is not None and before.text == THEN:
            raise Problem(misplaced.span, "`else` stands on a line of its own", code="E0532")
        line = Line(Node(NodeKind.DIRECTIVE, Token(TokenKind.WORD, self.name, before.span), words), self.scope)
        value = self.type.parse(line)
        line.finish(self.type.syntax)
        return Constant(value, words[0].span)

    def _computed(self, words: list[Token]) -> Result:
        if len(words) > 1:
            second = words[1] if _opens_expression(words[0]) else next(filter(_opens_expression, words))
            hint = "one expression in one pair of parentheses"
            raise Problem(second.span, "a computed value stands alone", code="E0534", hint=hint)
        place = words[0].span
        wanted = self.type.result
        if wanted is None:
            hint = f"choose it: `{self.name} {{ if EXPR then … / else … }}`"
            raise Problem(place, f"`{self.name}` can't be computed", code="E0534", hint=hint)
        names = replace(self.names, choices=self.type.words if wanted.kind is Kind.WORD else ())
        finish = self.type.from_result
        if wanted.kind is Kind.LIST and compile_words(words, names, self.scope, None).expression.type.kind is not Kind.LIST:
            assert wanted.element is not None
            wanted, several = Type(wanted.element), finish

            def finish(value: Any) -> Any:
                return several((value,))

        test = compile_words(words, names, self.scope, wanted)
        if not test.expression.constant:
            return Computed(test, finish, place)
        try:
            return Constant(finish(test.expression.value), place)
        except ValueError as error:
            raise Problem(place, str(error), code="E0511") from None

    # What is constant

    def _folded(self, node: Node, branches: Iterable[Branch]) -> Any:
        """A value where nothing decides; else a `Dynamic` without the branches that are never taken."""
        left: list[Branch] = []
        for branch in branches:
            always = branch.condition.always if branch.condition is not None else True
            if branch.condition is not None and always is not None:
                self._constant(branch.condition, node, always)
            if always is not False:
                left.append(Branch(None, branch.result) if always else branch)
            if always:
                break
        if len(left) == 1 and isinstance(left[0].result, Constant):
            return left[0].result.value
        return Dynamic(self.name, node.span, left)

    def _constant(self, condition: Condition, node: Node, always: bool) -> None:
        """A condition that nothing changes: a slip, unless a macro or the environment put it there."""
        place = condition.place(condition.expression.node)
        if condition.written.is_literal:
            message = (
                "this is always true: what follows is never used" if always else "this is never true: its value is never used"
            )
            self.scope.report.warning(place, message, code="W0531")
