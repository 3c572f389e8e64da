"""dnspython over Twisted: one question asked of several servers, until one of them answers.

What travels is in wire.py; here are the sockets and the waiting. The rules (RFC 5452, 7766, 8906):

- Each try has a UDP socket of its own, connected to its server, so that the kernel chooses a fresh random port and drops what
  comes from elsewhere; the id is random too. What arrives and is not the response to the question is dropped and waiting goes
  on; after `MAX_STRANGERS` of those somebody is guessing, and the try goes on by TCP, where nobody guesses.
- A truncated response is asked for again by TCP; what it holds is never used.
- A server that fails (SERVFAIL, REFUSED, lame, malformed, refused by ICMP, TCP down) gives way to the next at once; one that is
  silent for ``timeout`` seconds does so then, and is still listened to: a late answer is an answer. ``attempts`` rounds are
  made over all servers. FORMERR to a question with EDNS is asked once more without.
- A server that was silent comes last for `SILENT_FOR` seconds, so that a dead first server costs its timeout once.
- SERVFAIL for the reason that DNSSEC validation failed (RFC 8914) ends the question as `Bogus`: another server, which may not
  validate, is not asked for a kinder answer.
- At most ``max_queries`` questions are on the way; the next `MAX_WAITING` wait for their turn, more fail.

`Transport.ask` returns a `Wait`; cancelling it closes its sockets. Time and sockets are the reactor's, randomness is given.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from twisted.internet import protocol
from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from mailgate.dns.failure import Bogus, DnsFailure, ServerFailure, Timeout
from mailgate.dns.wire import BADVERS, FORMERR, NOERROR, NOTIMP, NXDOMAIN, Malformed, NotOurs, Question, Response, decode
from mailgate.net.waiting import Wait

MAX_STRANGERS = 32
"""Wrong datagrams before a try turns to TCP. A guesser needs 2^31 on average."""

MAX_WAITING = 10_000
"""Questions that wait for a free socket."""

SILENT_FOR = 10.0
_MAX_DATAGRAM = 65535
_READS = 16
"""Datagrams read in one turn of the event loop."""


@dataclass(frozen=True, slots=True)
class Server:
    """A recursive server. Only a ``trusted`` one's AD bit is believed."""

    host: str
    port: int = 53
    trusted: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 53 else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Seconds for one try, and rounds over all servers."""

    timeout: float = 5.0
    attempts: int = 2
    max_queries: int = 500


@dataclass(frozen=True, slots=True)
class Reply:
    """A response and who gave it."""

    response: Response
    server: Server


class Transport:
    """The servers, and the questions on their way."""

    def __init__(self, servers: Sequence[Server], reactor: Any, random: Random, schedule: Schedule = Schedule()) -> None:
        self.servers = tuple(servers)
        self.reactor = reactor
        self.random = random
        self.schedule = schedule
        self._silent_until = dict.fromkeys(self.servers, 0.0)
        self._running: set[_Exchange] = set()
        self._waiting: deque[_Exchange] = deque()

    @property
    def trusted(self) -> bool:
        return any(server.trusted for server in self.servers)

    @property
    def in_flight(self) -> int:
        return len(self._running)

    def ask(self, question: Question) -> Wait[Reply]:
        """:raises DnsFailure: `Bogus`, `ServerFailure` or `Timeout`, when it is awaited."""
        exchange = _Exchange(self, question)
        if len(self._running) < self.schedule.max_queries:
            self._running.add(exchange)
            exchange.start()
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(exchange)
        else:
            exchange.answer.fail(ServerFailure(question.text, question.kind, "too many questions at once"))
        return exchange.answer

    def close(self) -> None:
        """Cancel every question."""
        for exchange in [*self._waiting, *self._running]:
            exchange.answer.cancel()

    def plan(self) -> list[Server]:
        """The servers of one question, one per try: those that were silent lately come last in each round."""
        now = self.reactor.seconds()
        order = sorted(self.servers, key=lambda server: self._silent_until[server] > now)
        return order * self.schedule.attempts

    def heard(self, server: Server) -> None:
        self._silent_until[server] = 0.0

    def silent(self, server: Server) -> None:
        self._silent_until[server] = self.reactor.seconds() + SILENT_FOR

    def ended(self, exchange: _Exchange) -> None:
        self._running.discard(exchange)
        while self._waiting and len(self._running) < self.schedule.max_queries:
            following = self._waiting.popleft()
            if not following.answer.done:
                self._running.add(following)
                following.start()


class _Exchange:
    """One question on its way through the tries."""

    def __init__(self, transport: Transport, question: Question) -> None:
        self.transport = transport
        self.question = question
        self.answer: Wait[Reply] = Wait(self._cancelled)
        self._plan: deque[Server] = deque()
        self._tries: list[_Try] = []
        self._failure: DnsFailure | None = None
        self._timer: Any = None

    def start(self) -> None:
        self._plan.extend(self.transport.plan())
        self._next()

    def _next(self) -> None:
        """Ask the next server of the plan; without one, the question has failed when the last try's time is over."""
        if not self._plan:
            self._conclude()
            return
        self._ask(self._plan.popleft(), edns=True)

    def _ask(self, server: Server, *, edns: bool) -> None:
        self._set_timer(server)
        attempt = _Try(self, server, edns=edns)
        self._tries.append(attempt)
        attempt.send()

    def _set_timer(self, server: Server) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self.transport.reactor.callLater(self.transport.schedule.timeout, self._late, server)

    def _late(self, server: Server) -> None:
        self.transport.silent(server)
        self._next()

    def by_stream(self, attempt: _Try) -> None:
        """The try goes on by TCP and has its whole time again."""
        if attempt is self._tries[-1]:
            self._set_timer(attempt.server)

    def received(self, attempt: _Try, response: Response) -> None:
        self.transport.heard(attempt.server)
        if response.bogus:
            self._end(Bogus(self.question.text, self.question.kind, f"{attempt.server}: DNSSEC validation failed"))
        elif response.rcode in (FORMERR, NOTIMP, BADVERS) and attempt.edns:
            attempt.close()
            self._tries.remove(attempt)
            self._ask(attempt.server, edns=False)
        elif response.rcode not in (NOERROR, NXDOMAIN):
            self.failed(attempt, f"rcode {response.rcode}" if response.rcode != 2 else "SERVFAIL")
        elif response.lame:
            self.failed(attempt, "lame: neither an answer nor a denial")
        else:
            self._end(Reply(response, attempt.server))

    def failed(self, attempt: _Try, reason: str) -> None:
        """This server has no answer. The next one is asked now if it was the last that was asked."""
        attempt.close()
        self._failure = ServerFailure(self.question.text, self.question.kind, f"{attempt.server}: {reason}")
        is_last = self._tries[-1] is attempt
        self._tries.remove(attempt)
        if is_last or not self._tries:
            self._next()

    def _conclude(self) -> None:
        servers = ", ".join(map(str, self.transport.servers))
        silence = Timeout(self.question.text, self.question.kind, f"no answer from {servers or 'any server: none is known'}")
        self._end(self._failure or silence)

    def _end(self, result: Reply | DnsFailure) -> None:
        self._close()
        if isinstance(result, DnsFailure):
            self.answer.fail(result)
        else:
            self.answer.fire(result)

    def _cancelled(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for attempt in self._tries:
            attempt.close()
        self._tries.clear()
        self.transport.ended(self)


class _Try:
    """One server asked once, by UDP and where needed by TCP."""

    def __init__(self, exchange: _Exchange, server: Server, *, edns: bool) -> None:
        self.server = server
        self.edns = edns
        self._exchange = exchange
        self._ident = exchange.transport.random.getrandbits(16)
        self._strangers = 0
        self._datagrams: _Datagrams | None = None
        self._stream: _StreamFactory | None = None

    def send(self) -> None:
        message = self._exchange.question.encode(self._ident, edns=self.edns)
        try:
            self._datagrams = _Datagrams(self._exchange.transport.reactor, self.server, self._datagram, self._failed)
            self._datagrams.send(message)
        except OSError as error:
            self._failed(error.strerror or str(error))

    def close(self) -> None:
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _datagram(self, data: bytes) -> None:
        try:
            response = decode(data, self._exchange.question, self._ident)
        except NotOurs:
            self._strangers += 1
            if self._strangers > MAX_STRANGERS:
                self._by_stream()
            return
        except Malformed as error:
            self._failed(f"malformed: {error}")
            return
        if response.truncated:
            self._by_stream()
        else:
            self._exchange.received(self, response)

    def _by_stream(self) -> None:
        self.close()
        self._exchange.by_stream(self)
        self._ident = self._exchange.transport.random.getrandbits(16)
        message = self._exchange.question.encode(self._ident, edns=self.edns)
        self._stream = _StreamFactory(message, self._message, self._failed)
        self._stream.connect(self._exchange.transport, self.server)

    def _message(self, data: bytes) -> None:
        try:
            response = decode(data, self._exchange.question, self._ident)
        except (NotOurs, Malformed) as error:
            self._failed(f"by TCP: malformed: {error}")
            return
        if response.truncated:
            self._failed("by TCP: truncated")
        else:
            self._exchange.received(self, response)

    def _failed(self, reason: str) -> None:
        self._exchange.failed(self, reason)


@implementer(IReadDescriptor)
class _Datagrams:
    """A UDP socket connected to one server, read by the reactor.

    Twisted's own UDP port logs two lines for each socket, closes it a turn later and is made to listen; this one asks once.
    """

    def __init__(self, reactor: Any, server: Server, received: Callable[[bytes], None], failed: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._received = received
        self._failed = failed
        family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        self._socket: socket.socket | None = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect((server.host, server.port))
        except OSError:
            self._socket.close()
            raise
        self._fileno = self._socket.fileno()
        reactor.addReader(self)

    def send(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.send(data)

    def close(self) -> None:
        if self._socket is not None:
            self._reactor.removeReader(self)
            self._socket.close()
            self._socket = None

    # as the reactor calls us

    def fileno(self) -> int:
        return self._fileno

    def logPrefix(self) -> str:
        return "dns"

    def doRead(self) -> None:
        for _ in range(_READS):
            if self._socket is None:
                return
            try:
                data = self._socket.recv(_MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP message says that nobody is there
                self._failed(error.strerror or str(error))
                return
            self._received(data)

    def connectionLost(self, reason: Any) -> None:
        if self._socket is not None:
            self.close()
            self._failed("the socket was closed")


class _StreamFactory(protocol.ClientFactory):
    """One question over one TCP connection (RFC 7766)."""

    noisy = False

    def __init__(self, message: bytes, received: Callable[[bytes], None], failed: Callable[[str], None]) -> None:
        self.message = struct.pack("!H", len(message)) + message
        self.received = received
        self.failed = failed
        self.closed = False
        self._connector: Any = None

    def connect(self, transport: Transport, server: Server) -> None:
        self._connector = transport.reactor.connectTCP(server.host, server.port, self, timeout=transport.schedule.timeout)

    def close(self) -> None:
        self.closed = True
        if self._connector is None:
            return
        if self._connector.state == "connected":
            self._connector.transport.abortConnection()
        else:
            self._connector.stopConnecting()
        self._connector = None

    def buildProtocol(self, addr: Any) -> protocol.Protocol:
        return _Stream(self)

    def lost(self, reason: Any) -> None:
        self._connector = None
        if not self.closed:
            self.closed = True
            self.failed(f"by TCP: {reason.getErrorMessage()}")

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        self.lost(reason)

    def clientConnectionLost(self, connector: Any, reason: Any) -> None:
        self.lost(reason)


class _Stream(protocol.Protocol):
    def __init__(self, factory: _StreamFactory) -> None:
        self._factory = factory
        self._buffer = b""

    def connectionMade(self) -> None:
        self.transport.write(self._factory.message)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        if self._factory.closed:
            return
        self._buffer += data
        length = int.from_bytes(self._buffer[:2], "big")
        if len(self._buffer) >= 2 + length and len(self._buffer) >= 2:
            self._factory.received(self._buffer[2 : 2 + length])


def is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
