"""What a next hop showed in its handshake and what was made of it: data for the record of an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailgate.tls.verification import Verdict


@dataclass(frozen=True, slots=True)
class CapturedPeer:
    """The certificates of the peer (DER), leaf first: to the anchor where a path was found, else as sent. ``subjects`` as
    RFC 4514 writes them; the fingerprints are SHA-256 over the leaf and over its SubjectPublicKeyInfo, in hexadecimal digits."""

    chain: tuple[bytes, ...]
    subjects: tuple[str, ...]
    fingerprint: str
    key_fingerprint: str


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """A handshake that was finished. ``verified`` is the verdict on the peer, whether or not anybody asked for one; ``code`` is
    OpenSSL's number for ``reason`` and ``matched_name`` the reference that was found in the certificate."""

    version: str
    """``TLS1.3``"""
    cipher: str
    sni: str
    verified: bool
    code: int
    reason: str
    matched_name: str
    peer: CapturedPeer | None = None
    """With `tls_capture_peer_cert`."""


def peer_facts(connection: Any, verdict: Verdict, *, sni: str = "", capture: bool = False) -> PeerFacts:
    """Of a `SSL.Connection`."""
    return PeerFacts(
        version=connection.get_protocol_version_name().replace("TLSv", "TLS"),
        cipher=connection.get_cipher_name() or "",
        sni=sni,
        verified=verdict.ok,
        code=verdict.code,
        reason=verdict.reason,
        matched_name=verdict.matched_name,
        peer=captured(verdict.chain) if capture and verdict.chain else None,
    )


def captured(chain: Sequence[x509.Certificate]) -> CapturedPeer:
    leaf = chain[0]
    encoded = tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)
    return CapturedPeer(
        chain=encoded,
        subjects=tuple(_subject(certificate) for certificate in chain),
        fingerprint=sha256(encoded[0]).hexdigest(),
        key_fingerprint=_key_fingerprint(leaf),
    )


def _subject(certificate: x509.Certificate) -> str:
    try:
        return certificate.subject.rfc4514_string()
    except ValueError:
        return "(malformed)"


def _key_fingerprint(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception:  # a kind of key that this library does not know; it raises several things
        return ""
    return sha256(key).hexdigest()
