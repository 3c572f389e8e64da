"""Whether two modules were told the same: what a reload asks before a new one goes on with what an old one holds.

The fingerprint of a block is every value in force, defaults included, down through its blocks and the modules it refers to. Of a
file it has the state besides, so that a renewed certificate under its old path is a change. What can't be compared is equal to
itself only: then nothing is carried over, which is slower and never wrong.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from mailgate.config.conditions import Condition
from mailgate.config.dynamic import Computed, Dynamic, Result
from mailgate.config.line import Args, Chosen, List, OneOf, Value
from mailgate.config.places import Path
from mailgate.config.schema import Argument, Block, Directive


def fingerprint(block: Block, without: Collection[str] = ()) -> tuple[Any, ...]:
    """To be compared with ``==``; ``without`` are directives that don't matter. Looks at files: not in the event loop."""
    found: list[Any] = [type(block), _of(None, block.value)]
    declarations: list[Argument | Directive] = [*block.arguments, *block.directives.values()]
    for declared in declarations:
        if getattr(declared, "name", None) not in without:
            found.append((declared.attribute, _of(declared.type, getattr(block, declared.attribute, None))))
    return tuple(found)


def _of(type_: Value | None, value: Any) -> Any:
    if isinstance(value, Block):
        return fingerprint(value)
    if isinstance(type_, Path) and isinstance(value, str):
        return value, _state(value)
    if isinstance(value, Dynamic):
        return tuple((_of_condition(branch.condition), _of_result(type_, branch.result)) for branch in value.branches)
    if isinstance(value, Condition):
        return _of_condition(value)
    if isinstance(value, Chosen):
        inner = type_.forms.get(value.word) if isinstance(type_, OneOf) else None
        return value.word, _of(inner, value.value)
    if isinstance(value, tuple):
        if isinstance(type_, Args):
            return tuple(_of(element, one) for element, one in zip(type_.elements, value, strict=False))
        return tuple(_of(type_.element if isinstance(type_, List) else type_, one) for one in value)
    return value


def _of_condition(condition: Condition | None) -> Any:
    """What an expression says, and the tables that it asks."""
    if condition is None:
        return None
    expression = condition.expression
    if "is_local" in expression.text:  # local_domains is no part of it
        return condition
    return expression.text, tuple(fingerprint(table) if isinstance(table, Block) else table for table in expression.tables)


def _of_result(type_: Value | None, result: Result) -> Any:
    return _of_condition(result.test) if isinstance(result, Computed) else _of(type_, result.value)


def _state(path: str) -> tuple[int, ...]:
    try:
        stat = os.stat(path)
    except OSError:
        return ()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
