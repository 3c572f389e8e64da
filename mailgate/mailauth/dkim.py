"""DKIM: making signatures, and judging those of others (RFC 6376, 8301, 8463, 8601).

Both sides are machines without I/O: the header section is given whole, the body piece by piece, the texts of key records by name.

    making = Signing(section, settings)                 judging = Verification(section, most=5)
    making.update(piece) …                              judging.update(piece) …
    field = signer.sign(making.unsigned(signer, now))   results = judging.results({name: texts or Unreachable}, now)

Signing. Fields to be signed are named in ``h=`` as often as they are there; those to be *oversigned* once more, so that nobody
can add another one (RFC 6376 8.15). With several signers there are several signatures over one body hash. `Signer.sign` is the
only slow part, for RSA: the caller takes it to a thread.

Verification. Each signature has a result of its own: no more than ``most`` are looked at, top first. `permerror` is what can't be
verified whatever is asked again, `temperror` what a name server did not answer. `policy` are signatures that verify and still say
too little: rsa-sha1 and RSA keys below 1024 bits (RFC 8301), and those of a part of the body (``l=``), behind which anybody can
write anything. Nothing raises: whatever a sender or a zone says is a result.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from mailgate.mailauth.canonical import BodyDigest, Fields, Form
from mailgate.mailauth.dkim_keys import BadKey, Malformed, PrivateKey, parse_tags
from mailgate.mailauth.signature import (
    ALGORITHMS,
    DOMAIN,
    Signature,
    folded,
    key_of,
    listed,
    read_signature,
    signed_data,
    without_value,
)

OVERSIGNED = (
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
)
"""RFC 6376 5.4.1, and what decides how a body is shown: of each there is one at most (RFC 5322 3.6)."""
SIGNED = (
    "Content-ID",
    "Content-Description",
    "Content-Disposition",
    "Content-Language",
    "Resent-Date",
    "Resent-From",
    "Resent-To",
    "Resent-Cc",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
    "Autocrypt",
)
"""Signed where they are; lists and redirectors may add theirs."""


@dataclass(frozen=True, slots=True)
class SigningSettings:
    """What is signed, and how. ``expire`` is in seconds, 0: never."""

    header_form: Form = Form.RELAXED
    body_form: Form = Form.RELAXED
    signed: tuple[str, ...] = SIGNED
    oversigned: tuple[str, ...] = OVERSIGNED
    expire: int = 0


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose signature: ``_domainkey`` records are looked for under ``selector`` and ``domain`` (A-labels)."""

    domain: str
    selector: str
    key: PrivateKey

    def sign(self, unsigned: Unsigned) -> bytes:
        """The whole field, with its CRLF."""
        signature = base64.b64encode(self.key.sign(unsigned.data)).decode()
        return unsigned.field[:-2] + folded(signature, "\r\n\t ").encode() + b"\r\n"


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A signature without its value: the field (with CRLF), and what the key signs."""

    field: bytes
    data: bytes


class Signing:
    """The signatures of one message."""

    def __init__(self, section: bytes, settings: SigningSettings) -> None:
        self._fields = Fields(section)
        self._settings = settings
        self._digest = BodyDigest(settings.body_form)
        self._body_hash: str | None = None

    def update(self, piece: bytes) -> None:
        """Content behind the empty line that ends the header section."""
        self._digest.update(piece)

    def unsigned(self, signer: Signer, now: float) -> Unsigned:
        """The body is complete. What is left is `Signer.sign`, which may run in a thread."""
        if self._body_hash is None:
            self._body_hash = base64.b64encode(self._digest.digest()).decode()
        settings = self._settings
        names = names_to_sign(self._fields, settings)
        expires = f"; x={int(now) + settings.expire}" if settings.expire else ""
        field = (
            f"DKIM-Signature: v=1; a={signer.key.algorithm}; c={settings.header_form.value}/{settings.body_form.value};\r\n"
            f"\td={signer.domain};\r\n\ts={signer.selector}; t={int(now)}{expires};\r\n"
            f"\th={listed(names)};\r\n\tbh={self._body_hash};\r\n\tb=\r\n"
        ).encode()
        return Unsigned(field, signed_data(self._fields, [name.lower().encode() for name in names], field, settings.header_form))


def names_to_sign(fields: Fields, settings: SigningSettings) -> list[str]:
    """For ``h=``: each as often as it is there, those that are oversigned once more."""
    names: list[str] = []
    for oversigned, chosen in ((1, settings.oversigned), (0, settings.signed)):
        for name in chosen:
            names += [name] * (len(fields.named(name.lower().encode())) + oversigned)
    return names


# Verification


class Outcome(Enum):
    """RFC 8601 2.7.1."""

    NONE = "none"
    PASS = "pass"
    FAIL = "fail"
    POLICY = "policy"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one signature, or `Outcome.NONE` of a message without any. What could not be read is ""."""

    outcome: Outcome
    reason: str = ""
    domain: str = ""
    selector: str = ""
    identity: str = ""
    algorithm: str = ""
    signature: str = ""
    """The beginning of ``b=``, which tells signatures of one domain apart (RFC 6008)."""
    names: tuple[str, ...] = ()
    """The fields it signs, in lower case."""
    testing: bool = False
    """The key says that it is being tried out: failing means no more than no signature."""


