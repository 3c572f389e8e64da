"""Fields that hold signatures, as DKIM and ARC have them: reading one, its key, and what it signs (RFC 6376 3.5, 3.7)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mailgate.mailauth.canonical import Fields, Form, canonical_field
from mailgate.mailauth.dkim_keys import BadKey, Malformed, PublicKey, decoded, parse_record, record_name, unspaced

ALGORITHMS = frozenset({"rsa-sha256", "ed25519-sha256"})

LINE = 72
DOMAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?\Z")
_FIELD_NAME = re.compile(r"[!-9;-~]+\Z")
_NUMBER = re.compile(r"[0-9]{1,12}\Z")


@dataclass(frozen=True, slots=True)
class Signature:
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
        return record_name(self.domain, self.selector)

    @property
    def signed(self) -> tuple[str, ...]:
        return tuple(name.decode() for name in self.names)


def signed_data(fields: Fields, names: list[bytes], field: bytes, form: Form) -> bytes:
    """What is signed of the header section, and the signature itself, with an empty value and without its CRLF, last."""
    parts = [canonical_field(raw, form) for raw in fields.selected(names)]
    return b"".join(parts) + canonical_field(field, form).removesuffix(b"\r\n")


def listed(names: Sequence[str]) -> str:
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) > LINE - 2:
            lines.append("")
        lines[-1] += f"{name}:"
    return "\r\n\t ".join(lines)[:-1]


def folded(text: str, separator: str) -> str:
    return separator.join(text[start : start + LINE] for start in range(0, len(text), LINE))


def without_value(raw: bytes) -> bytes:
    """The field with an empty ``b=``, all else as it stands (RFC 6376 3.7)."""
    name, colon, value = raw.partition(b":")
    tags = value.split(b";")
    for number, tag in enumerate(tags):
        if tag.partition(b"=")[0].strip(b" \t\r\n") == b"b":
            tags[number] = tag.partition(b"=")[0] + b"="
    return name + colon + b";".join(tags)


def key_of(one: Signature, texts: tuple[bytes, ...]) -> PublicKey:
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


def read_signature(raw: bytes, tags: dict[str, str]) -> Signature:
    """:raises Malformed: the text says where."""
    missing = [name for name in ("v", "a", "b", "bh", "d", "h", "s") if not tags.get(name)]
    if missing:
        raise Malformed(f"no {missing[0]}=")
    if tags["v"] != "1":
        raise Malformed("version")
    domain, selector, algorithm = tags["d"].lower(), tags["s"].lower(), tags["a"].lower()
    if not DOMAIN.match(domain) or not DOMAIN.match(selector) or not _FIELD_NAME.match(algorithm) or len(algorithm) > 20:
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
    return Signature(
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
