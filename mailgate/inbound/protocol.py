"""One accepted connection: between a Twisted transport, the protocol engine and the pipeline.

`ServerSession` (no I/O) turns bytes into events; `Transaction` answers the questions among them; `Connection` carries one to
the other and decides nothing about mail. What it is responsible for:

order        A question is answered before the next event is looked at. An answer that is there at once costs no turn of the
             event loop; all replies to one read leave in one write.
pressure     Nothing is read while content waits for the disk, while more than the engine wants to hold has come behind an
             open question, or while the peer does not read our replies. So memory per connection is bounded.
time         One timer per connection, moved lazily: a command only writes down its deadline. The deadline is for a whole
             command, not for the next byte; content must keep coming and, after data_timeout, at a minimum rate. While we make the
             client wait, its clock stands still.
the end      A closing reply is followed by half of a close and at most `LINGER` seconds of patience, then by a reset: closing a
             socket with unread input would destroy the reply on its way (RFC 1122 4.2.2.13).
faults       Whatever is raised here or below becomes 451 or 421 with an incident id; the process lives, and so does the
             connection if it can. When the client is gone, its transaction is aborted.

One class carries thousands of idle connections, hence the slots, and an engine that is made with the first byte.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from twisted.internet.interfaces import IHandshakeListener, IProtocol, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.events import Event as Log
from mailgate.inbound.sessions import LINGER, MINIMUM_RATE, SHUTTING_DOWN, Sessions, TransactionLike
from mailgate.message.envelope import Session
from mailgate.net.transport import send
from mailgate.net.waiting import as_deferred
from mailgate.smtp import events as smtp
from mailgate.smtp.reply import MailError, Reply, reply_for
from mailgate.smtp.server import ServerSession
from mailgate.tls.facts import tls_facts

EARLY_TALKER = Reply(421, "4.7.0", "You spoke before the greeting")
IDLE = Reply(421, "4.4.2", "Idle for too long")
TOO_SLOW = Reply(421, "4.4.2", "Content came too slowly")
TOO_LONG = Reply(421, "4.4.2", "Session took too long")

_NEVER = float("inf")


class State(Enum):
    """Where a connection stands."""

    HANDSHAKE = "handshake"
    """TLS from the first byte, not finished."""
    QUIET = "quiet"
    """The greeting has not been said."""
    OPEN = "open"
    UPGRADING = "upgrading"
    """The handshake of STARTTLS, not finished."""
    LINGERING = "lingering"
    """Our last word is said."""
    CLOSED = "closed"


@implementer(IProtocol, IHandshakeListener, IPushProducer)
class Connection:
    """See the module's docstring. ``listener`` is the address as it stands in the configuration."""

    __slots__ = (
        "_accepted",
        "_blocked",
        "_client",
        "_content_since",
        "_content_size",
        "_deadline",
        "_delivered",
        "_engine",
        "_expiry",
        "_failed",
        "_implicit_tls",
        "_messages",
        "_opened",
        "_reason",
        "_rest",
        "_session",
        "_sessions",
        "_state",
        "_stopped",
        "_timer",
        "_transaction",
        "_waiting",
        "factory",
        "listener",
        "transport",
    )

    def __init__(self, sessions: Sessions, listener: str, client: str, implicit_tls: bool) -> None:
        self._sessions = sessions
        self._client = client
        self._implicit_tls = implicit_tls
        self.listener = listener
        self.transport: Any = None
        self.factory: Any = None
        self._state = State.QUIET
        self._engine: Any = None
        self._session: Any = None
        self._transaction: TransactionLike | None = None
        self._failed: Reply | None = None
        self._accepted = 0
        self._messages = 0
        self._delivered = 0
        self._waiting: Any = None
        self._rest: list[Any] = []
        self._stopped = False
        self._blocked = False
        self._timer: Any = None
        self._expiry = 0.0
        self._deadline = _NEVER
        self._opened = 0.0
        self._content_since = -1.0
        self._content_size = 0
        self._reason = ""

    # called by Twisted

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        sessions = self._sessions
        sessions.add(self, self._client)
        self._opened = sessions.reactor.seconds()
        try:
            transport.setTcpNoDelay(True)
        except AttributeError:
            pass  # a unix socket has no such thing
        transport.registerProducer(self, True)
        if self._implicit_tls:
            self._start_tls(State.HANDSHAKE)
        else:
            self._begin()

    def connectionMade(self) -> None:
        """Part of IProtocol; everything is done in `makeConnection`."""

    def dataReceived(self, data: bytes) -> None:
        if self._state is not State.OPEN:
            if self._state is State.QUIET:
                self._early()
            return
        engine = self._engine or self._make_engine()
        if self._content_since >= 0:
            self._content_size += len(data)
        try:
            events = engine.receive(data)
        except Exception as error:
            self._crash(error, "receive")
            return
        if self._waiting is not None:
            self._rest += events
            if engine.wants_pause:
                self._stop_reading()
            return
        self._run(events, self._content_since >= 0)

    def connectionLost(self, reason: Failure) -> None:
        before, self._state = self._state, State.CLOSED
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop("client gone")
        if before in (State.HANDSHAKE, State.UPGRADING):
            self._sessions.events.debug(Log.SESSION_TLS, session=self.id, error=reason.getErrorMessage())
        self._log_close(self._reason or ("client gone" if before is not State.UPGRADING else "TLS handshake failed"))
        self._engine = None
        self._rest = []
        self.transport = None
        self._sessions.remove(self, self._client)

    def handshakeCompleted(self) -> None:
        if self._state is State.HANDSHAKE:
            self._state = State.QUIET
            # A turn later at least, so that what came in one read with the end of the handshake is seen to be early.
            self._set_deadline(self._sessions.reactor.seconds() + self._sessions.settings.greeting_delay)
        elif self._state is State.UPGRADING:
            self._state = State.OPEN
            self._engine.tls_started()
            self._set_deadline(self._sessions.reactor.seconds() + self._sessions.settings.read_timeout)
        else:
            return
        facts = self._facts()
        if self._session is not None:
            self._session.tls = facts
        if facts is not None:
            self._sessions.events.debug(Log.SESSION_TLS, session=self.id, version=facts.version, cipher=facts.cipher)

    def pauseProducing(self) -> None:
        """The peer does not read what we say."""
        self._blocked = True
        self._stop_reading()

    def resumeProducing(self) -> None:
        self._blocked = False
        self._go_on_reading()

    def stopProducing(self) -> None:
        """Part of IPushProducer; `connectionLost` follows."""

    # called by Sessions

    @property
    def id(self) -> str:
        return self._session.id if self._session is not None else ""

    @property
    def is_idle(self) -> bool:
        return self._transaction is None and self._waiting is None

    def drain(self) -> None:
        """The gateway stops: say goodbye as soon as nothing is under way."""
        if self._state in (State.HANDSHAKE, State.UPGRADING):
            self.transport.abortConnection()
        elif self._state is State.QUIET or (self._state is State.OPEN and self.is_idle):
            self._hang_up(SHUTTING_DOWN, "shutdown")

    def cut(self) -> None:
        """The gateway has waited long enough."""
        if self._state is State.OPEN:
            self._hang_up(SHUTTING_DOWN, "shutdown")
        elif self.transport is not None and self._state is not State.LINGERING:
            self.transport.abortConnection()

    # beginning

    def _begin(self) -> None:
        """Plain text, or TLS is up: greet, now or after the delay, unless the client could not wait."""
        settings = self._sessions.settings
        if settings.reject_early_talkers and self._has_input():
            self._early()
        elif settings.greeting_delay:
            self._set_deadline(self._sessions.reactor.seconds() + settings.greeting_delay)
        else:
            self._greet()

    def _has_input(self) -> bool:
        if self._implicit_tls:
            return False  # would have come to `dataReceived`
        handle = getattr(self.transport, "socket", None)
        if handle is None:
            return False
        try:
            return bool(handle.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def _early(self) -> None:
        if self._sessions.settings.reject_early_talkers:
            self._hang_up(EARLY_TALKER, "early talker")

    def _greet(self) -> None:
        if self._sessions.draining:
            self._hang_up(SHUTTING_DOWN, "shutdown")
            return
        self._state = State.OPEN
        send(self.transport, self._sessions.greeting)
        self._set_deadline(self._sessions.reactor.seconds() + self._sessions.settings.read_timeout)

    def _make_engine(self) -> Any:
        sessions = self._sessions
        transport = self.transport
        peer, host = transport.getPeer(), transport.getHost()
        self._session = Session(
            id=sessions.new_id(),
            listener=self.listener,
            hostname=sessions.server.hostname,
            client_ip=self._client,
            client_port=getattr(peer, "port", 0),
            local_ip=getattr(host, "host", ""),
            local_port=getattr(host, "port", 0),
            tls=self._facts() if self._implicit_tls else None,
        )
        self._engine = engine = ServerSession(sessions.server, tls=self._implicit_tls)
        engine.greet()
        engine.output()  # the greeting has been said
        sessions.events.debug(Log.SESSION_OPEN, session=self.id, listener=self.listener, client=self._client)
        return engine

    # events

    def _run(self, events: Sequence[Any], progressed: bool) -> None:
        """Handle events until none is left or one must be waited for; then write what there is to say."""
        progressed = progressed or bool(events)
        try:
            while events:
                events = self._handle(events)
            if self._state is State.OPEN and self._waiting is None:
                self._settled(self._flush() or progressed)
        except Exception as error:
            self._crash(error, "events")

    def _handle(self, events: Sequence[Any]) -> Sequence[Any]:
        """Handle events up to the first answered question; what follows from the answer is the result."""
        for number, event in enumerate(events):
            try:
                answer = _HANDLERS[event.__class__](self, event)
            except Exception as error:
                answer = self._reply_for(error, event)
            if answer is not None and answer.__class__ is not Reply and answer.__class__ is not list:
                # Not at once: a coroutine or a Deferred.
                answer = self._wait(answer, event, events[number + 1 :])
                if answer is _PENDING:
                    return ()
            if self._state is not State.OPEN:
                return ()
            if event.__class__ in _QUESTIONS:
                return self._answer(event, answer)
            if answer is not None:  # the awaited outcome of a notification is a failure or nothing
                self._failed = answer
        return ()

    def _wait(self, awaitable: Any, event: Any, rest: Sequence[Any]) -> Any:
        """The outcome if it is there already (a coroutine that had nothing to wait for), else `_PENDING`."""
        outcome: list[Any] = []
        waiting = as_deferred(awaitable)
        waiting.addBoth(outcome.append)
        if outcome:
            return self._outcome(outcome[0], event)
        self._waiting = waiting
        self._rest = list(rest)
        since = self._sessions.reactor.seconds()
        waiting.addCallback(lambda _: self._resume(waiting, outcome[0], event, since))
        self._flush()
        self._deadline = _NEVER
        if event.__class__ is smtp.Content:
            self._stop_reading()
        return _PENDING

    def _outcome(self, result: Any, event: Any) -> Any:
        return self._reply_for(result.value, event) if isinstance(result, Failure) else result

    def _resume(self, waiting: Any, result: Any, event: Any, since: float) -> None:
        if self._waiting is not waiting:
            return  # the transaction was dropped meanwhile
        self._waiting = None
        answer = self._outcome(result, event)
        if self._content_since >= 0:
            self._content_since += self._sessions.reactor.seconds() - since
        rest, self._rest = self._rest, []
        try:
            if event.__class__ in _QUESTIONS:
                rest = [*self._answer(event, answer), *rest]
            elif answer is not None:
                self._failed = answer
        except Exception as error:
            self._crash(error, "answer")
            return
        self._run(rest, True)
        self._go_on_reading()

    def _answer(self, event: Any, answer: Any) -> Sequence[Any]:
        return _SETTLERS[event.__class__](self, answer)

    def _reply_for(self, error: BaseException, where: Any) -> Reply:
        """What an exception means to the client; one that carries no reply is our own fault and goes to the log."""
        incident = "" if isinstance(error, MailError) else self._sessions.new_id()
        if incident:
            self._sessions.events.incident(incident, error, session=self.id, where=where.__class__.__name__)
        return reply_for(error, incident)

    # handlers: one for each event, answering None, a reply, or something to wait for

    def _hello(self, event: Any) -> None:
        self._session.helo = event.name
        self._session.protocol = _PROTOCOLS[event.verb]

    def _mail(self, event: Any) -> Any:
        self._messages += 1
        self._accepted = 0
        self._failed = None
        self._transaction = self._sessions.open_transaction(self._session, f"{self._session.id}.{self._messages}")
        return self._transaction.mail(event.address, event.parameters)

    def _mail_answered(self, reply: Reply) -> Sequence[Any]:
        if not reply.is_success:
            self._drop("sender refused")
        return self._engine.reply(reply)  # type: ignore[no-any-return]

    def _rcpt(self, event: Any) -> Any:
        return self._current.rcpt(event.address, event.parameters)

    def _rcpt_answered(self, reply: Reply) -> Sequence[Any]:
        if reply.is_success:
            self._accepted += 1
        return self._engine.reply(reply)  # type: ignore[no-any-return]

    def _data(self, event: Any) -> Any:
        return self._current.data()

    def _data_answered(self, reply: Reply | None) -> Sequence[Any]:
        if reply is None:
            self._content_since = self._sessions.reactor.seconds()
            self._content_size = 0
        return self._engine.reply(reply)  # type: ignore[no-any-return]

    def _content(self, event: Any) -> Any:
        return self._current.append(event.data) if self._failed is None else None

    def _content_end(self, event: Any) -> Any:
        self._content_since = -1.0
        return self._current.end() if self._failed is None else self._failed

    def _content_answered(self, answer: Any) -> Sequence[Any]:
        replies = answer if answer.__class__ is list else [answer] * self._accepted
        expected = self._accepted if self._sessions.server.lmtp else 1
        transaction, self._transaction = self._current, None
        if self._failed is not None:
            transaction.abort("internal error")
        if self._sessions.server.lmtp:
            if len(replies) != expected:
                replies = [self._reply_for(_WrongAnswers(len(replies), expected), smtp.ContentEnd)] * expected
            self._delivered += any(reply.is_success for reply in replies)
            return self._engine.reply_each(replies)  # type: ignore[no-any-return]
        reply = replies[0] if replies else self._reply_for(_WrongAnswers(0, 1), smtp.ContentEnd)
        self._delivered += reply.is_success
        return self._engine.reply(reply)  # type: ignore[no-any-return]

    def _content_refused(self, event: Any) -> None:
        self._drop(str(event.reply))

    def _aborted(self, event: Any) -> None:
        self._drop("reset")

    def _starttls(self, event: Any) -> None:
        self._flush()
        self._start_tls(State.UPGRADING)

    def _closed(self, event: Any) -> None:
        if event.reason is smtp.CloseReason.INJECTION:
            self._sessions.events.warn(Log.PROTOCOL_INJECTION, session=self.id, client=self._client)
        self._flush()
        self._linger(event.reason.value, at_once=event.reason is smtp.CloseReason.QUIT)

    @property
    def _current(self) -> TransactionLike:
        assert self._transaction is not None, "the engine asked outside a transaction"
        return self._transaction

    # after events

    def _flush(self) -> bool:
        output = self._engine.output()
        if output:
            send(self.transport, output)
        return bool(output)

    def _settled(self, progressed: bool) -> None:
        """Everything that came is handled. ``progressed``: by a whole command or some content, not by a part of a line."""
        sessions = self._sessions
        if sessions.draining and self.is_idle:
            self._hang_up(SHUTTING_DOWN, "shutdown")
        elif progressed:
            settings = sessions.settings
            now = sessions.reactor.seconds()
            deadline = now + settings.read_timeout
            if self._content_since >= 0:
                allowed = max(settings.data_timeout, self._content_size / MINIMUM_RATE)
                deadline = min(deadline, self._content_since + allowed)
            self._set_deadline(deadline)

    def _drop(self, reason: str) -> None:
        """The transaction, if there is one, will not be finished."""
        self._content_since = -1.0
        self._waiting = None
        self._rest = []
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            try:
                transaction.abort(reason)
            except Exception as error:
                self._sessions.events.incident(self._sessions.new_id(), error, session=self.id, where="abort")

    # time

    def _set_deadline(self, deadline: float) -> None:
        settings = self._sessions.settings
        if settings.session_timeout and self._state is State.OPEN:
            deadline = min(deadline, self._opened + settings.session_timeout)
        self._deadline = deadline
        if self._timer is None:
            self._expiry = deadline
            self._timer = self._sessions.reactor.callLater(max(0.0, deadline - self._sessions.reactor.seconds()), self._tick)
        elif deadline < self._expiry:
            self._expiry = deadline
            self._timer.reset(max(0.0, deadline - self._sessions.reactor.seconds()))

    def _tick(self) -> None:
        self._timer = None
        if self._deadline is _NEVER:
            return
        if self._sessions.reactor.seconds() < self._deadline:
            self._set_deadline(self._deadline)
            return
        _ON_TIME[self._state](self)

    def _open_timed_out(self) -> None:
        now = self._sessions.reactor.seconds()
        settings = self._sessions.settings
        if self._blocked:
            self._reason = "client does not read"
            self.transport.abortConnection()
        elif settings.session_timeout and now >= self._opened + settings.session_timeout:
            self._hang_up(TOO_LONG, "session timeout")
        elif self._content_since >= 0 and now >= self._content_since + settings.data_timeout:
            self._hang_up(TOO_SLOW, "data timeout")
        else:
            self._hang_up(IDLE, "idle")

    def _reset(self) -> None:
        self._reason = self._reason or f"{self._state.value} timeout"
        self.transport.abortConnection()

    # pressure

    def _stop_reading(self) -> None:
        if not self._stopped and self._state in (State.OPEN, State.UPGRADING):
            self._stopped = True
            self.transport.pauseProducing()

    def _go_on_reading(self) -> None:
        if not self._stopped or self._blocked or self._state is State.CLOSED:
            return
        if self._waiting is not None or (self._state is State.OPEN and self._engine.wants_pause):
            return
        self._stopped = False
        self.transport.resumeProducing()

    # TLS

    def _start_tls(self, state: State) -> None:
        self._state = state
        self._set_deadline(self._sessions.reactor.seconds() + self._sessions.settings.handshake_timeout)
        # The 220 is in the transport's buffer or already out: what TLS writes comes behind it.
        self.transport.startTLS(self._sessions.tls.connection_creator())

    def _facts(self) -> Any:
        handle = self.transport.getHandle()
        return None if handle is None else tls_facts(handle)

    # the end

    def _hang_up(self, reply: Reply, reason: str) -> None:
        """Say one last thing, out of turn, and close."""
        self._drop(reason)
        if self._engine is None:
            send(self.transport, reply.encode())
        else:
            self._engine.close(reply)
            self._flush()
        self._linger(reason)

    def _crash(self, error: Exception, where: str) -> None:
        """The engine or this class failed: there is no answer that would keep the order, so the session ends."""
        if self._state is State.CLOSED:
            return
        incident = self._sessions.new_id()
        self._sessions.events.incident(incident, error, session=self.id, where=where)
        self._drop("internal error")
        send(self.transport, Reply(421, "4.3.0", f"Internal error, incident {incident}").encode())
        self._linger("internal error")

    def _linger(self, reason: str, at_once: bool = False) -> None:
        """Everything is said: let the peer take it, then be gone."""
        if self._state in (State.LINGERING, State.CLOSED):
            return
        self._drop(reason)
        self._reason = reason
        self._state = State.LINGERING
        transport = self.transport
        transport.unregisterProducer()
        if self._stopped:
            transport.resumeProducing()  # to see that the peer closes, and to throw away what it still says
        self._set_deadline(self._sessions.reactor.seconds() + LINGER)
        if at_once or transport.TLS:
            transport.loseConnection()
        else:
            transport.loseWriteConnection()

    def _log_close(self, reason: str) -> None:
        events = self._sessions.events
        log = events.debug if self._delivered else events.info
        log(
            Log.SESSION_CLOSE,
            session=self.id,
            listener=self.listener,
            client=self._client,
            reason=reason,
            messages=self._delivered,
        )


class _WrongAnswers(Exception):  # noqa: N818 (an internal fault, logged as such)
    def __init__(self, got: int, expected: int) -> None:
        super().__init__(f"{got} answers for {expected} recipients")


_PENDING: Any = object()

_PROTOCOLS = {"HELO": "SMTP", "EHLO": "ESMTP", "LHLO": "LMTP"}

_HANDLERS: dict[type, Callable[[Connection, Any], Any]] = {
    smtp.Hello: Connection._hello,
    smtp.Mail: Connection._mail,
    smtp.Rcpt: Connection._rcpt,
    smtp.Data: Connection._data,
    smtp.Content: Connection._content,
    smtp.ContentEnd: Connection._content_end,
    smtp.ContentRefused: Connection._content_refused,
    smtp.Aborted: Connection._aborted,
    smtp.StartTls: Connection._starttls,
    smtp.Closed: Connection._closed,
}

_SETTLERS: dict[type, Callable[[Connection, Any], Sequence[Any]]] = {
    smtp.Mail: Connection._mail_answered,
    smtp.Rcpt: Connection._rcpt_answered,
    smtp.Data: Connection._data_answered,
    smtp.ContentEnd: Connection._content_answered,
}
_QUESTIONS = frozenset(_SETTLERS)

_ON_TIME: dict[State, Callable[[Connection], None]] = {
    State.HANDSHAKE: Connection._reset,
    State.QUIET: Connection._greet,
    State.OPEN: Connection._open_timed_out,
    State.UPGRADING: Connection._reset,
    State.LINGERING: Connection._reset,
}