class Unreachable(Enum):
    """In the place of the texts of a name: servers gave no answer."""

    UNREACHABLE = "unreachable"


Keys = Mapping[str, "tuple[bytes, ...] | Unreachable"]


class Verification:
    """The judgement on one message."""

    def __init__(self, section: bytes, most: int = 5) -> None:
        self._fields = Fields(section)
        raws = self._fields.named(b"dkim-signature")
        self.left_out = max(len(raws) - most, 0)
        """Signatures beyond ``most``."""
        self._read: list[Signature | Result] = [_read(raw) for raw in raws[:most]]
        self._digests: dict[tuple[Form, int | None], BodyDigest] = {}
        for one in self._signatures:
            self._digests.setdefault((one.body_form, one.limit), BodyDigest(one.body_form, one.limit))

    @property
    def _signatures(self) -> list[Signature]:
        return [one for one in self._read if isinstance(one, Signature)]

    @property
    def key_names(self) -> tuple[str, ...]:
        """Whose TXT records must be asked for; none: the body need not be read."""
        return tuple(dict.fromkeys(one.key_name for one in self._signatures))

    def update(self, piece: bytes) -> None:
        """Content behind the empty line that ends the header section."""
        for digest in self._digests.values():
            digest.update(piece)

    def results(self, keys: Keys, now: float) -> tuple[Result, ...]:
        """The body is complete; ``keys`` has every one of `key_names`. One result for each signature, at least one in all."""
        hashes = {form: (digest.digest(), digest.size) for form, digest in self._digests.items()}
        found = [
            one if isinstance(one, Result) else self._judge(one, keys[one.key_name], hashes[one.body_form, one.limit], now)
            for one in self._read
        ]
        return tuple(found) or (Result(Outcome.NONE),)

    def _judge(self, one: Signature, texts: tuple[bytes, ...] | Unreachable, body: tuple[bytes, int], now: float) -> Result:
        if isinstance(texts, Unreachable):
            return _result(one, Outcome.TEMPERROR, "no answer for the key")
        try:
            key = key_of(one, texts)
        except BadKey as error:
            return _result(one, Outcome.PERMERROR, str(error))
        body_hash, size = body
        if one.expires is not None and one.expires < now:
            return _result(one, Outcome.FAIL, "signature expired", testing=key.testing)
        if one.limit is not None and one.limit > size:
            return _result(one, Outcome.PERMERROR, "the body is shorter than signed")
        if body_hash != one.body_hash:
            return _result(one, Outcome.FAIL, "body hash does not match", testing=key.testing)
        unvalued = without_value(one.raw.removesuffix(b"\r\n"))
        if not key.verifies(one.value, signed_data(self._fields, one.names, unvalued, one.header_form)):
            return _result(one, Outcome.FAIL, "signature does not match", testing=key.testing)
        if key.is_weak:
            return _result(one, Outcome.POLICY, "key too short")
        if one.limit is not None and one.limit < size:
            return _result(one, Outcome.POLICY, "part of the body is unsigned")
        return _result(one, Outcome.PASS)


def _result(one: Signature, outcome: Outcome, reason: str = "", *, testing: bool = False) -> Result:
    begun = base64.b64encode(one.value).decode()[:8]
    return Result(outcome, reason, one.domain, one.selector, one.identity, one.algorithm, begun, one.signed, testing)


def _read(raw: bytes) -> Signature | Result:
    """A signature field, or the result of one that can't be verified."""
    value = raw.partition(b":")[2]
    tags: dict[str, str] = {}
    try:
        tags = parse_tags(value.decode("ascii"))
        signature = read_signature(raw, tags)
    except (Malformed, UnicodeDecodeError) as error:
        reason = str(error) if isinstance(error, Malformed) else "not ASCII"
        return _unread(tags, Outcome.PERMERROR, f"malformed signature: {reason}")
    if signature.algorithm == "rsa-sha1":
        return _result(signature, Outcome.POLICY, "rsa-sha1 says nothing any more")
    if signature.algorithm not in ALGORITHMS:
        return _result(signature, Outcome.PERMERROR, "unknown algorithm")
    return signature


def _unread(tags: dict[str, str], outcome: Outcome, reason: str) -> Result:
    domain, selector = tags.get("d", ""), tags.get("s", "")
    return Result(outcome, reason, domain if DOMAIN.match(domain) else "", selector if DOMAIN.match(selector) else "", "", "", "")
