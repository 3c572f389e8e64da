"""The types of values (see docs/configuration): each says what it accepts, in the words of the operator.

A type is made with its limits, ``Duration(minimum=1)``, and parses the words of one directive. ``parse`` is for a directive
that takes exactly this value, ``parse_element`` for one value among others (in a list each word is one value).
"""

from __future__ import annotations

from typing import Any


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


class Value:
    """A type of value."""

    metavar = "VALUE"


class Boolean(Value):
    pass


class Duration(Value):
    def __init__(self, *, minimum: float = 0.0, maximum: float | None = None) -> None: ...


class Size(Value):
    def __init__(self, *, minimum: int = 0, maximum: int | None = None) -> None: ...


class Integer(Value):
    def __init__(self, metavar: str = "NUMBER", *, minimum: int | None = None, maximum: int | None = None) -> None: ...


class Float(Value):
    def __init__(self, metavar: str = "NUMBER", *, minimum: float | None = None, maximum: float | None = None) -> None: ...


class String(Value):
    def __init__(self, metavar: str = "TEXT") -> None: ...


class Strings(Value):
    def __init__(self, metavar: str = "TEXT", *, minimum: int = 1) -> None: ...


class List(Value):
    def __init__(self, element: Value, *, minimum: int = 1) -> None: ...


class Args(Value):
    def __init__(self, *elements: Value) -> None: ...


class Choice(Value):
    def __init__(self, *words: str | Refused) -> None: ...


class Nothing(Value):
    """No argument at all."""


class Chosen:
    """What a `OneOf` gives: the word, and the value behind it."""

    word: str
    value: Any


class OneOf(Value):
    """A word that says what follows: ``OneOf({"off": Nothing(), "plain": Args(String("USER"), Secret("PASSWORD"))})``."""

    def __init__(self, forms: dict[str, Value | Refused]) -> None: ...


class Endpoint(Value):
    def __init__(self, default_port: int | None = None, *, listen: bool = False, schemes: tuple[str, ...] = ()) -> None: ...


class Network(Value):
    pass


class Secret(Value):
    def __init__(self, metavar: str = "SECRET") -> None: ...


class Path(Value):
    def __init__(self, metavar: str = "PATH") -> None: ...


class ReplyCode(Value):
    pass


class ModuleLine(Value):
    def __init__(self, namespace: str, *, block: str = "module") -> None: ...


class ModuleList(Value):
    def __init__(self, namespace: str) -> None: ...


class BlockOrReference(Value):
    """`tls_client { … }` or `tls_client &name`, of the top-level word of this name."""

    def __init__(self, word: str) -> None: ...
