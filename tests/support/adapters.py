"""The real outside world for tests that use real sockets."""

from __future__ import annotations

import random
import time

from twisted.internet.threads import deferToThread

from mailgate.adapters import Adapters


def real_adapters() -> Adapters:
    from twisted.internet import reactor

    return Adapters(reactor=reactor, wall_time=time.time, run_in_thread=deferToThread, random=random.Random(0))
