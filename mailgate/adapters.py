"""Time, randomness, threads and sockets: the few things of the outside world that rooms are given, never import.

One `Adapters` is made at the top (service.py, a test) and passed down, so that a whole gateway runs on a simulated
clock and network and one seed replays one run.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Adapters:
    """The outside world.

    ``reactor`` gives IReactorTime, IReactorTCP, IReactorUNIX and name resolution; ``wall_time`` seconds since the epoch, for
    dates that people read (waits use ``reactor.callLater``); ``run_in_thread(function, *args)`` runs blocking file work
    in a bounded pool and returns a Deferred of its result; ``random`` is the source of jitter, shuffles and ids;
    ``resolver`` is the `dns.resolver.Resolver` that names are asked of, None where there is no DNS (simulations);
    ``hash_in_thread`` is a `run_in_thread` of its own for hashes of passwords, None where the other does.

    Of ``workers`` processes that are one gateway together this is number ``worker``, from 1; all have the same ``secret``, which
    is empty where one is alone. ``listening(place)`` gives the
    sockets of an address that somebody has opened for us, ours to close; None where we open them ourselves.
    """

    reactor: Any
    wall_time: Callable[[], float]
    run_in_thread: Callable[..., Any]
    random: random.Random
    resolver: Any = None
    hash_in_thread: Callable[..., Any] | None = None
    worker: int = 1
    workers: int = 1
    secret: bytes = b""
    listening: Callable[[tuple[str, int]], Sequence[socket.socket]] | None = None
