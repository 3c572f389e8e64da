"""A client that says exactly what it's told, in exactly the pieces it's given, and keeps every reply.

It knows nothing of SMTP but where a reply ends. Every wait has a deadline on the reactor it was connected with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IConnector
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

DEADLINE = 10.0


class ConnectionEnded(Exception):
    """The peer closed before the reply that was waited for; carries what had come of it."""


class RawClient(Protocol):
    """One connection. ``received`` is everything that ever came."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.received = bytearray()
        self.patience = DEADLINE
        """Seconds that a wait may take unless it says itself."""
        self.lmtp = False
        """Whether the content gets one reply for each recipient."""
        self.closed = False
        self.close_reason: Failure | None = None
        self._unread = bytearray()
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    # Twisted calls these

    def connectionMade(self) -> None:
        transport = cast(Any, self.transport)
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._unread += data
        self._changed()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.closed = True
        self.close_reason = reason
        self._changed()

    # the test calls these

    def send(self, data: bytes) -> None:
        """One write."""
        cast(Any, self.transport).write(data)

    async def send_pieces(self, pieces: Iterable[bytes]) -> None:
        """One write for each piece, a turn of the event loop after each: the peer gets them apart."""
        for piece in pieces:
            if piece:
                self.send(piece)
                await deferLater(self._reactor, 0)

    async def reply(self, deadline: float | None = None) -> bytes:
        """The next complete reply, all its lines, without the last CRLF."""
        await self._when(lambda: self._reply_length() > 0 or self.closed, deadline)
        length = self._reply_length()
        if not length:
            raise ConnectionEnded(bytes(self._unread))
        reply = bytes(self._unread[: length - 2])
        del self._unread[:length]
        return reply

    async def replies(self, count: int, deadline: float | None = None) -> list[bytes]:
        return [await self.reply(deadline) for _ in range(count)]

    async def command(self, line: bytes, deadline: float | None = None) -> bytes:
        """Send a line, its CRLF added; returns the reply to it."""
        self.send(line + b"\r\n")
        return await self.reply(deadline)

    async def say(self, *lines: bytes) -> list[bytes]:
        """Each line after the reply to the one before; returns the replies."""
        return [await self.command(line) for line in lines]

    async def deliver(self, sender: bytes, recipients: Iterable[bytes], content: bytes, *, hello: bytes = b"") -> list[bytes]:
        """A whole transaction (``content`` is already dot-stuffed, with its final CRLF); returns every reply, those
        of LMTP after the dot one by one. Stops at the first refusal of MAIL or DATA."""
        if hello:
            self.lmtp = hello[:4].upper() == b"LHLO"
        replies = [await self.command(hello)] if hello else []
        replies.append(await self.command(b"MAIL FROM:<" + sender + b">"))
        if replies[-1][:1] != b"2":
            return replies
        accepted = 0
        for recipient in recipients:
            replies.append(await self.command(b"RCPT TO:<" + recipient + b">"))
            accepted += replies[-1][:1] == b"2"
        replies.append(await self.command(b"DATA"))
        if replies[-1][:3] == b"354":
            self.send(content + b".\r\n")
            replies += await self.replies(accepted if self.lmtp else 1)
        return replies

    def start_tls(self, creator: Any) -> None:
        """Begin the handshake as the client; what is sent next goes within TLS."""
        cast(Any, self.transport).startTLS(creator)

    async def secure(self, creator: Any) -> bytes:
        """STARTTLS and the handshake; returns the reply to the command."""
        reply = await self.command(b"STARTTLS")
        if reply[:3] == b"220":
            self.start_tls(creator)
        return reply

    def stop_reading(self) -> None:
        cast(Any, self.transport).pauseProducing()

    def resume_reading(self) -> None:
        cast(Any, self.transport).resumeProducing()

    def end(self) -> None:
        """Say nothing more, and read on: half of a close. Under TLS this cuts the stream off."""
        cast(Any, self.transport).loseWriteConnection()

    def drop(self, *, reset: bool = False) -> None:
        transport = cast(Any, self.transport)
        if reset:
            transport.abortConnection()
        else:
            transport.loseConnection()

    async def wait_closed(self, deadline: float | None = None) -> None:
        await self._when(lambda: self.closed, deadline)

    async def close(self) -> None:
        """Drop the connection and wait till it's gone."""
        if not self.closed:
            self.drop(reset=True)
            await self.wait_closed()

    async def quit(self) -> None:
        """QUIT, and wait for the peer to close."""
        self.send(b"QUIT\r\n")
        await self.wait_closed()

    # inside

    def _reply_length(self) -> int:
        """Octets of the first complete reply among the unread ones, 0 if there is none yet."""
        start = 0
        while True:
            end = self._unread.find(b"\r\n", start)
            if end < 0:
                return 0
            if self._unread[start + 3 : start + 4] != b"-":
                return end + 2
            start = end + 2

    def _when(self, condition: Callable[[], bool], deadline: float | None) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        if condition():
            waiting.callback(None)
            return waiting
        self._waiting.append((condition, waiting))
        return waiting.addTimeout(self.patience if deadline is None else deadline, self._reactor)

    def _changed(self) -> None:
        for entry in list(self._waiting):
            condition, waiting = entry
            if waiting.called or condition():
                self._waiting.remove(entry)
                if not waiting.called:
                    waiting.callback(None)


class _Once(ClientFactory):
    noisy = False

    def __init__(self, client: RawClient) -> None:
        self._client = client
        self.connected: Deferred[RawClient] = Deferred()

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        self.connected.callback(self._client)
        return self._client

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self.connected.errback(reason)


async def connect(reactor: Any, endpoint: str, *, tls: Any = None, source: str = "") -> RawClient:
    """Connect to ``tcp://host:port``, ``tls://host:port`` or ``unix:///path``; ``tls`` is the client connection creator for
    the second. Raises what Twisted's connectors fail with."""
    scheme, _, rest = endpoint.partition("://")
    client = RawClient(reactor)
    once = _Once(client)
    if scheme == "unix":
        reactor.connectUNIX(rest, once)
    else:
        host, _, port = rest.rpartition(":")
        bind = (source, 0) if source else None
        reactor.connectTCP(host.strip("[]"), int(port), once, bindAddress=bind)
    await once.connected
    if client.transport is None:  # buildProtocol has run, makeConnection follows within this turn
        await deferLater(reactor, 0)
    if scheme == "tls":
        client.start_tls(tls)
    return client
