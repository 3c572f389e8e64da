"""What a finished handshake was, for Received, logs, records and authentication.

`accepted_facts` is for connections that came to us, `tls_facts` for those that we made. A client's certificate is known only
where it was asked for, and then OpenSSL has verified it within the handshake (`server.ClientAuth`): what stands here is verified.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from mailgate.message.envelope import TlsFacts

MAX_NAMES = 100
"""Names kept of a client's certificate: it may hold as many as fit into a handshake message."""


def tls_facts(connection: Any, peer_name: str = "") -> TlsFacts:
    """Facts of a `SSL.Connection`; ``peer_name`` is the name that verification matched."""
    return TlsFacts(_version(connection), connection.get_cipher_name() or "", _server_name(connection), peer_name)


def accepted_facts(connection: Any) -> TlsFacts:
    """Facts of a `SSL.Connection` that a client has opened, its certificate included."""
    certificate = connection.get_peer_certificate()
    if certificate is None:
        return tls_facts(connection)
    client: x509.Certificate = certificate.to_cryptography()
    names = client_names(client)
    common = client.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return TlsFacts(
        _version(connection),
        connection.get_cipher_name() or "",
        _server_name(connection),
        peer_name=names[0] if names else str(common[0].value) if common else "",
        peer_names=names,
        peer_subject=client.subject.rfc4514_string(),
        peer_fingerprint=client.fingerprint(hashes.SHA256()).hex(),
    )


def client_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """DNS names and mail addresses of a certificate, in lower case."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):  # ValueError: an extension that can't be read names nobody
        return ()
    found = [*names.get_values_for_type(x509.DNSName), *names.get_values_for_type(x509.RFC822Name)]
    return tuple(name.lower() for name in found[:MAX_NAMES])


def _version(connection: Any) -> str:
    version: str = connection.get_protocol_version_name()
    return version.replace("TLSv", "TLS")


def _server_name(connection: Any) -> str:
    name = connection.get_servername()
    return name.decode("ascii", "replace") if name else ""
