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
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from mailgate.mailauth.canonical import BodyDigest, Fields, Form, canonical_field
from mailgate.mailauth.dkim_keys import BadKey, Malformed, PrivateKey, PublicKey, decoded, parse_record, parse_tags, unspaced

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

_LINE = 72


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
        return unsigned.field[:-2] + _folded(signature, "\r\n\t ").encode() + b"\r\n"


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
        names = self._names()
        expires = f"; x={int(now) + settings.expire}" if settings.expire else ""
        field = (
            f"DKIM-Signature: v=1; a={signer.key.algorithm}; c={settings.header_form.value}/{settings.body_form.value};\r\n"
            f"\td={signer.domain};\r\n\ts={signer.selector}; t={int(now)}{expires};\r\n"
            f"\th={_listed(names)};\r\n\tbh={self._body_hash};\r\n\tb=\r\n"
        ).encode()
        return Unsigned(field, _signed_data(self._fields, [name.lower().encode() for name in names], field, settings.header_form))

    def _names(self) -> list[str]:
        names: list[str] = []
        for oversigned, listed in ((1, self._settings.oversigned), (0, self._settings.signed)):
            for name in listed:
                names += [name] * (len(self._fields.named(name.lower().encode())) + oversigned)
        return names


def _signed_data(fields: Fields, names: list[bytes], field: bytes, form: Form) -> bytes:
    """What is signed of the header section, and the signature itself, with an empty value and without its CRLF, last."""
    parts = [canonical_field(raw, form) for raw in fields.selected(names)]
    return b"".join(parts) + canonical_field(field, form).removesuffix(b"\r\n")


def _listed(names: Sequence[str]) -> str:
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) > _LINE - 2:
            lines.append("")
        lines[-1] += f"{name}:"
    return "\r\n\t ".join(lines)[:-1]


def _folded(text: str, separator: str) -> str:
    return separator.join(text[start : start + _LINE] for start in range(0, len(text), _LINE))


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


@dataclass(frozen=True, slots=True)
class _Signature:
    """A well-formed signature."""

    raw: bytes
    domain: str
    selector: str
    identity: str
    algorithm: str
    header_form: Form
    body_form: Form
    names: list[bytes]
    body_hash: bytes
    value: bytes
    limit: int | None
    expires: int | None

    @property
    def key_name(self) -> str:
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def signed(self) -> tuple[str, ...]:
        return tuple(name.decode() for name in self.names)

    def result(self, outcome: Outcome, reason: str = "", *, testing: bool = False) -> Result:
        begun = base64.b64encode(self.value).decode()[:8]
        return Result(outcome, reason, self.domain, self.selector, self.identity, self.algorithm, begun, self.signed, testing)


class Verification:
    """The judgement on one message."""

    def __init__(self, section: bytes, most: int = 5) -> None:
        self._fields = Fields(section)
        raws = self._fields.named(b"dkim-signature")
        self.left_out = max(len(raws) - most, 0)
        """Signatures beyond ``most``."""
        self._read: list[_Signature | Result] = [_read(raw) for raw in raws[:most]]
        self._digests: dict[tuple[Form, int | None], BodyDigest] = {}
        for one in self._signatures:
            self._digests.setdefault((one.body_form, one.limit), BodyDigest(one.body_form, one.limit))

    @property
    def _signatures(self) -> list[_Signature]:
        return [one for one in self._read if isinstance(one, _Signature)]

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

    def _judge(self, one: _Signature, texts: tuple[bytes, ...] | Unreachable, body: tuple[bytes, int], now: float) -> Result:
        if isinstance(texts, Unreachable):
            return one.result(Outcome.TEMPERROR, "no answer for the key")
        try:
            key = _key_of(one, texts)
        except BadKey as error:
            return one.result(Outcome.PERMERROR, str(error))
        body_hash, size = body
        if one.expires is not None and one.expires < now:
            return one.result(Outcome.FAIL, "signature expired", testing=key.testing)
        if one.limit is not None and one.limit > size:
            return one.result(Outcome.PERMERROR, "the body is shorter than signed")
        if body_hash != one.body_hash:
            return one.result(Outcome.FAIL, "body hash does not match", testing=key.testing)
        unvalued = _without_value(one.raw.removesuffix(b"\r\n"))
        if not key.verifies(one.value, _signed_data(self._fields, one.names, unvalued, one.header_form)):
            return one.result(Outcome.FAIL, "signature does not match", testing=key.testing)
        if key.is_weak:
            return one.result(Outcome.POLICY, "key too short")
        if one.limit is not None and one.limit < size:
            return one.result(Outcome.POLICY, "part of the body is unsigned")
        return one.result(Outcome.PASS)


