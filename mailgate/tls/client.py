"""The context of the connecting side.

A `ClientContext` never ends a handshake over a certificate: what the peer showed is judged afterwards, as data, by
`verification` (an opportunistic mode goes on with a peer that another mode refuses, and the record of the attempt says why).
It keeps the trust anchors for that: the files of ``root_ca`` and, if wanted, the system's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import idna
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from mailgate.tls.options import CLIENT_DEFAULTS, TlsError, TlsOptions
from mailgate.tls.pairs import KeyPair, explain


class ClientContext:
    """Settings and trust anchors of outgoing TLS; one for each distinct set of them, shared by its connections.

    :raises TlsError: for files, options or a pair that can't be used.
    """

    def __init__(
        self,
        root_ca: Sequence[str | Path] = (),
        use_default_ca: bool = False,
        certificate: KeyPair | None = None,
        options: TlsOptions = CLIENT_DEFAULTS,
    ) -> None:
        self._context: Any = SSL.Context(SSL.TLS_CLIENT_METHOD)
        options.apply(self._context)
        self._context.set_verify(SSL.VERIFY_NONE)
        self._context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        if certificate is not None:
            certificate.install(self._context)
        # A context of its own holds the anchors: in that of the connections they would cost a chain for each handshake.
        anchors: Any = SSL.Context(SSL.TLS_CLIENT_METHOD)
        if use_default_ca:
            anchors.set_default_verify_paths()
        for path in root_ca:
            try:
                anchors.load_verify_locations(str(path))
            except SSL.Error as error:
                reason = f"no certificate in PEM form ({explain(error)})" if Path(path).is_file() else "not there or not a file"
                raise TlsError(f"{path}: {reason}") from error
        self._anchors = anchors  # the store below points into it and does not keep it alive
        self.store: Any = anchors.get_cert_store()
        """A `crypto.X509Store` of what is trusted; with nothing in it nobody passes verification."""
        self.trusts_anybody = use_default_ca or bool(root_ca)

    def connection_creator(self, sni: str | None = None) -> ClientConnectionCreator:
        """For `transport.startTLS` and `TLSMemoryBIOFactory`; ``sni`` is a host name, left out when it is an address."""
        return ClientConnectionCreator(self._context, server_name(sni))


@implementer(IOpenSSLClientConnectionCreator)
class ClientConnectionCreator:
    """Makes connections that ask for one server name."""

    __slots__ = ("_context", "_sni")

    def __init__(self, context: Any, sni: bytes | None) -> None:
        self._context = context
        self._sni = sni

    def clientConnectionForTLS(self, protocol: Any) -> Any:
        connection = SSL.Connection(self._context, None)
        if self._sni is not None:
            connection.set_tlsext_host_name(self._sni)
        return connection


def server_name(host: str | None) -> bytes | None:
    """The name as it stands in SNI (RFC 6066 3): A-labels, no trailing dot; None for addresses and what is no name."""
    if not host:
        return None
    name = host.rstrip(".")
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        pass
    else:
        return None
    try:
        encoded = name.encode("ascii") if name.isascii() else idna.encode(name, uts46=True)
    except UnicodeError:  # idna's errors are of this kind
        return None
    return encoded if encoded and b"\0" not in encoded else None
