"""What was answered lately, bounded by the octets it takes.

Positive answers hold for the least TTL of their records and aliases, at most a day; denials by the SOA that came with them
(RFC 2308), at most three hours, and not at all without one; failures (RFC 9520) for a second, doubling to a minute while the
same question goes on failing. What was not asked for longest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from mailgate.dns.answer import Answer, Status
from mailgate.dns.failure import DnsFailure

MAX_TTL = 86400.0
MAX_NEGATIVE_TTL = 10800.0
FIRST_FAILURE = 1.0
MAX_FAILURE = 60.0
"""RFC 9520 3.2: at least one second, at most five minutes. A gateway must notice that its resolver is back."""

OVERHEAD = 1000
EXPANSION = 5
"""Octets of memory that an answer takes, roughly: so many, and so many times its wire form."""


def lifetime(status: Status, ttl: float) -> float:
    """Seconds for which an answer is kept."""
    return min(ttl, MAX_TTL if status is Status.FOUND else MAX_NEGATIVE_TTL)


@dataclass(slots=True)
class _Entry:
    result: Answer | DnsFailure
    expires: float
    cost: int
    backoff: float = 0.0


class Cache:
    """Answers and failures by question. ``limit`` is in octets of memory; 0 keeps nothing."""

    def __init__(self, limit: int, seconds: Callable[[], float]) -> None:
        self._limit = limit
        self._seconds = seconds
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Answer | DnsFailure | None:
        entry = self._entries.get(key)
        if entry is None or entry.expires <= self._seconds():
            return None
        self._entries.move_to_end(key)
        return entry.result

    def keep(self, key: Hashable, answer: Answer) -> None:
        self._put(key, _Entry(answer, answer.expires, OVERHEAD + EXPANSION * answer.size))

    def keep_failure(self, key: Hashable, failure: DnsFailure) -> None:
        earlier = self._entries.get(key)
        now = self._seconds()
        backoff = FIRST_FAILURE
        if earlier is not None and earlier.backoff and now < earlier.expires + MAX_FAILURE:
            backoff = min(earlier.backoff * 2, MAX_FAILURE)
        self._put(key, _Entry(failure, now + backoff, OVERHEAD, backoff))

    def clear(self) -> None:
        self._entries.clear()
        self.size = 0

    def _put(self, key: Hashable, entry: _Entry) -> None:
        earlier = self._entries.pop(key, None)
        if earlier is not None:
            self.size -= earlier.cost
        if entry.expires <= self._seconds() or entry.cost > self._limit:
            return
        self._entries[key] = entry
        self.size += entry.cost
        while self.size > self._limit:
            _, oldest = self._entries.popitem(last=False)
            self.size -= oldest.cost
