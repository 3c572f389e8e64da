"""A scope of expressions for tests: variables of every type, a table that can fail, and the values of one message."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

from mailgate.config.evaluation import Expression, compile_expression
from mailgate.config.expression_types import (
    ADDRESS,
    BOOLEAN,
    DURATION,
    FLOAT,
    INTEGER,
    STRING,
    Kind,
    NeverEqual,
    NoTable,
    Scope,
    Type,
    Variable,
)


def upper_only(text: str) -> str:
    if not text:
        raise NeverEqual("it is never empty", "leave it out")
    return text.casefold()


TYPES = {
    "name": STRING,
    "folded": Type(Kind.STRING, normal=upper_only),
    "count": INTEGER,
    "ratio": FLOAT,
    "age": DURATION,
    "tls": BOOLEAN,
    "ip": ADDRESS,
    "user": Type(Kind.STRING, optional=True),
    "peer": Type(Kind.ADDRESS, optional=True),
    "score": Type(Kind.INTEGER, optional=True),
    "flag": Type(Kind.BOOLEAN, optional=True),
}
VALUES = {
    "name": "Ann",
    "folded": "example.org",
    "count": 3,
    "ratio": 0.5,
    "age": 90.0,
    "tls": True,
    "ip": ip_address("192.0.2.7"),
    "user": None,
    "peer": None,
    "score": None,
    "flag": None,
}


class Table:
    """Answers at once, or later; fails for the key "bad"."""

    def __init__(self, waits: bool = False) -> None:
        self.waits = waits
        self.asked: list[str] = []

    def lookup(self, key: str) -> Any:
        self.asked.append(key)
        if key == "bad":
            raise OSError("gone")
        values = ("1st", "2nd") if key == "ann" else ()
        return self.later(values) if self.waits else values

    async def later(self, values: tuple[str, ...]) -> tuple[str, ...]:
        return values


def scope(table: Table | None = None, **fields: Any) -> Scope:
    tables = {"people": table or Table()}

    def find(name: str) -> Any:
        if name not in tables:
            raise NoTable(f"nothing is called `{name}`", "did you mean `&people`?", "E0602", ("there is &people",))
        return tables[name]

    variables = {name: Variable(name, type_, "For tests.") for name, type_ in TYPES.items()}
    standard: dict[str, Any] = {"choices": ("ipv4_only", "ipv6_only"), "absent": {"rcpt": "not yet"}, "table": find}
    return Scope(variables, **{**standard, "is_local": lambda domain: domain == "example.org", **fields})


def run(expression: Expression, **values: Any) -> Any:
    value = expression(SimpleNamespace(**{**VALUES, **values}))
    return asyncio.run(value) if expression.waits else value


def value_of(text: str, expected: Type | None = None, table: Table | None = None, **values: Any) -> Any:
    return run(compile_expression(text, scope(table), expected), **values)
