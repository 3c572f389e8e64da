"""ARC: what those have found who passed a message on, each under the seal of the next (RFC 8617).

    chain = Chain(section, most=20)                      sealing = Sealing(section, settings)
    chain.update(piece) …                                sealing.update(piece) …
    verdict = chain.verdict(keys, now)                   fields = sealing.seal(signer, results, validation, now)

Each hand adds a set of three fields: what it has found (ARC-Authentication-Results), a signature of the message as it passed it
on (ARC-Message-Signature), and a seal over all sets so far (ARC-Seal). A chain holds (`pass`) if its sets are whole and numbered
without gaps, each seal holds, and the newest signature holds: older ones may be broken, that is what it is for.

- No more than ``most`` sets are looked at: each costs two lookups. RFC 8617 4.2.1 allows fifty.
- A chain that does not hold is sealed as broken, once (5.1.2): the seal covers its own set alone. One that is sealed as broken
  already, or is full, is left as it is.
- Signatures of a part of the body, weak keys and rsa-sha1 count for nothing, as in DKIM.

It says who has handled a message; whether to believe them is for the operator (`check.arc`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from mailgate.mailauth.canonical import BodyDigest, Fields, Form, canonical_field
from mailgate.mailauth.dkim import Keys, Signer, SigningSettings, Unreachable, names_to_sign
from mailgate.mailauth.dkim_keys import BadKey, Malformed, decoded, parse_tags
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

MOST_SETS = 50
"""RFC 8617 4.2.1."""
RESULTS, SIGNATURE, SEAL = b"arc-authentication-results", b"arc-message-signature", b"arc-seal"
_KINDS = (RESULTS, SIGNATURE, SEAL)
_INSTANCE = re.compile(rb":[ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*([0-9]{1,3})[ \t\r\n]*;")
_INSTANCE_ANYWHERE = re.compile(rb"[:;][ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*([0-9]{1,3})[ \t\r\n]*(?:;|\Z)")
_QUOTED_OR_COMMENT = re.compile(r'"(?:[^"\\]|\\.)*"|\([^()]*\)', re.DOTALL)


class Outcome(Enum):
    """The state of a chain (RFC 8617 4.4), and TEMPERROR: a key could not be asked for."""

    NONE = "none"
    PASS = "pass"
    FAIL = "fail"
    TEMPERROR = "temperror"


@dataclass(frozen=True, slots=True)
class Handed:
    """One hand that a message has gone through. ``results`` is what it has found, without its instance; only of a chain that
    holds is it worth anything."""

    sealer: str
    selector: str
    results: str

    def says(self, method: str, result: str) -> bool:
        """Whether ``method=result`` is among what it found, outside of quotes and comments."""
        text = _QUOTED_OR_COMMENT.sub("", self.results)
        return re.search(rf";\s*{method}\s*=\s*{result}\b", text, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    reason: str = ""
    hands: tuple[Handed, ...] = ()
    """First to last, of a chain whose sets are whole."""
    last_instance: int = 0
    is_closed: bool = False
    """The last seal says itself that the chain is broken: nothing may be added."""


@dataclass(frozen=True, slots=True)
class _Set:
    """One set: its fields as they stand, and the two signatures."""

    fields: tuple[bytes, bytes, bytes]
    signature: Signature
    seal: Signature
    validation: str


class _Broken(Exception):
    """The chain is no chain; the text says why."""


class Chain:
    """The chain of one message."""

    def __init__(self, section: bytes, most: int = MOST_SETS) -> None:
        self._fields = Fields(section)
        self._sets: list[_Set] = []
        self._reason = ""
        self._digest: BodyDigest | None = None
        raws = [raw for kind in _KINDS for raw in self._fields.named(kind)]
        self.is_there = bool(raws)
        self._last = max([int(match[1]) for raw in raws if (match := _INSTANCE_ANYWHERE.search(raw))], default=0)
        try:
            self._sets = _read_sets(self._fields, most)
        except (_Broken, Malformed) as error:
            self._reason = str(error)
        if self._sets:
            newest = self._sets[-1].signature
            self._digest = BodyDigest(newest.body_form, newest.limit)

    @property
    def key_names(self) -> tuple[str, ...]:
        """Whose TXT records must be asked for; none: the body need not be read."""
        names = [self._sets[-1].signature.key_name] if self._sets else []
        return tuple(dict.fromkeys([*names, *(one.seal.key_name for one in self._sets)]))

    def update(self, piece: bytes) -> None:
        """Content behind the empty line that ends the header section."""
        if self._digest is not None:
            self._digest.update(piece)

    def verdict(self, keys: Keys, now: float) -> Verdict:
        """The body is complete; ``keys`` has every one of `key_names`."""
        if not self.is_there:
            return Verdict(Outcome.NONE)
        if not self._sets:
            return Verdict(Outcome.FAIL, self._reason, (), self._last)
        hands = tuple(Handed(one.seal.domain, one.seal.selector, _results_of(one.fields[0])) for one in self._sets)
        if self._sets[-1].validation == "fail":
            return Verdict(Outcome.FAIL, "sealed as broken", hands, self._last, is_closed=True)
        try:
            self._judge(keys, now)
        except _Unanswered as error:
            return Verdict(Outcome.TEMPERROR, str(error), hands, self._last)
        except (_Broken, BadKey) as error:
            return Verdict(Outcome.FAIL, str(error), hands, self._last)
        return Verdict(Outcome.PASS, "", hands, self._last)

    def claimed(self, outcome: Outcome) -> Verdict:
        """The verdict of somebody who has judged it before."""
        is_closed = bool(self._sets) and self._sets[-1].validation == "fail"
        return Verdict(outcome, last_instance=self._last, is_closed=is_closed)

    def _judge(self, keys: Keys, now: float) -> None:
        """:raises _Broken, BadKey, _Unanswered:"""
        for number, one in enumerate(self._sets, 1):
            if one.validation != ("none" if number == 1 else "pass"):
                raise _Broken(f"seal {number} says {one.validation}")
        newest = self._sets[-1].signature
        assert self._digest is not None  # there are sets
        body_hash, size = self._digest.digest(), self._digest.size
        if newest.expires is not None and newest.expires < now:
            raise _Broken("the newest signature has expired")
        if newest.limit is not None and newest.limit != size:
            raise _Broken("the newest signature is of a part of the body")
        if body_hash != newest.body_hash:
            raise _Broken("body hash does not match")
        unvalued = without_value(newest.raw.removesuffix(b"\r\n"))
        data = signed_data(self._fields, newest.names, unvalued, newest.header_form)
        _verify(newest, keys, data, "the newest signature")
        sets = [one.fields for one in self._sets]
        for number in range(len(sets), 0, -1):
            _verify(self._sets[number - 1].seal, keys, _sealed_data(sets[:number]), f"seal {number}")


class _Unanswered(Exception):
    """No answer for a key."""


def _verify(one: Signature, keys: Mapping[str, tuple[bytes, ...] | Unreachable], data: bytes, what: str) -> None:
    texts = keys[one.key_name]
    if isinstance(texts, Unreachable):
        raise _Unanswered(f"no answer for the key of {what}")
    key = key_of(one, texts)
    if key.is_weak:
        raise _Broken(f"{what} has too short a key")
    if not key.verifies(one.value, data):
        raise _Broken(f"{what} does not match")


def _sealed_data(sets: Sequence[tuple[bytes, bytes, bytes]]) -> bytes:
    """What the seal of the last of these sets signs (RFC 8617 5.1.1): all of them in order, itself last and without a value."""
    parts = [canonical_field(raw, Form.RELAXED) for fields in sets for raw in fields]
    last = without_value(sets[-1][2].removesuffix(b"\r\n"))
    return b"".join(parts[:-1]) + canonical_field(last, Form.RELAXED).removesuffix(b"\r\n")


def _read_sets(fields: Fields, most: int) -> list[_Set]:
    """:raises _Broken, Malformed:"""
    found = [_by_instance(fields.named(kind), kind) for kind in _KINDS]
    numbers = set(found[0])
    if any(set(one) != numbers for one in found):
        raise _Broken("a set is not whole")
    if numbers != set(range(1, len(numbers) + 1)):
        raise _Broken("a set is missing")
    if len(numbers) > min(most, MOST_SETS):
        raise _Broken(f"more than {min(most, MOST_SETS)} sets")
    return [_read_set((found[0][number], found[1][number], found[2][number])) for number in sorted(numbers)]


def _by_instance(raws: Sequence[bytes], kind: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for raw in raws:
        # The instance comes first in what we have found; the two signatures may have it anywhere.
        match = (_INSTANCE if kind == RESULTS else _INSTANCE_ANYWHERE).search(raw)
        if match is None or int(match[1]) in found:
            raise _Broken("an instance is missing, or there twice")
        found[int(match[1])] = raw
    return found


def _read_set(raws: tuple[bytes, bytes, bytes]) -> _Set:
    signature, seal = (_tags(raw) for raw in raws[1:])
    if "v" in signature:
        raise _Broken("a signature has a version")
    if "h" in seal:
        raise _Broken("a seal names fields")
    read = read_signature(raws[1], _as_dkim(signature))
    if SEAL in read.names:
        raise _Broken("a signature is of seals")
    return _Set(raws, _usable(read), _usable(_read_seal(raws[2], seal)), seal.get("cv", "").lower())


def _tags(raw: bytes) -> dict[str, str]:
    try:
        return parse_tags(raw.partition(b":")[2].decode("ascii"))
    except UnicodeDecodeError:
        raise _Broken("not ASCII") from None


def _as_dkim(tags: dict[str, str]) -> dict[str, str]:
    """``i=`` is the instance here, there is no version, and From need not be signed (RFC 8617 4.1.2)."""
    return {**{name: value for name, value in tags.items() if name != "i"}, "v": "1"}


def _read_seal(raw: bytes, tags: dict[str, str]) -> Signature:
    for name in ("a", "b", "cv", "d", "s"):
        if not tags.get(name):
            raise _Broken(f"a seal has no {name}=")
    domain, selector = tags["d"].lower(), tags["s"].lower()
    if not DOMAIN.match(domain) or not DOMAIN.match(selector):
        raise _Broken("a seal has a damaged d= or s=")
    algorithm, form = tags["a"].lower(), Form.RELAXED
    return Signature(raw, domain, selector, f"@{domain}", algorithm, form, form, [], b"", decoded(tags["b"]), None, None)


def _usable(one: Signature) -> Signature:
    if one.algorithm not in ALGORITHMS:
        raise _Broken("unknown algorithm")
    return one


def _results_of(raw: bytes) -> str:
    match = _INSTANCE.search(raw)
    assert match is not None  # it was read by it
    return raw[match.end() :].decode("ascii", "replace").strip()


# Sealing


class Sealing:
    """A set that is to be added to a message as it leaves."""

    def __init__(self, section: bytes, settings: SigningSettings) -> None:
        self._fields = Fields(section)
        self._settings = settings
        self._digest = BodyDigest(Form.RELAXED)

    def update(self, piece: bytes) -> None:
        """Content behind the empty line that ends the header section."""
        self._digest.update(piece)

    def seal(self, signer: Signer, results: str, before: Verdict, now: float) -> bytes:
        """The three fields, seal first, to be put on top. ``results`` is the value of an Authentication-Results field, folded;
        ``before`` what is known of the chain as it came. Nothing if nothing may be added. Two signatures: slow with RSA."""
        instance = before.last_instance + 1
        if before.is_closed or instance > MOST_SETS:
            return b""
        found = f"ARC-Authentication-Results: i={instance}; {results}\r\n".encode("ascii", "replace")
        signature = self._signature(signer, instance, now)
        head = (
            f"ARC-Seal: i={instance}; a={signer.key.algorithm}; cv={before.outcome.value};\r\n"
            f"\td={signer.domain};\r\n\ts={signer.selector}; t={int(now)};\r\n\tb=\r\n"
        ).encode()
        sets = [(found, signature, head)]
        if before.outcome is Outcome.PASS:
            older = [_by_instance(self._fields.named(kind), kind) for kind in _KINDS]
            sets = [(older[0][n], older[1][n], older[2][n]) for n in range(1, instance)] + sets
        return _valued(head, signer, _sealed_data(sets)) + signature + found

    def _signature(self, signer: Signer, instance: int, now: float) -> bytes:
        names = names_to_sign(self._fields, self._settings)
        body_hash = base64.b64encode(self._digest.digest()).decode()
        head = (
            f"ARC-Message-Signature: i={instance}; a={signer.key.algorithm}; c=relaxed/relaxed;\r\n"
            f"\td={signer.domain};\r\n\ts={signer.selector}; t={int(now)};\r\n"
            f"\th={listed(names)};\r\n\tbh={body_hash};\r\n\tb=\r\n"
        ).encode()
        return _valued(head, signer, signed_data(self._fields, [name.lower().encode() for name in names], head, Form.RELAXED))


def _valued(field: bytes, signer: Signer, data: bytes) -> bytes:
    value = base64.b64encode(signer.key.sign(data)).decode()
    return field[:-2] + folded(value, "\r\n\t ").encode() + b"\r\n"
