"""A Twisted protocol around one `ClientSession`: bytes to the transport, answers to whoever waits, one timer.

The caller says commands on ``session`` and waits once for all their answers::

    connection.session.mail(sender); connection.session.rcpt(recipient)
    answers = await connection.exchange()

``exchange`` gives each answer the time of its step (`Timeouts`) and never fails. If the dialogue ends early the list is short
and ``trouble`` says why. A connection with ``trouble`` is finished: the transport is closed or being closed, and nothing is
written any more.

There is one delayed call in a connection's life, moved only when a deadline comes before it: exchanges, idle time and holds
set a deadline (a time of the clock) and what to do then, which costs an attribute, not a call of the reactor.

Content beyond one write is streamed: the connection is a push producer's consumer, ``write_content`` says to wait when the
transport has more than it can send, and the reply of a peer that answers before the end is seen at once (``early``).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from OpenSSL.SSL import Error as TlsError
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.events import Event, EventLog
from mailgate.logs.detail import detail
from mailgate.net.transport import send
from mailgate.net.waiting import Wait
from mailgate.outbound.endpoint import Link
from mailgate.outbound.failure import Kind
from mailgate.outbound.record import ConnectionFacts
from mailgate.outbound.sources import Source
from mailgate.smtp.client import Answer, ClientSession, Step
from mailgate.smtp.reply import Reply
from mailgate.smtp.reply_parser import Fault
from mailgate.tls.capture import PeerFacts
from mailgate.tls.pairs import explain


@implementer(IHandshakeListener, IPushProducer)
class Connection(Protocol):
    """See the module's docstring. ``on_lost(connection)`` is called once, when the transport is gone."""

    def __init__(self, link: Link, clock: Any, on_lost: Callable[[Connection], None], log: EventLog, target: str = "") -> None:
        settings = link.endpoint.settings
        self.link = link
        self.settings = settings
        self.trouble: Kind | None = None
        self.reason = ""
        self.early: Reply | None = None
        """The first reply that came while content was still being sent."""
        self.tls: PeerFacts | None = None
        self.local = self.remote = ""
        """Addresses of both ends, for the record."""
        self.timings: list[tuple[str, float]] = []
        """Seconds of each step since the connection was dialled, or since the transaction that is open began."""
        self.tls_error = ""
        """Why opportunistic TLS failed at this address: this connection is made without it."""
        self.messages = 0
        self.reused = False
        self.watched = False
        """Somebody wants to see this dialogue for a while."""
        self.idle_since = 0.0
        self.ready_at = 0.0
        """When it was ready for mail; 0: not yet."""
        self._log = log
        self._target = target
        self._clock = clock
        self._on_lost: Callable[[Connection], None] | None = on_lost
        self._answers: list[Answer] = []
        self._waiter: Wait[list[Answer]] | None = None
        self._then: Callable[[list[Answer]], float | None] | None = None
        self._handshake: Wait[None] | None = None
        self._congested = False
        self._room: Wait[None] | None = None
        self._timer: Any = None
        self._timer_at = inf
        self._deadline = 0.0
        self._asked: Step = Step.GREETING
        self._asked_at = 0.0
        self.heard_at = 0.0
        """When everything that was asked last was answered."""
        self._limit = inf
        self.over_by = inf
        """The time by which the attempt at hand is to be over, from connecting to the last answer: `total` of `timeouts`."""
        self._action: Callable[[], None] | None = None
        self.session = ClientSession(link.key.hostname, lmtp=settings.lmtp, trace=self._trace if settings.debug else None)
        if detail.active:
            self.watch(detail.watches_delivery(target))

    # Commands and answers

    def exchange(self, limit: float = inf, then: Callable[[list[Answer]], float | None] | None = None) -> Wait[list[Answer]]:
        """Write what was said and wait for every answer: for each as long as its step may take, for none beyond the time
        ``limit``. Cancelling stops the waiting, not the dialogue.

        ``then(answers)`` may say more at once, without the turn through whoever waits: if it gives a new limit, what it said goes
        out and the wait is for the answers to that."""
        waiter: Wait[list[Answer]] = Wait(self._forget_waiter)
        self._waiter = waiter
        self._then = then
        session = self.session
        if self.trouble is not None or not session.pending:
            self._answer()
            return waiter
        self._limit = limit if limit < self.over_by else self.over_by
        self._expect(session.pending[0], self._clock.seconds())
        data = session.output()
        if data:
            send(self.transport, data)
        return waiter

    def _expect(self, step: Step, now: float) -> None:
        """The next answer is to this step."""
        self._asked = step
        self._asked_at = now
        deadline = now + self.settings.timeouts.by_step[step]
        if deadline > self._limit:
            deadline = self._limit
        self._action = self._timed_out
        self._deadline = deadline
        if deadline < self._timer_at:
            self._start_timer()

    def flush(self) -> None:
        """Write what the session has to say."""
        data = self.session.output()
        if data and self.trouble is None:
            send(self.transport, data)

    def dataReceived(self, data: bytes) -> None:
        session = self.session
        answers = session.receive(data)
        if answers:
            last = answers[-1].step
            if last is Step.BODY or last is Step.IDLE:  # nobody asked for these, the last ones
                unasked = [answer for answer in answers if answer.step is last]
                answers = answers[: -len(unasked)]
                self._answers += answers
                self._unasked(unasked[0])
            else:
                self._answers += answers
        if session.fault:
            self._end(Kind.TLS if session.fault is Fault.INJECTION else Kind.GARBAGE, session.fault.value)
            return
        if session.pending:
            if answers and self._waiter is not None and session.pending[0] is not Step.DOT:
                now = self._clock.seconds()
                self.timings.append((self._asked, now - self._asked_at))
                self._expect(session.pending[0], now)
            self.flush()
        elif self._waiter is not None:
            self.heard_at = now = self._clock.seconds()
            self.timings.append((self._asked, now - self._asked_at))
            then, self._then = self._then, None
            limit = None if then is None else then(self._answers)
            if limit is None:
                self._answer()
            else:
                self._answers = []
                self._limit = limit if limit < self.over_by else self.over_by
                self._expect(session.pending[0], now)
                self.flush()

    def seen(self) -> ConnectionFacts:
        """What is known of it, without timings."""
        return ConnectionFacts(self.local, self.remote, self.session.hostname, self.reused, self.tls, self.tls_error)

    def facts(self) -> ConnectionFacts:
        """For the record of an attempt, with the timings since the last one."""
        timings = tuple(self.timings)
        self.timings = []
        return ConnectionFacts(self.local, self.remote, self.session.hostname, self.reused, self.tls, self.tls_error, timings)

    def _unasked(self, answer: Answer) -> None:
        if answer.step is Step.IDLE:
            self._end(Kind.CLOSING, str(answer.reply))
        elif self.early is None:
            self.early = answer.reply
            self._make_room()

    def _answer(self) -> None:
        waiter = self._waiter
        answers = self._answers
        self._waiter = self._then = self._action = None
        self._answers = []
        if waiter is not None:
            waiter.fire(answers)

    def _forget_waiter(self) -> None:
        self._waiter = self._then = None

    # The attempt

    def begin_attempt(self) -> None:
        """It is used again: another attempt has all of its time."""
        if self.settings.timeouts.total != inf:
            self.over_by = self.after(self.settings.timeouts.total)

    def go_on(self, now: float) -> None:
        """The attempt goes on after a pause that was our client's."""
        if self.over_by != inf:
            self.over_by += now - self.heard_at

    def watch(self, wanted: bool) -> None:
        """Log the dialogue from here on, or no more."""
        self.watched = wanted
        self.session.trace = self._trace if wanted or self.settings.debug else None

    # Content

    def write_content(self, data: bytes) -> None:
        """A piece of content that was stuffed; see `room`."""
        self.session.content(data)
        self.flush()

    def start_streaming(self) -> None:
        self.transport.registerProducer(self, True)  # type: ignore[union-attr]

    def stop_streaming(self) -> None:
        self._congested = False
        if self.trouble is None:
            self.transport.unregisterProducer()  # type: ignore[union-attr]

    @property
    def congested(self) -> bool:
        """More was written than the peer takes: wait for `room`."""
        return self._congested and self.early is None and self.trouble is None

    def room(self, seconds: float) -> Wait[None]:
        """Fires when more may be written, the peer answered early, or the connection has trouble."""
        room: Wait[None] = Wait(self._forget_room)
        self._room = room
        self.arm(min(self.after(seconds), self.over_by), self._timed_out)
        return room

    def _forget_room(self) -> None:
        self._room = None

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            self._action = None
            room.fire(None)

    def pauseProducing(self) -> None:
        self._congested = True

    def resumeProducing(self) -> None:
        self._congested = False
        self._make_room()

    def stopProducing(self) -> None:
        """The transport goes away; `connectionLost` follows."""

    # TLS

    def start_tls(self, creator: Any) -> Wait[None]:
        """Handshake as a client. Fires when it is over; ``trouble`` says how it went."""
        handshake: Wait[None] = Wait(self._forget_handshake)
        self._handshake = handshake
        self._asked_at = self._clock.seconds()
        self.arm(min(self.after(self.settings.timeouts.tls), self.over_by), self._timed_out)
        self.transport.startTLS(creator)  # type: ignore[union-attr]
        return handshake

    def handshakeCompleted(self) -> None:
        self._action = None
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            self.timings.append(("tls", self._clock.seconds() - self._asked_at))
            self.session.tls_started()
            handshake.fire(None)

    def _forget_handshake(self) -> None:
        self._handshake = None
        self.abort()

    @property
    def tls_connection(self) -> Any:
        """The `OpenSSL.SSL.Connection`."""
        return self.transport.getHandle()  # type: ignore[union-attr]

    # Life

    def connectionMade(self) -> None:
        self.local = _address(self.transport.getHost())  # type: ignore[union-attr]
        self.remote = _address(self.transport.getPeer())  # type: ignore[union-attr]
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None and self.settings.scheme != "unix":
            set_no_delay(True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.trouble is None:
            broken = self._handshake is not None or (isinstance(reason.value, TlsError) and not self.ready_at)
            self._tell(Kind.TLS if broken else Kind.LOST, _why(reason))
        self._action = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = inf
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(self)

    def quit(self) -> None:
        """Say goodbye, if that can be said now, and close."""
        if self.trouble is not None:
            return
        self.over_by = inf
        if self.session.pending or self.session.content_open:
            self.abort()
            return
        self.session.quit()
        self.exchange().when_done(lambda: self.close("done"))

    def close(self, reason: str) -> None:
        """Close in order; nothing more is said."""
        self._end(Kind.LOST, reason)

    def abort(self, reason: str = "given up") -> None:
        """Close at once; what was not sent yet is not sent."""
        if self.trouble is None:
            self._tell(Kind.LOST, reason)
        self.transport.abortConnection()  # type: ignore[union-attr]

    def after(self, seconds: float) -> float:
        """The time of the clock in ``seconds``."""
        now: float = self._clock.seconds()
        return now + seconds

    def arm(self, deadline: float, action: Callable[[], None]) -> None:
        """Do this at the time ``deadline`` unless something else is set before."""
        self._action = action
        self._deadline = deadline
        if deadline < self._timer_at:
            self._start_timer()

    def disarm(self) -> None:
        self._action = None

    def _start_timer(self) -> None:
        seconds = max(self._deadline - self._clock.seconds(), 0.0)
        self._timer_at = self._deadline
        if self._timer is None:
            self._timer = self._clock.callLater(seconds, self._tick)
        else:
            self._timer.reset(seconds)

    def _tick(self) -> None:
        self._timer = None
        self._timer_at = inf
        action = self._action
        if action is None:
            return
        if self._clock.seconds() < self._deadline:
            self._start_timer()
            return
        self._action = None
        action()

    def _timed_out(self) -> None:
        kind = Kind.TIMEOUT if self._handshake is None else Kind.TLS
        if self.trouble is None:
            self._tell(kind, "no answer in time")
        self.transport.abortConnection()  # type: ignore[union-attr]

    def _end(self, kind: Kind, reason: str) -> None:
        if self.trouble is None:
            self._tell(kind, reason)
            self.transport.loseConnection()  # type: ignore[union-attr]
            self.arm(self.after(self.settings.timeouts.quit), self.transport.abortConnection)  # type: ignore[union-attr]

    def _tell(self, kind: Kind, reason: str) -> None:
        """Everybody who waits hears that it is over."""
        self.trouble = kind
        self.reason = reason
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.fire(None)
        self._make_room()
        if self._waiter is not None:
            self._answer()

    def source_failed(self, source: Source, reason: str) -> None:
        """One of our own addresses can't be connected from."""
        self._log.warn(
            Event.SOURCE_FAILED, target=self._target, endpoint=self.settings.label, source=source.address, error=reason
        )

    def _trace(self, direction: str, text: str) -> None:
        self._log.info(
            Event.WIRE,
            target=self._target,
            endpoint=self.settings.label,
            connection=id(self) & 0xFFFFFF,
            dir=direction,
            line=text,
        )


def _address(address: Any) -> str:
    """As records write it."""
    host = getattr(address, "host", None)
    if host is None:
        name = getattr(address, "name", None) or b""
        return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"


def _why(reason: Failure) -> str:
    """Why a connection is gone, for the log."""
    if isinstance(reason.value, ConnectionDone):
        return "closed by the peer"
    return explain(reason.value) if isinstance(reason.value, TlsError) else reason.getErrorMessage()
