"""Simulated transports: one end of a connection in memory, and TLS over it. Made by `mailgate.testing.network`."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, cast

from twisted.internet import error
from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, ISSLTransport, ITCPTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer

if TYPE_CHECKING:
    from mailgate.testing.network import SimulatedReactor

BUFFER = 64 << 10
"""Octets on the way in one direction above which the writer's producer is paused."""


class _Pipe:
    """What a transport does below TLS: queues, latency, back-pressure, closing."""

    def __init__(self, reactor: SimulatedReactor, host: Any, peer: Any) -> None:
        self.reactor = reactor
        self._host = host
        self._peer_address = peer
        self.peer: Any = None
        self.protocol: Any = None
        self.connector: Any = None
        self.connected = 1
        self.disconnected = 0
        self.disconnecting = False
        self.producer: Any = None
        self.streamingProducer = False
        self._producer_paused = False
        self._reading = True
        self._inbox: deque[bytes | None] = deque()
        self._pump_scheduled = False
        self._unread_by_peer = 0
        self._write_closed = False
        self._arrival = 0.0
        self.bytes_written = 0

    # writing

    def _write(self, data: bytes) -> None:
        if not data or self.disconnected or self._write_closed or (self.disconnecting and self.producer is None):
            return
        pieces = self.reactor.chop(data) if self.reactor.chop is not None else [bytes(data)]
        self.bytes_written += len(data)
        self._unread_by_peer += len(data)
        for piece in pieces:
            self._send(piece)
        if self.producer is not None and self.streamingProducer and self._unread_by_peer > BUFFER and not self._producer_paused:
            self._producer_paused = True
            self.producer.pauseProducing()

    def _send(self, piece: bytes | None) -> None:
        now = self.reactor.seconds()
        self._arrival = max(self._arrival, now + self.reactor.random.uniform(*self.reactor.latency))
        self.reactor.callLater(self._arrival - now, self.peer._arrive, piece)

    def _register_producer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError("a producer is registered already")
        if self.disconnected:
            producer.stopProducing()
            return
        self.producer = producer
        self.streamingProducer = streaming
        self._producer_paused = False
        if not streaming:
            producer.resumeProducing()

    def _unregister_producer(self) -> None:
        self.producer = None
        if self.disconnecting:
            self._finish_writing()

    def _consumed(self, size: int) -> None:
        """The peer has read ``size`` octets of ours."""
        self._unread_by_peer -= size
        if self._unread_by_peer > 0 or self.disconnected:
            return
        if self.producer is not None:
            if not self.streamingProducer:
                self.producer.resumeProducing()
            elif self._producer_paused:
                self._producer_paused = False
                self.producer.resumeProducing()
        if self.disconnecting and self.producer is None and self._unread_by_peer <= BUFFER:
            self._finish_writing()

    # reading

    def _arrive(self, piece: bytes | None) -> None:
        if self.disconnected:
            if piece is not None:  # nobody is here to read it: a reset goes back
                self.peer._lost(error.ConnectionLost("reset by the peer"))
            return
        self._inbox.append(piece)
        self._pump()

    def _pump(self) -> None:
        while self._inbox and self._reading and not self.disconnected:
            piece = self._inbox.popleft()
            if piece is None:
                self._peer_closed()
            else:
                self.peer._consumed(len(piece))
                self.protocol.dataReceived(piece)

    def _peer_closed(self) -> None:
        half = IHalfCloseableProtocol(self.protocol, None)
        if half is not None and not self.disconnecting:
            half.readConnectionLost()
        else:
            self._lost(error.ConnectionDone())

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        if self._reading or self.disconnected:
            return
        self._reading = True
        if self._inbox:
            self.reactor.callLater(0, self._pump)

    def stopProducing(self) -> None:
        self._lose_connection()

    # closing

    def _lose_connection(self) -> None:
        if self.disconnected or self.disconnecting:
            return
        self.disconnecting = True
        if self.producer is None and self._unread_by_peer <= BUFFER:
            self._finish_writing()

    def _finish_writing(self) -> None:
        """All is handed to the network: the FIN follows, and our end is gone, as after close(2)."""
        if self.disconnected:
            return
        if not self._write_closed:
            self._write_closed = True
            self._send(None)
        self.reactor.callLater(0, self._lost, error.ConnectionDone())

    def loseWriteConnection(self) -> None:
        if not self.disconnected and not self._write_closed:
            self._write_closed = True
            self._send(None)

    def abortConnection(self) -> None:
        if self.disconnected:
            return
        self.reactor.callLater(self.reactor.latency[0], self.peer._lost, error.ConnectionLost("reset by the peer"))
        self.disconnecting = True
        self._write_closed = True
        self.reactor.callLater(0, self._lost, error.ConnectionAborted())

    def _lost(self, reason: Exception) -> None:
        if self.disconnected:
            return
        self.disconnected = 1
        self.connected = 0
        self._inbox.clear()
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        self.reactor.transports.discard(cast(Any, self))
        if not self._write_closed:
            self._write_closed = True
            self._send(None)
        failure = cast(Any, Failure)(reason)
        if self.protocol is not None:
            self.protocol.connectionLost(failure)
        if self.connector is not None:
            self.connector.connectionLost(failure)

    # addresses and options

    def getPeer(self) -> Any:
        return self._peer_address

    def getHost(self) -> Any:
        return self._host

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Every write is a piece of its own here anyway."""

    def getTcpKeepAlive(self) -> bool:
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Nothing to keep alive."""


@implementer(ITCPTransport, IConsumer)
class MemoryTransport(_Pipe):
    """One end of a connection in memory; `startTLS` puts Twisted's TLS in between."""

    TLS = False

    def __init__(self, reactor: SimulatedReactor, host: Any, peer: Any, *, is_client: bool) -> None:
        super().__init__(reactor, host, peer)
        self._is_client = is_client
        reactor.transports.add(self)

    def startTLS(self, contextFactory: Any, normal: Any = True) -> None:
        """As `ITLSTransport.startTLS`: the direction is the connection's own unless ``normal`` is false."""
        producer, streaming = self.producer, self.streamingProducer
        if producer is not None:
            self.unregisterProducer()
        factory = TLSMemoryBIOFactory(contextFactory, self._is_client == bool(normal), cast(Any, None), clock=self.reactor)
        secured = factory.protocol(factory, self.protocol, False)
        self.protocol = secured
        self.getHandle = secured.getHandle
        self.getPeerCertificate = secured.getPeerCertificate
        directlyProvides(self, ISSLTransport)
        self.TLS = True
        cast(Any, secured).makeConnection(_BelowTLS(self))
        if producer is not None:
            self.registerProducer(producer, streaming)

    def write(self, data: bytes) -> None:
        if self.TLS:
            if self.connected:
                self.protocol.write(data)
        else:
            self._write(data)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if self.TLS:
            if self.connected and not self.disconnecting:
                self.protocol.loseConnection()
        else:
            self._lose_connection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.TLS:
            self.protocol.registerProducer(producer, streaming)
        else:
            self._register_producer(producer, streaming)

    def unregisterProducer(self) -> None:
        if self.TLS:
            self.protocol.unregisterProducer()
        else:
            self._unregister_producer()


class _BelowTLS:
    """What the TLS layer writes to: the same transport, underneath itself."""

    disconnecting = False

    def __init__(self, transport: MemoryTransport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._transport._write(data)

    def writeSequence(self, data: Any) -> None:
        self._transport._write(b"".join(data))

    def loseConnection(self) -> None:
        self._transport._lose_connection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._transport._register_producer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._transport._unregister_producer()
