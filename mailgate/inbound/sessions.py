"""What the connections of one listener share: settings, limits, and the drain.

Counting begins with accept, so that handshakes and silent peers count too. An IPv6 client is its /64 (`limits.addresses`).
Loopback is not counted per address, and neither is a unix socket: there the address says nothing about who it is; nor are the
networks of `relay_from`, who are known, nor proxies whose headers are believed, for whose connections the clients count whom
they name. A refused connection costs no session, only a line and a socket that lingers for a moment; the log says once a second
how many there were, since a flood must not become a flood of lines (RFC 5321 7.8, CWE-779).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.inbound.trust import NO_TRUST, Networks, TrustSettings, within
from mailgate.limits.addresses import counted_as
from mailgate.message.envelope import Session
from mailgate.message.tally import Tally, by_class
from mailgate.smtp.reply import Reply
from mailgate.smtp.server import ServerSession
from mailgate.smtp.settings import ServerSettings

MINIMUM_RATE = 500
"""Octets per second on average that content must come at once data_timeout is over: against slow senders that would hold
a transaction open for hours (RFC 5321 4.5.3.2.5 gives each block three minutes)."""
FRIENDS_LAG = 4
"""How many times `max_lag` those are let in whom reserved_connections are for."""
LINGER = 5.0
"""How long a connection that we have closed may take to take its last reply; then it is reset."""
IDS_AT_A_TIME = 64

TOO_MANY = Reply(421, "4.7.0", "Too many connections, try again later")
TOO_BUSY = Reply(421, "4.3.2", "Too busy, try again later")
SHUTTING_DOWN = Reply(421, "4.3.2", "Shutting down, try again later")


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Waits in seconds and numbers of connections; 0 switches off session_timeout and greeting_delay."""

    read_timeout: float = 300.0
    """For one whole command, and between two pieces of content (RFC 5321 4.5.3.2.7: at least five minutes)."""
    data_timeout: float = 600.0
    """For content; longer only at `MINIMUM_RATE`."""
    handshake_timeout: float = 30.0
    session_timeout: float = 0.0
    greeting_delay: float = 0.0
    reject_early_talkers: bool = True
    max_connections: int = 1000
    max_connections_per_ip: int = 100
    uncounted: Networks = ()
    """Networks whose clients are not counted per address, and who may use the reserve."""
    reserved_connections: int = 0
    """Of max_connections, those that strangers may not have."""
    reserved_for: Networks = ()
    """Networks who may use the reserve, besides."""
    max_lag: float = inf
    """Seconds that the event loop may take for a turn before strangers are refused."""
    tarpit: float = 0.0
    """By how much the reply to each further mistake is later; 0 is off."""
    tarpit_limit: float = 0.0
    quiet: Networks = ()
    """Networks whose sessions are not logged."""


class TransactionLike(Protocol):
    """One mail transaction as the connection drives it: `pipeline.transaction.Transaction`, or a test's."""

    def mail(self, sender: Any, parameters: Any) -> Any: ...
    def rcpt(self, address: Any, parameters: Any) -> Any: ...
    def data(self) -> Any: ...
    def append(self, content: bytes) -> Any: ...
    def end(self) -> Any: ...
    def abort(self, reason: str = "") -> None: ...


class Drainable(Protocol):
    """What `Sessions` needs of a connection."""

    def drain(self) -> None: ...
    def cut(self) -> None: ...


class Census:
    """How many connections there are. After a reload the old and the new sessions of a listener count together."""

    __slots__ = ("open", "per_address")

    def __init__(self) -> None:
        self.open = 0
        self.per_address: dict[str, int] = {}


