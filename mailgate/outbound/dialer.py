"""Connecting: tcp://, tls:// and unix:// endpoints, over the reactor that was given.

A connection is made from the address of its link, if that has one (`LinkKey.source`). A name is resolved and its addresses are
tried as Twisted's HostnameEndpoint does (RFC 8305); an address is connected to directly. TLS from the first byte is begun by
`handshake.make_ready` on the connected transport, as STARTTLS is, so both are judged in one place.
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
    source = connection.link.key.source
    waiting: Deferred[Any] = _endpoint(reactor, connection.settings, seconds, host, source).connect(_Once(connection))
    try:
        await waiting
    except CancelledError:
        raise
    except ConnectBindError as error:
        raise AttemptFailed(Kind.SOURCE, "connect", f"can't send from {source}: {error.osError or error}") from error
    except Exception as error:
        raise AttemptFailed(Kind.CONNECT, "connect", str(error) or type(error).__name__) from error
    # Twisted's endpoints put a protocol of their own between; from here on it would only pass everything through.
    connection.transport.protocol = connection  # type: ignore[union-attr]


def _endpoint(reactor: Any, settings: EndpointSettings, seconds: float, host: str, source: str) -> Any:
    if settings.scheme == "unix":
        unix: Any = UNIXClientEndpoint
        return unix(reactor, settings.path, timeout=seconds)
    host = host or settings.host
    bind = (source, 0) if source else None
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return HostnameEndpoint(reactor, host, settings.port, timeout=seconds, bindAddress=bind)
    kind = TCP4ClientEndpoint if version == 4 else TCP6ClientEndpoint
    return kind(reactor, host, settings.port, timeout=seconds, bindAddress=bind)


def peer_host(connection: Connection) -> str:
    """The address a connection goes to, "" for a unix socket."""
    return str(getattr(connection.transport.getPeer(), "host", ""))  # type: ignore[union-attr]
