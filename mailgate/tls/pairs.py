"""Certificates with their private keys.

A `KeyPair` is read once, while the configuration is loaded, and every mistake in the files is a `TlsError` then: not there,
not PEM, encrypted, the key of another certificate. A certificate that has expired loads (a gateway that does not start is
worse than one that a verifying client refuses); `KeyPair.expired` lets the caller warn.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL

from mailgate.tls.options import TlsError

SELF_SIGNED_LIFETIME = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate, those that link it to its root, and its private key."""

    chain: tuple[x509.Certificate, ...]
    """Leaf first, as it goes over the wire."""
    key: Any = field(repr=False)
    source: str = ""
    """Where it came from, for messages: a path, or ``self_signed``."""

    @classmethod
    def load(cls, certificate: str | Path, key: str | Path) -> KeyPair:
        """Read PEM files: the certificate with its intermediates behind it, and the key (they may be one file).

        :raises TlsError: with a text that names the file and what is wrong with it.
        """
        return cls.from_pem(_read(certificate), _read(key), str(certificate), str(key))

    @classmethod
    def from_pem(cls, certificate: bytes, key: bytes, source: str = "certificate", key_source: str = "key") -> KeyPair:
        """The same from bytes; the sources stand in the messages.

        :raises TlsError: see `load`.
        """
        chain = read_certificates(certificate, source)
        try:
            private = load_pem_private_key(key, password=None)
        except TypeError as error:
            raise TlsError(f"{key_source}: the private key is encrypted; store it without a passphrase") from error
        except Exception as error:  # cryptography names several: malformed, unknown algorithm, unsupported curve
            raise TlsError(f"{key_source}: no private key in PEM form") from error
        if _public_bytes(private.public_key()) != _public_bytes(chain[0].public_key()):
            raise TlsError(f"{key_source}: this key does not belong to the certificate in {source}")
        return cls(chain, private, source)

    @property
    def names(self) -> tuple[str, ...]:
        """The DNS names of the certificate, lower case, wildcards included; the common name is not one."""
        try:
            extension = self.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (x509.ExtensionNotFound, ValueError):
            return ()
        return tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))

    @property
    def kind(self) -> str:
        """Of its key: ``RSA``, ``EC``, ``Ed25519``: a context has room for one pair of each."""
        return type(self.key).__name__.removesuffix("PrivateKey")

    @property
    def expires(self) -> datetime:
        return self.chain[0].not_valid_after_utc

    def expired(self, now: datetime | None = None) -> bool:
        return self.expires < (now or datetime.now(UTC))

    def install(self, context: Any) -> None:
        """Use it on a `SSL.Context`.

        :raises TlsError: when OpenSSL refuses what parsed well (a key below its security level).
        """
        try:
            context.use_certificate(self.chain[0])
            for certificate in self.chain[1:]:
                context.add_extra_chain_cert(certificate)
            context.use_privatekey(self.key)
            context.check_privatekey()
        except (SSL.Error, TypeError) as error:
            raise TlsError(f"{self.source}: OpenSSL refuses the certificate or its key: {explain(error)}") from error


def self_signed(names: Sequence[str], now: datetime | None = None) -> KeyPair:
    """A pair made in memory that nobody trusts: for laboratories and the demo, gone with the process."""
    now = now or datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + SELF_SIGNED_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair((certificate,), key, "self_signed")


def explain(error: BaseException) -> str:
    """The reason in an OpenSSL error, without its library and function names."""
    queue = error.args[0] if error.args else ()
    if isinstance(queue, list | tuple) and queue and isinstance(queue[-1], tuple):
        return str(queue[-1][-1])
    return str(error) or type(error).__name__


def read_certificates(data: bytes, source: str) -> tuple[x509.Certificate, ...]:
    """All certificates of a file, at least one.

    :raises TlsError: there is none, or the file ends in the middle of one (cryptography would take those before it).
    """
    try:
        certificates = tuple(x509.load_pem_x509_certificates(data))
    except ValueError as error:
        raise TlsError(f"{source}: no certificate in PEM form") from error
    if data.count(b"-----BEGIN ") != data.count(b"-----END "):
        raise TlsError(f"{source}: the file ends in the middle of a certificate")
    return certificates


def load_certificates(path: str | Path) -> tuple[x509.Certificate, ...]:
    """The same of a file.

    :raises TlsError: it can't be read, too.
    """
    return read_certificates(_read(path), str(path))


def file_signature(files: Sequence[str]) -> tuple[Any, ...]:
    """What shows that a file is another one, or has been written to."""
    found: list[tuple[Any, ...]] = []
    for path in files:
        try:
            status = os.stat(path)
        except OSError as error:
            found.append((error.errno,))
        else:
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return x509.DNSName(name)


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror or error}") from error


def _public_bytes(key: Any) -> bytes:
    return cast(bytes, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
