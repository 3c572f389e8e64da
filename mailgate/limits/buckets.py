"""Token buckets: how often something may happen, for each of many keys.

A bucket holds ``count`` tokens and gains them back evenly, one every ``period / count`` seconds, so what passes in any stretch of
``t`` seconds is at most ``count + count / period * t``. It is one number: the time at which it will be full again. A key that
nobody knows has a full bucket, and a full bucket needs no memory; each new key drops what has filled up at the old end, so
the work is constant and nobody sweeps. With `MAX_KEYS` that are not full, which is a flood from that many sources, the one
that was asked for least recently is forgotten: refusing everybody new would be the greater harm.

A clock that jumps back (Twisted's is the wall's) must not shut anybody out for as long as the jump: no bucket is ever later
full than an empty one.
"""

from __future__ import annotations

from collections import OrderedDict

MAX_KEYS = 65_536
"""Buckets that are not full: some 15 MB."""
_SLACK = 1e-3
"""Part of a token that rounding may take: sums of floats don't end where they should."""


class Buckets:
    """One limit's buckets, by key. Times are those of one clock, in seconds."""

    __slots__ = ("_full_at", "_interval", "_longest", "_most", "_origin", "count", "period")

    def __init__(self, count: int, period: float, now: float, most: int = MAX_KEYS) -> None:
        self.count = count
        self.period = period
        self._interval = period / count
        self._longest = period
        """How far ahead of now a bucket may be."""
        self._most = most
        self._origin = now
        """Times are kept as seconds since then: small numbers have the more digits behind the point."""
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, now: float, patience: float = 0.0) -> float:
        """Take a token: the seconds until it may be used, at most ``patience``; negative when there is none by then, and
        nothing was taken."""
        now -= self._origin
        interval = self._interval
        full_at = known = self._full_at.get(key)
        if full_at is None or full_at <= now:
            full_at = now
        elif full_at > now + self._longest:
            full_at = now + self.period
        wait = full_at + interval - now - self.period
        slack = interval * _SLACK
        if wait > patience + slack:
            self._full_at[key] = full_at
            self._full_at.move_to_end(key)
            return -1.0
        if patience + self.period > self._longest:
            self._longest = patience + self.period
        self._full_at[key] = full_at + interval
        if known is None:
            self._forget(now)
        else:
            self._full_at.move_to_end(key)
        return wait if wait > slack else 0.0

    def wait(self, key: str, now: float) -> float:
        """How long until `take` would give a token at once; nothing is taken."""
        now -= self._origin
        full_at = self._full_at.get(key)
        if full_at is None or full_at <= now:
            return 0.0
        wait = min(full_at, now + self._longest) + self._interval - now - self.period
        return wait if wait > self._interval * _SLACK else 0.0

    def left(self, key: str, now: float) -> int:
        """How many tokens `take` would give at once."""
        now -= self._origin
        full_at = self._full_at.get(key)
        if full_at is None or full_at <= now:
            return self.count
        return max(int((self.period - min(full_at - now, self._longest)) / self._interval + _SLACK), 0)

    def give_back(self, key: str) -> None:
        """A token that was taken was not used."""
        if key in self._full_at:
            self._full_at[key] -= self._interval

    def converted(self, count: int, period: float, now: float) -> Buckets:
        """The same buckets in other sizes: as many tokens are missing in each, or all."""
        other = Buckets(count, period, now, self._most)
        ours = now - self._origin
        for key, full_at in self._full_at.items():
            missing = min((full_at - ours) / self._interval, float(count))
            if missing > 0:
                other._full_at[key] = missing * other._interval
        return other

    def _forget(self, now: float) -> None:
        """Two of the oldest for each new one, so that a flood that is over leaves nothing for long."""
        full_at = self._full_at
        for _ in range(2):
            oldest = next(iter(full_at))
            if full_at[oldest] > now and len(full_at) <= self._most:
                return
            del full_at[oldest]