class Sessions:
    """All connections of one listener, whatever port they came by; ``census`` is that of the listener's predecessor.

    ``open_transaction(session, message_id)`` begins a transaction; ``tls`` makes server connections, None without certificates.
    ``logins`` are the `authentication.Logins` of AUTH, None where nobody can log in.
    ``welcome`` is what is asked about a client before its greeting, ``secured`` once TLS is on, ``logged_in`` of one who has a
    login (see `inbound.welcome`).
    """

    def __init__(
        self,
        server: ServerSettings,
        settings: ConnectionSettings,
        open_transaction: Callable[[Session, str], TransactionLike],
        adapters: Adapters,
        tls: Any = None,
        label: str = "",
        *,
        census: Census | None = None,
        tally: Tally | None = None,
        welcome: Sequence[Callable[[Session], Any]] = (),
        secured: Sequence[Callable[[Session], Any]] = (),
        trust: TrustSettings = NO_TRUST,
        logins: Any = None,
        logged_in: Sequence[Callable[[Session], Any]] = (),
    ) -> None:
        self.server = server
        self.settings = settings
        self.open_transaction = open_transaction
        self.reactor = adapters.reactor
        self.tls = tls
        self.label = label
        self.welcome = tuple(welcome)
        self.secured = tuple(secured)
        self.trust = trust
        self._servers: dict[tuple[bool, bool], ServerSettings] = {(False, False): server}
        """The engine's settings by what the peer may do; one object for each, which replies are remembered by."""
        self.logins = logins
        self.logged_in = tuple(logged_in)
        self.events = EventLog("mailgate.inbound")
        self.accepting = False
        self.draining = False
        greeter = ServerSession(replace(server, replies=by_class()))
        greeter.greet()
        self.greeting = greeter.output()
        """The same for every connection, so that one that says nothing needs no session."""
        crowded = self.encode(TOO_MANY)
        self.refusals = {
            "max_connections": crowded,
            "max_connections_per_ip": crowded,
            "max_lag": self.encode(TOO_BUSY),
        }
        """What a connection beyond each limit hears in place of the greeting."""
        self._random = adapters.random
        self._ids: list[str] = []
        """Made already, not used."""
        self._open: set[Drainable] = set()
        self.census = census or Census()
        self.tally = tally or Tally()
        self._waiting: list[Deferred[None]] = []
        """Fire when the last connection is gone."""
        self._uncounted: Networks = settings.uncounted + (trust.proxy.trusted.networks if trust.proxy is not None else ())
        self._unlogged_refusals = 0
        self._next_refusal_line = 0.0

    def server_for(self, peer: str) -> ServerSettings:
        """The engine's settings for one peer: whether it may speak for others."""
        trust = self.trust
        if trust.xclient is None and trust.xforward is None:
            return self.server
        powers = (
            trust.xclient is not None and trust.xclient.include(peer),
            trust.xforward is not None and trust.xforward.include(peer),
        )
        settings = self._servers.get(powers)
        if settings is None:
            settings = self._servers[powers] = replace(self.server, xclient=powers[0], xforward=powers[1])
        return settings

    def is_quiet(self, client: str) -> bool:
        """Whether nothing is to be logged of a session of which no message came."""
        return bool(client) and bool(self.settings.quiet) and within(client, self.settings.quiet)

    def steps_for(self, session: Session) -> tuple[Callable[[Session], Any], ...]:
        """What is asked of a client that XCLIENT has named."""
        secured = self.secured if session.tls is not None else ()
        return (*self.welcome, *secured, *(self.logged_in if session.auth_user else ()))

    def __len__(self) -> int:
        return len(self._open)

    def encode(self, reply: Reply) -> bytes:
        """A reply that is said past the engine."""
        return reply.encode(enhanced="ENHANCEDSTATUSCODES" not in self.server.hide)

    def new_id(self) -> str:
        """Short, and not to be guessed: it stands in replies and logs of the next hops."""
        if not self._ids:  # many at a time: the system's random numbers cost a system call
            digits = f"{self._random.getrandbits(48 * IDS_AT_A_TIME):0{12 * IDS_AT_A_TIME}x}"
            self._ids = [digits[at : at + 12] for at in range(0, len(digits), 12)]
        return self._ids.pop()

    # limits

    def exceeded(self, client: str, lag: float = 0.0) -> str:
        """The name of the limit that one more connection from this address would exceed, or ""; ``lag``: of the event loop."""
        settings = self.settings
        if lag > settings.max_lag and (lag > FRIENDS_LAG * settings.max_lag or not self._may_use_reserve(client, accepted=True)):
            return "max_lag"
        if self.census.open >= settings.max_connections - settings.reserved_connections and (
            self.census.open >= settings.max_connections or not self._may_use_reserve(client, accepted=True)
        ):
            return "max_connections"
        if self._has_enough(client):
            return "max_connections_per_ip"
        return ""

    def add(self, connection: Drainable, client: str) -> None:
        self._open.add(connection)
        census = self.census
        census.open += 1
        self.tally.connections += 1
        self._count(client)

    def move(self, old: str, new: str) -> str:
        """A connection turns out to be another client's: count it there, unless that would exceed the limit, whose name it
        gives then."""
        if old == new:
            return ""
        self._discount(old)
        limit = self._exceeded_by(new)
        self._count(old if limit else new)
        return limit

    def _exceeded_by(self, client: str) -> str:
        """The same of a connection that is open already."""
        settings = self.settings
        if self._has_enough(client):
            return "max_connections_per_ip"
        over = self.census.open - (settings.max_connections - settings.reserved_connections)
        return "max_connections" if over > 0 and not self._may_use_reserve(client, accepted=False) else ""

    def remove(self, connection: Drainable, client: str) -> None:
        self._open.discard(connection)
        self.census.open -= 1
        self._discount(client)
        if not self._open and self._waiting:
            waiting, self._waiting = self._waiting, []
            for done in waiting:
                done.callback(None)

    def _may_use_reserve(self, client: str, *, accepted: bool) -> bool:
        """``accepted``: it is the peer's address, and a proxy may yet say whose connection it is."""
        if client == "" or client.startswith("127.") or client == "::1":
            return True
        proxy = self.trust.proxy
        if accepted and proxy is not None and proxy.trusted.include(client):
            return True
        return within(client, (*self.settings.uncounted, *self.settings.reserved_for))

    def _has_enough(self, client: str) -> bool:
        counted = self.census.per_address.get(counted_as(client), 0)
        return counted >= self.settings.max_connections_per_ip and self._is_counted(client)

    def _count(self, client: str) -> None:
        if self._is_counted(client):
            per_address = self.census.per_address
            key = counted_as(client)
            per_address[key] = per_address.get(key, 0) + 1

    def _discount(self, client: str) -> None:
        if self._is_counted(client):
            per_address = self.census.per_address
            key = counted_as(client)
            left = per_address[key] - 1
            if left:
                per_address[key] = left
            else:
                del per_address[key]

    def _is_counted(self, client: str) -> bool:
        if client == "" or client.startswith("127.") or client == "::1":
            return False
        return not self._uncounted or not within(client, self._uncounted)

    def log_refused(self, listener: str, client: str, limit: str) -> None:
        now = self.reactor.seconds()
        self.tally.refused[limit] = self.tally.refused.get(limit, 0) + 1
        self._unlogged_refusals += 1
        if now >= self._next_refusal_line:
            self._next_refusal_line = now + 1.0
            count, self._unlogged_refusals = self._unlogged_refusals, 0
            self.events.warn(Event.SESSION_REFUSED, listener=listener, client=client, limit=limit, refused=count)

    # the end

    def emptied(self) -> Deferred[None]:
        """Fires when the last connection is gone, of its own accord or not."""
        done: Deferred[None] = Deferred()
        if self._open:
            self._waiting.append(done)
        else:
            done.callback(None)
        return done

    def drain(self, timeout: float) -> Deferred[None]:
        """Tell idle sessions 421 now and the others after their transaction, or when ``timeout`` is over. Fires when
        the last connection is gone."""
        self.draining = True
        for connection in list(self._open):
            connection.drain()
        done = self.emptied()
        if done.called:
            return done
        late = self.reactor.callLater(timeout, self._cut)

        def finished(result: None) -> None:
            if late.active():
                late.cancel()

        return done.addCallback(finished)

    def _cut(self) -> None:
        for connection in list(self._open):
            connection.cut()
