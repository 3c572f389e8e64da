"""Certificates of every shape, right and wrong, and handshakes in memory."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL

from mailgate.tls.pairs import KeyPair

NOW = datetime.now(UTC)
_SIGNS_CERTIFICATES = x509.KeyUsage(False, False, False, False, False, True, True, False, False)


class Authority:
    """A certificate authority, a root or an intermediate of another one."""

    def __init__(self, name: str = "Test root", parent: Authority | None = None, usage: Sequence[Any] | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.parent = parent
        builder = _builder(self.name, parent.name if parent else self.name, self.key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        builder = builder.add_extension(_SIGNS_CERTIFICATES, critical=True)
        if parent is not None:
            builder = builder.add_extension(_issued_by(parent), critical=False)
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        self.certificate = builder.sign((parent or self).key, hashes.SHA256())

    def issue(
        self,
        names: Sequence[x509.GeneralName] = (),
        *,
        common_name: str = "host",
        begins: timedelta = timedelta(days=-1),
        ends: timedelta = timedelta(days=30),
        usage: Sequence[Any] | None = (ExtendedKeyUsageOID.SERVER_AUTH,),
        with_intermediates: bool = True,
        key: Any = None,
        key_usage: x509.KeyUsage | None = None,
        digest: Any = None,
        unhashed: bool = False,
    ) -> KeyPair:
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _builder(subject, self.name, key, begins, ends).add_extension(_issued_by(self), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if key_usage:
            builder = builder.add_extension(key_usage, critical=True)
        chain = [builder.sign(self.key, None if unhashed else digest or hashes.SHA256())]
        above: Authority | None = self
        while with_intermediates and above and above.parent:
            chain.append(above.certificate)
            above = above.parent
        return KeyPair(tuple(chain), key, "test")

    def write(self, path: Path) -> Path:
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Any, begins: timedelta = timedelta(days=-1), ends: timedelta = timedelta(days=30)
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + begins)
        .not_valid_after(NOW + ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _issued_by(authority: Authority) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())


def dns(name: str) -> x509.GeneralName:
    return x509.DNSName(name)


def raw_dns(name: str) -> x509.GeneralName:
    """A dNSName that no honest authority would sign."""
    return x509.DNSName._init_without_validation(name)


def pem(pair: KeyPair) -> tuple[bytes, bytes]:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in pair.chain), pair.key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


def write_pair(pair: KeyPair, directory: Path, name: str) -> tuple[Path, Path]:
    certificate, key = pem(pair)
    (directory / f"{name}.crt").write_bytes(certificate)
    (directory / f"{name}.key").write_bytes(key)
    return directory / f"{name}.crt", directory / f"{name}.key"


def handshake(client: Any, server: Any) -> tuple[Any, Any]:
    """Both `SSL.Connection` after their handshake over memory; an error of either is raised."""
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(10):
        waiting = 0
        for this, other in ((client, server), (server, client)):
            try:
                this.do_handshake()
            except SSL.WantReadError:
                waiting += 1
            try:
                while True:
                    other.bio_write(this.bio_read(65536))
            except SSL.WantReadError:
                pass
        if not waiting:
            return client, server
    raise AssertionError("the handshake goes on for ever")


def oracle_refusal(server: Any, authority: Authority, name: str) -> str:
    """Why the standard library's client refuses this server under this name; "" if it does not."""
    context = ssl.create_default_context(cadata=authority.certificate.public_bytes(Encoding.PEM).decode())
    context.hostname_checks_common_name = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    server.set_accept_state()
    for _ in range(10):
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            return str(error)
        else:
            return ""
        if outgoing.pending:
            server.bio_write(outgoing.read())
        try:
            server.do_handshake()
        except SSL.WantReadError:
            pass
        try:
            while True:
                incoming.write(server.bio_read(65536))
        except SSL.WantReadError:
            pass
    raise AssertionError("the handshake goes on for ever")
