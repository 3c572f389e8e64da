"""The types of expressions, the names an expression may use, and the functions of the language.

Types never convert into each other but integer to float. A variable that may be unset (no TLS, no login, a unix socket) is
*optional*. A text can have a *normal form* (domains are folded to lower-case U-labels): the literals it is compared with
are brought to that form at load, so ``sender_domain == "Example.ORG"`` means what it says, and a literal that the variable can
never be equal to (``protocol == "http"``) is an error.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mailgate.smtp.address import domain_key


class Kind(Enum):
    STRING = "string"
    INTEGER = "integer"
    FLOAT = "number"
    DURATION = "duration"
    BOOLEAN = "boolean"
    ADDRESS = "address"
    NETWORK = "network"
    WORD = "word"
    LIST = "list"


class NeverEqual(ValueError):
    """A literal that a variable can't be equal to; ``hint`` says what may be meant."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


Normal = Callable[[str], str]
"""Brings a literal to a normal form, or raises `NeverEqual`."""


@dataclass(frozen=True, slots=True)
class Type:
    """``element`` of a list; ``optional``: may be unset; ``normal``: its texts have a normal form."""

    kind: Kind
    element: Kind | None = None
    optional: bool = False
    normal: Normal | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"list of {_PLURALS.get(self.element, self.element.value + 's')}" if self.element else self.kind.value

    @property
    def named(self) -> str:
        """With its article."""
        name = str(self)
        return f"an {name}" if name[0] in "aeiou" else f"a {name}"


_PLURALS = {Kind.ADDRESS: "addresses"}

STRING, INTEGER, FLOAT, DURATION, BOOLEAN, ADDRESS, NETWORK, WORD = (
    Type(kind)
    for kind in (Kind.STRING, Kind.INTEGER, Kind.FLOAT, Kind.DURATION, Kind.BOOLEAN, Kind.ADDRESS, Kind.NETWORK, Kind.WORD)
)
STRINGS = Type(Kind.LIST, Kind.STRING)
EMPTY_LIST = Type(Kind.LIST)
NUMBERS = (Kind.INTEGER, Kind.FLOAT)
ORDERED = (Kind.INTEGER, Kind.FLOAT, Kind.DURATION, Kind.STRING)


@dataclass(frozen=True, slots=True)
class Variable:
    """A name that expressions see; its value is the attribute of that name of what they are evaluated on."""

    name: str
    type: Type
    doc: str


@dataclass(frozen=True, slots=True)
class Scope:
    """What an expression may name."""

    variables: Mapping[str, Variable]
    choices: tuple[str, ...] = ()
    """Words of the setting: bare names that stand for themselves."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Names of the language that do not exist here, and why."""
    table: Callable[[str], Any] | None = None
    """Gives the ITable (or a `Reference` to it) that ``&name`` stands for.

    :raises NoTable: there is none."""
    table_key: Normal = str.casefold
    """The form in which tables keep their keys."""
    questions: Mapping[str, Function] = field(default_factory=dict)
    """Functions of what an expression is evaluated on, by the methods of these names. Their arguments are written out; ``call``
    brings them into the form in which they are asked, or raises ValueError."""
    is_local: Callable[[str], Any] | None = None
    """Judges a domain; the answer is awaitable where ``local_waits``."""
    local_waits: bool = False


class NoTable(Exception):
    """Nothing to look up in is called so."""

    def __init__(self, message: str, hint: str = "", code: str = "E0522", notes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code
        self.notes = notes


def fits(given: Type, wanted: Type) -> bool:
    """Whether a value of one type may stand where the other is needed."""
    if given.kind is wanted.kind:
        return given.kind is not Kind.LIST or given.element is None or given.element is wanted.element
    return given.kind is Kind.INTEGER and wanted.kind is Kind.FLOAT


def _lower(text: str) -> str:
    if text != text.lower():
        raise NeverEqual("lower() never gives an upper-case letter", f'did you mean "{text.lower()}"?')
    return text


def _upper(text: str) -> str:
    if text != text.upper():
        raise NeverEqual("upper() never gives a lower-case letter", f'did you mean "{text.upper()}"?')
    return text


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the language: its parameters, its result, what it does."""

    parameters: tuple[Type, ...]
    result: Type
    call: Callable[..., Any]
    doc: str
    compares: bool = False
    """Its second argument is looked for in the first: a literal is folded where the first has a normal form."""


def _domain(address: str) -> str:
    return domain_key(address.rpartition("@")[2]) if "@" in address else ""


def _localpart(address: str) -> str:
    return address.rpartition("@")[0] if "@" in address else address


def _hash(text: str, buckets: int) -> int:
    if buckets < 1:
        raise ValueError("hash needs at least one bucket")
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") % buckets


FUNCTIONS = {
    "lower": Function((STRING,), Type(Kind.STRING, normal=_lower), str.lower, "The text in lower case."),
    "upper": Function((STRING,), Type(Kind.STRING, normal=_upper), str.upper, "The text in upper case."),
    "len": Function((STRING,), INTEGER, len, "Characters of a text, elements of a list."),
    "localpart": Function((STRING,), STRING, _localpart, "What stands before the last @."),
    "domain": Function(
        (STRING,), Type(Kind.STRING, normal=domain_key), _domain, "What stands behind the last @, empty without one."
    ),
    "has_prefix": Function((STRING, STRING), BOOLEAN, str.startswith, "Whether the text begins so.", compares=True),
    "has_suffix": Function((STRING, STRING), BOOLEAN, str.endswith, "Whether the text ends so.", compares=True),
    "contains": Function((STRING, STRING), BOOLEAN, operator.contains, "Whether the text holds the other.", compares=True),
    "split": Function((STRING, STRING), STRINGS, lambda text, by: tuple(text.split(by)), "The pieces between the separators."),
    "hash": Function((STRING, INTEGER), INTEGER, _hash, "A number from 0 to n-1, always the same for the same text."),
}
SPECIAL_FUNCTIONS = {
    "lookup": "lookup(&table, key): the first value the table has for the key; unset without one.",
    "is_local": "is_local(domain): whether local_domains holds the domain.",
}


CALCULATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": operator.mod,
}


def _arithmetic_table() -> dict[tuple[Any, ...], Kind]:
    """Which operand kinds an operator takes, and what comes out."""
    integer, real, duration = Kind.INTEGER, Kind.FLOAT, Kind.DURATION
    table: dict[tuple[Any, ...], Kind] = {
        ("-", integer): integer,
        ("-", real): real,
        ("+", Kind.STRING, Kind.STRING): Kind.STRING,
    }
    for sign in "+-*%":
        table[sign, integer, integer] = integer
        for pair in ((integer, real), (real, integer), (real, real)):
            table[(sign, *pair)] = real
    for left in NUMBERS:
        for right in NUMBERS:
            table["/", left, right] = real
        table["*", duration, left] = table["*", left, duration] = table["/", duration, left] = duration
    table["+", duration, duration] = table["-", duration, duration] = table["%", duration, duration] = duration
    table["/", duration, duration] = real
    return table


ARITHMETIC = _arithmetic_table()
