"""Finding a ready connection among several endpoints, for one client command.

Endpoints are tried in the order of their `Selection`. One that fails gives way to the next. One that is not connected after
``fallback_delay`` is overtaken: the next is dialled beside it and the first that is ready wins; the overtaken one then counts as
failed, so that the following messages don't wait for it again. One that is connected has longer, half of the time that is left
(`half_of`), before the next is tried beside it: a greeting may be slow on purpose, but an endpoint that says nothing must leave
the others their time. All of it ends when the command's time is over.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from mailgate.net.waiting import spawn
from mailgate.outbound.balance import Selection
from mailgate.outbound.connection import Connection
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.failure import AttemptFailed, Kind
from mailgate.outbound.pool import Pool
from mailgate.smtp.reply import TemporaryError


class NoneLeft(Exception):
    """Every endpoint that may be tried has been."""


def half_of(left: float) -> float:
    """How long one endpoint may keep a command waiting while there are others: after each, half of what is left remains."""
    return max(left / 2, 0.0)


class _Runner:
    __slots__ = ("connected", "dialling", "endpoint", "overtaken", "timer", "waiting")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.waiting: Deferred[Any] | None = None
        self.timer: Any = None
        self.dialling = False
        self.connected = False
        self.overtaken = False

    def stop_timer(self) -> None:
        if self.timer is not None and self.timer.active():
            self.timer.cancel()

    def blame(self, reason: str) -> AttemptFailed | None:
        """What it failed at when it has to stop; None: nothing can be said against it."""
        if self.connected:
            return AttemptFailed(Kind.TIMEOUT, "connect", f"connected, but {reason}") if self.overtaken else None
        return AttemptFailed(Kind.CONNECT, "connect", reason) if self.dialling else None


class Race:
    """One search. ``link_for(endpoint)`` gives the link for the message, or an awaitable of it; ``failed(endpoint, failure)``
    hears of every endpoint that lost. To ``fresh`` a new connection is made, even if one is idle.

    Fails with `NoneLeft`, with `AttemptFailed` (TOTAL) when the time is over, or as ``link_for`` does, but for a temporary
    failure of that, which is this one endpoint's."""

    def __init__(
        self,
        pool: Pool,
        selection: Selection,
        clock: Any,
        link_for: Callable[[Endpoint], Any],
        failed: Callable[[Endpoint, AttemptFailed], None],
        *,
        fallback_delay: float = 3.0,
        fresh: Endpoint | None = None,
    ) -> None:
        self._pool = pool
        self._selection = selection
        self._clock = clock
        self._link_for = link_for
        self._failed = failed
        self._fallback_delay = fallback_delay
        self._fresh = fresh
        self._runners: list[_Runner] = []
        self._result: Deferred[Connection] = Deferred(lambda _: self._stop())
        self._over = False
        self._deadline = 0.0
        self._timer: Any = None

    def run(self, seconds: float) -> Deferred[Connection]:
        self._deadline = self._clock.seconds() + seconds
        self._timer = self._clock.callLater(max(seconds, 0.0), self._expire)
        self._start_next()
        return self._result

    def _start_next(self) -> None:
        endpoint = self._selection.next()
        if endpoint is None:
            if not self._runners:
                self._finish(NoneLeft())
            return
        runner = _Runner(endpoint)
        self._runners.append(runner)
        runner.waiting = spawn(self._lease(runner))
        runner.waiting.addCallbacks(self._won, self._lost, callbackArgs=(runner,), errbackArgs=(runner,))

    async def _lease(self, runner: _Runner) -> Connection:
        endpoint = runner.endpoint
        try:
            link = self._link_for(endpoint)
            if inspect.isawaitable(link):
                link = await link
        except TemporaryError as error:
            raise AttemptFailed(Kind.LOCAL, "settings", error.reason) from error
        return await self._pool.lease(
            link,
            fresh=endpoint is self._fresh,
            dialling=lambda: self._dialling(runner),
            connected=lambda: self._connected(runner),
        )

    def _dialling(self, runner: _Runner) -> None:
        runner.dialling = True
        if self._fallback_delay:
            runner.timer = self._clock.callLater(self._fallback_delay, self._overtake, runner)

    def _connected(self, runner: _Runner) -> None:
        runner.connected = True
        runner.stop_timer()
        if not runner.overtaken:
            left = self._deadline - self._clock.seconds()
            runner.timer = self._clock.callLater(half_of(left), self._overtake, runner)

    def _overtake(self, runner: _Runner) -> None:
        runner.overtaken = True
        self._start_next()

    def _won(self, connection: Connection, runner: _Runner) -> None:
        if self._over:
            self._pool.give_back(connection)
            return
        self._runners.remove(runner)
        runner.stop_timer()
        self._stop("overtaken by another endpoint")
        self._finish(connection)

    def _lost(self, failure: Any, runner: _Runner) -> None:
        if self._over:
            failure.trap(CancelledError, AttemptFailed)
            return
        self._runners.remove(runner)
        runner.stop_timer()
        error = failure.value
        if not isinstance(error, AttemptFailed):
            runner.endpoint.circuit.abandoned(self._selection.who)
            self._stop()
            self._finish(error)
            return
        self._failed(runner.endpoint, error)  # it may find that the message is to blame
        runner.endpoint.circuit.failed(error.kind, error.reason, self._selection.who)
        if not runner.overtaken or not self._runners:
            self._start_next()

    def _expire(self) -> None:
        for runner in self._runners:
            runner.overtaken = True  # by the time: whoever is connected has kept it waiting
        self._stop("not ready in time")
        self._finish(AttemptFailed(Kind.TOTAL, "connect", "no endpoint was ready in time"))

    def _stop(self, reason: str = "") -> None:
        """End the others. With a reason, those that kept it waiting are to blame; without, nobody is."""
        self._over = True
        if self._timer.active():
            self._timer.cancel()
        for runner in self._runners:
            runner.stop_timer()
            failure = runner.blame(reason) if reason else None
            if failure is not None:
                runner.endpoint.circuit.failed(failure.kind, failure.reason, self._selection.who)
                self._failed(runner.endpoint, failure)
            else:
                runner.endpoint.circuit.abandoned(self._selection.who)
            if runner.waiting is not None:
                runner.waiting.cancel()
        self._runners.clear()

    def _finish(self, result: Connection | Exception) -> None:
        self._over = True
        if self._timer.active():
            self._timer.cancel()
        if isinstance(result, Exception):
            self._result.errback(result)
        else:
            self._result.callback(result)
