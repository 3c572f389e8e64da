"""One accepted connection: a Twisted transport on one side, a `Dialogue` on the other.

pressure     Nothing is read while content waits for the disk, while more than the engine wants to hold has come behind an
             open question, or while the peer does not read our replies. So memory per connection is bounded.
time         One timer per connection, moved lazily: a command only writes down its deadline. The deadline is for a whole
             command, not for the next byte; content must keep coming and, after data_timeout, at a minimum rate. While we
             make the client wait, its clock stands still.
the end      A closing reply is followed by half of a close and at most `LINGER` seconds of patience, then by a reset: closing
             a socket with unread input would destroy the reply on its way (RFC 1122 4.2.2.13).

One class carries thousands of idle connections, hence the slots.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from twisted.internet.interfaces import IHandshakeListener, IProtocol, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.events import Event as Log
from mailgate.inbound.dialogue import Dialogue
from mailgate.inbound.proxy import ProxyGate, enter_header
from mailgate.inbound.sessions import LINGER, MINIMUM_RATE, SHUTTING_DOWN, TOO_MANY, Sessions
from mailgate.inbound.trust import ProxySettings
from mailgate.inbound.welcome import Step, Welcome, give_back
from mailgate.message.envelope import Session
from mailgate.net.transport import send
from mailgate.smtp.proxy_protocol import Header, ProxyError, may_be_header
from mailgate.smtp.reply import Reply
from mailgate.tls.bindings import channel_bindings
from mailgate.tls.facts import accepted_facts
from mailgate.tls.handshake import start_tls

EARLY_TALKER = Reply(421, "4.7.0", "You spoke before the greeting")
IDLE = Reply(421, "4.4.2", "Idle for too long")
TOO_SLOW = Reply(421, "4.4.2", "Content came too slowly")
TOO_LONG = Reply(421, "4.4.2", "Session took too long")

_NEVER = float("inf")


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
    UPGRADING = "STARTTLS handshake"
    SECURING = "steps after STARTTLS"
    LINGERING = "close"
    """Our last word is said."""
    CLOSED = "closed"


_HANDSHAKING = (State.HANDSHAKE, State.UPGRADING)
_EARLY = (State.WELCOME, State.QUIET)
_READING = (*_EARLY, State.OPEN, State.SECURING)


@implementer(IProtocol, IHandshakeListener, IPushProducer)
class Connection:
    """See the module's docstring. ``listener`` is the address as it stands in the configuration."""

    __slots__ = (
        "_blocked",
        "_client",
        "_deadline",
        "_dialogue",
        "_expiry",
        "_gate",
        "_header",
        "_implicit_tls",
        "_kept",
        "_opened",
        "_peer",
        "_reason",
        "_session",
        "_sessions",
        "_state",
        "_stopped",
        "_timer",
        "_welcome",
        "factory",
        "listener",
        "transport",
    )

    def __init__(self, sessions: Sessions, listener: str, client: str, implicit_tls: bool) -> None:
        self.listener = listener
        self.transport: Any = None
        self.factory: Any = None
        self._sessions = sessions
        self._peer = client
        self._client = client
        """The peer, or for whom it speaks."""
        self._gate: ProxyGate | None = None
        self._header: Header | None = None
        self._implicit_tls = implicit_tls
        self._state = State.QUIET
        self._session: Session | None = None
        """Made when something must be known of it: for the steps, else with the first byte."""
        self._welcome: Welcome | None = None
        """The steps that are under way."""
        self._dialogue: Dialogue | None = None
        self._stopped = False
        """We have told the transport to read nothing."""
        self._blocked = False
        """The transport has told us that the peer does not read."""
        self._timer: Any = None
        self._expiry = 0.0
        """When the timer fires: never later than the deadline."""
        self._deadline = _NEVER
        self._opened = 0.0
        self._kept = b""
        """What was said before its time, where that is allowed: no more than one read."""
        self._reason = ""

    # called by Twisted

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self._sessions.add(self, self._client)
        self._opened = self._sessions.reactor.seconds()
        if hasattr(transport, "setTcpNoDelay"):
            try:
                transport.setTcpNoDelay(True)
            except OSError:
                pass  # a unix socket has no such option
        proxy = self._sessions.trust.proxy
        if proxy is None:
            self._secure(b"")
        elif proxy.trusted.include(self._peer):
            self._await_header(proxy)
        elif proxy.required:
            self._refuse_header("the peer is not trusted")
        else:
            self._secure(b"")

    def connectionMade(self) -> None:
        """Part of IProtocol; everything is done in `makeConnection`."""

    def dataReceived(self, data: bytes) -> None:
        if self._state is State.OPEN:
            dialogue = self._dialogue
            if dialogue is None:
                if self._is_stray_header(data):
                    return
                dialogue = self._dialogue = self._make_dialogue()
            dialogue.receive(data)
        elif self._state in _EARLY:
            self._early(data)
        elif self._state is State.PROXY:
            self._header_came(data)
        elif self._state is State.SECURING:
            self._keep(data)

    def connectionLost(self, reason: Failure) -> None:
        before, self._state = self._state, State.CLOSED
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._stop_welcome()
        if self._dialogue is not None:
            self._dialogue.lost("client gone")
        if before in _HANDSHAKING:
            self._reason = self._reason or f"{before.value} failed"
            self._sessions.events.debug(Log.SESSION_TLS, session=self.id, error=reason.getErrorMessage())
        self._log_close(self._reason or "client gone")
        self.transport = None
        self._sessions.remove(self, self._client)
        if self._session is not None and self._session.at_end is not None:
            give_back(self._session)

    def handshakeCompleted(self) -> None:
        if self._state not in _HANDSHAKING:
            return
        self.transport.registerProducer(self, True)
        if self._state is State.HANDSHAKE:
            self._begin()
        elif self._dialogue is not None:
            self._dialogue.tls_started(accepted_facts(self.transport.getHandle()))
            if self._sessions.secured:
                self._ask(State.SECURING, self._sessions.secured, self._secured)
            else:
                self._open()

    def pauseProducing(self) -> None:
        """The peer does not read what we say."""
        self._blocked = True
        self.hold()

    def resumeProducing(self) -> None:
        self._blocked = False
        self._read_on()

    def stopProducing(self) -> None:
        """Part of IPushProducer; `connectionLost` follows."""

    # called by Sessions

    @property
    def id(self) -> str:
        return self._session.id if self._session is not None else ""

    def drain(self) -> None:
        """The gateway stops: say goodbye as soon as no transaction is open."""
        if self._state in (State.PROXY, *_HANDSHAKING):
            self.transport.abortConnection()
        elif self._state in _READING and (self._dialogue is None or self._dialogue.is_idle):
            self._hang_up(SHUTTING_DOWN, "shutdown")

    def cut(self) -> None:
        """The gateway has waited long enough."""
        if self._state is State.OPEN:
            self._hang_up(SHUTTING_DOWN, "shutdown")

    # called by the dialogue

    def write(self, data: bytes) -> None:
        send(self.transport, data)

    def channel_bindings(self) -> Mapping[str, bytes]:
        return channel_bindings(self.transport.getHandle(), server=True) if self.transport.TLS else {}

    def readdress(self, client: str) -> Reply | None:
        limit = self._sessions.move(self._client, client)
        if limit:
            self._sessions.log_refused(self.listener, client, limit)
            return TOO_MANY
        self._client = client
        return None

    def start_tls(self) -> None:
        self.transport.unregisterProducer()  # a handshake that fails closes at once, whoever waits to say more
        self._blocked = False
        self._handshake(State.UPGRADING)

    def finish(self, reason: str, *, at_once: bool = False) -> None:
        """Everything is said: let the peer take it, then be gone."""
        if self._state in (State.LINGERING, State.CLOSED):
            return
        self._reason = reason
        self._state = State.LINGERING
        transport = self.transport
        transport.unregisterProducer()
        self._blocked = False
        if self._stopped:
            self._stopped = False
            transport.resumeProducing()  # to see that the peer closes, and to throw away what it still says
        self._set_deadline(self._sessions.reactor.seconds() + LINGER)
        if at_once or transport.TLS:
            transport.loseConnection()
        else:
            transport.loseWriteConnection()

    def wait(self) -> None:
        self._deadline = _NEVER

    def hold(self) -> None:
        if not self._stopped and self._state in (*_READING, State.UPGRADING):
            self._stopped = True
            self.transport.pauseProducing()

    def settled(self, output: bytes, progressed: bool) -> None:
        if output:
            send(self.transport, output)
            progressed = True
        dialogue = self._dialogue
        if dialogue is None or self._state is not State.OPEN:
            return
        sessions = self._sessions
        if sessions.draining and dialogue.is_idle:
            self._hang_up(SHUTTING_DOWN, "shutdown")
            return
        if progressed:
            settings = sessions.settings
            deadline = sessions.reactor.seconds() + settings.read_timeout
            if dialogue.content_since >= 0:
                allowed = max(settings.data_timeout, dialogue.content_size / MINIMUM_RATE)
                deadline = min(deadline, dialogue.content_since + allowed)
            if self._timer is None or deadline < self._expiry or settings.session_timeout:
                self._set_deadline(deadline)
            else:  # nearly always
                self._deadline = deadline
        if self._stopped:
            self._read_on()

    # the PROXY header

    def _await_header(self, proxy: ProxySettings) -> None:
        self._state = State.PROXY
        timeout = self._sessions.settings.handshake_timeout
        gate = self._gate = ProxyGate(proxy, self._opened, timeout, client_speaks_first=self._implicit_tls)
        self._set_deadline(gate.deadline)

    def _header_came(self, data: bytes | None = None) -> None:
        """Some of it, or with None its deadline."""
        gate = self._gate
        assert gate is not None
        try:
            opening = gate.expire() if data is None else gate.receive(data)
        except ProxyError as error:
            self._refuse_header(str(error))
            return
        if opening is not None:
            self._identified(opening.header, opening.rest)
        else:
            self._set_deadline(gate.deadline)

    def _identified(self, header: Header | None, rest: bytes) -> None:
        """It is known whose connection this is, as far as it ever will be."""
        self._gate = None
        self._header = header
        if header is not None and header.client:
            limit = self._sessions.move(self._client, header.client)
            if limit:
                self._sessions.log_refused(self.listener, header.client, limit)
                self.finish(limit, at_once=True)
                return
            self._client = header.client
        self._secure(rest)

    def _is_stray_header(self, data: bytes) -> bool:
        """Whether the first that comes is a header that does not count; the connection is closed then."""
        if self._sessions.trust.proxy is None or self._header is not None or not may_be_header(data):
            return False
        self._refuse_header("the peer is not trusted, or it came too late")
        return True

    def _refuse_header(self, reason: str) -> None:
        self._sessions.events.warn(Log.PROXY_REFUSED, listener=self.listener, client=self._peer, reason=reason)
        self.finish(f"PROXY header: {reason}", at_once=True)

    # the beginning

    def _secure(self, rest: bytes) -> None:
        """What comes from here on is the client's own; ``rest`` has come already."""
        if self._implicit_tls:
            self._handshake(State.HANDSHAKE)
            if rest:
                self.transport.protocol.dataReceived(rest)
            return
        self.transport.registerProducer(self, True)
        if rest and self._sessions.settings.reject_early_talkers:
            self._hang_up(EARLY_TALKER, "early talker")
        else:
            self._kept = rest
            self._begin()

    def _begin(self) -> None:
        """The transport is as it will be: take the steps, look for early talk, greet, now or after the delay."""
        sessions = self._sessions
        if not sessions.welcome and not (self._implicit_tls and sessions.secured):
            self._welcomed(None)
        else:
            self._ask(State.WELCOME, (*sessions.welcome, *(sessions.secured if self._implicit_tls else ())), self._welcomed)

    def _ask(self, state: State, steps: tuple[Step, ...], done: Callable[[Reply | None], None]) -> None:
        self._state = state
        self._deadline = _NEVER  # `welcome.PATIENCE` holds
        if self._session is None:
            self._session = self._make_session()
        self._welcome = Welcome(self._sessions, self._session)
        self._welcome.begin(steps, done)

    def _stop_welcome(self) -> None:
        welcome, self._welcome = self._welcome, None
        if welcome is not None:
            welcome.cancel()

    def _welcomed(self, refusal: Reply | None) -> None:
        self._welcome = None
        self._state = State.QUIET
        settings = self._sessions.settings
        if refusal is not None:
            self._hang_up(refusal, f"refused: {refusal}")
        elif self._implicit_tls:
            # A turn later at least, so that what came in one read with the end of the handshake is seen to be early.
            self._set_deadline(self._sessions.reactor.seconds() + settings.greeting_delay)
        elif settings.reject_early_talkers and (waiting := _input(self.transport)):
            self._early(waiting)
        elif settings.greeting_delay:
            self._set_deadline(self._opened + settings.greeting_delay)
        else:
            self._greet()

    def _early(self, data: bytes) -> None:
        if self._is_stray_header(data):
            return
        if self._sessions.settings.reject_early_talkers:
            self._hang_up(EARLY_TALKER, "early talker")
        else:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        self._kept += data
        self.hold()

    def _greet(self) -> None:
        send(self.transport, self._sessions.greeting)
        self._open()

    def _secured(self, refusal: Reply | None) -> None:
        self._welcome = None
        if refusal is not None and refusal.code == 421:
            self._hang_up(refusal, f"refused: {refusal}")
        elif self._dialogue is not None:
            self._dialogue.refusal = refusal
            self._open()

    def _open(self) -> None:
        """The client's turn."""
        self._state = State.OPEN
        self._set_deadline(self._sessions.reactor.seconds() + self._sessions.settings.read_timeout)
        if self._kept:
            kept, self._kept = self._kept, b""
            self.dataReceived(kept)
            self._read_on()

    def _make_session(self) -> Session:
        sessions = self._sessions
        peer, host, header = self.transport.getPeer(), self.transport.getHost(), self._header
        session = Session(
            id=sessions.new_id(),
            listener=self.listener,
            hostname=sessions.server.hostname,
            client_ip=self._client,
            client_port=getattr(peer, "port", 0),
            local_ip=getattr(host, "host", ""),
            local_port=getattr(host, "port", 0),
            tls=accepted_facts(self.transport.getHandle()) if self._implicit_tls else None,
        )
        if header is not None:
            enter_header(session, header, self._sessions.trust.proxy)
        sessions.events.debug(
            Log.SESSION_OPEN, session=session.id, listener=self.listener, client=self._client, peer=self._shown_peer
        )
        return session

    def _make_dialogue(self) -> Dialogue:
        if self._session is None:
            self._session = self._make_session()
        return Dialogue(self._sessions, self._session, self)

    # time

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
        if self._deadline is _NEVER:
            return
        if self._sessions.reactor.seconds() < self._deadline:
            self._set_deadline(self._deadline)
        else:
            _ON_TIME[self._state](self)

    def _session_timed_out(self) -> None:
        now = self._sessions.reactor.seconds()
        settings = self._sessions.settings
        since = self._dialogue.content_since if self._dialogue is not None else -1.0
        if self._blocked:
            self._reason = "client does not read"
            self.transport.abortConnection()
        elif settings.session_timeout and now >= self._opened + settings.session_timeout:
            self._hang_up(TOO_LONG, "session timeout")
        elif since >= 0 and now >= since + settings.data_timeout:
            self._hang_up(TOO_SLOW, "data timeout")
        else:
            self._hang_up(IDLE, "idle")

    def _abort(self) -> None:
        self._reason = self._reason or f"{self._state.value} timeout"
        self.transport.abortConnection()

    # the rest

    def _read_on(self) -> None:
        if not self._stopped or self._blocked or self._state is State.CLOSED:
            return
        if self._state is State.OPEN and self._dialogue is not None and self._dialogue.wants_pause:
            return
        self._stopped = False
        self.transport.resumeProducing()

    def _handshake(self, state: State) -> None:
        self._state = state
        # A PROXY header and the handshake behind it have the time of one.
        began = self._sessions.reactor.seconds() if state is State.UPGRADING else self._opened
        self._set_deadline(began + self._sessions.settings.handshake_timeout)
        # What was written, the 220, is out or in the transport's buffer: what TLS writes comes behind it.
        start_tls(self.transport, self._sessions.tls)

    def _hang_up(self, reply: Reply, reason: str) -> None:
        """Say one last thing, out of turn, and close."""
        self._stop_welcome()
        if self._dialogue is None:
            send(self.transport, self._sessions.encode(reply))
        else:
            self._dialogue.close(reply, reason)
        self.finish(reason)

    def _log_close(self, reason: str) -> None:
        events = self._sessions.events
        delivered = self._dialogue.delivered if self._dialogue is not None else 0
        log = events.debug if delivered else events.info  # a message has said enough about its session
        log(
            Log.SESSION_CLOSE,
            session=self.id,
            listener=self.listener,
            client=self._client,
            peer=self._shown_peer,
            reason=reason,
            messages=delivered,
        )

    @property
    def _shown_peer(self) -> str:
        """For the log: whom the connection came from, where that is not its client."""
        return "" if self._peer == self._client else self._peer or "unix"


def _input(transport: Any) -> bytes:
    """The first of what a client has said while its connection waited to be accepted; it is still to be read."""
    handle = getattr(transport, "socket", None)
    if handle is None:
        return b""
    try:
        said: bytes = handle.recv(16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return b""
    return said


_ON_TIME: dict[State, Callable[[Connection], None]] = {
    State.PROXY: Connection._header_came,
    State.HANDSHAKE: Connection._abort,
    State.WELCOME: Connection._abort,
    State.QUIET: Connection._greet,
    State.OPEN: Connection._session_timed_out,
    State.UPGRADING: Connection._abort,
    State.SECURING: Connection._abort,
    State.LINGERING: Connection._abort,
}
