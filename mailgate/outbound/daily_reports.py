"""What sends reports once a day has in common: when to look for those that are due, several at once, and the life over reloads.

Days are those of UTC. A day's reports are due some time after its end: spread over `SPREAD`, so that not all gateways of the
world report at midnight. What could not be delivered is tried again after `AGAIN`. Nothing of this is awaited by a message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, date, datetime
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList

from mailgate.adapters import Adapters
from mailgate.events import EventLog
from mailgate.net.waiting import spawn

SPREAD = 3 * 3600.0
AGAIN = 3600.0
LOOK = 300.0
"""Seconds between looks for what is due."""
AT_ONCE = 8
"""Reports on their way."""

W = TypeVar("W")
T = TypeVar("T")


def day_of(wall_time: float) -> date:
    return datetime.fromtimestamp(wall_time, UTC).date()


def end_of(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + 86400


class DailyReporter(Generic[W]):
    """It works from `start` to `stop`; a reload hands it on by `adopt`, with new ways for its reports to leave."""

    title = ""
    """How incidents call it."""

    def __init__(self, adapters: Adapters, log: EventLog) -> None:
        self.adapters = adapters
        self.log = log
        self.offset = adapters.random.uniform(0.0, SPREAD)
        """How long after midnight."""
        self._owner: Any = None
        self._ways: W | None = None
        self._timers: dict[str, Any] = {}
        self._sending: Deferred[Any] | None = None

    def adopt(self, owner: Any, ways: W) -> None:
        """Whose it is, and how its reports leave from now on."""
        self._owner, self._ways = owner, ways

    def is_owned_by(self, owner: Any) -> bool:
        return self._owner is owner

    @property
    def ways(self) -> W:
        assert self._ways is not None, "a reporter that nobody has adopted"
        return self._ways

    async def start(self) -> None:
        self.later("look", LOOK, self._look)

    async def stop(self) -> None:
        """What is on its way is given up: it is still due."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._sending is not None:
            self._sending.cancel()

    async def send_due(self) -> None:
        """Every report that is due now."""
        raise NotImplementedError

    def later(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._timers[name] = self.adapters.reactor.callLater(seconds, action)

    def boundary(self) -> str:
        return f"report-{self.adapters.random.getrandbits(96):024x}"

    def incident(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self.log.incident(self.title, failure.value)

    def _look(self) -> None:
        self.later("look", LOOK, self._look)
        if self._sending is None:
            self._sending = spawn(self.send_due())
            self._sending.addErrback(self.incident)
            self._sending.addBoth(self._sent)

    def _sent(self, _: Any) -> None:
        self._sending = None


async def several_at_once(things: Iterable[T], act: Callable[[T], Awaitable[None]]) -> None:
    """`AT_ONCE` of them at a time. What one raises is raised when all are done."""
    left = iter(things)

    async def work(left: Iterator[T]) -> None:
        for thing in left:
            await act(thing)

    working: Any = DeferredList([spawn(work(left)) for _ in range(AT_ONCE)], consumeErrors=True)
    for done, result in await working:
        if not done:
            result.raiseException()
