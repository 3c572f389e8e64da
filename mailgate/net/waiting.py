"""Coroutines inside, Deferreds at the edges, and nothing of either where nothing waits.

`begin` and `spawn` drive a coroutine as `Deferred.fromCoroutine` does, in a third of its time: what they leave out is the
context variables and the generators of inlineCallbacks, which we do not use. Cancelling the Deferred they return cancels
what the coroutine waits for; the coroutine sees CancelledError there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

T = TypeVar("T")

_log = Logger(namespace="mailgate.net")


class DeadlineExceeded(Exception):
    """What was awaited did not come in time."""


def begin(coroutine: Coroutine[Any, Any, T]) -> T | Deferred[T]:
    """The coroutine's result if it needs no wait (its exception is raised), else a Deferred of it."""
    try:
        waits_for = coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    return _Task(coroutine, waits_for).deferred


def spawn(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Run a coroutine as a Deferred. Whoever calls this owns its failure."""
    try:
        waits_for = coroutine.send(None)
    except StopIteration as stop:
        return succeed(stop.value)
    except BaseException:
        return fail()
    return _Task(coroutine, waits_for).deferred


class _Task:
    """A coroutine that waits for a Deferred, and the Deferred of its result."""

    __slots__ = ("_coroutine", "_waits_for", "deferred")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self.deferred: Deferred[Any] = Deferred(self._cancel)
        self._wait(waits_for)

    def _wait(self, waits_for: Any) -> None:
        self._waits_for = waits_for
        waits_for.addBoth(self._go_on)

    def _go_on(self, result: Any) -> None:
        try:
            if isinstance(result, Failure):
                waits_for = result.throwExceptionIntoGenerator(self._coroutine)
            else:
                waits_for = self._coroutine.send(None)  # Deferred.__await__ takes the result from the Deferred itself
        except StopIteration as stop:
            if not self.deferred.called:  # else it was cancelled, and the coroutine went on to its end all the same
                self.deferred.callback(stop.value)
        except BaseException:
            if not self.deferred.called:
                self.deferred.errback()
            else:
                _log.failure("a cancelled coroutine failed")
        else:
            self._wait(waits_for)

    def _cancel(self, _: Any) -> None:
        self._waits_for.cancel()


def as_deferred(awaitable: Awaitable[T]) -> Deferred[T]:
    """The awaitable as a Deferred: itself, or a coroutine that is started."""
    return awaitable if isinstance(awaitable, Deferred) else spawn(awaitable)  # type: ignore[arg-type]


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
