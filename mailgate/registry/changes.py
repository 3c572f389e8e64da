"""Settings, and what differs between two configurations, as people and programs read it: for `config` and `reload`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mailgate.config.formatter import INDENT
from mailgate.registry.effective import Change, Origin, Setting


def setting_lines(settings: Iterable[Setting], depth: int = 0) -> Iterator[tuple[str, Setting | None]]:
    """Each line with the setting that it begins; None where a block ends."""
    indent = INDENT * depth
    for setting in settings:
        yield f"{indent}{setting.line}{' {' if setting.block else ''}", setting
        if setting.block:
            yield from setting_lines(setting.block, depth + 1)
            yield f"{indent}}}", None


def origin_of(setting: Setting) -> str:
    """Where it comes from: a place, or that it is a default."""
    if setting.origin is Origin.DEFAULT or setting.span is None:
        return setting.origin.value
    inherited = "inherited from " if setting.origin is Origin.INHERITED else ""
    return f"{inherited}{setting.span.place}"


def setting_row(path: tuple[str, ...], setting: Setting) -> dict[str, Any]:
    """One setting for programs; ``path`` are the lines of the blocks around it."""
    return {
        "path": list(path),
        "name": setting.name,
        "value": setting.value,
        "origin": setting.origin.value,
        "file": setting.span.path if setting.span else None,
        "line": setting.span.line if setting.span else None,
    }


def change_row(change: Change) -> dict[str, Any]:
    return {
        "path": list(change.path),
        "old": None if change.before is None else setting_row(change.path, change.before),
        "new": None if change.after is None else setting_row(change.path, change.after),
        "order": list(change.order) or None,
    }


def difference_lines(changes: Iterable[Change]) -> Iterator[str]:
    """Changes under the lines of the blocks they are in."""
    shown: tuple[str, ...] = ()
    for change in changes:
        common = 0
        while common < min(len(shown), len(change.path)) and shown[common] == change.path[common]:
            common += 1
        for depth in range(common, len(change.path)):
            yield f"  {INDENT * depth}{change.path[depth]} {{"
        shown = change.path
        for sign, setting in (("-", change.before), ("+", change.after)):
            if setting is not None:
                block = [] if change.before is not None and change.after is not None else (setting.block or ())
                written = list(_written(block))
                opens = " {" if written else ""
                yield f"{sign} {INDENT * len(shown)}{setting.line}{opens}  # {origin_of(setting)}"
                yield from (f"{sign} {text}" for text, _ in setting_lines(written, len(shown) + 1))
                if written:
                    yield f"{sign} {INDENT * len(shown)}}}"
        if change.order:
            yield f"~ {INDENT * len(shown)}in another order: {', '.join(change.order)}"


def _written(settings: Iterable[Setting]) -> Iterator[Setting]:
    """Without defaults: of a block that came or went, what was said."""
    for setting in settings:
        if setting.origin is Origin.WRITTEN:
            block = None if setting.block is None else tuple(_written(setting.block))
            yield Setting(setting.name, setting.value, setting.origin, setting.span, block)
