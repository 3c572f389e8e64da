"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS: the messages and the arithmetic of both ends (RFC 5802, 7677), without I/O.

The password never travels: the client proves that it knows it, and the server that it knows what the password was stored as
(`ScramKeys`), which is no password either. -PLUS ties the proof to the TLS connection (RFC 9266 `tls-exporter`, RFC 5929
`tls-server-end-point`), so that nobody in between can carry it over.

- `read_first` and `ServerFirst.verify` are the server. A user whom nobody knows gets a salt all the same (`decoy_keys`), the same
  each time, so that asking tells nothing.
- `ClientFirst` is the client. It refuses an iteration count that is an attack: too low makes the proof cheap to break, too high
  keeps us busy.

Refused: extensions that are mandatory, a nonce that is not ours, a binding of another connection, and `y` ("I think you can't
bind") where we announced that we can, which is a downgrade.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field

from mailgate.smtp.saslprep import saslprep

ITERATIONS = 4096
"""For keys that are made of a password in plain at login: RFC 7677's least, since they are not stored."""
MIN_ITERATIONS = 4096
MAX_ITERATIONS = 1_000_000
"""Of stored keys: about a third of a second for each login."""
MAX_CHALLENGE = 200_000
"""Of a next hop's challenge: about 60 ms. Beyond it a next hop would spend our time."""

_NONCE = r"[!-+\--~]+"
_FIRST = re.compile(rf"(n|y|p=[A-Za-z0-9.-]+),(?:a=([^,\0]*))?,(n=([^,\0]*),r=({_NONCE})(?:,[a-zA-Z]=[^,]*)*)", re.DOTALL)
_FINAL = re.compile(rf"(c=([A-Za-z0-9+/=]+),r=({_NONCE})(?:,[a-zA-Z]=[^,]*)*),p=([A-Za-z0-9+/=]+)")
_SERVER_FIRST = re.compile(rf"r=({_NONCE}),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{{0,7}})(?:,[a-zA-Z]=[^,]*)*")
_STORED = re.compile(r"SCRAM-SHA-256\$([1-9][0-9]{0,7}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")
_ESCAPE = re.compile(r"=(?!2C|3D)")


class ScramError(Exception):
    """A message that is none, or that the exchange forbids."""


class BindingError(ScramError):
    """The client binds where it must not, does not where it must, or to another connection."""


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What a server keeps of a password (RFC 5803)."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def derive(cls, password: str, salt: bytes, iterations: int = ITERATIONS) -> ScramKeys:
        """Slow on purpose. :raises ValueError: the password has characters that no password may have."""
        salted = _salted(password, salt, iterations)
        return cls(salt, iterations, _hash(_mac(salted, b"Client Key")), _mac(salted, b"Server Key"))

    @classmethod
    def parse(cls, text: str) -> ScramKeys:
        """``SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey``, as PostgreSQL writes it. :raises ValueError:"""
        match = _STORED.fullmatch(text)
        if match is None:
            raise ValueError("SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY is needed")
        salt, stored, server = (_decoded(match[number]) for number in (2, 3, 4))
        keys = cls(salt, int(match[1]), stored, server)
        if not MIN_ITERATIONS <= keys.iterations <= MAX_ITERATIONS or len(stored) != 32 or len(server) != 32 or not salt:
            raise ValueError(f"keys of 32 octets and {MIN_ITERATIONS} to {MAX_ITERATIONS} iterations are needed")
        return keys

    def __str__(self) -> str:
        salt, stored, server = (b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key))
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored}:{server}"

    def fits(self, password: str) -> bool:
        """Whether it is this password. Slow on purpose."""
        try:
            other = ScramKeys.derive(password, self.salt, self.iterations)
        except ValueError:
            return False
        return hmac.compare_digest(other.stored_key, self.stored_key)


def decoy_keys(user: str, secret: bytes, iterations: int = ITERATIONS) -> ScramKeys:
    """Keys for a user whom nobody knows: they look the same each time and fit no password."""
    material = [_mac(secret, b"%d:" % number + user.encode()) for number in range(3)]
    return ScramKeys(material[0][:16], iterations, material[1], material[2])


# The server


