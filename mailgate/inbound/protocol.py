"""One accepted connection: a Twisted transport on one side, a `Dialogue` on the other.

The order of a beginning: the connection is counted; the PROXY header, where there is one, names the client; TLS, where it
comes first; the steps of the `welcome`; early talk ends it; the greeting, at once or after its delay. Where none of that is
configured, the greeting is out before the reactor turns, and there is no session before the first byte.

A command's deadline is for the whole command, not for the next byte; content must keep coming and, after data_timeout, at a
minimum rate. How octets go, how time is kept and how it ends is `Conduit`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.events import Event as Log
from mailgate.inbound.conduit import EARLY, HANDSHAKING, NEVER, READING, Conduit, State
from mailgate.inbound.dialogue import Dialogue
from mailgate.inbound.proxy import ProxyGate, enter_header
from mailgate.inbound.sessions import MINIMUM_RATE, SHUTTING_DOWN, TOO_MANY, Sessions
from mailgate.inbound.trust import ProxySettings
from mailgate.inbound.welcome import Step, Welcome, give_back
from mailgate.message.envelope import Session, TlsFacts
from mailgate.net.transport import first_input, send
from mailgate.smtp.proxy_protocol import Header, ProxyError, may_be_header
from mailgate.smtp.reply import Reply
from mailgate.tls.bindings import channel_bindings
from mailgate.tls.facts import accepted_facts
from mailgate.tls.handshake import start_tls

EARLY_TALKER = Reply(421, "4.7.0", "You spoke before the greeting")
IDLE = Reply(421, "4.4.2", "Idle for too long")
TOO_SLOW = Reply(421, "4.4.2", "Content came too slowly")
TOO_LONG = Reply(421, "4.4.2", "Session took too long")


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class Connection(Conduit):
    """See the module's docstring. ``listener`` is the address as it stands in the configuration."""

    __slots__ = (
        "_client",
        "_dialogue",
        "_gate",
        "_header",
        "_held_back",
        "_implicit_tls",
        "_kept",
        "_peer",
        "_session",
        "_welcome",
        "listener",
    )

    def __init__(self, sessions: Sessions, listener: str, client: str, implicit_tls: bool) -> None:
        super().__init__(sessions)
        self.listener = listener
        self._peer = client
        self._client = client
        """The peer, or for whom it speaks."""
        self._implicit_tls = implicit_tls
        self._gate: ProxyGate | None = None
        self._header: Header | None = None
        self._session: Session | None = None
        """Made when something must be known of it: for the steps, else with the first byte."""
        self._welcome: Welcome | None = None
        """The steps that are under way."""
        self._dialogue: Dialogue | None = None
        self._held_back = b""
        """Replies in the tarpit."""
        self._kept = b""
        """What was said before its time, where that is allowed: no more than one read."""

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
        elif self._state in EARLY:
            self._early(data)
        elif self._state is State.PROXY:
            self._header_came(data)
        elif self._state in (State.SECURING, State.TARPIT):
            self._keep(data)

    def connectionLost(self, reason: Failure) -> None:
        before, self._state = self._state, State.CLOSED
        self._stop_timers()
        self._stop_welcome()
        if self._dialogue is not None:
            self._dialogue.lost("client gone")
        if before in HANDSHAKING:
            self._reason = self._reason or f"{before.value} failed"
            self._sessions.events.debug(Log.SESSION_TLS, session=self.id, error=reason.getErrorMessage())
        self._log_close(self._reason or "client gone")
        self.transport = None
        try:
            if self._session is not None and self._session.at_end is not None:
                give_back(self._session)
        finally:
            self._sessions.remove(self, self._client)  # at last: who drains goes on at once

    def handshakeCompleted(self) -> None:
        if self._state not in HANDSHAKING:
            return
        self.transport.registerProducer(self, True)
        if self._state is State.HANDSHAKE:
            self._begin()
        elif self._dialogue is not None:
            self._dialogue.tls_started(self._tls_facts())
            if self._sessions.secured:
                self._ask(State.SECURING, self._sessions.secured, self._secured)
            else:
                self._open()

    def writeConnectionLost(self) -> None:
        """Part of IHalfCloseableProtocol: our own half of a close."""

    def stopProducing(self) -> None:
        """Part of IPushProducer; `connectionLost` follows."""

    # called by Sessions

    @property
    def id(self) -> str:
        return self._session.id if self._session is not None else ""

    def drain(self) -> None:
        """The gateway stops: say goodbye as soon as no transaction is open."""
        if self._state in (State.PROXY, *HANDSHAKING):
            self._reason = "shutdown"
            self.transport.abortConnection()
        elif self._state in READING and (self._dialogue is None or self._dialogue.is_idle):
            self._hang_up(SHUTTING_DOWN, "shutdown")

    def cut(self) -> None:
        """The gateway has waited long enough."""
        if self._state in (State.OPEN, State.TARPIT):
            self._hang_up(SHUTTING_DOWN, "shutdown")

    # called by the dialogue

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
        if self._vigil is not None:  # nobody says hello any more
            self._input_ended()
            return
        self.transport.unregisterProducer()  # a handshake that fails closes at once, whoever waits to say more
        self._blocked = False
        self._handshake(State.UPGRADING)

    def settled(self, output: bytes, progressed: bool) -> None:
        if output:
            if self._sessions.settings.tarpit and self._holds_back(output):
                return
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
                allowed = dialogue.content_since + max(settings.data_timeout, dialogue.content_size / MINIMUM_RATE)
                if allowed < deadline:
                    deadline = allowed
            if self._timer is None or deadline < self._expiry or settings.session_timeout:
                self._set_deadline(deadline)
            else:  # nearly always
                self._deadline = deadline
        if self._stopped:
            self._read_on()

    # the tarpit

    def _holds_back(self, output: bytes) -> bool:
        """Whether there is an error in it, so that it is said later, and nothing is heard until then."""
        faults = self._dialogue.new_faults() if self._dialogue is not None and self._state is State.OPEN else 0
        if not faults:
            return False
        settings = self._sessions.settings
        self._held_back = output
        self.hold()
        self._state = State.TARPIT
        self._set_deadline(self._sessions.reactor.seconds() + min(settings.tarpit * faults, settings.tarpit_limit))
        return True

    def _release(self) -> None:
        self._say_held_back()
        self._state = State.OPEN
        self.settled(b"", True)
        self._take_kept()

    def _say_held_back(self) -> None:
        if self._held_back:
            output, self._held_back = self._held_back, b""
            send(self.transport, output)

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
        self._deadline = NEVER  # `welcome.PATIENCE` holds
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
        elif settings.reject_early_talkers and (waiting := first_input(self.transport)):
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
        self._take_kept()

    def _take_kept(self) -> None:
        if self._kept and self._state is State.OPEN:
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
            tls=self._tls_facts() if self._implicit_tls else None,
        )
        if header is not None:
            enter_header(session, header, self._sessions.trust.proxy)
        sessions.events.debug(
            Log.SESSION_OPEN, session=session.id, listener=self.listener, client=self._client, peer=self._shown_peer
        )
        return session

    def _tls_facts(self) -> TlsFacts:
        facts = accepted_facts(self.transport.getHandle())
        versions = self._sessions.tally.tls
        versions[facts.version] = versions.get(facts.version, 0) + 1
        return facts

    def _make_dialogue(self) -> Dialogue:
        if self._session is None:
            self._session = self._make_session()
        return Dialogue(self._sessions, self._session, self)

    # time

    def _on_time(self) -> None:
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

    # the rest

    def _wants_pause(self) -> bool:
        return self._dialogue is not None and self._dialogue.wants_pause

    def _owes_answers(self) -> bool:
        return bool(self._kept) or self._state is State.TARPIT or (self._dialogue is not None and self._dialogue.is_waiting)

    def _input_ended(self) -> None:
        self._stop_welcome()
        if self._dialogue is not None:
            self._dialogue.lost("client gone")
        self.finish("client gone", at_once=True)

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
        self._say_held_back()
        if self._dialogue is None:
            send(self.transport, self._sessions.encode(reply))
        else:
            self._dialogue.close(reply, reason)
        self.finish(reason)

    def _log_close(self, reason: str) -> None:
        events = self._sessions.events
        delivered = self._dialogue.delivered if self._dialogue is not None else 0
        if not delivered and self._sessions.is_quiet(self._client):
            return
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


_ON_TIME: dict[State, Callable[[Connection], None]] = {
    State.PROXY: Connection._header_came,
    State.HANDSHAKE: Connection._abort,
    State.WELCOME: Connection._abort,
    State.QUIET: Connection._greet,
    State.OPEN: Connection._session_timed_out,
    State.TARPIT: Connection._release,
    State.UPGRADING: Connection._abort,
    State.SECURING: Connection._abort,
    State.LINGERING: Connection._abort,
}
