"""Is the peer who its certificate says, and is that whom we wanted? Asked after the handshake, answered as data.

Two questions, both of which must be answered yes:

chain   `crypto.X509Store` builds a path from the peer's certificate over those it sent to a trust anchor (RFC 5280 6), with
        dates, signatures, basic constraints and name constraints. Then, as OpenSSL does in a client's handshake: every
        certificate with an extended key usage allows TLS servers, a key usage of the leaf allows it to take part in a
        handshake, and keys and signatures are of the strength of OpenSSL's second security level.
name    service_identity compares dNSName and iPAddress names (RFC 9525): a wildcard is the whole left-most label and stands
        for one label; a common name is never a name; an address never matches a dNSName. One malformed name in the
        certificate refuses it. Ours is the form ``.example.org``: any name exactly one label below.

It fails closed: whatever goes wrong in here, foreseen or not, is a verdict that refuses. The oracle of the tests is the
standard library: what `ssl` refuses, this refuses. Not asked: revocation.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, CertificatePattern, DNSPattern, IPAddress_ID

from mailgate.tls.client import ClientContext

MIN_FACTOR_BITS = 2048
"""Smallest RSA and DSA key: 112 bits of strength, OpenSSL's security level 2."""
MIN_CURVE_BITS = 224
WEAK_HASHES = frozenset({"md5", "sha1"})


HOSTNAME_MISMATCH = 62
IP_ADDRESS_MISMATCH = 64
UNSPECIFIED = 1
"""X509_V_ERR_… of OpenSSL's x509_vfy.h, for what its own path validation does not say."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer; ``reason`` is empty and ``code``, a number of OpenSSL's X509_V_ERR_…, is 0 when ``ok``."""

    ok: bool
    reason: str = ""
    code: int = 0
    matched_name: str = ""
    """The reference name that matched: of those that were asked for, not the certificate's."""
    chain: tuple[x509.Certificate, ...] = ()
    """Leaf to anchor where a path was found, else what the peer sent."""


class PeerRefused(Exception):
    """Why the peer is not trusted."""

    def __init__(self, reason: str, code: int = UNSPECIFIED) -> None:
        super().__init__(reason)
        self.code = code


def verify_peer(connection: Any, context: ClientContext, names: Sequence[str]) -> Verdict:
    """Judge the peer of a `SSL.Connection` whose handshake is done: chain, and at least one of ``names``.

    A name is a host name (A-labels or U-labels, trailing dot or not), an address literal (brackets or not), or ``.example.org``.
    No names refuse: who wants the chain alone says so by `verify_chain`.
    """
    verdict = verify_chain(connection, context)
    if not verdict.ok:
        return verdict
    return closed(lambda: match_names(verdict, names), verdict.chain)


def verify_chain(connection: Any, context: ClientContext) -> Verdict:
    """Judge only whether the certificate leads to a trust anchor; anybody with a certificate passes."""
    sent: list[x509.Certificate] = []

    def judge() -> Verdict:
        leaf, others = sent_by(connection, sent)
        return Verdict(True, chain=path_to_anchor(context.store, leaf, others))

    return closed(judge, sent)


def sent_by(connection: Any, sent: list[x509.Certificate]) -> tuple[crypto.X509, list[crypto.X509]]:
    """The peer's certificate and the others it sent. ``sent`` gets them all, for the verdict if it refuses.

    :raises PeerRefused: there is none."""
    leaf = connection.get_peer_certificate()
    if leaf is None:
        raise PeerRefused("the peer has no certificate")
    others = (connection.get_peer_cert_chain() or [])[1:]
    sent.extend(certificate.to_cryptography() for certificate in (leaf, *others))
    return leaf, others


