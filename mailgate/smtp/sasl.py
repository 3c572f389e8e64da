"""SASL mechanisms of the client: RFC 4616 (PLAIN), RFC 4422 appendix A (EXTERNAL), draft-murchison-sasl-login (LOGIN).

A mechanism object is one exchange. Challenges and responses are bytes before base64, which is `smtp.client`'s, as is the
`*` that gives an exchange up when `respond` raises. Whether a secret may go over this connection is decided before one of
these is made (outbound/tls_policy.py).
"""

from __future__ import annotations

from typing import Protocol


class SaslError(Exception):
    """The server asks for something that this mechanism has no answer to."""


class SaslClient(Protocol):
    """One exchange of one mechanism."""

    name: str

    def initial(self) -> bytes | None:
        """The initial response; None where the server speaks first."""

    def respond(self, challenge: bytes) -> bytes:
        """The answer to one challenge. :raises SaslError: when there is none."""


class Plain:
    """The password in one message, with an empty authorization identity."""

    name = "PLAIN"

    def __init__(self, username: str, password: str) -> None:
        self._response = b"\0" + _octets(username) + b"\0" + _octets(password)

    def initial(self) -> bytes:
        return self._response

    def respond(self, challenge: bytes) -> bytes:
        raise SaslError("PLAIN has one message only")


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


class External:
    """Who we are is known already, by our TLS certificate."""

    name = "EXTERNAL"

    def initial(self) -> bytes:
        return b""

    def respond(self, challenge: bytes) -> bytes:
        raise SaslError("EXTERNAL has one message only")


def _octets(text: str) -> bytes:
    """:raises SaslError: for NUL, which would end the field in PLAIN."""
    if "\0" in text:
        raise SaslError("a user name or password contains NUL")
    return text.encode()
