"""A reactor without an operating system: simulated time, connections in memory, real TLS, one seed one run.

`SimulatedReactor` is a `twisted.internet.task.Clock` that also connects and listens (IReactorTCP, IReactorUNIX, names). What
one end writes arrives at the other as the same pieces, in order, after a latency drawn from the seed, so that a test decides
every cut of the stream; `chop` cuts them further. Transports push back as sockets do: an end that doesn't read fills its
peer's buffer, and the peer's producer is paused. TLS is Twisted's own, over the simulated transport. Threads run at once.

    reactor = SimulatedReactor(seed=7)
    gateway = start(adapters_for(reactor))
    client = reactor.run(connect(reactor, "tcp://127.0.0.1:25"))
    reply = reactor.run(client.reply())
    reactor.advance(300)                    # five minutes pass

Faults: `refuse` and `black_hole` for addresses that don't answer, `NextHop` scripts for peers that do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from twisted.internet import address, error
from twisted.internet.base import BaseConnector
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IHostnameResolver,
    IListeningPort,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.adapters import Adapters
from mailgate.testing.transport import MemoryTransport

T = TypeVar("T")

EPOCH = 1_750_000_000.0
"""Wall time at the start of a simulation."""
EPHEMERAL_PORTS = 32768


class SimulationStuck(AssertionError):
    """Nothing is left to happen, or the simulated time limit is reached, and the awaited thing has not come."""


@implementer(IReactorTime, IReactorTCP, IReactorUNIX, IReactorFromThreads, IReactorPluggableNameResolver)
class SimulatedReactor(Clock):
    """Time and network of one simulation. ``latency`` is the range of seconds that one write takes to arrive."""

    def __init__(self, seed: int = 0, *, latency: tuple[float, float] = (0.0001, 0.002)) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.latency = latency
        self.chop: Callable[[bytes], list[bytes]] | None = None
        """Cuts each write into the pieces in which it arrives; None leaves it whole."""
        self.hosts: dict[str, str] = {"localhost": "127.0.0.1"}
        self.transports: set[MemoryTransport] = set()
        self.connects: list[tuple[float, Any]] = []
        """When and to which address connections were tried."""
        self._listening: dict[Any, MemoryPort] = {}
        self._refused: set[Any] = set()
        self._black_holes: set[Any] = set()
        self._next_port = EPHEMERAL_PORTS
        self.nameResolver = _Names(self)

    # driving it

    def run(self, awaitable: Coroutine[Any, Any, T] | Deferred[T], limit: float = 3600.0) -> T:
        """Let time pass until the awaitable is done; returns its result or raises its failure."""
        waiting = awaitable if isinstance(awaitable, Deferred) else Deferred.fromCoroutine(awaitable)
        outcome: list[Any] = []
        waiting.addBoth(outcome.append)
        self.run_while(lambda: not outcome, limit)
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        return cast(T, outcome[0])

    def run_while(self, condition: Callable[[], bool], limit: float = 3600.0) -> None:
        """Let time pass from event to event as long as ``condition()`` holds."""
        end = self.seconds() + limit
        while condition():
            calls = self.getDelayedCalls()
            if not calls or calls[0].getTime() > end:
                raise SimulationStuck(f"at {self.seconds():.3f}s, {len(calls)} calls pending")
            self.advance(max(0.0, calls[0].getTime() - self.seconds()))

    def settle(self, seconds: float = 1.0) -> None:
        """Let ``seconds`` pass, event by event."""
        end = self.seconds() + seconds
        while (calls := self.getDelayedCalls()) and calls[0].getTime() <= end:
            self.advance(max(0.0, calls[0].getTime() - self.seconds()))
        self.advance(max(0.0, end - self.seconds()))

    # faults

    def refuse(self, host: str, port: int) -> None:
        """From now on nobody listens there, whoever does."""
        self._refused.add((host, port))

    def black_hole(self, host: str, port: int) -> None:
        """From now on connecting there gets no answer at all."""
        self._black_holes.add((host, port))

    def heal(self, host: str, port: int) -> None:
        self._refused.discard((host, port))
        self._black_holes.discard((host, port))

    # IReactorTCP and IReactorUNIX

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> MemoryPort:
        if port == 0:
            port = self._ephemeral()
        kind = address.IPv6Address if ":" in interface else address.IPv4Address
        return self._listen((interface, port), kind("TCP", interface or "0.0.0.0", port), factory)

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> MemoryConnector:
        source = (bindAddress[0] if bindAddress else "") or ("::1" if ":" in host else "127.0.0.1")
        kind = address.IPv6Address if ":" in source else address.IPv4Address
        connector = MemoryConnector(
            self, (host, port), kind("TCP", host, port), lambda: kind("TCP", source, self._ephemeral()), factory, timeout
        )
        connector.connect()
        return connector

    def listenUNIX(self, address: str, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False) -> MemoryPort:
        return self._listen(address, _unix(address), factory)

    def connectUNIX(self, address: str, factory: Any, timeout: float = 30, checkPID: bool = False) -> MemoryConnector:
        connector = MemoryConnector(self, address, _unix(address), lambda: _unix(""), factory, timeout)
        connector.connect()
        return connector

    # IReactorFromThreads, names

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        self.callLater(0, callable, *args, **kwargs)

    def installNameResolver(self, resolver: Any) -> Any:
        previous, self.nameResolver = self.nameResolver, resolver
        return previous

    def resolve(self, name: str, timeout: Any = None) -> Deferred[str]:
        return succeed(self.hosts.get(name, name))

    # inside

    def _ephemeral(self) -> int:
        self._next_port += 1
        return self._next_port

    def _listen(self, key: Any, host: Any, factory: Any) -> MemoryPort:
        if key in self._listening:
            interface, number = key if isinstance(key, tuple) else (None, key)
            raise cast(Any, error.CannotListenError)(interface, number, OSError("Address already in use"))
        port = MemoryPort(self, key, host, factory)
        self._listening[key] = port
        factory.doStart()
        return port

    def find_port(self, key: Any) -> MemoryPort | None:
        if isinstance(key, tuple):
            host, port = key
            resolved = self.hosts.get(host, host)
            for interface in (resolved, "", "0.0.0.0", "::"):
                found = self._listening.get((interface, port))
                if found is not None and found.accepting:
                    return found
            return None
        found = self._listening.get(key)
        return found if found is not None and found.accepting else None

    def forget_port(self, key: Any) -> None:
        self._listening.pop(key, None)

    def is_refused(self, key: Any) -> bool:
        return key in self._refused

    def is_black_hole(self, key: Any) -> bool:
        return key in self._black_holes


def _failure(kind: Callable[[], Exception]) -> Failure:
    return cast(Failure, cast(Any, Failure)(kind()))


def _unix(path: str) -> address.UNIXAddress:
    return address.UNIXAddress(path or None)


@implementer(IHostnameResolver)
class _Names:
    """Answers from the reactor's ``hosts``; an IP literal is itself; anything else doesn't exist."""

    def __init__(self, reactor: SimulatedReactor) -> None:
        self._reactor = reactor

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        resolutionReceiver.resolutionBegan(None)
        found = self._reactor.hosts.get(hostName, hostName)
        if ":" in found:
            resolutionReceiver.addressResolved(address.IPv6Address("TCP", found, portNumber))
        elif found.replace(".", "").isdigit():
            resolutionReceiver.addressResolved(address.IPv4Address("TCP", found, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolutionReceiver


@implementer(IListeningPort)
class MemoryPort:
    """A listening address of the simulation."""

    def __init__(self, reactor: SimulatedReactor, key: Any, host: Any, factory: Any) -> None:
        self._reactor = reactor
        self.key = key
        self._host = host
        self.factory = factory
        self.accepting = True
        self.connected = True
        self.disconnected = False

    def startListening(self) -> None:
        self.accepting = True

    def stopListening(self) -> Deferred[None]:
        if self.connected:
            self.connected = self.accepting = False
            self.disconnected = True
            self._reactor.forget_port(self.key)
            self.factory.doStop()
        return succeed(None)

    loseConnection = stopListening

    def getHost(self) -> Any:
        return self._host

    def pauseProducing(self) -> None:
        """A port that pauses leaves its connections waiting; here they are refused."""
        self.accepting = False

    def resumeProducing(self) -> None:
        self.accepting = True


class MemoryConnector(BaseConnector):
    """One attempt to connect, with Twisted's own states and timeout."""

    def __init__(
        self, reactor: SimulatedReactor, key: Any, peer: Any, source: Callable[[], Any], factory: Any, timeout: float
    ) -> None:
        self._simulation = reactor
        self._key = key
        self._peer = peer
        self._source = source
        super().__init__(factory, timeout, cast(Any, reactor))

    def _makeTransport(self) -> Any:
        return _Attempt(self._simulation, self, self._key)

    def getDestination(self) -> Any:
        return self._peer

    def establish(self, port: MemoryPort) -> None:
        """Both ends come to life, the server's first, as after an accept."""
        reactor = self._simulation
        source = self._source()
        client = MemoryTransport(reactor, source, self._peer, is_client=True)
        server = MemoryTransport(reactor, self._peer, source, is_client=False)
        client.peer, server.peer = server, client
        server_protocol = port.factory.buildProtocol(source)
        self.transport = cast(Any, client)
        client.connector = self
        protocol = self.buildProtocol(self._peer)
        if protocol is None:
            client.abortConnection()
        else:
            client.protocol = protocol
            protocol.makeConnection(client)
        if server_protocol is None:
            server.abortConnection()
        else:
            server.protocol = server_protocol
            server_protocol.makeConnection(server)