@dataclass(frozen=True, slots=True)
class ServerFirst:
    """A client's first message, understood; ``user`` is who it wants to be known as, ``authzid`` who it wants to act as."""

    user: str
    authzid: str
    header: str
    bare: str
    nonce: str
    binding: bytes

    def challenge(self, keys: ScramKeys) -> str:
        return f"r={self.nonce},s={b64encode(keys.salt).decode()},i={keys.iterations}"

    def verify(self, keys: ScramKeys, final: str) -> str | None:
        """Our own proof for the client if its one is right, else None. :raises ScramError: it is no final message."""
        match = _FINAL.fullmatch(final)
        if match is None:
            raise ScramError("no final message")
        bound, proof = (_octets(match[number]) for number in (2, 4))
        message = f"{self.bare},{self.challenge(keys)},{match[1]}".encode()
        signature = _mac(keys.stored_key, message)
        if len(proof) != len(signature):
            raise ScramError("no proof")
        is_right = hmac.compare_digest(_hash(_xor(proof, signature)), keys.stored_key)
        is_bound = hmac.compare_digest(bound, self.header.encode() + self.binding)
        is_ours = hmac.compare_digest(match[3].encode(), self.nonce.encode())
        if not (is_right and is_bound and is_ours):
            return None
        return f"v={b64encode(_mac(keys.server_key, message)).decode()}"


def read_first(message: str, nonce: str, bindings: Mapping[str, bytes], *, plus: bool, plus_offered: bool) -> ServerFirst:
    """Read a client's first message. ``bindings`` has the data of each channel binding by its name; ``plus``: the mechanism is
    -PLUS; ``plus_offered``: the client could have taken it.

    :raises ScramError: it is no such message; as `BindingError`, its binding is not as it must be."""
    match = _FIRST.fullmatch(message)
    if match is None:
        raise ScramError("no first message")
    flag, authzid, bare, user, client_nonce = match.groups()
    binding = b""
    if plus:
        if not flag.startswith("p="):
            raise BindingError("-PLUS without a channel binding")
        found = bindings.get(flag[2:])
        if not found:
            raise BindingError(f"no channel binding {flag[2:]}")
        binding = found
    elif flag.startswith("p="):
        raise BindingError("a channel binding without -PLUS")
    elif flag == "y" and plus_offered:
        raise BindingError("the client thinks that we offer no channel binding, but we do: a downgrade")
    return ServerFirst(
        _name(user), _name(authzid or ""), message[: len(message) - len(bare)], bare, client_nonce + nonce, binding
    )


# The client


class ClientFirst:
    """A client's exchange. ``binding`` is a name and its data, for -PLUS; ``bindable`` says that we could have bound, had the
    server offered -PLUS."""

    def __init__(
        self, user: str, password: str, nonce: str, binding: tuple[str, bytes] | None = None, *, bindable: bool = False
    ) -> None:
        self._password = password
        self._nonce = nonce
        self._binding = binding[1] if binding else b""
        self._header = f"p={binding[0]},," if binding else ("y,," if bindable else "n,,")
        self._bare = f"n={_escaped(saslprep(user))},r={nonce}"
        self._signature = b""

    @property
    def message(self) -> str:
        return self._header + self._bare

    def final(self, challenge: str) -> str:
        """The proof. Slow on purpose. :raises ScramError: the challenge is none, or an attack."""
        match = _SERVER_FIRST.fullmatch(challenge)
        if match is None:
            raise ScramError("no challenge")
        nonce, salt, iterations = match[1], _octets(match[2]), int(match[3])
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ScramError("the nonce is not ours")
        if not MIN_ITERATIONS <= iterations <= MAX_CHALLENGE:
            raise ScramError(f"{iterations} iterations")
        try:
            salted = _salted(self._password, salt, iterations)
        except ValueError as error:
            raise ScramError(str(error)) from error
        bound = b64encode(self._header.encode() + self._binding).decode()
        without_proof = f"c={bound},r={nonce}"
        message = f"{self._bare},{challenge},{without_proof}".encode()
        client_key = _mac(salted, b"Client Key")
        proof = _xor(client_key, _mac(_hash(client_key), message))
        self._signature = _mac(_mac(salted, b"Server Key"), message)
        return f"{without_proof},p={b64encode(proof).decode()}"

    def check(self, final: str) -> None:
        """:raises ScramError: the server does not know the password either."""
        if not self._signature:
            raise ScramError("the server is done before we are")
        expected = f"v={b64encode(self._signature).decode()}"
        if not hmac.compare_digest(final.partition(",")[0].encode(), expected.encode()):
            raise ScramError("the server has not proved that it knows the password")


def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _octets(text: str) -> bytes:
    try:
        return _decoded(text)
    except ValueError as error:
        raise ScramError("not base64") from error


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


def _name(escaped: str) -> str:
    if _ESCAPE.search(escaped):
        raise ScramError("a name with = that is no escape")
    return escaped.replace("=2C", ",").replace("=3D", "=")


def _escaped(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")
