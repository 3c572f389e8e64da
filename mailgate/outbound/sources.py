"""From which of our addresses a connection is made: one pure function, after `source_ip`, `source_selection` and
`source_ip_fallback`.

Without addresses the system chooses. With some, a connection is made from one of the family it goes to: at random, in turn, or by
hash, for each new connection. A family without a listed address is not used, unless ``fallback`` leaves it to the system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random


@dataclass(frozen=True, slots=True)
class Source:
    """One of our addresses, and the name that belongs to it in EHLO ("": the target's)."""

    address: str = ""
    hostname: str = ""
    foreign: bool = False
    """This host need not have it."""


SYSTEM = Source()
"""The system chooses."""


class Selection(Enum):
    RANDOM = "random"
    ROUND_ROBIN = "round_robin"
    HASH = "hash"


@dataclass(slots=True)
class Turns:
    """How often each list was used, for `round_robin`."""

    count: dict[tuple[Source, ...], int] = field(default_factory=dict)

    def next(self, sources: tuple[Source, ...]) -> Source:
        number = self.count.get(sources, 0)
        self.count[sources] = number + 1
        return sources[number % len(sources)]


def choose(
    sources: Sequence[Source],
    remote: str,
    selection: Selection,
    *,
    random: Random,
    turns: Turns,
    text: str = "",
    fallback: bool = False,
) -> Source | None:
    """The source of one connection to the address ``remote``; None: there is none of its family. `hash` hashes ``text``."""
    if not sources:
        return SYSTEM
    fitting = tuple(source for source in sources if (":" in source.address) == (":" in remote))
    if not fitting:
        return SYSTEM if fallback else None
    if len(fitting) == 1:
        return fitting[0]
    if selection is Selection.ROUND_ROBIN:
        return turns.next(fitting)
    if selection is Selection.HASH:
        return max(fitting, key=lambda source: _score(text, source))
    return random.choice(fitting)


def _score(text: str, source: Source) -> bytes:
    """The highest wins (rendezvous hashing): when an address comes or goes, only its own texts move."""
    key = hashlib.sha256(source.address.encode()).digest()
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