class _Attempt:
    """The transport of a connector until it's connected."""

    def __init__(self, reactor: SimulatedReactor, connector: MemoryConnector, key: Any) -> None:
        self._connector = connector
        self._reactor = reactor
        self._key = key
        reactor.connects.append((reactor.seconds(), key))
        self._call: Any = None
        if not reactor.is_black_hole(key):
            self._call = reactor.callLater(reactor.random.uniform(*reactor.latency), self._arrive)

    def _arrive(self) -> None:
        port = None if self._reactor.is_refused(self._key) else self._reactor.find_port(self._key)
        if port is None:
            self._connector.connectionFailed(_failure(error.ConnectionRefusedError))
            return
        self._connector.cancelTimeout()
        self._connector.establish(port)

    def failIfNotConnected(self, reason: Any) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._connector.connectionFailed(reason if isinstance(reason, Failure) else _failure(type(reason)))

    def loseConnection(self) -> None:
        self.failIfNotConnected(_failure(error.UserError))


def adapters_for(reactor: SimulatedReactor) -> Adapters:
    """The outside world of a simulation: its time, its network, its dice, and threads that run at once."""
    return Adapters(
        reactor=reactor,
        wall_time=lambda: EPOCH + reactor.seconds(),
        run_in_thread=maybeDeferred,
        random=random.Random(reactor.random.random()),
    )
