"""The server name in a ClientHello, read before OpenSSL sees the bytes (RFC 8446 4.1.2, RFC 6066 3). Sans-IO.

OpenSSL asks for the certificate of a name in the middle of its handshake and cannot wait for the answer. Where a table must be
asked, the bytes of the client are held until their ClientHello is whole, `server_name` reads the one thing that is needed, and
then the handshake begins with the right context (`handshake.py`). Nothing is decided here: what is no ClientHello, or a
damaged one, has no name, and OpenSSL refuses it as it always does.

With encrypted client hello this is the outer name; mailgate has no key for the inner one.
"""

from __future__ import annotations

import re

MAX_HELLO = 1 << 16
"""Octets held of one client: OpenSSL itself takes twice as many, real ones have 2,000."""
MAX_NAME = 253

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HOST_NAME = 0
_RECORD_HEADER = 5
_is_name = re.compile(r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?").fullmatch


class _Damaged(Exception):
    """Not what a ClientHello looks like."""


def server_name(data: bytes) -> str | None:
    """The name that the client asks for, in lower case, "" if there is none; None as long as more bytes must come.

    What comes back is a host name: labels of letters, digits, hyphens and underscores, whatever the client sent.
    """
    try:
        message = _message(data)
        if message is None:
            return "" if len(data) > MAX_HELLO else None
        return _clean(_find(_Reader(message)))
    except _Damaged:
        return ""


def _clean(name: bytes) -> str:
    text = name.decode("ascii", "replace").lower().removesuffix(".")
    return text if len(text) <= MAX_NAME and not text.startswith("*") and _is_name(text) else ""


def _message(data: bytes) -> bytes | None:
    """The body of the ClientHello, put together from its records; None if it is not all there."""
    message = b""
    position = 0
    while True:
        header = data[position : position + _RECORD_HEADER]
        if header[:1] and header[0] != _HANDSHAKE:
            raise _Damaged
        if len(header) < _RECORD_HEADER:
            return None
        length = int.from_bytes(header[3:5], "big")
        if not length:
            raise _Damaged
        position += _RECORD_HEADER
        fragment = data[position : position + length]
        message += fragment
        position += length
        if message and message[0] != _CLIENT_HELLO:
            raise _Damaged
        if len(message) >= 4:
            end = 4 + int.from_bytes(message[1:4], "big")
            if len(message) >= end:
                return message[4:end]
        if len(fragment) < length:
            return None


class _Reader:
    """Vectors of the TLS presentation language."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def is_empty(self) -> bool:
        return self._position >= len(self._data)

    def take(self, length: int) -> bytes:
        piece = self._data[self._position : self._position + length]
        if len(piece) < length:
            raise _Damaged
        self._position += length
        return piece

    def number(self, octets: int) -> int:
        return int.from_bytes(self.take(octets), "big")

    def vector(self, octets: int) -> _Reader:
        """What stands behind its own length of so many octets."""
        return _Reader(self.take(self.number(octets)))


def _find(hello: _Reader) -> bytes:
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    if hello.is_empty:
        return b""
    extensions = hello.vector(2)
    while not extensions.is_empty:
        kind = extensions.number(2)
        content = extensions.vector(2)
        if kind == _SERVER_NAME:
            return _host_name(content.vector(2))
    return b""


def _host_name(names: _Reader) -> bytes:
    while not names.is_empty:
        kind = names.number(1)
        name = names.vector(2)
        if kind == _HOST_NAME:
            return name.take(len(name._data))
    return b""
