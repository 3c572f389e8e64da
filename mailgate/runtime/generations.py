"""What of an old configuration is whose in a new one.

Named modules by class and name; inline ones, which have none, by class and label, the first to the first; listeners by an address
that both serve, and an old one may have several heirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from mailgate.inbound.ports import place_of
from mailgate.registry import Configuration, Module

FIXED = {
    "state_dir": "what is kept there belongs to the running gateway",
    "runtime_dir": "its sockets are there",
}
"""Global settings that hold from start to end of a process, and why."""


def counterparts(new: Configuration, old: Configuration) -> Iterator[tuple[Module, Module]]:
    """Each new module that has a predecessor, with it."""
    before = dict(_by_identity(old.modules))
    for identity, module in _by_identity(new.modules):
        if identity in before:
            yield module, before[identity]
    served = {place: listener for listener in reversed(old.listeners) for place in _places(listener)}
    for listener in new.listeners:
        predecessor = next((served[place] for place in _places(listener) if place in served), None)
        if predecessor is not None:
            yield listener, predecessor


def fixed_changes(new: Configuration, old: Configuration) -> list[str]:
    """What would have to change and can't, as sentences."""
    return [
        f"`{name}` can't change while the gateway runs ({why}): restart it"
        for name, why in FIXED.items()
        if getattr(new.globals, name) != getattr(old.globals, name)
    ]


def ends_listening(new: Configuration, old: Configuration) -> bool:
    """Whether nothing would listen any more: then the file is not what was meant (cut off, say)."""
    return bool(old.listeners) and not new.listeners


def _by_identity(modules: Iterable[Module]) -> Iterator[tuple[Hashable, Module]]:
    seen: Counter[Hashable] = Counter()
    for module in modules:
        if module.is_listener:
            continue
        identity: Hashable = (type(module), module.context.name, "" if module.context.name else module.label)
        seen[identity] += 1
        yield (identity, seen[identity]), module


def _places(listener: Any) -> list[Hashable]:
    return [place_of(one.scheme, one.host, one.port, one.path) for one in listener.endpoints]
