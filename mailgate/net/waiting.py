"""Coroutines inside, Deferreds at the edges, and nothing of either where nothing waits.

- `Wait` is a value that comes once, for the one who waits for it: what a Deferred is, without chains. A coroutine awaits one
  whoever drives it; what drives it cheaply is `start`, `begin` and `spawn`.
- These drive a coroutine as `Deferred.fromCoroutine` does, in a fraction of its time: what they leave out is the context
  variables and the generators of inlineCallbacks, which we do not use.
- Cancelling what they return cancels what the coroutine waits for; the coroutine sees CancelledError there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

T = TypeVar("T")

_log = Logger(namespace="mailgate.net")


class DeadlineExceeded(Exception):
    """What was awaited did not come in time."""


class Wait(Generic[T]):
    """A value or an exception that comes once: `fire` or `fail` it. ``on_cancel()`` hears of `cancel`; if it does neither, the
    wait fails with CancelledError. One waiter: a second one is an error, since only one could be told."""

    __slots__ = ("_error", "_notify", "_on_cancel", "_value", "done")

    def __init__(self, on_cancel: Callable[[], None] | None = None) -> None:
        self.done = False
        self._on_cancel = on_cancel
        self._notify: Callable[[], None] | None = None
        self._error: BaseException | None = None

    def fire(self, value: T) -> None:
        self._value = value
        self.done = True
        if self._notify is not None:
            self._notify()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self.done = True
        if self._notify is not None:
            self._notify()

    def cancel(self) -> None:
        """Nothing happens when it is done."""
        if self.done:
            return
        if self._on_cancel is not None:
            self._on_cancel()
        if not self.done:
            self.fail(CancelledError())

    def result(self) -> T:
        """The value; its exception is raised. Only when it is ``done``."""
        if self._error is not None:
            raise self._error
        return self._value

    def when_done(self, notify: Callable[[], None]) -> None:
        """Call this once, at once if it is done already."""
        if self._notify is not None:
            raise RuntimeError("somebody waits for this already")
        self._notify = notify
        if self.done:
            notify()

    def as_deferred(self) -> Deferred[T]:
        deferred: Deferred[T] = Deferred(lambda _: self.cancel())

        def done() -> None:
            if self._error is not None:
                deferred.errback(self._error)
            else:
                deferred.callback(self._value)

        self.when_done(done)
        return deferred

    def __await__(self) -> Generator[Any, Any, T]:
        if not self.done:
            if self._notify is not None:
                raise RuntimeError("somebody waits for this already")
            yield self
            if not self.done:  # Twisted's own driver, which takes only a Deferred for a wait, has sent it straight back
                yield self.as_deferred()
        if self._error is not None:
            raise self._error
        return self._value


class _Task(Wait[T]):
    """A coroutine that waits, and its result."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self.done = False
        self._notify = None
        self._error = None
        self._coroutine = coroutine
        self._waits_for = waits_for
        if waits_for.__class__ in _WAITS or isinstance(waits_for, Wait):
            waits_for._notify = self._go_on  # it is not done: it would not have been yielded
        else:
            waits_for.addBoth(self._go_on)

    def _go_on(self, result: Any = None) -> None:
        """What the coroutine waits for has come. It takes the result itself; a Deferred's failure it is given."""
        try:
            if result is not None and isinstance(result, Failure):
                waits_for = result.throwExceptionIntoGenerator(self._coroutine)
            else:
                waits_for = self._coroutine.send(None)
        except StopIteration as stop:
            if not self.done:  # else it was cancelled, and the coroutine went on to its end all the same
                self.fire(stop.value)
        except BaseException as error:
            if not self.done:
                self.fail(error)
            else:
                _log.failure("a cancelled coroutine failed")
        else:
            self._waits_for = waits_for
            if waits_for.__class__ in _WAITS or isinstance(waits_for, Wait):
                waits_for._notify = self._go_on
            else:
                waits_for.addBoth(self._go_on)

    def cancel(self) -> None:
        """What the coroutine waits for is cancelled. If it goes on waiting for something else, nobody hears of its end."""
        if self.done:
            return
        self._waits_for.cancel()
        if not self.done:
            self.fail(CancelledError())


_WAITS = (Wait, _Task)
"""What nearly everybody waits for: `isinstance` is a call."""


def start(coroutine: Coroutine[Any, Any, T]) -> T | Wait[T]:
    """The coroutine's result if it needs no wait (its exception is raised), else a `Wait` for it."""
    try:
        waits_for = coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    return _Task(coroutine, waits_for)


def begin(coroutine: Coroutine[Any, Any, T]) -> T | Deferred[T]:
    """As `start`, with a Deferred for those who need its chains."""
    answer = start(coroutine)
    return answer.as_deferred() if isinstance(answer, Wait) else answer


def spawn(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Run a coroutine as a Deferred. Whoever calls this owns its failure."""
    try:
        waits_for = coroutine.send(None)
    except StopIteration as stop:
        return succeed(stop.value)
    except BaseException:
        return fail()
    return _Task(coroutine, waits_for).as_deferred()


def as_deferred(awaitable: Awaitable[T]) -> Deferred[T]:
    """The awaitable as a Deferred: itself, a `Wait` seen as one, or a coroutine that is started."""
    if isinstance(awaitable, Wait):
        return awaitable.as_deferred()
    return awaitable if isinstance(awaitable, Deferred) else spawn(awaitable)  # type: ignore[arg-type]


async def to_its_end(coroutine: Coroutine[Any, Any, T], late: Callable[[BaseException], None]) -> T:
    """Await what can't be taken back. Cancelling ends the waiting and not the coroutine; ``late`` hears how it fails then."""
    running = start(coroutine)
    if not isinstance(running, Wait):
        return running
    waiting: Wait[T] = Wait()

    def done() -> None:
        try:
            value = running.result()
        except BaseException as error:
            if waiting.done:
                late(error)
            else:
                waiting.fail(error)
        else:
            if not waiting.done:
                waiting.fire(value)

    running.when_done(done)
    return await waiting


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
