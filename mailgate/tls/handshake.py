"""The beginning of TLS on a connection that a client has opened, at once or when the certificate is known.

Usually that is `transport.startTLS`. Where certificates come from a table, an `AwaitingHello` takes the protocol's place on the
transport until the client's first message is whole, asks for the certificate of the name in it, and hands everything over. So
a lookup may take its time: the handshake has not begun, nothing blocks, and the listener's handshake_timeout still counts.

It fails closed: a lookup that fails ends the connection, it does not show another certificate.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocol
from zope.interface import implementer

from mailgate.net.waiting import Wait
from mailgate.tls.hello import server_name
from mailgate.tls.live import LiveContexts
from mailgate.tls.server import ServerConnectionCreator


def start_tls(transport: Any, contexts: LiveContexts) -> None:
    """Begin the handshake as the server. What comes from the client goes to ``transport.protocol``, which changes."""
    if contexts.lookup is None:
        transport.startTLS(contexts.connection_creator())
    else:
        AwaitingHello(transport, contexts)


@implementer(IProtocol)
class AwaitingHello:
    """See the module's docstring. It hears of the connection's end in the protocol's place, and passes it on."""

    __slots__ = ("_contexts", "_held", "_protocol", "_waiting", "factory", "transport")

    def __init__(self, transport: Any, contexts: LiveContexts) -> None:
        self.transport = transport
        self.factory: Any = None
        self._contexts = contexts
        self._protocol = transport.protocol
        self._held = b""
        self._waiting: Wait[ServerConnectionCreator] | None = None
        transport.protocol = self

    def makeConnection(self, transport: Any) -> None:
        """Part of IProtocol; the connection is there."""

    def connectionMade(self) -> None:
        """Part of IProtocol; the connection is there."""

    def dataReceived(self, data: bytes) -> None:
        self._held += data
        if self._waiting is not None:  # what was read already when we stopped reading
            return
        name = server_name(self._held)
        if name is None:
            return
        answer = self._contexts.creator_for(name)
        if isinstance(answer, Wait):
            self._waiting = answer
            self.transport.pauseProducing()
            answer.when_done(self._answered)
        else:
            self._begin(answer)

    def connectionLost(self, reason: Any) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
        self._protocol.connectionLost(reason)

    def _answered(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return  # the client is gone
        try:
            creator = waiting.result()
        except Exception:  # the lookup has said why, once for all who waited for it
            self.transport.abortConnection()
            return
        self._begin(creator)
        self.transport.resumeProducing()

    def _begin(self, creator: ServerConnectionCreator) -> None:
        transport = self.transport
        transport.protocol = self._protocol
        transport.startTLS(creator)
        transport.protocol.dataReceived(self._held)
