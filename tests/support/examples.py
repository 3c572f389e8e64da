"""The example files of the documentation, where they load: copied into a directory that has the files they speak of."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path

import trustme

from mailgate.mailauth.dkim_keys import ED25519_SHA256, new_key

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference" / "examples"
_COMPLETE = re.compile(r"^```mailgate\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@cache
def _certificates() -> tuple[bytes, bytes, bytes]:
    """An authority, a certificate of it, and its key."""
    authority = trustme.CA()
    pair = authority.issue_cert("mx.example.org")
    chain = b"".join(blob.bytes() for blob in pair.cert_chain_pems)
    return authority.cert_pem.bytes(), chain, pair.private_key_pem.bytes()


def furnish(directory: Path) -> None:
    """Put there what the examples refer to: certificates, a file of aliases, one of people, one of users."""
    (directory / "tls").mkdir()
    for name, content in zip(("ca.pem", "mx.pem", "mx.key"), _certificates(), strict=True):
        (directory / "tls" / name).write_bytes(content)
    (directory / "aliases").write_text("sales@example.org: ann@example.org\n")
    (directory / "people").write_text("ann@example.org:\n")
    (directory / "users").write_text("ann:$2b$04$abcdefghijklmnopqrstuuVXldX8n8m6xjyFvq7BvSHbGcwsl0EJC\n")
    (directory / "mail2026.pem").write_bytes(new_key(ED25519_SHA256).pem)
    (directory / "mail2026.pem").chmod(0o600)
    shutil.copy(ROOT / "etc" / "recipients", directory)


def reference_files(directory: Path) -> list[Path]:
    """Copies of the examples of the reference, ready to be loaded."""
    directory.mkdir(parents=True)
    furnish(directory)
    return [Path(shutil.copy(path, directory)) for path in sorted(REFERENCE.glob("*.conf"))]


def documents() -> list[Path]:
    """Every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def complete_examples() -> list[tuple[Path, str]]:
    """Whole configurations in the pages, each with its page."""
    return [(path, text) for path in documents() for text in _COMPLETE.findall(path.read_text())]
