"""Finding a ready connection among several endpoints, for one client command.

Endpoints are tried in their order. One that fails gives way to the next; one that is not connected after ``fallback_delay`` is
overtaken: the next is dialled beside it and the first that is ready wins. The overtaken one then counts as failed, so that
the following messages don't wait for it again. All of it ends when the command's time is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from mailgate.net.waiting import spawn
from mailgate.outbound.connection import Connection
from mailgate.outbound.endpoint import Endpoint, Selection
from mailgate.outbound.failure import AttemptFailed, Kind
from mailgate.outbound.pool import Pool


class NoneLeft(Exception):
    """Every endpoint that may be tried has been."""


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


class Race:
    """One search. ``failed(endpoint, failure)`` hears of every endpoint that lost."""

    def __init__(
        self,
        pool: Pool,
        selection: Selection,
        clock: Any,
        failed: Callable[[Endpoint, AttemptFailed], None],
        *,
        requiretls: bool = False,
        fallback_delay: float = 3.0,
    ) -> None:
        self._pool = pool
        self._selection = selection
        self._clock = clock
        self._failed = failed
        self._requiretls = requiretls
        self._fallback_delay = fallback_delay
        self._runners: list[_Runner] = []
        self._result: Deferred[Connection] = Deferred(lambda _: self._stop())
        self._over = False
        self._timer: Any = None

    def run(self, seconds: float) -> Deferred[Connection]:
        """Fails with `NoneLeft`, or with `AttemptFailed` (TOTAL) after ``seconds``."""
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
        link = endpoint.requiretls_link if self._requiretls else endpoint.link
        leasing = self._pool.lease(link, dialling=lambda: self._dialling(runner), connected=lambda: self._connected(runner))
        runner.waiting = spawn(leasing)
        runner.waiting.addCallbacks(self._won, self._lost, callbackArgs=(runner,), errbackArgs=(runner,))

    def _dialling(self, runner: _Runner) -> None:
        runner.dialling = True
        if self._fallback_delay:
            runner.timer = self._clock.callLater(self._fallback_delay, self._overtake, runner)

    def _connected(self, runner: _Runner) -> None:
        runner.connected = True
        runner.stop_timer()

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
            self._stop()
            self._finish(error)
            return
        runner.endpoint.circuit.failed(error.kind, error.reason)
        self._failed(runner.endpoint, error)
        if not runner.overtaken or not self._runners:
            self._start_next()

    def _expire(self) -> None:
        self._stop("not connected in time")
        self._finish(AttemptFailed(Kind.TOTAL, "connect", "no endpoint was ready in time"))

    def _stop(self, reason: str = "") -> None:
        """End the others. With a reason, those that are not connected yet are to blame; without, nobody is."""
        self._over = True
        if self._timer.active():
            self._timer.cancel()
        for runner in self._runners:
            runner.stop_timer()
            if reason and runner.dialling and not runner.connected:
                failure = AttemptFailed(Kind.CONNECT, "connect", reason)
                runner.endpoint.circuit.failed(failure.kind, reason)
                self._failed(runner.endpoint, failure)
            else:
                runner.endpoint.circuit.abandoned()
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
