"""Channel bindings: what ties a SASL exchange to the TLS connection it runs in (RFC 5056), for SCRAM-…-PLUS on both sides.

tls-exporter          RFC 9266: keying material that both ends derive from the handshake. Of TLS 1.3 only: before it, two
                      connections can be made to agree (RFC 7627), and whether they can't is not to be seen from here.
tls-server-end-point  RFC 5929 4.1: a hash over the server's certificate. Any version; it tells servers with one
                      certificate not apart. Undefined for signatures without a hash of their own (Ed25519, Ed448).

tls-unique is not offered: RFC 9266 4 retires it, and TLS 1.3 does not have it. A binding that can't be had is absent, never
empty: the mechanisms that need it are not offered then.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

TLS_EXPORTER = "tls-exporter"
TLS_SERVER_END_POINT = "tls-server-end-point"

_LABEL = b"EXPORTER-Channel-Binding"
_LENGTH = 32


def channel_bindings(connection: Any, *, server: bool) -> dict[str, bytes]:
    """Data of each binding by its name, the preferred one first, of a `SSL.Connection` whose handshake is done; ``server`` says
    which end we are."""
    found = {}
    if connection.get_protocol_version_name() == "TLSv1.3":
        found[TLS_EXPORTER] = connection.export_keying_material(_LABEL, _LENGTH, b"")
    certificate = connection.get_certificate() if server else connection.get_peer_certificate()
    if certificate is not None:
        end_point = server_end_point(certificate.to_cryptography())
        if end_point is not None:
            found[TLS_SERVER_END_POINT] = end_point
    return found


def server_end_point(certificate: x509.Certificate) -> bytes | None:
    """The hash that the certificate's signature uses, over the certificate; SHA-256 in place of MD5 and SHA-1 (RFC 5929 4.1)."""
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    return certificate.fingerprint(algorithm)
