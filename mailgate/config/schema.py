"""Declarations: what a block may contain, said once, in the file of the module that reads it.

A `Block` class lists its directives as class attributes; the parser's checker, completion, `mailgate doc` and docs/reference all
read these declarations, and the same attributes give the values on the instance. There is no second list.

    class Health(Block):
        \"\"\"When an endpoint counts as down.\"\"\"
        failures = Directive("failures", v.Integer(minimum=1), default=3, doc="Failures in a row that take it out.")

- An attribute of the instance is the value; of the class, the declaration (`inherit=Globals.debug` names it so).
- ``repeatable``: the value is a tuple, in order. With ``block`` too, a tuple of blocks; what stands on a block's own line is
  its ``.value``.
- ``block`` is a Block class, a callable that returns one, or its name as a string (blocks that contain themselves).
- Directives are collected over the bases of a class; a subclass replaces one by the same attribute, or removes it with None.
- `Refused` names what this version does not have, so that the operator hears why.

Nothing here parses; see checker.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, cast

from mailgate.config.dynamic_variables import Variables
from mailgate.config.line import REQUIRED, Refused, Value
from mailgate.config.source import Span

__all__ = ["DEFAULTS", "REQUIRED", "Argument", "Block", "Directive", "Item", "Refused", "Span"]


class _Defaults:
    def __repr__(self) -> str:
        return "DEFAULTS"


DEFAULTS: Any = _Defaults()
"""Default of a directive with a block: when it is absent, the block with all its defaults."""

BlockType: TypeAlias = "type[Block] | Callable[[], type[Block]] | str"


class Directive:
    """One directive of a block: its name, type, default, and one sentence of documentation.

    ``inherit`` is the declaration (of the global scope) whose value counts when this one is absent; ``dynamic`` names what its
    value may be chosen or computed by (dynamic.py); ``origin`` names the system it comes from; ``block_required`` refuses it
    without ``{ }``; ``divided``: the number is what the whole gateway may, and each of several workers gets its part.
    """

    def __init__(
        self,
        name: str,
        type: Value | None = None,
        *,
        block: BlockType | None = None,
        default: Any = None,
        repeatable: bool = False,
        inherit: Directive | None = None,
        dynamic: Variables | None = None,
        block_required: bool = False,
        divided: bool = False,
        doc: str = "",
        origin: str = "mailgate",
    ) -> None:
        if divided and (dynamic is not None or repeatable or type is None):
            raise TypeError(f"{name}: what is divided is one number")
        if dynamic is not None and (block is not None or type is None or repeatable):
            raise TypeError(f"{name}: a dynamic directive has a type, no block, and stands once")
        self.name = name
        self.type = type
        self.default = () if repeatable and default is None else default
        self.repeatable = repeatable
        self.inherit = inherit
        self.dynamic = dynamic
        self.block_required = block_required
        self.divided = divided
        self.doc = doc
        self.origin = origin
        self.attribute = ""
        self.copy_of: Directive | None = None
        """What it repeats elsewhere (`within`)."""
        self._block = block
        self._owner: Any = None

    def __set_name__(self, owner: Any, attribute: str) -> None:
        self.attribute = attribute
        self._owner = owner

    def within(self, block: BlockType, type: Value | None = None) -> Directive:
        """The same directive with another block, and maybe of another type: for blocks that hold the same words elsewhere."""
        other = copy(self)
        other.copy_of = self
        other._block = block
        other.type = type or self.type
        return other

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def block(self) -> type[Block] | None:
        """The class of its block, if it may have one."""
        if isinstance(self._block, str):
            names = {**vars(sys.modules[self._owner.__module__]), **vars(self._owner)} if self._owner else {}
            self._block = names[self._block]
        if self._block is not None and not _is_class(self._block):
            self._block = cast("Callable[[], type[Block]]", self._block)()
        return cast("type[Block] | None", self._block)

    def absent(self) -> Any:
        """The value when the directive is not written."""
        if self.default is DEFAULTS:
            block = self.block
            return default_block(block) if block is not None else None
        return () if self.required and self.repeatable else None if self.required else self.default

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        # Reached only when the instance has no value of its own: one made without a configuration.
        return self if instance is None else self.absent()


def _is_class(block: object) -> bool:
    return isinstance(block, type)


class Argument:
    """One positional argument on the block's own line: `table.file aliases PATH`. ``rest`` takes all that are left: a tuple."""

    def __init__(
        self,
        metavar: str,
        type: Value,
        *,
        default: Any = REQUIRED,
        rest: bool = False,
        minimum: int = 0,
        doc: str = "",
        origin: str = "mailgate",
    ) -> None:
        self.metavar = metavar
        self.type = type
        self.rest = rest
        self.minimum = minimum
        self.default = () if rest and default is REQUIRED else default
        self.doc = doc
        self.origin = origin
        self.attribute = ""

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    def __set_name__(self, owner: Any, attribute: str) -> None:
        self.attribute = attribute

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else None if self.required else self.default


@dataclass(frozen=True, slots=True)
class Item:
    """One directive as it was written: its declaration, its value, its place."""

    directive: Directive
    value: Any
    span: Span

    @property
    def name(self) -> str:
        return self.directive.name


class Block:
    """What stands between braces: the declarations of its class, the values of its instance.

    ``items`` are its directives in written order, ``span`` the place of the directive it belongs to, ``value`` what stood on
    that line. ``damaged`` says that some directive directly in it was wrong and is missing here. With ``members``, a namespace,
    whatever is not declared is an inline module of it.
    """

    members: ClassVar[str] = ""

    directives: ClassVar[dict[str, Directive]] = {}
    arguments: ClassVar[tuple[Argument, ...]] = ()
    refusals: ClassVar[dict[str, Refused]] = {}

    span: Span | None = None
    value: Any = None
    items: tuple[Item, ...] = ()
    damaged: bool = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        declared: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            declared.update((name, value) for name, value in vars(base).items() if not name.startswith("__"))
        cls.directives = {value.name: value for value in declared.values() if isinstance(value, Directive)}
        cls.arguments = tuple(value for value in declared.values() if isinstance(value, Argument))
        cls.refusals = {value.name: value for value in declared.values() if isinstance(value, Refused)}

    def span_of(self, name: str) -> Span | None:
        """Where the directive of this name stands (its first, if repeatable); None if it is not written here."""
        for item in self.items:
            if item.directive.name == name:
                return item.span
        return None


def default_block(declared: type[Block]) -> Any:
    """A block as if written empty."""
    block = declared.__new__(declared)
    bind(block, {directive.attribute: directive.absent() for directive in declared.directives.values()})
    block.__init__()  # type: ignore[misc]
    return block


def bind(block: Block, values: dict[str, Any], items: Iterable[Item] = (), span: Span | None = None, value: Any = None) -> None:
    """Put the values in place; called by the checker, before ``__init__``."""
    block.__dict__.update(values)
    block.items = tuple(items)
    block.span = span
    block.value = value
