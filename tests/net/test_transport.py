"""Sending at once: the same bytes in the same order as Twisted's own write, over real sockets."""

from __future__ import annotations

import select
from typing import Any

from cryptography import x509
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import TestCase

from mailgate.net.transport import end_writing, send
from mailgate.tls.client import ClientContext
from mailgate.tls.server import ServerContexts
from tests.tls.authority import Authority


class _Reader(Protocol):
    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.received = bytearray()
        self.done: Deferred[bytes] = Deferred()
        self.accepted: Deferred[None] = Deferred()
        self.lost: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.pauseProducing()  # until the test lets it read: the writer fills the socket's buffer first
        self.accepted.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if len(self.received) >= self.expected and not self.done.called:
            self.done.callback(bytes(self.received))

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(bytes(self.received))


class SendTests(TestCase):
    timeout = 30

    async def _secure_pair(self, expected: int) -> tuple[Any, _Reader]:
        """Both sides' handshakes are over."""
        transport, reader = await self._pair(len(b"hello;") + expected)
        reader.transport.resumeProducing()
        pair = Authority().issue([x509.DNSName("localhost")])
        reader.transport.startTLS(ServerContexts([pair]).connection_creator())
        transport.startTLS(ClientContext(use_default_ca=False).connection_creator(None))
        send(transport, b"hello;")  # before the handshake: it waits
        while bytes(reader.received) != b"hello;":
            await deferLater(reactor, 0.001, lambda: None)
        reader.received.clear()
        reader.expected = expected
        return transport, reader

    async def _pair(self, expected: int) -> tuple[Any, _Reader]:
        reader = _Reader(expected)
        port = reactor.listenTCP(0, Factory.forProtocol(lambda: reader), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        connected: Deferred[Any] = Deferred()

        class Writer(Protocol):
            def connectionMade(self) -> None:
                connected.callback(self.transport)

        factory = ClientFactory.forProtocol(Writer)
        reactor.connectTCP("127.0.0.1", port.getHost().port, factory)
        transport = await connected
        await reader.accepted
        self.addCleanup(transport.abortConnection)
        return transport, reader

    async def test_small_writes_arrive_in_order(self) -> None:
        pieces = [b"%d;" % number for number in range(1000)]
        whole = b"".join(pieces)
        transport, reader = await self._pair(len(whole))
        for piece in pieces:
            send(transport, piece)
        reader.transport.resumeProducing()
        self.assertEqual(await reader.done, whole)

    async def test_order_with_write_is_kept_when_the_socket_is_full(self) -> None:
        pieces = [bytes([number % 251]) * 300_000 for number in range(40)]
        whole = b"".join(pieces)
        transport, reader = await self._pair(len(whole))
        for number, piece in enumerate(pieces):
            (send if number % 3 else lambda transport, data: transport.write(data))(transport, piece)
        reader.transport.resumeProducing()
        self.assertEqual(await reader.done, whole)

    async def test_a_lost_connection_is_reported_by_the_reactor(self) -> None:
        transport, _ = await self._pair(10**9)
        transport.abortConnection()
        send(transport, b"too late")  # nothing is raised at the writer

    async def test_under_tls_it_leaves_at_once(self) -> None:
        transport, reader = await self._secure_pair(3)
        send(transport, b"abc")
        self.assertTrue(select.select([reader.transport.fileno()], [], [], 5)[0], "it waits for the reactor")
        self.assertEqual(await reader.done, b"abc")

    async def test_under_tls_the_order_is_kept_when_the_socket_is_full(self) -> None:
        pieces = [bytes([number % 251]) * (300_000 if number % 4 else 5) for number in range(60)]
        whole = b"".join(pieces)
        transport, reader = await self._secure_pair(len(whole))
        reader.transport.pauseProducing()
        for piece in pieces:
            send(transport, piece)
        self.assertTrue(transport.dataBuffer or transport._tempDataBuffer, "the socket took it all")
        reader.transport.resumeProducing()
        self.assertEqual(await reader.done, whole)

    async def test_under_tls_what_was_sent_before_the_close_arrives(self) -> None:
        transport, reader = await self._secure_pair(1_000_003)
        send(transport, b"x" * 1_000_000)
        send(transport, b"end")
        transport.loseConnection()
        self.assertEqual((await reader.done)[-4:], b"xend")
        send(transport, b"too late")

    async def test_under_tls_a_lost_connection_is_reported_by_the_reactor(self) -> None:
        transport, _ = await self._secure_pair(10**9)
        transport.abortConnection()
        send(transport, b"too late")

    async def test_the_end_of_writing_is_there_at_once(self) -> None:
        transport, reader = await self._pair(3)
        send(transport, b"bye")
        end_writing(transport)
        # without a turn of the event loop
        self.assertEqual(reader.transport.socket.recv(10), b"bye")
        self.assertEqual(reader.transport.socket.recv(10), b"")

    async def test_what_is_queued_arrives_before_the_end_of_writing(self) -> None:
        transport, reader = await self._pair(1)
        content = b"0123456789abcdef" * (1 << 19)
        send(transport, content)
        end_writing(transport)
        reader.transport.resumeProducing()
        self.assertEqual(await reader.lost == content, True)

    def test_other_transports_get_a_plain_write(self) -> None:
        transport = StringTransport()
        send(transport, b"abc")
        self.assertEqual(transport.value(), b"abc")
