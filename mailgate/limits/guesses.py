"""Guessing passwords is slow: failed logins are counted for each address and each user, over all listeners (CWE-307).

An address that has guessed too often is not listened to, whatever user it names; IPv6 addresses count by their /64, since one
machine has all of it. A user who was guessed at too often is not either, whoever comes, or a botnet would have one guess
for each of its addresses; but somebody must not be shut out by guesses at their name, so the addresses from which they have
logged in before are only counted as addresses.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from mailgate.limits.addresses import counted_as
from mailgate.limits.buckets import Buckets

PER_ADDRESS = (20, 600.0)
"""Failures, and seconds in which they are forgotten: people mistype, and many may sit behind one address."""
PER_USER = (50, 3600.0)
MAX_KNOWN = 65_536
"""Pairs of user and address that have logged in; the one that was seen least recently is forgotten."""


class Guesses:
    """See the module's docstring. Users in one form (folded); ``address`` is "" on a unix socket, which is not counted."""

    def __init__(
        self,
        clock: Any,
        per_address: tuple[int, float] = PER_ADDRESS,
        per_user: tuple[int, float] = PER_USER,
        *,
        workers: int = 1,
    ) -> None:
        """``workers`` count each for itself: each gives a guesser its part."""
        self._clock = clock
        now = clock.seconds()
        self._addresses = Buckets(max(per_address[0] // workers, 1), per_address[1], now)
        self._users = Buckets(max(per_user[0] // workers, 1), per_user[1], now)
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.refused = 0
        """Attempts that were not listened to."""

    def exceeded(self, address: str, user: str = "") -> str:
        """Why the next attempt is not to be listened to: "address" or "user"; "" if it is. Ask before a password is looked at,
        so that a right one tells a guesser nothing."""
        now = self._clock.seconds()
        source = counted_as(address)
        reason = ""
        if source and self._addresses.wait(source, now):
            reason = "address"
        elif user and (user, source) not in self._known and self._users.wait(user, now):
            reason = "user"
        self.refused += bool(reason)
        return reason

    def failed(self, address: str, user: str = "") -> None:
        """Credentials were wrong. ``user`` is "" if none was named."""
        now = self._clock.seconds()
        source = counted_as(address)
        if source:
            self._addresses.take(source, now)
        if user and (user, source) not in self._known:
            self._users.take(user, now)

    def succeeded(self, address: str, user: str) -> None:
        """Credentials were right."""
        pair = (user, counted_as(address))
        self._known[pair] = None
        self._known.move_to_end(pair)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
