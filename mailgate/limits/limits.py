"""`Limits`: the lines of one `limits { … }` block at work, and what is asked of them.

A block is shared by all who refer to it. Each asks at gates of its own (`Limits.gate`): which scopes are judged there, and how
long who writes no `wait` may wait. `Gate.acquire` gives

- a `Lease`, to be released when what was let in is over, however it ends; or
- `Exceeded`, which names the limit; nothing is taken then, of no limit; or
- a `Wait` for one of these, where the limit says `wait`. Cancelling it gives back what was taken so far.

What is narrow is asked before what is wide, so that who waits for a slot of their own does not hold one of everybody's, and
concurrency comes after rates, so that a slot is not held while a token is waited for. Everybody asks in that order, so
nobody waits for each other.

A scope whose value is unknown (no login, a unix socket, the null sender) does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.config.scalars import format_duration
from mailgate.events import Event, EventLog
from mailgate.limits.addresses import counted_as, network_of
from mailgate.limits.buckets import Buckets
from mailgate.limits.shared import Ask, Hold, Shared, take
from mailgate.limits.slots import Slots
from mailgate.net.waiting import Wait, start

LOG_INTERVAL = 1.0
"""Seconds between two lines about one limit: a flood must not become a flood of lines (CWE-779)."""
_EVERYBODY = "*"


class Scope(Enum):
    """What is counted apart, from the narrow to the wide."""

    DESTINATION = "destination"
    HELO = "helo"
    SOURCE = "source"
    USER = "user"
    IP = "ip"
    NETWORK = "network"
    ALL = "all"


_WIDTH = {scope: number for number, scope in enumerate(Scope)}


class Kind(Enum):
    RATE = "rate"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a block, as written. Seconds; ``wait`` is None where none is written."""

    scope: Scope
    kind: Kind
    count: int
    period: float = 0.0
    """Of a rate."""
    wait: float | None = None
    prefixes: tuple[int, int] = (0, 0)
    """Of the scope `network`: of IPv4 and of IPv6."""
    written: str = ""
    """The name of the line that this is a part of."""

    @property
    def subject(self) -> str:
        """What two lines can't both say something about: ``network 24 64 rate``."""
        prefixes = f" {self.prefixes[0]} {self.prefixes[1]}" if self.scope is Scope.NETWORK else ""
        return f"{self.scope.value}{prefixes} {self.kind.value}"

    @property
    def name(self) -> str:
        """How the log calls it: ``ip rate 20 1m``."""
        if self.written:
            return self.written
        period = f" {format_duration(self.period)}" if self.kind is Kind.RATE else ""
        return f"{self.subject} {self.count}{period}"

    def divided(self, workers: int) -> Line:
        """One worker's part of it. All parts of a rate together are as many in any long time; where there are fewer than
        workers, each may have one at once."""
        if workers == 1:
            return self
        count = max(self.count // workers, 1)
        return replace(self, count=count, period=self.period * count * workers / self.count, written=self.name)


@dataclass(slots=True)
class Subject:
    """Who and what is counted; "" is unknown. Addresses as text, domains and names in the form in which they are compared."""

    ip: str = ""
    user: str = ""
    source: str = ""
    destination: str = ""
    helo: str = ""


_KEYS: dict[Scope, Callable[[Subject, Line], str]] = {
    Scope.ALL: lambda subject, line: _EVERYBODY,
    Scope.IP: lambda subject, line: counted_as(subject.ip),
    Scope.NETWORK: lambda subject, line: network_of(subject.ip, *line.prefixes) if subject.ip else "",
    Scope.USER: lambda subject, line: subject.user,
    Scope.SOURCE: lambda subject, line: subject.source,
    Scope.DESTINATION: lambda subject, line: subject.destination,
    Scope.HELO: lambda subject, line: subject.helo,
}


@dataclass(frozen=True, slots=True)
class Exceeded:
    """Refused: by which limit (`Line.name`), and who has reached it."""

    scope: Scope
    name: str
    key: str


@dataclass(frozen=True, slots=True)
class LimitState:
    """One limit as commands and metrics show it. The counters begin when the configuration was loaded."""

    name: str
    refused: int
    """How often it said no."""
    waited: int
    """How often somebody had to wait."""
    waiting: int
    """How many wait for a slot now."""
    keys: int
    """Buckets that are not full, or keys with slots in use."""
    holders: tuple[tuple[str, int], ...] = ()
    """Of concurrency: who holds the most slots, and how many."""


class _Limit:
    """One line at work."""

    __slots__ = ("buckets", "key", "line", "next_log", "refused", "slots", "unlogged", "waited", "whole")

    def __init__(self, whole: Line, line: Line, clock: Any, old: _Limit | None) -> None:
        self.whole = whole
        """As written; ``line`` is this process's part of it."""
        self.line = line
        self.key = _KEYS[line.scope]
        self.buckets: Any = None
        self.slots: Any = None
        if line.kind is Kind.CONCURRENCY:
            self.slots = old.slots if old is not None else Slots(clock)
        elif old is None:
            self.buckets = Buckets(line.count, line.period, clock.seconds())
        elif (old.line.count, old.line.period) == (line.count, line.period):
            self.buckets = old.buckets
        else:
            self.buckets = old.buckets.converted(line.count, line.period, clock.seconds())
        self.refused: int = old.refused if old is not None else 0
        self.waited: int = old.waited if old is not None else 0
        self.unlogged = 0
        self.next_log = 0.0

    @property
    def state(self) -> LimitState:
        if self.line.kind is Kind.RATE:
            return LimitState(self.line.name, self.refused, self.waited, 0, len(self.buckets))
        slots = self.slots
        holders = tuple(slots.fullest(10))
        return LimitState(self.line.name, self.refused, self.waited, slots.waiting, len(slots), holders)


class Limits:
    """See the module's docstring. ``old`` are the limits of the configuration before: what they count is carried over,
    line by line, also where the numbers have changed. The old ones go on counting in the same places."""

    def __init__(
        self, lines: Iterable[Line], clock: Any, old: Limits | None = None, *, workers: int = 1, shared: Shared | None = None
    ) -> None:
        self.clock = clock
        self._shared = shared
        before = {limit.line.subject: limit for limit in old._limits} if old is not None else {}
        self._limits: list[_Limit] = [_Limit(line, line.divided(workers), clock, before.get(line.subject)) for line in lines]

    def gate(self, scopes: Iterable[Scope], place: str, *, patience: float = 0.0) -> Gate | None:
        """Where some scopes are judged; None if no line is about them. ``place`` is the listener's or target's label for the
        log; ``patience`` the wait where none is written."""
        wanted = frozenset(scopes)
        limits = [limit for limit in self._limits if limit.line.scope in wanted]
        if not limits:
            return None
        return Gate(limits, self.clock, place, patience, self._shared)

    @property
    def states(self) -> list[LimitState]:
        """All lines, as written."""
        return [limit.state for limit in self._limits]


class Lease:
    """What was let in. To be released once; again does nothing."""

    __slots__ = ("_held",)

    def __init__(self, held: Sequence[tuple[Slots | Hold, str]] = ()) -> None:
        self._held = held

    def release(self) -> None:
        held, self._held = self._held, ()
        for slots, key in held:
            slots.release(key)


class Gate:
    """Some limits of a block, asked together."""

    __slots__ = ("_clock", "_concurrency", "_log", "_patience", "_place", "_rates", "_shared")

    def __init__(self, limits: Iterable[_Limit], clock: Any, place: str, patience: float, shared: Shared | None = None) -> None:
        self._shared = shared
        ordered = sorted(limits, key=lambda limit: _WIDTH[limit.line.scope])
        self._rates = [limit for limit in ordered if limit.line.kind is Kind.RATE]
        self._concurrency = [limit for limit in ordered if limit.line.kind is Kind.CONCURRENCY]
        self._clock = clock
        self._place = place
        self._patience = patience
        self._log = EventLog("mailgate.limits")

    def exceeded(self, subject: Subject) -> Exceeded | None:
        """The limit that `acquire` would refuse by now, without a wait; nothing is taken. Of limits that are shared nobody
        knows before they are asked."""
        if self._shared is not None:
            return None
        for limit in self._rates:
            key = limit.key(subject, limit.line)
            if key and limit.buckets.wait(key, self._clock.seconds()) > self._patience_of(limit):
                return self._refuse(limit, key)
        for limit in self._concurrency:
            key = limit.key(subject, limit.line)
            if key and not self._patience_of(limit) and not limit.slots.is_free(key, limit.line.count):
                return self._refuse(limit, key)
        return None

    def acquire(self, subject: Subject) -> Lease | Exceeded | Wait[Lease | Exceeded]:
        """Let one more in. See the module's docstring."""
        if self._shared is not None:
            return start(self._acquire_shared(self._shared, subject))
        return self._acquire_here(subject)

    async def _acquire_shared(self, shared: Shared, subject: Subject) -> Lease | Exceeded:
        wanted = [(limit, key) for limit in (*self._rates, *self._concurrency) if (key := limit.key(subject, limit.line))]
        waits = [self._patience_of(limit) for limit, _ in wanted]
        asks = [
            Ask(f"{shared.name}:{limit.whole.subject}:{key}", limit.whole.count, limit.whole.period, wait)
            for (limit, key), wait in zip(wanted, waits, strict=True)
        ]
        if not asks:
            return Lease()
        try:
            taken = await take(shared, asks, waits, self._clock, _pause)
        except CancelledError:
            raise
        except Exception as error:
            shared.failed(error)
            if shared.refuses:
                return self._refuse(*wanted[0])
            answer = self._acquire_here(subject)
            return await answer if isinstance(answer, Wait) else answer
        shared.worked()
        if taken.refused >= 0:
            return self._refuse(*wanted[taken.refused])
        lease = Lease([(Hold(shared.counter, taken), "")] if taken.keys else ())
        if taken.delay > 0:
            try:
                await _pause(taken.delay, self._clock)
            except BaseException:
                lease.release()
                raise
        return lease

    def _acquire_here(self, subject: Subject) -> Lease | Exceeded | Wait[Lease | Exceeded]:
        now = self._clock.seconds()
        tokens: list[tuple[Buckets, str]] = []
        delay = 0.0
        for limit in self._rates:
            key = limit.key(subject, limit.line)
            if not key:
                continue
            wait = limit.buckets.take(key, now, self._patience_of(limit))
            if wait < 0:
                _give_back(tokens)
                return self._refuse(limit, key)
            if wait > 0:
                limit.waited += 1
                delay = max(delay, wait)
            tokens.append((limit.buckets, key))
        held: list[tuple[Slots, str]] = []
        wanted = [(limit, key) for limit in self._concurrency if (key := limit.key(subject, limit.line))]
        if not delay:
            while wanted and wanted[0][0].slots.take(wanted[0][1], wanted[0][0].line.count):
                limit, key = wanted.pop(0)
                held.append((limit.slots, key))
            if not wanted:
                return Lease(held)
            limit, key = wanted[0]
            if not self._patience_of(limit):
                return self._give_up(limit, key, tokens, held)
        return start(self._wait(delay, now, tokens, held, wanted))

    async def _wait(
        self,
        delay: float,
        since: float,
        tokens: list[tuple[Buckets, str]],
        held: list[tuple[Slots, str]],
        wanted: list[tuple[_Limit, str]],
    ) -> Lease | Exceeded:
        try:
            if delay:
                await _pause(delay, self._clock)
            for limit, key in wanted:
                if not limit.slots.take(key, limit.line.count):
                    left = since + self._patience_of(limit) - self._clock.seconds()
                    if left <= 0:
                        return self._give_up(limit, key, tokens, held)
                    limit.waited += 1
                    if not await limit.slots.wait(key, limit.line.count, left):
                        return self._give_up(limit, key, tokens, held)
                held.append((limit.slots, key))
        except BaseException:
            _give_back(tokens)
            Lease(held).release()
            raise
        return Lease(held)

    def _patience_of(self, limit: _Limit) -> float:
        wait = limit.line.wait
        return self._patience if wait is None else wait

    def _give_up(self, limit: _Limit, key: str, tokens: list[tuple[Buckets, str]], held: list[tuple[Slots, str]]) -> Exceeded:
        _give_back(tokens)
        Lease(held).release()
        return self._refuse(limit, key)

    def _refuse(self, limit: _Limit, key: str) -> Exceeded:
        limit.refused += 1
        limit.unlogged += 1
        now = self._clock.seconds()
        if now >= limit.next_log or limit.next_log > now + LOG_INTERVAL:  # a clock may jump
            limit.next_log = now + LOG_INTERVAL
            refused, limit.unlogged = limit.unlogged, 0
            self._log.warn(Event.LIMIT_REFUSED, place=self._place, limit=limit.line.name, key=key, refused=refused)
        return Exceeded(limit.line.scope, limit.line.name, key)


def _give_back(tokens: Iterable[tuple[Buckets, str]]) -> None:
    for buckets, key in tokens:
        buckets.give_back(key)


def _pause(seconds: float, clock: Any) -> Wait[None]:
    wait: Wait[None] = Wait(lambda: call.cancel())
    call = clock.callLater(seconds, wait.fire, None)
    return wait
