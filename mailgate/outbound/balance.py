"""Which endpoint a message goes to first, and which next: one order for each command of a client, most wanted first.

- ``ordered``: as written.
- ``round_robin``: in turn, smoothly by weight: of weights 2 and 1 it is a b a, not a a b.
- ``random``: drawn by weight, without putting back.
- ``least_busy``: fewest connections in use for its weight; in turn among equals.
- ``hash(EXPR)``: always the same for the same text, and when an endpoint comes or goes, only its own texts move (rendezvous).

An endpoint that starts slowly is put last as often as its share is small. Whether one is up is not asked here: `Selection` leaves
out those that are not, and takes the one due soonest where all are down.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeAlias

from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.failure import Kind

Method: TypeAlias = Callable[[Sequence[Endpoint], Any], Sequence[Endpoint]]
"""From the endpoints as written and the variables of a message to their order; `RANDOM` and the like make them."""


def ordered(endpoints: Sequence[Endpoint], variables: Any) -> Sequence[Endpoint]:
    return endpoints


class RoundRobin:
    """Smooth weighted round robin: each turn everybody gains its weight, who has most is chosen and pays what all gained."""

    __slots__ = ("_credit",)

    def __init__(self) -> None:
        self._credit: dict[Endpoint, int] = {}

    def __call__(self, endpoints: Sequence[Endpoint], variables: Any) -> Sequence[Endpoint]:
        credit = self._credit
        playing = [endpoint for endpoint in endpoints if endpoint.circuit.available] or endpoints
        for endpoint in playing:
            credit[endpoint] = credit.get(endpoint, 0) + endpoint.weight
        order = sorted(endpoints, key=lambda endpoint: -credit.get(endpoint, 0))
        first = max(playing, key=lambda endpoint: credit[endpoint])
        credit[first] -= sum(endpoint.weight for endpoint in playing)
        order.remove(first)
        return [first, *order]


def at_random(random: Random) -> Method:
    def order(endpoints: Sequence[Endpoint], variables: Any) -> Sequence[Endpoint]:
        # Of exponentially distributed times with these rates, the first is any endpoint with its weight's probability.
        return sorted(endpoints, key=lambda endpoint: random.expovariate(endpoint.weight))

    return order


class LeastBusy:
    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn = 0

    def __call__(self, endpoints: Sequence[Endpoint], variables: Any) -> Sequence[Endpoint]:
        self._turn = turn = (self._turn + 1) % len(endpoints)
        rotated = [*endpoints[turn:], *endpoints[:turn]]
        return sorted(rotated, key=lambda endpoint: (endpoint.leased + 1) / endpoint.weight)


def by_hash(text: Callable[[Any], str | None]) -> Method:
    """``text`` gives what is hashed, from the variables of a message."""

    def order(endpoints: Sequence[Endpoint], variables: Any) -> Sequence[Endpoint]:
        key = (text(variables) or "").encode("utf-8", "surrogatepass")
        return sorted(endpoints, key=lambda endpoint: _score(key, endpoint), reverse=True)

    return order


def _score(key: bytes, endpoint: Endpoint) -> bytes:
    return hashlib.blake2b(key, digest_size=8, key=endpoint.settings.label.encode()[:64]).digest()


def slow_starters_last(order: Sequence[Endpoint], random: Random) -> Sequence[Endpoint]:
    """Endpoints that have just come back get only their share of being first."""
    if all(endpoint.circuit.share == 1.0 for endpoint in order):
        return order
    late = [endpoint for endpoint in order if random.random() >= endpoint.circuit.share]
    return [*(endpoint for endpoint in order if endpoint not in late), *late]


class Balance:
    """How the endpoints of one target are ordered. ``is_ordered``: as written, whatever the message; ``is_plural``: there are
    several."""

    __slots__ = ("_endpoints", "_method", "_random", "is_ordered", "is_plural")

    def __init__(self, endpoints: Sequence[Endpoint], random: Random, method: Method = ordered) -> None:
        self._endpoints = endpoints
        self._random = random
        self._method = method
        self.is_ordered = method is ordered
        self.is_plural = len(endpoints) > 1

    def select(self, variables: Any, who: object = None) -> Selection:
        return Selection(slow_starters_last(self._method(self._endpoints, variables), self._random), who)


class Selection:
    """The endpoints that one client command tries, in their order: each once, an open one only as a last resort. A drained one
    never. ``who`` is the delivery that tries them."""

    __slots__ = ("_endpoints", "_last_resort", "tried", "who")

    def __init__(self, endpoints: Sequence[Endpoint], who: object = None) -> None:
        self._endpoints = endpoints
        self.who = self if who is None else who
        self._last_resort = False
        self.tried: set[Endpoint] = set()

    def first(self, endpoint: Endpoint) -> None:
        """Try this one before the others, once more."""
        self._endpoints = [endpoint, *(other for other in self._endpoints if other is not endpoint)]
        self.tried.discard(endpoint)

    def peek(self) -> Endpoint | None:
        """Whom `next` would give."""
        for endpoint in self._endpoints:
            if endpoint not in self.tried and endpoint.circuit.is_free_for(self.who):
                return endpoint
        taking_part = [endpoint for endpoint in self._endpoints if not endpoint.circuit.drained]
        if self._last_resort or any(endpoint.circuit.closed for endpoint in taking_part):
            return None
        return min((e for e in taking_part if e not in self.tried), key=lambda e: e.circuit.due, default=None)

    @property
    def is_exhausted(self) -> bool:
        """Each that takes part was tried: none was left out because it is down."""
        return all(endpoint in self.tried for endpoint in self._endpoints if not endpoint.circuit.drained)

    def failed(self, endpoint: Endpoint, kind: Kind | None) -> None:
        """An endpoint that was tried is left: for a fault, or (None) for its temporary answer or for what it does not offer."""

    def next(self) -> Endpoint | None:
        endpoint = self.peek()
        if endpoint is not None:
            self._last_resort = not endpoint.circuit.is_free_for(self.who)
            self.tried.add(endpoint)
            endpoint.circuit.begin(self.who)
        return endpoint
