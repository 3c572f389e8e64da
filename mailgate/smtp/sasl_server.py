"""SASL mechanisms of the server, without I/O: no socket, no user data base.

PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), SCRAM-SHA-256 and -PLUS (RFC 7677), XOAUTH2 (Google's and Microsoft's), OAUTHBEARER
(RFC 7628), EXTERNAL (RFC 4422 appendix A).

A mechanism is a generator, which reads like the exchange that it is. It yields a `Challenge` and is sent the client's response
(bytes, base64 is the caller's), or it yields a question (`CheckPassword`, `FindSecret`, …) and is sent the answer; it returns who
has proved to be whom (`Proved`), or None. Everything that comes from a client is judged here before anybody is asked about it:

- A message that is none of the mechanism's, or not UTF-8, raises `Malformed` (501); one that can't be right (an empty password, a
  name with control characters, which would travel into logs, queries and next hops) is a refusal like a wrong password.
- A user whom nobody knows makes the same computations as one with a wrong password.
- Whoever asks to act as somebody else (the authorization identity) is refused unless the identity says that they may.
"""

from __future__ import annotations

import binascii
import hmac
import json
import re
from base64 import b64decode
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mailgate.interfaces import Identity, Proof
from mailgate.smtp.scram import BindingError, ScramError, ScramKeys, read_first

MAX_NAME = 255
MAX_SECRET = 8192
"""Octets; no password is as long, and a token fits a line of AUTH."""

_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_XOAUTH2 = re.compile(r"user=([^\x01]*)\x01auth=Bearer ([^\x01]+)\x01\x01", re.IGNORECASE)
_GS2 = re.compile(r"([nyp])(?:=[^,]*)?,(?:a=([^,]*))?,")
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/=-]+)", re.IGNORECASE)


class Malformed(Exception):
    """The client's message is none of this mechanism's."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """Said to the client; its response is wanted."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Refusal(Challenge):
    """Says in the mechanism's own words that it was wrong; whatever the client answers, the exchange has failed."""