def path_to_anchor(store: crypto.X509Store, leaf: crypto.X509, others: list[crypto.X509]) -> tuple[x509.Certificate, ...]:
    """Leaf to anchor. :raises PeerRefused: there is no path, or it is not for this, or too weak."""
    try:
        path = crypto.X509StoreContext(store, leaf, others).get_verified_chain()
    except crypto.X509StoreContextError as error:
        raise PeerRefused(str(error), error.errors[0] or UNSPECIFIED) from error
    chain = tuple(certificate.to_cryptography() for certificate in path)
    check_purpose(chain)
    check_strength(chain)
    return chain


def closed(judge: Callable[[], Verdict], sent: Sequence[x509.Certificate]) -> Verdict:
    try:
        return judge()
    except PeerRefused as refusal:
        return Verdict(False, str(refusal), refusal.code, chain=tuple(sent))
    except Exception as error:  # nothing is awaited in here; a malformed certificate raises whatever it likes
        reason = f"the certificate can't be judged: {error or type(error).__name__}"
        return Verdict(False, reason, UNSPECIFIED, chain=tuple(sent))


def check_purpose(chain: Sequence[x509.Certificate]) -> None:
    for certificate in chain:
        try:
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            continue
        if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
            raise PeerRefused("unsuitable certificate purpose: not for TLS servers")
    try:
        key_usage = chain[0].extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not (key_usage.digital_signature or key_usage.key_encipherment or key_usage.key_agreement):
        raise PeerRefused("unsuitable certificate purpose: its key may not be used in a handshake")


def check_strength(chain: Sequence[x509.Certificate]) -> None:
    for certificate in chain:
        key = certificate.public_key()
        match key:
            case rsa.RSAPublicKey() | dsa.DSAPublicKey():
                strong = key.key_size >= MIN_FACTOR_BITS
            case ec.EllipticCurvePublicKey():
                strong = key.key_size >= MIN_CURVE_BITS
            case _:
                strong = isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
        if not strong:
            raise PeerRefused("a key in the chain is too weak")
    for certificate in chain[:-1]:  # what vouches for the anchor is our own store, not its signature
        algorithm = certificate.signature_hash_algorithm
        if algorithm is not None and algorithm.name in WEAK_HASHES:
            raise PeerRefused(f"a signature in the chain is too weak ({algorithm.name})")


def match_names(verdict: Verdict, names: Sequence[str]) -> Verdict:
    if not names:
        raise PeerRefused("no name to verify is known")
    patterns = _patterns(verdict.chain[0])
    for name in names:
        if any(_matches(pattern, name) for pattern in patterns):
            return Verdict(True, matched_name=name, chain=verdict.chain)
    raise PeerRefused(f"the certificate is not for {' or '.join(names)}", _mismatch(names))


def _patterns(certificate: x509.Certificate) -> Sequence[CertificatePattern]:
    """The names in a certificate. service_identity takes white space off them, which nobody else does."""
    try:
        written = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    if any(name != name.strip() for name in written.get_values_for_type(x509.DNSName)):
        raise PeerRefused("a name in the certificate begins or ends with white space")
    return extract_patterns(certificate)


def _mismatch(names: Sequence[str]) -> int:
    return IP_ADDRESS_MISMATCH if all(_is_address(name) for name in names) else HOSTNAME_MISMATCH


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]").rstrip("."))
    except ValueError:
        return False
    return True


def _matches(pattern: CertificatePattern, name: str) -> bool:
    if name.startswith("."):
        return isinstance(pattern, DNSPattern) and _is_one_label_below(pattern.pattern, name)
    host = name.strip("[]").rstrip(".")
    if _is_address(host):
        return IPAddress_ID(host).verify(pattern)
    reference = DNS_ID(host)
    if b"." not in reference.hostname and isinstance(pattern, DNSPattern) and b"*" in pattern.pattern:
        return False  # service_identity can't split a name of one label
    return reference.verify(pattern)


def _is_one_label_below(presented: bytes, reference: str) -> bool:
    label, _, parent = presented.partition(b".")
    if not label or (b"*" in label and label != b"*"):
        return False
    return parent == DNS_ID(reference[1:].rstrip(".")).hostname
