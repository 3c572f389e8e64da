"""The keys of DKIM: private ones that sign, from PEM; public ones that verify, from DNS (RFC 6376 3.6, RFC 8301, RFC 8463)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key

RSA_SHA256 = "rsa-sha256"
ED25519_SHA256 = "ed25519-sha256"

LEAST_BITS = 1024
"""Below it nothing is signed and no signature counts (RFC 8301 3.2)."""
GOOD_BITS = 2048
"""What RFC 8301 3.2 wants of signers."""
MOST_BITS = 8192
"""Of a key that strangers name: the work of one verification stays far below a millisecond."""

_SPACE = re.compile(r"[ \t\r\n]+")
_TAG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_STRING = 255
"""Octets that one string of a TXT record holds."""


class BadKey(ValueError):
    """A key can't be used; the text says why."""


class Malformed(ValueError):
    """A list of tags, or a value in one, breaks the rules."""


def parse_tags(text: str) -> dict[str, str]:
    """``name=value; …`` (RFC 6376 3.2), values without white space around them.

    :raises Malformed: also for a name given twice.
    """
    tags: dict[str, str] = {}
    parts = text.split(";")
    if not parts[-1].strip(" \t\r\n"):
        parts.pop()
    for part in parts:
        name, equals, value = part.partition("=")
        name = name.strip(" \t\r\n")
        if not equals or not _TAG_NAME.match(name) or name in tags:
            raise Malformed(f"tag {name[:20]!r}")
        tags[name] = value.strip(" \t\r\n")
    return tags


def unspaced(value: str) -> str:
    return _SPACE.sub("", value)


def decoded(value: str) -> bytes:
    """Of a base64 value with white space in it. :raises Malformed:"""
    try:
        return base64.b64decode(unspaced(value), validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("base64") from None


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that signs, and the name of what it does with it."""

    algorithm: str
    key: RSAPrivateKey | Ed25519PrivateKey
    bits: int

    def sign(self, data: bytes) -> bytes:
        """About a millisecond with RSA and 2048 bits, a twentieth of it with Ed25519."""
        if isinstance(self.key, RSAPrivateKey):
            return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        return self.key.sign(hashlib.sha256(data).digest())

    @property
    def record(self) -> str:
        """The text of the TXT record that lets others verify."""
        if isinstance(self.key, RSAPrivateKey):
            form, shape = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            return f"v=DKIM1; k=rsa; p={base64.b64encode(self.key.public_key().public_bytes(form, shape)).decode()}"
        return f"v=DKIM1; k=ed25519; p={base64.b64encode(self.key.public_key().public_bytes_raw()).decode()}"

    def is_of(self, public: PublicKey) -> bool:
        """Whether what this key signs is verified by that one."""
        form, shape = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(form, shape) == public.key.public_bytes(form, shape)

    @property
    def pem(self) -> bytes:
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def load_private_key(pem: bytes) -> PrivateKey:
    """Of PEM without a password. :raises BadKey: it is none, of another kind, or too short."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadKey("this is no private key in PEM form, or it has a password") from None
    if isinstance(key, Ed25519PrivateKey):
        return PrivateKey(ED25519_SHA256, key, 256)
    if not isinstance(key, RSAPrivateKey):
        raise BadKey("DKIM has RSA and Ed25519 keys only")
    if key.key_size < LEAST_BITS:
        raise BadKey(f"an RSA key of {key.key_size} bits is worth nothing: verifiers refuse it (RFC 8301)")
    return PrivateKey(RSA_SHA256, key, key.key_size)


def new_key(algorithm: str, bits: int = GOOD_BITS) -> PrivateKey:
    if algorithm == ED25519_SHA256:
        return PrivateKey(algorithm, Ed25519PrivateKey.generate(), 256)
    return PrivateKey(RSA_SHA256, generate_private_key(65537, bits), bits)


def record_name(domain: str, selector: str) -> str:
    """Where the record of a key stands."""
    return f"{selector}._domainkey.{domain}"


def zone_line(name: str, text: str) -> str:
    """The record as it stands in a zone file: strings of at most 255 octets."""
    strings = " ".join(f'"{text[start : start + _STRING]}"' for start in range(0, len(text), _STRING))
    return f"{name}. IN TXT ( {strings} )"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What a TXT record says."""

    kind: str
    """``rsa`` or ``ed25519``."""
    key: RSAPublicKey | Ed25519PublicKey
    hashes: frozenset[str] | None
    """``h=``: those it may be used with; None: all."""
    strict: bool
    """``t=s``: not for sub-domains of the signing one."""
    testing: bool
    """``t=y``: a signature that fails means no more than none."""

    @property
    def is_weak(self) -> bool:
        return isinstance(self.key, RSAPublicKey) and self.key.key_size < LEAST_BITS

    def verifies(self, signature: bytes, data: bytes) -> bool:
        try:
            if isinstance(self.key, RSAPublicKey):
                self.key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
            else:
                self.key.verify(signature, hashlib.sha256(data).digest())
        except InvalidSignature:
            return False
        return True


@lru_cache(maxsize=1024)
def parse_record(text: bytes) -> PublicKey:
    """:raises BadKey: it is no key, or revoked, or not for mail."""
    try:
        tags = parse_tags(text.decode("ascii"))
        if tags.get("v", "DKIM1") != "DKIM1" or ("v" in tags and next(iter(tags)) != "v"):
            raise BadKey("no DKIM key")
        if "p" not in tags:
            raise BadKey("no key in the record")
        data = decoded(tags["p"])
    except (Malformed, UnicodeDecodeError):
        raise BadKey("malformed key record") from None
    if not data:
        raise BadKey("key revoked")
    services = _list(tags.get("s", "*"))
    if not services & {"*", "email"}:
        raise BadKey("key not for mail")
    flags = _list(tags.get("t", ""))
    allowed = _list(tags["h"]) if "h" in tags else None
    kind = tags.get("k", "rsa")
    return PublicKey(kind, _public_key(kind, data), allowed, "s" in flags, "y" in flags)


def _public_key(kind: str, data: bytes) -> RSAPublicKey | Ed25519PublicKey:
    try:
        if kind == "ed25519":
            return Ed25519PublicKey.from_public_bytes(data)
        if kind == "rsa":
            key = serialization.load_der_public_key(data)
            if isinstance(key, RSAPublicKey) and key.key_size <= MOST_BITS:
                return key
    except (ValueError, UnsupportedAlgorithm):
        pass
    raise BadKey("unusable key")


def _list(value: str) -> frozenset[str]:
    return frozenset(item.strip(" \t\r\n") for item in value.split(":"))
