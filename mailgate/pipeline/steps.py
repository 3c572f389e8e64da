"""Coroutines that cost nothing while nothing waits.

The pipeline is written as coroutines throughout, so that there is one copy of it whether tables, checks and next hops answer
at once or not. `begin` runs a coroutine to its end or to its first real wait: in the first case its result is there, without
a Deferred and without a turn of the event loop.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from mailgate.net.waiting import spawn

T = TypeVar("T")


def begin(coroutine: Coroutine[Any, Any, T]) -> T | Deferred[T]:
    """The coroutine's result if it needs no wait (its exception is raised), else a Deferred of it."""
    try:
        waits_for = coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    return spawn(_rest(waits_for, coroutine))


async def _rest(waits_for: Any, coroutine: Coroutine[Any, Any, T]) -> T:
    result: T = await _Rest(waits_for, coroutine)
    return result


class _Rest:
    """What is left of a coroutine that already stands at its first wait."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, waits_for: Any, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._waits_for = waits_for
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, waits_for = self._coroutine, self._waits_for
        while True:
            try:
                try:
                    value = yield waits_for
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:  # handed on: the coroutine decides
                    waits_for = coroutine.throw(error)
                else:
                    waits_for = coroutine.send(value)
            except StopIteration as stop:
                return stop.value
