"""Logins that were right a moment ago, for providers that would have to ask somebody each time."""

from __future__ import annotations

import hmac
from collections import OrderedDict

from mailgate.adapters import Adapters
from mailgate.interfaces import Identity

MAX_KNOWN = 10_000
"""Logins that are remembered; the one that was used least recently is forgotten."""


class KnownLogins:
    """Each for ``lifetime`` seconds (0: not at all) from when it was found right, keyed by a digest of what the client said, so
    that no password is kept."""

    def __init__(self, adapters: Adapters, lifetime: float) -> None:
        self._seconds = adapters.reactor.seconds
        self._key = adapters.random.getrandbits(256).to_bytes(32, "big")
        self._lifetime = lifetime
        self._known: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()

    def digest(self, *said: str) -> bytes:
        """Of texts without NUL."""
        return hmac.digest(self._key, "\0".join(said).encode(), "sha256")

    def get(self, digest: bytes) -> Identity | None:
        known = self._known.get(digest)
        if known is None:
            return None
        identity, until = known
        if self._seconds() >= until:
            del self._known[digest]
            return None
        self._known.move_to_end(digest)
        return identity

    def add(self, digest: bytes, identity: Identity) -> None:
        if self._lifetime:
            self._known[digest] = identity, self._seconds() + self._lifetime
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
