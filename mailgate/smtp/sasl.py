"""SASL mechanisms of the client: PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), SCRAM-SHA-256 and -PLUS (RFC 7677), XOAUTH2,
OAUTHBEARER (RFC 7628), EXTERNAL (RFC 4422 appendix A); and the choice of one by what a server offers.

A mechanism object is one exchange. Challenges and responses are bytes before base64, which is `smtp.client`'s, as is the
`*` that gives an exchange up when `respond` raises. Whether a secret may go over this connection is decided before one of
these is made (outbound/tls_policy.py). A mechanism is chosen by its name and only where it is offered: an offer is no reason to
say a secret in another way.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from mailgate.smtp.scram import ClientFirst, ScramError


class SaslError(Exception):
    """The server asks for something that this mechanism has no answer to."""


class SaslClient(Protocol):
    """One exchange of one mechanism."""

    name: str

    def initial(self) -> bytes | None:
        """The initial response; None where the server speaks first."""

    def respond(self, challenge: bytes) -> bytes:
        """The answer to one challenge. :raises SaslError: when there is none."""

    def accepted(self) -> None:
        """The server has said 235. :raises SaslError: it has not proved that it knows the secret, as the mechanism wants."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server offers on this connection. ``nonce`` is fresh and unguessable."""

    mechanisms: frozenset[str]
    bindings: Mapping[str, bytes] = field(default_factory=dict)
    """Channel bindings of the TLS connection, the preferred one first."""
    nonce: str = ""


Choice: TypeAlias = Callable[[Offer, str, str], SaslClient]
"""The mechanism for a user and a secret. :raises SaslError: it is not offered."""


class _OneMessage:
    """Has said everything in its initial response."""

    name = ""

    def respond(self, challenge: bytes) -> bytes:
        raise SaslError(f"{self.name} has one message only")

    def accepted(self) -> None:
        """Nothing is proved to us."""


class Plain(_OneMessage):
    """The password in one message, with an empty authorization identity."""

    name = "PLAIN"

    def __init__(self, username: str, password: str) -> None:
        self._response = b"\0" + _octets(username) + b"\0" + _octets(password)

    def initial(self) -> bytes:
        return self._response


class Login:
    """User name, then password. What the prompts say is not interpreted: servers differ in them."""

    name = "LOGIN"

    def __init__(self, username: str, password: str) -> None:
        self._answers = [_octets(password), _octets(username)]

    def initial(self) -> None:
        return None

    def respond(self, challenge: bytes) -> bytes:
        if not self._answers:
            raise SaslError("LOGIN has two messages only")
        return self._answers.pop()

    def accepted(self) -> None:
        """Nothing is proved to us."""


class External(_OneMessage):
    """Who we are is known already, by our TLS certificate."""

    name = "EXTERNAL"

    def initial(self) -> bytes:
        return b""


class CramMd5:
    """The password keys a digest of the server's challenge."""

    name = "CRAM-MD5"

    def __init__(self, username: str, password: str) -> None:
        self._user, self._password = _octets(username), _octets(password)

    def initial(self) -> None:
        return None

    def respond(self, challenge: bytes) -> bytes:
        if not challenge:
            raise SaslError("CRAM-MD5 without a challenge")
        return self._user + b" " + hmac.digest(self._password, challenge, "md5").hex().encode()

    def accepted(self) -> None:
        """Nothing is proved to us."""


class Scram:
    """Bound to the TLS connection where the server offers that; the server must prove that it knows the password too."""

    def __init__(self, offer: Offer, username: str, password: str) -> None:
        plus = "SCRAM-SHA-256-PLUS" in offer.mechanisms and bool(offer.bindings)
        self.name = "SCRAM-SHA-256-PLUS" if plus else "SCRAM-SHA-256"
        binding = next(iter(offer.bindings.items())) if plus else None
        try:
            self._client = ClientFirst(username, password, offer.nonce, binding, bindable=bool(offer.bindings) and not plus)
        except ValueError as error:
            raise SaslError(f"a user name that can't be: {error}") from error
        self._proved = False
        self._challenges = 0

    def initial(self) -> bytes:
        return self._client.message.encode()

    def respond(self, challenge: bytes) -> bytes:
        self._challenges += 1
        try:
            if self._challenges == 1:
                return self._client.final(challenge.decode()).encode()
            self._client.check(challenge.decode())
        except (ScramError, UnicodeDecodeError) as error:
            raise SaslError(str(error)) from error
        self._proved = True
        return b""

    def accepted(self) -> None:
        if not self._proved:
            raise SaslError("the server has not proved that it knows the password")


