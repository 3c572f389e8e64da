"""Every value in force and where it comes from: `mailgate config effective`, and what differs between two of them: `config diff`.

A configuration that has been built is read back through its declarations into a tree of `Setting`. Values are written as the
language writes them, in one way only, so that ``60m`` and ``1h`` are no difference; secrets are ``***``, in a difference too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mailgate.config.dynamic import Dynamic
from mailgate.config.line import Args, Chosen, List, OneOf, Value
from mailgate.config.places import SecretText
from mailgate.config.scalars import quote
from mailgate.config.schema import Argument, Block, Directive
from mailgate.config.source import Span
from mailgate.registry.assembly import Configuration
from mailgate.registry.module import Globals, Module
from mailgate.smtp.reply import Reply

UNORDERED = frozenset({"source", "destination", "entry"})
"""Repeatable directives whose order means nothing: the most exact rule wins, wherever it stands."""


class Origin(Enum):
    WRITTEN = "written"
    INHERITED = "inherited"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """One directive in force; ``value`` is "" for what has none. ``block``: the settings in its braces, None without."""

    name: str
    value: str
    origin: Origin
    span: Span | None = None
    block: tuple[Setting, ...] | None = None
    ordered: bool = True

    @property
    def line(self) -> str:
        return f"{self.name} {self.value}".rstrip()


def effective(configuration: Configuration) -> list[Setting]:
    """The global settings, then every top-level block in the order of the file."""
    settings = list(_Reader(configuration.globals).block(configuration.globals))
    reader = _Reader(configuration.globals)
    for module in configuration.modules:
        if module.context.name or module.is_nameless:
            value = " ".join(filter(None, (module.context.name, reader.arguments(module))))
            settings.append(Setting(module.name, value, Origin.WRITTEN, module.span, tuple(reader.block(module))))
    named = [setting for setting in settings if setting.block is not None and setting.span is not None]
    named.sort(key=lambda setting: (setting.span.path, setting.span.line, setting.span.column) if setting.span else ("", 0, 0))
    return [setting for setting in settings if setting not in named] + named


class _Reader:
    def __init__(self, settings: Globals) -> None:
        self.globals = settings

    def block(self, block: Block) -> Iterator[Setting]:
        """What holds in a block: as written first, then what is inherited or a default."""
        written = {item.directive for item in block.items}
        for item in block.items:
            yield from self._setting(item.directive, item.value, Origin.WRITTEN, item.span)
        for directive in block.directives.values():
            if directive in written:
                continue
            value = directive.absent() if directive.divided else getattr(block, directive.attribute, None)
            place = self.globals.span_of(directive.inherit.name) if directive.inherit is not None else None
            yield from self._setting(directive, value, Origin.INHERITED if place is not None else Origin.DEFAULT, place)

    def _setting(self, directive: Directive, value: Any, origin: Origin, span: Span | None) -> Iterator[Setting]:
        if origin is not Origin.WRITTEN and (value is None or value in ("", ())):
            return
        ordered = not directive.repeatable or directive.name not in UNORDERED
        if isinstance(value, Dynamic):
            yield self._dynamic(directive, value, origin, span)
            return
        if isinstance(value, Block) and not isinstance(value, Module):
            head = self.show(directive.type, value.value) if directive.type is not None else self.arguments(value)
            yield Setting(directive.name, head, origin, span, tuple(self.block(value)), ordered)
        elif isinstance(value, Module) and directive.type is None:  # a line of a list of modules
            yield Setting(directive.name, self.arguments(value), origin, span, self._inside(value), ordered)
        elif isinstance(value, tuple) and value and all(isinstance(one, Module) for one in value):
            inside = [Setting(*self._named(one), origin, one.span, self._inside(one)) for one in value]
            yield Setting(directive.name, "", origin, span, tuple(inside), ordered)
        else:
            inner = self._inside(value) if isinstance(value, Module) else None
            own = isinstance(value, Module) and not value.context.name and value.name == directive.name  # a block of its own
            yield Setting(directive.name, "" if own else self.show(directive.type, value), origin, span, inner, ordered)

    def _dynamic(self, directive: Directive, value: Dynamic, origin: Origin, span: Span | None) -> Setting:
        lines = [Setting(*line, origin, value.span) for line in value.lines(lambda one: self.show(directive.type, one))]
        if len(lines) == 1:  # computed in every case
            return Setting(directive.name, lines[0].value, origin, span)
        return Setting(directive.name, "", origin, span, tuple(lines))

    def _inside(self, module: Module) -> tuple[Setting, ...] | None:
        """The block of an inline module; None for one that is referred to: its settings stand where it is named."""
        if module.context.name:
            return None
        nested = [getattr(module, argument.attribute, None) for argument in module.arguments]
        inner = [one for one in nested if isinstance(one, Module) and not one.context.name]
        return tuple(setting for one in (module, *inner) for setting in self.block(one)) or None

    def _named(self, module: Module) -> tuple[str, str]:
        if module.context.name:
            return f"&{module.context.name}", ""
        return module.name.rpartition(".")[2], self.arguments(module)

    def arguments(self, block: Block) -> str:
        """What stands on the block's own line."""
        return " ".join(filter(None, (self._argument(argument, block) for argument in block.arguments)))

    def _argument(self, argument: Argument, block: Block) -> str:
        value = getattr(block, argument.attribute, None)
        if value is None:
            return ""
        return " ".join(self.show(argument.type, one) for one in value) if argument.rest else self.show(argument.type, value)

    def show(self, type_: Value | None, value: Any) -> str:
        """A value as the language writes it."""
        if value is None:
            return ""
        if isinstance(value, SecretText):
            return str(value)
        if isinstance(value, Module):
            return " ".join(filter(None, self._named(value)))
        if isinstance(value, Reply):
            return f"{value.code} {value.enhanced} {quote(value.text)}"
        if isinstance(type_, Args):
            return " ".join(self.show(element, one) for element, one in zip(type_.elements, value, strict=False))
        if isinstance(type_, OneOf) and isinstance(value, Chosen):
            return f"{value.word} {self.show(type_.forms[value.word], value.value)}".strip()
        if isinstance(type_, List):
            return " ".join(self.show(type_.element, one) for one in value)
        if isinstance(value, tuple):
            return " ".join(self.show(None, one) for one in value)
        if type_ is None or isinstance(value, str):
            return quote(str(value))
        return type_.show(value)


