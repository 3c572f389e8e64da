"""Connecting: tcp://, tls:// and unix:// endpoints, over the reactor that was given.

With `source_ip` a connection is made from one of our addresses, those of its link's key before those of its endpoint. A name is
resolved and its addresses are tried as Twisted's HostnameEndpoint does (RFC 8305); an address is connected to directly. TLS from
the first byte is begun by `handshake.make_ready` on the connected transport, as STARTTLS is, so both are judged in one place.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectBindError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from mailgate.outbound.connection import Connection
from mailgate.outbound.endpoint_settings import EndpointSettings
from mailgate.outbound.failure import AttemptFailed, Kind
from mailgate.outbound.source_policy import SYSTEM_CHOOSES
from mailgate.outbound.source_socket import NoSource, SourcedReactor


class _Once(Factory):
    """Hands out one protocol that exists already."""

    noisy = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return self._connection


async def dial(reactor: Any, connection: Connection, seconds: float, host: str = "") -> None:
    """Connect ``connection``; to the address ``host`` instead of its endpoint's host if given.

    :raises AttemptFailed: when nobody answers there.
    """
    settings = connection.settings
    sources = connection.link.key.sources
    policy = settings.source or SYSTEM_CHOOSES
    if policy.sources or sources:
        reactor = SourcedReactor(reactor, lambda remote: policy.candidates(sources, remote), connection.source_failed)
    waiting: Deferred[Any] = _endpoint(reactor, settings, seconds, host).connect(_Once(connection))
    try:
        await waiting
    except CancelledError:
        raise
    except (NoSource, ConnectBindError) as error:
        raise AttemptFailed(Kind.SOURCE, "connect", str(error)) from error
    except Exception as error:
        raise AttemptFailed(Kind.CONNECT, "connect", str(error) or type(error).__name__) from error
    # Twisted's endpoints put a protocol of their own between; from here on it would only pass everything through.
    connection.transport.protocol = connection  # type: ignore[union-attr]
    if policy.sources or sources:
        local = str(connection.transport.getHost().host)  # type: ignore[union-attr]
        connection.session.hostname = policy.name_of(sources, local) or connection.session.hostname


def _endpoint(reactor: Any, settings: EndpointSettings, seconds: float, host: str) -> Any:
    if settings.scheme == "unix":
        unix: Any = UNIXClientEndpoint
        return unix(reactor, settings.path, timeout=seconds)
    host = host or settings.host
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return HostnameEndpoint(reactor, host, settings.port, timeout=seconds)
    return (TCP4ClientEndpoint if version == 4 else TCP6ClientEndpoint)(reactor, host, settings.port, timeout=seconds)


def peer_host(connection: Connection) -> str:
    """The address a connection goes to, "" for a unix socket."""
    return str(getattr(connection.transport.getPeer(), "host", ""))  # type: ignore[union-attr]
