"""Awaiting with a deadline, in the one style of the house: coroutines inside, Deferreds at the edges."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred

T = TypeVar("T")


class DeadlineExceeded(Exception):
    """What was awaited did not come in time."""


def spawn(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Run a coroutine as a Deferred. Whoever calls this owns its failure."""
    return Deferred.fromCoroutine(coroutine)


def as_deferred(awaitable: Awaitable[T]) -> Deferred[T]:
    """The awaitable as a Deferred: itself, or a coroutine that is started."""
    if isinstance(awaitable, Deferred):
        return awaitable
    return Deferred.fromCoroutine(awaitable)  # type: ignore[arg-type]


async def within(awaitable: Awaitable[T], seconds: float, clock: Any) -> T:
    """Await, but cancel after ``seconds`` of ``clock`` (IReactorTime) and raise `DeadlineExceeded`."""
    waiting = as_deferred(awaitable)
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        waiting.cancel()

    call = clock.callLater(max(seconds, 0), expire)
    try:
        return await waiting
    except CancelledError:
        if expired:
            raise DeadlineExceeded(f"not done within {seconds:g}s") from None
        raise
    finally:
        if call.active():
            call.cancel()
