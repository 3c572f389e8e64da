"""Accepting under a flood: refusing must not take the processor from those who are served, and those who are served must not
become so many that nobody is (class 10 of what must hold).

A `Doorman` stands at each listening socket:

- Who is refused costs a socket and one write, no transport and no timer: 421 is sent and the socket closed in the same moment.
  Whoever keeps to the protocol has said nothing before our greeting (RFC 5321 3.1), so that no reset overtakes the reply.
- At most `AT_ONCE` connections are let in in one turn of the event loop: then those who are in have their turn.
- If that left some waiting in every turn for `max_lag`, more come than can be served: from then on the rest of the queue is
  refused after each turn's share, until it is empty. A queue that stands is overload, one that drains is a burst (RFC 8289).
- Refusing may take `SHARE` of the time. Beyond it the door stays shut until that is made up for, some milliseconds; who knocks
  meanwhile waits in the kernel's queue, which costs us nothing.

`Lag` measures how long the loop takes for a turn, while connections come. When it is longer than `max_lag` for `SUSTAINED` turns
in a row, there is more to do for those who are in than can be done, and who comes is refused. One long turn is none of that: it
may be a collection of garbage, or another process. No timer runs while nobody knocks.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from math import inf
from time import thread_time
from typing import Any

AT_ONCE = 64
"""Connections that are let in in one turn. Twisted's own number grows by 20 with each full turn, without end."""
SURPLUS = 256
"""Of those left waiting, how many are refused in one turn."""
SHARE = 0.1
"""Of the time, for refusing: the processor's time, in which accepting is most of it and which a busy machine does not blur."""
WEIGHT = 4
"""What letting a connection in costs at the door, in refusals: a transport, the greeting."""
BURST = 0.001
"""Seconds of refusing that nothing has to make up for: a few dozen connections at once."""
BEAT = 0.05
"""Seconds between two measures of the lag."""
SUSTAINED = 4
"""Turns that must be too long, in a row."""


class Refusal:
    """The protocol of a connection that is not served: says so, and is gone. On a real socket the `Doorman` does it."""

    __slots__ = ("reply", "transport")

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        self.transport: Any = None

    def makeConnection(self, transport: Any) -> None:
        if transport is not None:
            self.transport = transport
            transport.write(self.reply)
            transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Nobody listens."""

    def connectionLost(self, reason: Any) -> None:
        """Nobody minds."""


class Doorman:
    """Takes over the accepting of one of Twisted's ports (tcp.Port, or what is made like it), whose factory is an `Acceptor`."""

    def __init__(self, port: Any, clock: Any, spent: Callable[[], float] = thread_time) -> None:
        """``spent``: seconds of the processor so far."""
        self._port = port
        self._clock = clock
        self._spent = spent
        self._read = port.doRead
        self._serve = port.transport
        self._served = self._refused = 0
        self._debt = 0.0
        """Seconds of refusing that are not made up for."""
        self._settled_at = 0.0
        self._standing_since = inf
        """Since when each turn's share has left somebody waiting."""
        self._call: Any = None
        port.doRead = self._knock
        port.transport = self._admit

    def close(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _knock(self) -> None:
        port = self._port
        began = self._spent()
        self._served = self._refused = 0
        if port.numberAccepts > AT_ONCE:
            port.numberAccepts = AT_ONCE
        self._read()
        if port.numberAccepts > AT_ONCE:  # as many as it might, so there may be more
            self._queue_stands()
        else:
            self._standing_since = inf
        if self._refused:
            self._debt += (self._spent() - began) * self._refused / (self._refused + self._served * WEIGHT)
            self._settle()

    def _queue_stands(self) -> None:
        now = self._clock.seconds()
        self._standing_since = min(self._standing_since, now)
        acceptor = self._port.factory
        acceptor.standing = now - self._standing_since
        if acceptor.standing > acceptor.max_lag:
            self._port.numberAccepts = SURPLUS
            self._read()
            self._port.numberAccepts = AT_ONCE
        acceptor.standing = 0.0

    def _admit(self, opened: socket.socket, protocol: Any, *rest: Any) -> Any:
        """What Twisted makes the transport of a connection by; None: there is none, it is closed."""
        if protocol.__class__ is not Refusal:
            self._served += 1
            return self._serve(opened, protocol, *rest)
        self._refused += 1
        try:
            opened.setblocking(False)
            opened.send(protocol.reply)
            opened.recv(4096)  # of an early talker: a socket closed over what nobody has read is reset
        except OSError:
            pass  # nothing was there to read, or the client is gone
        opened.close()
        return None

    def _settle(self) -> None:
        now = self._clock.seconds()
        self._debt = max(0.0, self._debt - max(0.0, now - self._settled_at) * SHARE)
        self._settled_at = now
        if self._debt > BURST:
            self._port.stopReading()
            self._call = self._clock.callLater(self._debt / SHARE, self._open)

    def _open(self) -> None:
        if self._port.connected and not self._port.disconnecting:
            self._port.startReading()


class Lag:
    """How long the event loop takes for its turns, measured while there are `knock`s."""

    __slots__ = ("_call", "_clock", "_due", "_knocked", "_late")

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._call: Any = None
        self._due = 0.0
        self._knocked = False
        self._late: deque[float] = deque((0.0,) * SUSTAINED, SUSTAINED)

    def knock(self) -> float:
        """A connection comes: seconds that each of the last turns took at least, beyond what it should have."""
        self._knocked = True
        if self._call is None:
            self._arm()
            return 0.0
        return min(self._late)

    def close(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _arm(self) -> None:
        self._due = self._clock.seconds() + BEAT
        self._call = self._clock.callLater(BEAT, self._beat)

    def _beat(self) -> None:
        self._late.append(max(0.0, self._clock.seconds() - self._due))
        if self._knocked:
            self._knocked = False
            self._arm()
        else:
            self._call = None
            self._late.extend((0.0,) * SUSTAINED)
