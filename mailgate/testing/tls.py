"""Connection creators for peers in tests: a client that trusts anybody, a server with one certificate.

They share nothing with mailgate.tls, so that they can judge it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from zope.interface import implementer


@implementer(IOpenSSLClientConnectionCreator)
class TrustingClient:
    """Verifies nothing; asks for the name ``sni`` if there is one; ``adjust`` may change the context beforehand."""

    def __init__(self, sni: str = "", adjust: Callable[[SSL.Context], Any] | None = None) -> None:
        self._sni = sni
        self._context = SSL.Context(SSL.TLS_METHOD)
        if adjust is not None:
            adjust(self._context)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if self._sni:
            connection.set_tlsext_host_name(self._sni.encode("idna"))
        return connection


@implementer(IOpenSSLServerConnectionCreator)
class CertificateServer:
    """Shows the chain in ``certificate`` (PEM, the server's own first) with the key in ``key`` (PEM)."""

    def __init__(self, certificate: bytes, key: bytes, adjust: Callable[[SSL.Context], Any] | None = None) -> None:
        own, *others = load_pem_x509_certificates(certificate)
        self._context = SSL.Context(SSL.TLS_METHOD)
        context: Any = self._context
        context.use_certificate(own)
        for other in others:
            context.add_extra_chain_cert(other)
        context.use_privatekey(load_pem_private_key(key, None))
        if adjust is not None:
            adjust(self._context)

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context, None)
