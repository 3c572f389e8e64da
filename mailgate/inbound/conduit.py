"""The octets' way of one connection: pressure, time and the end; what is said on it is `protocol.Connection`'s.

pressure     Nothing is read while content waits for the disk, while more than the engine wants to hold has come behind an
             open question, or while the peer does not read our replies. So memory per connection is bounded.
time         One timer per connection, moved lazily: a command only writes down its deadline. While we make the client wait, its
             clock stands still.
the input's end  A client that closes its sending side hears the answers to everything it has said, in order; then we close.
             What is not complete by then (a command, content) is not obeyed. Under TLS the end of one direction is the end of
             both: Twisted answers a close_notify with its own, as RFC 5246 7.2.1 has it.
the end      A closing reply is followed by half of a close and at most `LINGER` seconds of patience, then by a reset: closing
             a socket with unread input would destroy the reply on its way (RFC 1122 4.2.2.13).

One object carries each of thousands of idle connections, hence the slots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import Any

from mailgate.inbound.half_close import Vigil
from mailgate.inbound.sessions import LINGER, Sessions
from mailgate.net.transport import end_writing, send

NEVER = float("inf")


class State(Enum):
    """Where a connection stands."""

    PROXY = "PROXY header"
    """The client is not known before it has come."""
    HANDSHAKE = "TLS handshake"
    """TLS from the first byte, not finished."""
    WELCOME = "welcome"
    """The steps before the greeting are under way."""
    QUIET = "greeting delay"
    """The greeting has not been said."""
    OPEN = "session"
    TARPIT = "tarpit"
    """A reply is held back."""
    UPGRADING = "STARTTLS handshake"
    SECURING = "steps after STARTTLS"
    LINGERING = "close"
    """Our last word is said."""
    CLOSED = "closed"


HANDSHAKING = (State.HANDSHAKE, State.UPGRADING)
EARLY = (State.WELCOME, State.QUIET)
READING = (*EARLY, State.OPEN, State.TARPIT, State.SECURING)


class Conduit(ABC):
    """See the module's docstring."""

    __slots__ = (
        "_blocked",
        "_deadline",
        "_expiry",
        "_opened",
        "_reason",
        "_sessions",
        "_state",
        "_stopped",
        "_timer",
        "_vigil",
        "factory",
        "transport",
    )

    def __init__(self, sessions: Sessions) -> None:
        self.transport: Any = None
        self.factory: Any = None
        self._sessions = sessions
        self._state = State.QUIET
        self._stopped = False
        """We have told the transport to read nothing."""
        self._blocked = False
        """The transport has told us that the peer does not read."""
        self._vigil: Vigil | None = None
        """The client has closed its sending side; nothing is read any more."""
        self._timer: Any = None
        self._expiry = 0.0
        """When the timer fires: never later than the deadline."""
        self._deadline = NEVER
        self._opened = 0.0
        self._reason = ""

    @abstractmethod
    def _on_time(self) -> None:
        """The deadline has come."""

    @abstractmethod
    def _wants_pause(self) -> bool:
        """Whether enough is here for now."""

    @abstractmethod
    def _owes_answers(self) -> bool:
        """Whether something that has come is still to be answered."""

    @abstractmethod
    def _input_ended(self) -> None:
        """Nothing more comes, and everything that came is answered."""

    # pressure

    def write(self, data: bytes) -> None:
        send(self.transport, data)

    def hold(self) -> None:
        if not self._stopped and (self._state in READING or self._state is State.UPGRADING):
            self._stopped = True
            self.transport.pauseProducing()

    def _read_on(self) -> None:
        if not self._stopped or self._blocked or self._state is State.CLOSED:
            return
        if self._state is State.TARPIT or (self._state is State.OPEN and self._wants_pause()):
            return
        if self._vigil is not None:
            if self._state is State.OPEN:
                self._input_ended()
            return
        self._stopped = False
        self.transport.resumeProducing()

    def pauseProducing(self) -> None:
        """The peer does not read what we say."""
        self._blocked = True
        self.hold()

    def resumeProducing(self) -> None:
        self._blocked = False
        self._read_on()

    # time

    def wait(self) -> None:
        self._deadline = NEVER

    def _set_deadline(self, deadline: float) -> None:
        sessions = self._sessions
        limit = sessions.settings.session_timeout
        if limit and self._state is State.OPEN:
            deadline = min(deadline, self._opened + limit)
        self._deadline = deadline
        if self._timer is None:
            self._expiry = deadline
            self._timer = sessions.reactor.callLater(max(0.0, deadline - sessions.reactor.seconds()), self._tick)
        elif deadline < self._expiry:
            self._expiry = deadline
            self._timer.reset(max(0.0, deadline - sessions.reactor.seconds()))

    def _tick(self) -> None:
        self._timer = None
        if self._deadline is NEVER:
            return
        if self._sessions.reactor.seconds() < self._deadline:
            self._set_deadline(self._deadline)
        else:
            self._on_time()

    def _stop_timers(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._vigil is not None:
            self._vigil.end()

    # the input's end

    def readConnectionLost(self) -> None:
        """Part of IHalfCloseableProtocol. Called once: the transport has stopped reading."""
        if self._state is State.LINGERING:  # it has taken our last word and closes too
            self.transport.loseConnection()
            return
        if self._owes_answers():
            self._stopped = True
            self._vigil = Vigil(self._sessions.reactor, self.transport)
        else:
            self._input_ended()

    # the end

    def finish(self, reason: str, *, at_once: bool = False) -> None:
        """Everything is said: let the peer take it, then be gone."""
        if self._state in (State.LINGERING, State.CLOSED):
            return
        self._reason = reason
        self._state = State.LINGERING
        transport = self.transport
        transport.unregisterProducer()
        self._blocked = False
        if self._vigil is not None:
            at_once = True
        elif self._stopped:
            self._stopped = False
            transport.resumeProducing()  # to see that the peer closes, and to throw away what it still says
        self._set_deadline(self._sessions.reactor.seconds() + LINGER)
        if at_once or transport.TLS:
            transport.loseConnection()
        else:
            end_writing(transport)

    def _abort(self) -> None:
        self._reason = self._reason or f"{self._state.value} timeout"
        self.transport.abortConnection()
