"""The syntax of expressions: text to a tree, every node with its place. What the tree means is in evaluation.py.

    expression := and (("or" | "||") and)*
    and        := not (("and" | "&&") not)*
    not        := ("not" | "!") not | comparison
    comparison := sum [OP sum]                      OP := == != < <= > >= in matches, not in, not matches
    sum        := term (("+" | "-") term)*
    term       := coalesce (("*" | "/" | "%") coalesce)*
    coalesce   := unary ("??" unary)*
    unary      := "-" unary | atom
    atom  := literal | name | name "(" … ")" | &table | "[" … "]" | "(" expression ")" | "(" if a then b else c ")"

Literals: "text" with \\" for a quote, integers, floats, durations (5m, 1h30m), addresses and networks (192.0.2.1, 10.0.0.0/8,
2001:db8::/32), true, false; a bare word that is no known name is a word of the setting's choice, which the types decide. A
comparison does not chain: ``a < b < c`` is an error with the hint to say ``and``.

A chain of ``and`` or ``or`` is one node with many operands. Bounded: `MAX_TOKENS` and `MAX_DEPTH` answer configurations that
are no longer written by people.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from mailgate.config.suggest import did_you_mean

MAX_TOKENS = 2000
MAX_DEPTH = 30
"""Of parentheses and of operations within each other: all that reads or computes a tree may recurse."""

KEYWORDS = frozenset({"and", "or", "not", "in", "matches", "if", "then", "else", "true", "false"})
COMPARISONS = ("==", "!=", "<=", ">=", "<", ">", "in", "matches")

_UNITS = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000001}

_TOKEN = re.compile(
    r"""
      (?P<space>(?:\s+|\\\r?\n|\#[^\n]*)+)
    | (?P<string>"[^"\\]*(?:\\.[^"\\]*)*")
    | (?P<network>(?:\d{1,3}(?:\.\d{1,3}){3}|(?=[0-9A-Fa-f]*:)[0-9A-Fa-f:]+(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?)
                  (?:/\d{1,3})?(?![\w.:]))
    | (?P<duration>(?:\d+(?:\.\d+)?(?:ms|us|[wdhms]))+(?![\w.]))
    | (?P<number>\d+(?:\.\d+)?(?![\w.]))
    | (?P<operator>==|!=|<=|>=|\|\||&&|\?\?|[-+*/%<>!()\[\],])
    | (?P<table>&[A-Za-z_][\w.-]*)
    | (?P<domain>\.[^\W_][\w.-]*)
    | (?P<name>[A-Za-z_]\w*)
    """,
    re.VERBOSE | re.DOTALL,
)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|[wdhms])")


class ExpressionError(Exception):
    """Something is wrong with ``text[start:end]`` of an expression."""

    def __init__(
        self, start: int, end: int, message: str, hint: str = "", code: str = "E0521", notes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.start = start
        self.end = end
        self.message = message
        self.hint = hint
        self.code = code
        """E0521 syntax, E0522 unknown name, E0523 types."""
        self.notes = notes


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Node:
    """``start`` and ``end`` are offsets into the expression's text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Literal(Node):
    kind: str
    """string, integer, float, duration, address, network, boolean."""
    value: Any


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A variable, or a word of a choice."""

    name: str


@dataclass(frozen=True, slots=True)
class TableName(Node):
    name: str


@dataclass(frozen=True, slots=True)
class ListOf(Node):
    elements: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Call(Node):
    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Operation(Node):
    """``operator`` with one operand (not, -), two, or any number (and, or)."""

    operator: str
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Conditional(Node):
    condition: Node
    then: Node
    otherwise: Node


def parse_expression(text: str) -> Node:
    """The tree of ``text``.

    :raises ExpressionError: with the place of the first mistake.
    """
    parser = _Parser(text)
    if parser.current.kind == "end":
        raise ExpressionError(0, len(text), "an expression is expected here")
    node = parser.expression()
    if parser.current.kind != "end":
        raise parser.unexpected("an operator or the end of the expression")
    return node


def tokenize(text: str) -> Iterator[Token]:
    """The tokens of ``text``, white space and comments left out, then one of kind ``end``."""
    position = count = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _bad_token(text, position)
        kind = match.lastgroup or ""
        if kind != "space":
            count += 1
            if count > MAX_TOKENS:
                raise ExpressionError(position, match.end(), f"an expression of more than {MAX_TOKENS} tokens")
            yield Token(
                "operator" if kind == "name" and match.group() in KEYWORDS else kind, match.group(), position, match.end()
            )
        position = match.end()
    yield Token("end", "", len(text), len(text))


def _bad_token(text: str, position: int) -> ExpressionError:
    if text[position] == '"':
        # As the lexer says it, so that it is said once.
        return ExpressionError(position, position + 1, "this quote is never closed", 'close it with `"`', "E0103")
    end = position + 1
    while end < len(text) and not text[end].isspace() and text[end] not in '"()[],':
        end += 1
    hint = _MEANT.get(text[position], "")
    if not hint:  # a word in the middle of which something strange stands: user@example.org, example.org
        while position and not text[position - 1].isspace() and text[position - 1] not in '"()[],!=<>':
            position -= 1
        word = text[position:end].rstrip("$")
        hint = f'a text stands in quotes: "{word}"' if word[:1].isalnum() or word[:1] == "." else ""
    return ExpressionError(position, end, f"`{text[position:end]}` means nothing in an expression", hint)


_MEANT = {
    "=": "to compare, write ==",
    "'": 'strings stand in double quotes: "…"',
    "|": "write or, or ||",
    "&": "write and, or &&",
}


class _Parser:
    """Recursive descent, one method a level of the grammar."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(tokenize(text))
        self._position = 0
        self._depth = 0

    @property
    def current(self) -> Token:
        return self._tokens[self._position]

    def unexpected(self, expected: str) -> ExpressionError:
        token = self.current
        if token.kind == "end":
            last = self._tokens[self._position - 1] if self._position else token
            return ExpressionError(last.end, last.end, f"the expression ends here; {expected} is expected")
        before = self._tokens[self._position - 1] if self._position else token
        if token.kind in ("domain", "name", "number", "network") and before.end == token.start and before.kind != "operator":
            return _bad_token(self._text, token.start)
        hint = ""
        if token.kind == "name" and not self._at_value():
            hint = did_you_mean(token.text, sorted(KEYWORDS))
        return ExpressionError(token.start, token.end, f"unexpected `{token.text}`; {expected} is expected", hint)

    def _at_value(self) -> bool:
        """Whether a value would be right here: nothing, or an operator, stands before."""
        return not self._position or self._tokens[self._position - 1].kind == "operator"

    def _too_deep(self) -> ExpressionError:
        return ExpressionError(self.current.start, self.current.end, f"nested more than {MAX_DEPTH} deep")

    def _at(self, *operators: str) -> bool:
        return self.current.kind == "operator" and self.current.text in operators

    def _next(self) -> Token:
        token = self.current
        self._position += 1
        return token

    def _expect(self, operator: str) -> Token:
        if not self._at(operator):
            raise self.unexpected(f"`{operator}`")
        return self._next()

    def expression(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._too_deep()
        node = self._chain(self._and, "or", "or", "||")
        self._depth -= 1
        return node

    def _and(self) -> Node:
        return self._chain(self._not, "and", "and", "&&")

    def _chain(self, operand: Callable[[], Node], name: str, *spellings: str) -> Node:
        operands = [operand()]
        while self._at(*spellings):
            self._next()
            operands.append(operand())
        return operands[0] if len(operands) == 1 else Operation(operands[0].start, operands[-1].end, name, tuple(operands))

    def _binary(self, operand: Callable[[], Node], operators: dict[str, str]) -> Node:
        node = operand()
        while self._at(*operators):
            operator = operators[self._next().text]
            right = operand()
            node = Operation(node.start, right.end, operator, (node, right))
        return node

    def _not(self) -> Node:
        started = []
        while self._at("not", "!"):
            started.append(self._next())
            if len(started) > MAX_DEPTH:
                raise self._too_deep()
        node = self._comparison()
        for token in reversed(started):
            node = Operation(token.start, node.end, "not", (node,))
        return node

    def _comparison(self) -> Node:
        node = self._sum()
        if not self._at(*COMPARISONS) and not self._at("not"):
            return node
        negated = self._at("not")
        if negated:
            self._next()
            if not self._at("in", "matches"):
                raise self.unexpected("`in` or `matches` behind `not`")
        operator = self._next().text
        right = self._sum()
        if self._at(*COMPARISONS):
            token = self.current
            raise ExpressionError(token.start, token.end, "comparisons do not chain", "write `a < b and b < c`")
        compared = Operation(node.start, right.end, operator, (node, right))
        return Operation(node.start, right.end, "not", (compared,)) if negated else compared

    def _sum(self) -> Node:
        return self._binary(self._term, {"+": "+", "-": "-"})

    def _term(self) -> Node:
        return self._binary(self._coalesce, {"*": "*", "/": "/", "%": "%"})

    def _coalesce(self) -> Node:
        return self._binary(self._unary, {"??": "??"})

    def _unary(self) -> Node:
        if not self._at("-"):
            return self._atom()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._too_deep()
        token = self._next()
        operand = self._unary()
        self._depth -= 1
        return Operation(token.start, operand.end, "-", (operand,))

    def _atom(self) -> Node:
        token = self.current
        read = _LITERALS.get(token.kind)
        if read is not None:
            self._next()
            kind, value = read(token)
            return Literal(token.start, token.end, kind, value)
        if token.kind == "table":
            self._next()
            return TableName(token.start, token.end, token.text[1:])
        if token.kind == "name":
            self._next()
            return self._call(token) if self._at("(") else Name(token.start, token.end, token.text)
        if self._at("true", "false"):
            self._next()
            return Literal(token.start, token.end, "boolean", token.text == "true")
        if self._at("["):
            elements, end = self._elements("]")
            return ListOf(token.start, end, elements)
        if self._at("("):
            return self._parenthesised()
        if self._at("if"):
            raise ExpressionError(
                token.start, token.end, "`if` inside an expression needs parentheses", "write `(if a then b else c)`"
            )
        raise self.unexpected("a value")

    def _call(self, name: Token) -> Node:
        arguments, end = self._elements(")")
        return Call(name.start, end, name.text, arguments)

    def _elements(self, closing: str) -> tuple[tuple[Node, ...], int]:
        self._next()
        elements: list[Node] = []
        while not self._at(closing):
            if elements:
                if not self._at(","):
                    raise self.unexpected(f"`,` or `{closing}`")
                self._next()
                if self._at(closing):  # a trailing comma
                    break
            elements.append(self.expression())
        return tuple(elements), self._next().end

    def _parenthesised(self) -> Node:
        opening = self._next()
        if not self._at("if"):
            node = self.expression()
            self._expect(")")
            return node
        self._next()
        condition = self.expression()
        self._expect("then")
        then = self.expression()
        if not self._at("else"):
            raise self.unexpected("`else`")
        self._next()
        otherwise = self.expression()
        return Conditional(opening.start, self._expect(")").end, condition, then, otherwise)


def _network(token: Token) -> tuple[str, Any]:
    value: IPv4Address | IPv6Address | IPv4Network | IPv6Network
    try:
        value = ip_network(token.text) if "/" in token.text else ip_address(token.text)
    except ValueError as error:
        hint = ""
        if "host bits" in str(error):
            hint = f"did you mean `{ip_network(token.text, strict=False)}`?"
        raise ExpressionError(token.start, token.end, f"`{token.text}` is no address or network", hint) from None
    return ("network" if "/" in token.text else "address"), value


def _number(token: Token) -> tuple[str, Any]:
    if "." in token.text:
        return "float", float(token.text)
    if len(token.text) > 18:
        raise ExpressionError(token.start, token.end, "a number of more than 18 digits")
    return "integer", int(token.text)


def _duration(token: Token) -> tuple[str, Any]:
    return "duration", sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(token.text))


def _string(token: Token) -> tuple[str, Any]:
    return "string", token.text[1:-1].replace('\\"', '"').replace("\r\n", "\n")


def _domain(token: Token) -> tuple[str, Any]:
    return "string", token.text


_LITERALS = {"string": _string, "network": _network, "number": _number, "duration": _duration, "domain": _domain}