class _Bearer:
    """A token in one message; a refusal comes as a challenge that explains it, and wants an answer."""

    name = ""
    _farewell = b""

    def __init__(self, message: str) -> None:
        self._message = message.encode()
        self.explanation = ""
        """What a server said of a token that it refused."""

    def initial(self) -> bytes:
        return self._message

    def respond(self, challenge: bytes) -> bytes:
        if self.explanation:
            raise SaslError(f"{self.name} has one message only")
        try:
            self.explanation = str(json.loads(challenge))
        except ValueError:
            self.explanation = "refused"
        return self._farewell

    def accepted(self) -> None:
        """Nothing is proved to us."""


class XOAuth2(_Bearer):
    """Google's and Microsoft's."""

    name = "XOAUTH2"

    def __init__(self, username: str, token: str) -> None:
        super().__init__(f"user={_field(username)}\x01auth=Bearer {_field(token)}\x01\x01")


class OAuthBearer(_Bearer):
    """RFC 7628."""

    name = "OAUTHBEARER"
    _farewell = b"\x01"

    def __init__(self, username: str, token: str) -> None:
        user = _field(username).replace("=", "=3D").replace(",", "=2C")
        super().__init__(f"n,a={user},\x01auth=Bearer {_field(token)}\x01\x01")


def _only(name: str, make: Callable[[str, str], SaslClient]) -> Choice:
    def choose(offer: Offer, username: str, secret: str) -> SaslClient:
        if name not in offer.mechanisms:
            raise SaslError(f"AUTH {name} is not offered")
        return make(username, secret)

    return choose


def _scram(offer: Offer, username: str, secret: str) -> SaslClient:
    if not offer.mechanisms & {"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}:
        raise SaslError("AUTH SCRAM-SHA-256 is not offered")
    chosen = Scram(offer, username, secret)
    if chosen.name not in offer.mechanisms:
        raise SaslError("AUTH SCRAM-SHA-256-PLUS is offered alone, and this connection has no channel binding")
    return chosen


def strongest(offer: Offer, username: str, secret: str) -> SaslClient:
    """What gives away the least: a proof of both ends, a digest, the password itself."""
    for choose in (_scram, CHOICES["cram-md5"], CHOICES["plain"], CHOICES["login"]):
        try:
            return choose(offer, username, secret)
        except SaslError:
            continue
    raise SaslError("no mechanism for a password is offered")


CHOICES: Mapping[str, Choice] = {
    "plain": _only("PLAIN", Plain),
    "login": _only("LOGIN", Login),
    "cram-md5": _only("CRAM-MD5", CramMd5),
    "scram-sha-256": _scram,
    "xoauth2": _only("XOAUTH2", XOAuth2),
    "oauthbearer": _only("OAUTHBEARER", OAuthBearer),
    "auto": strongest,
}
"""By the words of the configuration."""


def external(offer: Offer) -> SaslClient:
    """:raises SaslError: it is not offered."""
    if "EXTERNAL" not in offer.mechanisms:
        raise SaslError("AUTH EXTERNAL is not offered")
    return External()


def check_credentials(username: str, secret: str) -> None:
    """:raises SaslError: some mechanism could not send them."""
    _octets(username)
    _octets(secret)
    _field(username)
    _field(secret)


def check_token(token: str) -> None:
    """:raises SaslError: it has characters that no bearer token has (RFC 6750 2.1)."""
    if not _is_token(token):
        raise SaslError("this is no bearer token")


_is_token = re.compile(r"[A-Za-z0-9._~+/-]+=*").fullmatch


def _field(text: str) -> str:
    """:raises SaslError: for what ends a field of a bearer's message."""
    if "\x01" in text:
        raise SaslError("a user name or token contains the octet 1")
    return text


def _octets(text: str) -> bytes:
    """:raises SaslError: for NUL, which would end the field in PLAIN."""
    if "\0" in text:
        raise SaslError("a user name or password contains NUL")
    return text.encode()