def _without_value(raw: bytes) -> bytes:
    """The field with an empty ``b=``, all else as it stands (RFC 6376 3.7)."""
    name, colon, value = raw.partition(b":")
    tags = value.split(b";")
    for number, tag in enumerate(tags):
        if tag.partition(b"=")[0].strip(b" \t\r\n") == b"b":
            tags[number] = tag.partition(b"=")[0] + b"="
    return name + colon + b";".join(tags)


def _key_of(one: _Signature, texts: tuple[bytes, ...]) -> PublicKey:
    """The first usable one. :raises BadKey: why there is none."""
    trouble = BadKey("no key")
    for text in texts:
        try:
            key = parse_record(text)
        except BadKey as error:
            trouble = error
            continue
        if key.kind != one.algorithm.partition("-")[0] or (key.hashes is not None and "sha256" not in key.hashes):
            trouble = BadKey("key not for this algorithm")
        elif key.strict and one.identity.rpartition("@")[2].lower() != one.domain:
            trouble = BadKey("key not for sub-domains")
        else:
            return key
    raise trouble


_ALGORITHMS = frozenset({"rsa-sha256", "ed25519-sha256"})
_DOMAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?\Z")
_FIELD_NAME = re.compile(r"[!-9;-~]+\Z")
_NUMBER = re.compile(r"[0-9]{1,12}\Z")


def _read(raw: bytes) -> _Signature | Result:
    """A signature field, or the result of one that can't be verified."""
    value = raw.partition(b":")[2]
    tags: dict[str, str] = {}
    try:
        tags = parse_tags(value.decode("ascii"))
        signature = _signature(raw, tags)
    except (Malformed, UnicodeDecodeError) as error:
        reason = str(error) if isinstance(error, Malformed) else "not ASCII"
        return _unread(tags, Outcome.PERMERROR, f"malformed signature: {reason}")
    if signature.algorithm == "rsa-sha1":
        return signature.result(Outcome.POLICY, "rsa-sha1 says nothing any more")
    if signature.algorithm not in _ALGORITHMS:
        return signature.result(Outcome.PERMERROR, "unknown algorithm")
    return signature


def _unread(tags: dict[str, str], outcome: Outcome, reason: str) -> Result:
    domain, selector = tags.get("d", ""), tags.get("s", "")
    return Result(
        outcome, reason, domain if _DOMAIN.match(domain) else "", selector if _DOMAIN.match(selector) else "", "", "", ""
    )


def _signature(raw: bytes, tags: dict[str, str]) -> _Signature:
    """:raises Malformed: the text says where."""
    missing = [name for name in ("v", "a", "b", "bh", "d", "h", "s") if not tags.get(name)]
    if missing:
        raise Malformed(f"no {missing[0]}=")
    if tags["v"] != "1":
        raise Malformed("version")
    domain, selector, algorithm = tags["d"].lower(), tags["s"].lower(), tags["a"].lower()
    if not _DOMAIN.match(domain) or not _DOMAIN.match(selector) or not _FIELD_NAME.match(algorithm) or len(algorithm) > 20:
        raise Malformed("d=, s= or a=")
    identity = unspaced(tags.get("i", f"@{domain}"))
    of = identity.rpartition("@")[2].lower()
    if "@" not in identity or (of != domain and not of.endswith(f".{domain}")):
        raise Malformed("i= is outside d=")
    if "q" in tags and "dns/txt" not in unspaced(tags["q"]).lower().split(":"):
        raise Malformed("q=")
    header_form, body_form = _forms(tags.get("c", "simple/simple"))
    names = unspaced(tags["h"]).lower().split(":")
    if "from" not in names or not all(_FIELD_NAME.match(name) for name in names):
        raise Malformed("h=")
    return _Signature(
        raw=raw,
        domain=domain,
        selector=selector,
        identity=identity,
        algorithm=algorithm,
        header_form=header_form,
        body_form=body_form,
        names=[name.encode() for name in names],
        body_hash=decoded(tags["bh"]),
        value=decoded(tags["b"]),
        limit=_number(tags, "l"),
        expires=_times(tags),
    )


def _times(tags: dict[str, str]) -> int | None:
    signed, expires = _number(tags, "t"), _number(tags, "x")
    if signed is not None and expires is not None and expires < signed:
        raise Malformed("x= is before t=")
    return expires


def _number(tags: dict[str, str], name: str) -> int | None:
    if name not in tags:
        return None
    if not _NUMBER.match(tags[name]):
        raise Malformed(f"{name}=")
    return int(tags[name])


def _forms(text: str) -> tuple[Form, Form]:
    header, _, body = unspaced(text).lower().partition("/")
    try:
        return Form(header), Form(body or "simple")
    except ValueError:
        raise Malformed("c=") from None