@dataclass(frozen=True, slots=True)
class CheckPassword:
    """Whose password is it? Answer: `Identity` or None."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FindSecret:
    """A password in plain, to compute with. Answer: (`Identity`, password), or None for an unknown user."""

    user: str


@dataclass(frozen=True, slots=True)
class FindKeys:
    """What SCRAM computes with. Answer: (`Identity` or None, `ScramKeys`): keys come for unknown users too."""

    user: str


@dataclass(frozen=True, slots=True)
class CheckToken:
    """Who is the bearer of a token? ``user`` is the name that the client gave, maybe "". Answer: `Identity` or None."""

    user: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CheckCertificate:
    """Who is it by the certificate that TLS has verified? Answer: `Identity` or None."""


@dataclass(frozen=True, slots=True)
class Proved:
    """Who has logged in, and as whom: the same name nearly always."""

    identity: Identity
    user: str


Question: TypeAlias = CheckPassword | FindSecret | FindKeys | CheckToken | CheckCertificate
Exchange: TypeAlias = Generator[Challenge | Question, Any, Proved | None]


@dataclass(frozen=True, slots=True)
class Scene:
    """What an exchange may know of its connection, and its own random words."""

    hostname: str
    nonce: str
    """Fresh and unguessable."""
    time: int = 0
    bindings: Mapping[str, bytes] = field(default_factory=dict)
    """Channel bindings of the TLS connection."""
    plus_offered: bool = False
    """SCRAM-SHA-256-PLUS was announced."""


def plain(scene: Scene) -> Exchange:
    fields = _text((yield Challenge(b""))).split("\0")
    if len(fields) != 3:
        raise Malformed("PLAIN has three fields")
    authzid, user, password = fields
    user = user or authzid
    if not _fit(user, authzid) or not _is_password(password):
        return None
    identity = yield CheckPassword(user, password)
    return _proved(identity, authzid)


def login(scene: Scene) -> Exchange:
    user = _text((yield Challenge(b"Username:")))
    password = _text((yield Challenge(b"Password:")))
    if not _fit(user) or not _is_password(password):
        return None
    identity = yield CheckPassword(user, password)
    return _proved(identity)


def cram_md5(scene: Scene) -> Exchange:
    challenge = f"<{scene.nonce}.{scene.time}@{scene.hostname}>".encode()
    user, space, digest = _text((yield Challenge(challenge))).rpartition(" ")
    if not space:
        raise Malformed("CRAM-MD5 has two words")
    if not _fit(user):
        return None
    known = yield FindSecret(user)
    identity, secret = known or (None, scene.nonce)
    expected = hmac.digest(secret.encode(), challenge, "md5").hex()
    is_right = hmac.compare_digest(expected.encode(), digest.lower().encode())
    return _proved(identity) if is_right else None


def scram_sha_256(scene: Scene) -> Exchange:
    return _scram(scene, plus=False)


def scram_sha_256_plus(scene: Scene) -> Exchange:
    return _scram(scene, plus=True)


def _scram(scene: Scene, *, plus: bool) -> Exchange:
    try:
        first = read_first(_text((yield Challenge(b""))), scene.nonce, scene.bindings, plus=plus, plus_offered=scene.plus_offered)
        if not _fit(first.user, first.authzid):
            return None
        found: tuple[Identity | None, ScramKeys] = yield FindKeys(first.user)
        identity, keys = found
        proof = first.verify(keys, _text((yield Challenge(first.challenge(keys).encode()))))
    except BindingError:
        return None
    except ScramError as error:
        raise Malformed(str(error)) from error
    if proof is None or identity is None:
        return None
    if (yield Challenge(proof.encode())):  # in SMTP our proof needs a turn of its own, and the answer to it is empty
        raise Malformed("nothing comes behind the final message")
    return _proved(identity, first.authzid)


def xoauth2(scene: Scene) -> Exchange:
    match = _XOAUTH2.fullmatch(_text((yield Challenge(b""))))
    if match is None:
        raise Malformed("XOAUTH2 has a user and a bearer token")
    user, token = match.groups()
    proved = _proved((yield CheckToken(user, token)), user) if _fit(user) else None
    if proved is None:
        yield Refusal(json.dumps({"status": "401", "schemes": "bearer", "scope": ""}).encode())
    return proved


def oauthbearer(scene: Scene) -> Exchange:
    message = _text((yield Challenge(b"")))
    header, mark, rest = message.partition("\x01")
    gs2 = _GS2.fullmatch(header)
    if gs2 is None or gs2[1] == "p" or not mark or not rest.endswith("\x01"):
        raise Malformed("OAUTHBEARER has a gs2 header and key-value pairs")
    pairs = dict(pair.partition("=")[::2] for pair in rest.split("\x01") if pair)
    user = (gs2[2] or "").replace("=2C", ",").replace("=3D", "=")
    bearer = _BEARER.fullmatch(pairs.get("auth", ""))
    proved = _proved((yield CheckToken(user, bearer[1])), user) if bearer and _fit(user or "-") else None
    if proved is None:
        yield Refusal(json.dumps({"status": "invalid_token"}).encode())
    return proved


def external(scene: Scene) -> Exchange:
    authzid = _text((yield Challenge(b"")))
    if authzid and not _fit(authzid):
        return None
    identity = yield CheckCertificate()
    return _proved(identity, authzid)


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One row: the exchange, what a provider must be able to judge, who speaks first."""

    name: str
    exchange: Callable[[Scene], Exchange]
    proof: Proof
    server_first: bool = False
    """An initial response is an error (RFC 4954 4)."""


MECHANISMS: Mapping[str, Mechanism] = {
    mechanism.name: mechanism
    for mechanism in (
        Mechanism("SCRAM-SHA-256-PLUS", scram_sha_256_plus, Proof.KEYS),
        Mechanism("SCRAM-SHA-256", scram_sha_256, Proof.KEYS),
        Mechanism("OAUTHBEARER", oauthbearer, Proof.TOKEN),
        Mechanism("XOAUTH2", xoauth2, Proof.TOKEN),
        Mechanism("CRAM-MD5", cram_md5, Proof.SECRET, server_first=True),
        Mechanism("PLAIN", plain, Proof.PASSWORD),
        Mechanism("LOGIN", login, Proof.PASSWORD),
        Mechanism("EXTERNAL", external, Proof.CERTIFICATE),
    )
}
"""In the order of the announcement; clients that take the first get the strongest."""


def decode(response: bytes, *, initial: bool) -> bytes:
    """A response as it came. ``=`` is an empty initial response. :raises Malformed:"""
    if initial and response == b"=":
        return b""
    try:
        return b64decode(response, validate=True)
    except binascii.Error as error:
        raise Malformed("not base64") from error


def _proved(identity: Identity | None, authzid: str = "") -> Proved | None:
    if identity is None or not (authzid in ("", identity.user) or authzid in identity.others):
        return None
    return Proved(identity, authzid or identity.user)


def _text(response: bytes) -> str:
    try:
        return response.decode()
    except UnicodeDecodeError as error:
        raise Malformed("not UTF-8") from error


def _fit(user: str, *others: str) -> bool:
    """Whether these can be names: no control characters, nothing that ends a line, of a length that a field of a log may have."""
    return bool(user) and all(len(name) <= MAX_NAME and _UNFIT.search(name) is None for name in (user, *others))


def _is_password(password: str) -> bool:
    """An empty one would be an anonymous bind to some directories."""
    return 0 < len(password) <= MAX_SECRET