# What differs


@dataclass(frozen=True, slots=True)
class Change:
    """At one place of the tree (the lines of the blocks that lead there): what was, and what is. Either may be None."""

    path: tuple[str, ...]
    before: Setting | None = None
    after: Setting | None = None
    order: tuple[str, ...] = field(default=())
    """The new order, if that is all that changed."""


def differences(before: Iterable[Setting], after: Iterable[Setting], path: tuple[str, ...] = ()) -> list[Change]:
    """What another configuration does differently; how it is written does not matter."""
    old, new = _by_line(before), _by_line(after)
    changes = []
    gone = [setting for line, setting in old.items() if line not in new]
    come = [setting for line, setting in new.items() if line not in old]
    for setting in gone:
        same = [other for other in come if other.name == setting.name]
        alone = len(same) == 1 and sum(other.name == setting.name for other in gone) == 1
        other = same[0] if alone else None
        changes.append(Change(path, setting, other))
        if other is not None:
            come.remove(other)
            changes += differences(setting.block or (), other.block or (), (*path, other.line))
    changes += [Change(path, None, setting) for setting in come]
    for line, setting in new.items():
        if line in old:
            changes += differences(old[line].block or (), setting.block or (), (*path, setting.line))
    changes += _reordered(old, new, path)
    return changes


def _by_line(settings: Iterable[Setting]) -> dict[tuple[str, int], Setting]:
    """By what they say; the second of two that say the same by its number."""
    found: dict[tuple[str, int], Setting] = {}
    for setting in settings:
        number = 0
        while (setting.line, number) in found:
            number += 1
        found[setting.line, number] = setting
    return found


def _reordered(old: dict[tuple[str, int], Setting], new: dict[tuple[str, int], Setting], path: tuple[str, ...]) -> list[Change]:
    changes = []
    names = dict.fromkeys(setting.name for setting in new.values() if setting.ordered and setting.origin is Origin.WRITTEN)
    for name in names if path else ():
        was = [line for line, setting in old.items() if setting.name == name and line in new]
        now = [line for line, setting in new.items() if setting.name == name and line in old]
        if was != now:
            changes.append(Change(path, order=tuple(line for line, _ in now)))
    return changes
