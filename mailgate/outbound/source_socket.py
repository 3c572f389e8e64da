"""Connections from an address of our choice: Twisted's TCP client with the options that have to be set before it is bound.

`SourcedReactor` stands in for the reactor where a Twisted endpoint connects, and chooses for each address that it tries; nothing
else of it is used. An address that can't be bound gives way to the next one; when none is left, nothing was said to anybody.

Linux: IP_BIND_ADDRESS_NO_PORT leaves the choice of the port to connect(), so that ports run out for one destination only and not
for all. IP_TRANSPARENT needs CAP_NET_ADMIN or CAP_NET_RAW, IP_FREEBIND no privilege; both only let bind() succeed: that answers
find their way back is the affair of routing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp
from twisted.internet.interfaces import IReactorFDSet, IReactorPluggableNameResolver
from zope.interface import implementer

from mailgate.outbound.sources import SYSTEM, Source

IP_FREEBIND, IP_TRANSPARENT, IP_BIND_ADDRESS_NO_PORT = 15, 19, 24
IPV6_TRANSPARENT, IPV6_FREEBIND = 75, 78
"""Of linux/in.h and in6.h; the socket module has not all of them."""

_TRANSPARENT = {socket.AF_INET: (socket.SOL_IP, IP_TRANSPARENT), socket.AF_INET6: (socket.IPPROTO_IPV6, IPV6_TRANSPARENT)}
_FREEBIND = {socket.AF_INET: (socket.SOL_IP, IP_FREEBIND), socket.AF_INET6: (socket.IPPROTO_IPV6, IPV6_FREEBIND)}


class NoSource(Exception):
    """There is no address of ours to connect from. Nobody was connected to."""


@implementer(IReactorPluggableNameResolver)
class SourcedReactor:
    """``candidates(remote)`` gives the sources for an address, ``failed(source, reason)`` hears of each that can't be bound."""

    def __init__(
        self,
        reactor: Any,
        candidates: Callable[[str], tuple[Source, ...]],
        failed: Callable[[Source, str], None],
    ) -> None:
        self._reactor = reactor
        self._candidates = candidates
        self._failed = failed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def installNameResolver(self, resolver: Any) -> Any:
        raise NotImplementedError("this is not the reactor's own resolver")

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> Any:
        candidates = self._candidates(host)
        if not candidates:
            raise NoSource(f"`source_ip` has no address to connect to {host} from")
        if candidates[0] is SYSTEM or not IReactorFDSet.providedBy(self._reactor):
            address = candidates[0].address
            return self._reactor.connectTCP(host, port, factory, timeout, (address, 0) if address else None)
        connector = _Connector(host, port, factory, timeout, None, self._reactor)
        connector.prepare = lambda made: self._bind(made, candidates)
        connector.connect()
        return connector

    def _bind(self, made: socket.socket, candidates: tuple[Source, ...]) -> None:
        """:raises OSError: none of them can be bound."""
        made.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        if candidates[0].foreign:
            allow_foreign(made)
        error: OSError | None = None
        for source in candidates:
            try:
                made.bind((source.address, 0))
            except OSError as failure:
                error = failure
                self._failed(source, failure.strerror or str(failure))
            else:
                return
        assert error is not None
        raise error


def allow_foreign(made: socket.socket) -> None:
    """Let a socket be bound to an address that this host does not have."""
    try:
        made.setsockopt(*_TRANSPARENT[made.family], 1)
    except PermissionError:
        made.setsockopt(*_FREEBIND[made.family], 1)


class _Client(tcp.Client):
    connector: Any

    def createInternetSocket(self) -> socket.socket:
        made: socket.socket = super().createInternetSocket()  # type: ignore[no-untyped-call]
        try:
            self.connector.prepare(made)
        except OSError:
            made.close()
            raise
        return made


_make_client: Any = _Client


class _Connector(tcp.Connector):
    prepare: Callable[[socket.socket], None]

    def _makeTransport(self) -> Any:
        return _make_client(self.host, self.port, None, self, self.reactor)
