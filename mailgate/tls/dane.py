"""Is the peer whom its TLSA records name (RFC 6698, 7671, 7672)? Asked after the handshake, answered as data.

    3 x x   DANE-EE: the record is of the peer's own certificate or key. Names, dates, issuers are not looked at.
    2 x x   DANE-TA: the record is of an authority in the peer's chain (or is one, `2 0 0`). The chain up to it is verified as any
            other, and so are the names; the system's authorities count for nothing.

`usable` leaves out what SMTP does not use: PKIX-TA and PKIX-EE (usages 0 and 1), unknown selectors and digests, digests of a
wrong length. Of several digests of one kind only the strongest counts (RFC 7671 9). No usable record is no answer of this module.

It fails closed, as `verification` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import crypto

from mailgate.tls.verification import PeerRefused, Verdict, closed, match_names, path_to_anchor, sent_by

DANE_TA, DANE_EE = 2, 3
CERTIFICATE, KEY = 0, 1
FULL, SHA256, SHA512 = 0, 1, 2

_DIGEST_LENGTH = {SHA256: 32, SHA512: 64}
MAX_RECORDS = 32
"""Records that are compared: a peer has one or two for each of its keys."""


@dataclass(frozen=True, slots=True)
class Tlsa:
    """One record."""

    usage: int
    selector: int
    matching: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.data[:8].hex()}"


def usable(records: Iterable[Tlsa]) -> tuple[Tlsa, ...]:
    """Those that SMTP uses, DANE-EE first."""
    fitting = [record for record in dict.fromkeys(records) if _is_usable(record)]
    strongest: dict[tuple[int, int], int] = {}
    for record in fitting:
        kind = (record.usage, record.selector)
        strongest[kind] = max(record.matching, strongest.get(kind, FULL))
    chosen = [record for record in fitting if record.matching in (FULL, strongest[record.usage, record.selector])]
    return tuple(sorted(chosen, key=lambda record: -record.usage)[:MAX_RECORDS])


def _is_usable(record: Tlsa) -> bool:
    if record.usage not in (DANE_TA, DANE_EE) or record.selector not in (CERTIFICATE, KEY):
        return False
    if record.matching == FULL:
        return _is_readable(record)
    return _DIGEST_LENGTH.get(record.matching) == len(record.data)


def _is_readable(record: Tlsa) -> bool:
    """Of what is there in full: a certificate that can't be read matches nobody's."""
    if record.selector == KEY:
        return bool(record.data)
    try:
        x509.load_der_x509_certificate(record.data)
    except ValueError:
        return False
    return True


def verify_dane(connection: Any, records: Sequence[Tlsa], names: Sequence[str]) -> Verdict:
    """Judge the peer of a `SSL.Connection` whose handshake is done by its usable records. ``names`` are for DANE-TA: one of them
    must be the certificate's."""
    sent: list[x509.Certificate] = []

    def judge() -> Verdict:
        leaf, others = sent_by(connection, sent)
        for record in records:
            if record.usage == DANE_EE and _matches(record, sent[0]):
                return Verdict(True, matched_name=f"TLSA {record}", chain=tuple(sent))
        authorities = [record for record in records if record.usage == DANE_TA]
        if not authorities:
            raise PeerRefused("no TLSA record is of the peer's certificate")
        return _by_authority(leaf, others, authorities, names)

    return closed(judge, sent)


def _by_authority(leaf: crypto.X509, others: list[crypto.X509], records: Sequence[Tlsa], names: Sequence[str]) -> Verdict:
    anchors = [other for other in others if any(_matches(record, other.to_cryptography()) for record in records)]
    for record in records:
        if record.selector == CERTIFICATE and record.matching == FULL:
            anchors.append(crypto.X509.from_cryptography(x509.load_der_x509_certificate(record.data)))
    if not anchors:
        raise PeerRefused("no TLSA record is of an authority in the peer's chain")
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    for anchor in anchors:
        store.add_cert(anchor)
    return match_names(Verdict(True, chain=path_to_anchor(store, leaf, others)), names)


def _matches(record: Tlsa, certificate: x509.Certificate) -> bool:
    if record.selector == CERTIFICATE:
        data = certificate.public_bytes(Encoding.DER)
    else:
        data = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if record.matching == SHA256:
        data = hashlib.sha256(data).digest()
    elif record.matching == SHA512:
        data = hashlib.sha512(data).digest()
    return data == record.data
