"""What of a configuration can be looked at while it runs: pools by target, queues by name, limits by place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mailgate.limits.block import LimitsBlock
from mailgate.limits.limits import LimitState
from mailgate.modules.target.queue import QueueTarget
from mailgate.outbound.operations import PoolControl
from mailgate.outbound.target import Downstream
from mailgate.queue.engine import Queue
from mailgate.registry import Configuration


def pools_of(configuration: Configuration) -> dict[str, PoolControl]:
    """By the target's label; of inline targets that are written alike, with a number behind it."""
    found: dict[str, PoolControl] = {}
    for module in configuration.modules:
        if isinstance(module, Downstream) and module.control is not None:
            number = 1
            name = module.label
            while name in found:
                number += 1
                name = f"{module.label} #{number}"
            found[name] = module.control
    return found


def queues_of(configuration: Configuration) -> dict[str, Queue]:
    """By name, in the order of the file."""
    return {module.context.name: module.queue for module in configuration.modules if isinstance(module, QueueTarget)}


def limits_of(configuration: Configuration) -> Iterator[tuple[str, list[LimitState]]]:
    """Every `limits` block at work: its name, or whose it is, and the state of its lines."""
    owners = {id(module.limits): module.label for module in configuration.modules if _has_limits(module)}  # type: ignore[attr-defined]
    for module in configuration.modules:
        if isinstance(module, LimitsBlock):
            yield module.context.name or owners.get(id(module), module.label), module.limits.states


def _has_limits(module: Any) -> bool:
    return not isinstance(module, LimitsBlock) and isinstance(getattr(module, "limits", None), LimitsBlock)
