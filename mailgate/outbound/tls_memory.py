"""Addresses whose opportunistic TLS failed lately, so that not each message pays for a handshake that leads to clear text.

Asked only where a decision goes on in clear text after a failure; one that requires TLS never hears of it.
"""

from __future__ import annotations

from collections.abc import Callable

KEPT = 600.0
"""Seconds; then TLS is tried again."""
MOST = 256
"""Addresses of one endpoint; beyond, the oldest is forgotten."""


class BrokenTls:
    """Of one endpoint. ``now`` is the clock's ``seconds``."""

    __slots__ = ("_known", "_now")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._known: dict[str, tuple[float, str]] = {}

    def remember(self, address: str, reason: str) -> None:
        self._known.pop(address, None)
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[address] = (self._now() + KEPT, reason)

    def reason(self, address: str) -> str:
        """Why TLS failed there; "" if nothing is known."""
        if address not in self._known:
            return ""
        until, reason = self._known[address]
        if self._now() < until:
            return reason
        del self._known[address]
        return ""
