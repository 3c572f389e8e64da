"""Certificates for tests: one authority for the whole run, leaves as they are asked for, all kept as PEM files."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import trustme

from mailgate.testing.tls import CertificateServer


@dataclass(frozen=True, slots=True)
class Leaf:
    """One certificate with its key, as bytes and as files."""

    chain: bytes
    key: bytes
    chain_path: str
    key_path: str

    @property
    def server(self) -> CertificateServer:
        """A server that shows it."""
        return CertificateServer(self.chain, self.key)


class Authority:
    """A certificate authority; ``path`` is its own certificate for `root_ca`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self._count = 0
        self.path = str(directory / "ca.pem")
        self._authority.cert_pem.write_to_path(self.path)

    def issue(self, *names: str, common_name: str | None = None, not_after: datetime | None = None) -> Leaf:
        """A certificate for DNS names and IP addresses, good up to a time that may be over."""
        not_before = None if not_after is None else not_after - timedelta(days=1)
        issued = self._authority.issue_cert(*names, common_name=common_name, not_before=not_before, not_after=not_after)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        key = issued.private_key_pem.bytes()
        self._count += 1
        chain_path = self._directory / f"{self._count}.pem"
        key_path = self._directory / f"{self._count}.key"
        chain_path.write_bytes(chain)
        key_path.write_bytes(key)
        key_path.chmod(0o600)
        return Leaf(chain, key, str(chain_path), str(key_path))


@cache
def authority(name: str = "trusted") -> Authority:
    """The run's authority of that name: everyone who asks for `trusted` trusts the same one."""
    return Authority(_directory(name))


@cache
def leaf(*names: str) -> Leaf:
    """A certificate of the `trusted` authority, made once."""
    return authority().issue(*names)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _directory(name: str) -> Path:
    directory = tempfile.TemporaryDirectory(prefix=f"mailgate-{name}-")
    _kept.append(directory)
    return Path(directory.name)
