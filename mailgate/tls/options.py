"""Which protocol versions, cipher suites and groups a context may use.

`TlsOptions` is data; `parse_protocols` reads the words of a configuration; `TlsOptions.apply` sets them on a context and
raises `TlsError` for what selects nothing or names something this OpenSSL does not have, so that a mistake is a load
error and not a handshake that fails a week later.

Protocols are written as a list with exclusions (``!SSLv3,!TLSv1``: everything but those) or as a lowest and a highest
version (``tls1.2 tls1.3``). Cipher suites are OpenSSL's names; those of TLS 1.3 (``TLS_…``) are a list of their own. Where
only suites of TLS 1.3 are named, older versions have none left and are switched off.

The defaults of a server are Mozilla's "intermediate" (https://wiki.mozilla.org/Security/Server_Side_TLS). A client asks for
less: in the opportunistic modes the other choice is clear text, so a peer's weak key must not end the handshake.
`verification` refuses it where somebody asked for a verified peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cryptography
from OpenSSL import SSL

_OPENSSL: Any = SSL  # what the type stubs of pyOpenSSL don't have


class TlsError(Exception):
    """A certificate, key or option that can't be used; the text is for the operator."""


VERSIONS = {
    "TLSV1": (SSL.TLS1_VERSION, SSL.OP_NO_TLSv1),
    "TLSV1.1": (SSL.TLS1_1_VERSION, SSL.OP_NO_TLSv1_1),
    "TLSV1.2": (SSL.TLS1_2_VERSION, SSL.OP_NO_TLSv1_2),
    "TLSV1.3": (SSL.TLS1_3_VERSION, SSL.OP_NO_TLSv1_3),
}
"""Versions from the oldest to the newest, with the bit that leaves one out."""

_GONE = frozenset({"SSLV2", "SSLV3"})
_SPELLINGS = {"TLSV1.0": "TLSV1", "TLS1": "TLSV1", "TLS1.0": "TLSV1"} | {f"TLS1.{n}": f"TLSV1.{n}" for n in (1, 2, 3)}

MODERN = frozenset({"TLSV1.2", "TLSV1.3"})

INTERMEDIATE_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "DHE-RSA-AES128-GCM-SHA256",
    "DHE-RSA-AES256-GCM-SHA384",
    "DHE-RSA-CHACHA20-POLY1305",
)
INTERMEDIATE_CURVES = ("X25519", "prime256v1", "secp384r1")
OPPORTUNISTIC_CIPHERS = ("DEFAULT", "@SECLEVEL=1")


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Versions by their name in `VERSIONS`; ciphers and curves in order of preference, empty for OpenSSL's own."""

    protocols: frozenset[str] = MODERN
    ciphers: tuple[str, ...] = ()
    curves: tuple[str, ...] = ()

    def check(self) -> None:
        """:raises TlsError: as `apply` would."""
        self.apply(SSL.Context(SSL.TLS_METHOD))

    def apply(self, context: Any) -> None:
        """Set everything on a `SSL.Context` that has made no connection yet.

        :raises TlsError: for an option that selects nothing.
        """
        suites = [word for word in self.ciphers if word.startswith("TLS_")]
        older = [word for word in self.ciphers if not word.startswith("TLS_")]
        protocols = self.protocols if older or not suites else self.protocols & {"TLSV1.3"}
        if not protocols:
            raise TlsError("no protocol version is left")
        context.set_min_proto_version(next(number for name, (number, _) in VERSIONS.items() if name in protocols))
        for name, (_, bit) in VERSIONS.items():
            if name not in protocols:
                context.set_options(bit)
        context.set_options(SSL.OP_NO_COMPRESSION | _OPENSSL.OP_NO_RENEGOTIATION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        if suites:
            _select(context.set_tls13_ciphersuites, suites, "cipher suite")
        if older:
            if not protocols <= MODERN and not any("@" in word for word in older):
                older = [*older, "@SECLEVEL=0"]  # OpenSSL 3 has no signature for TLS 1.1 and below at its first level
            _select(context.set_cipher_list, older, "cipher")
        if self.curves:
            _set_curves(context, self.curves)


CAN_CHOOSE_CURVES = hasattr(_OPENSSL._lib, "SSL_CTX_set1_curves_list")
"""From cryptography 47 on, which PyPy takes from 7.3.20 on. OpenSSL's own curves are the intermediate ones and two more."""

SERVER_DEFAULTS = TlsOptions(MODERN, INTERMEDIATE_CIPHERS, INTERMEDIATE_CURVES if CAN_CHOOSE_CURVES else ())
CLIENT_DEFAULTS = TlsOptions(MODERN, OPPORTUNISTIC_CIPHERS)


def parse_protocols(words: Sequence[str]) -> frozenset[str]:
    """The versions that the words of one directive select: ``("!TLSv1,!TLSv1.1",)`` or ``("tls1.2", "tls1.3")``.

    :raises TlsError: for an unknown name, or when nothing is left.
    """
    items = [item.strip() for word in words for item in word.split(",")]
    if len(words) == 2 and len(items) == 2 and not any(item.startswith("!") for item in items):
        names = list(VERSIONS)
        lowest, highest = (names.index(_version(item)) for item in items)
        selected = frozenset(names[lowest : highest + 1])
    else:
        excluded = {_version(item[1:], may_be_gone=True) for item in items if item.startswith("!")}
        wanted = {_version(item) for item in items if not item.startswith("!")}
        selected = frozenset((wanted or set(VERSIONS)) - excluded)
    if not selected:
        raise TlsError(f"`{' '.join(words)}` selects no protocol version")
    return selected


def parse_protocol_list(text: str) -> frozenset[str]:
    """``item *( "," item )`` with ``item = ["!"] name``: with names that stand alone exactly those, else all; less the excluded.

    :raises TlsError: for an unknown name, or when nothing is left.
    """
    items = [item.strip() for item in text.split(",")]
    for item in items:
        if not item or " " in item:
            raise TlsError(f"`{text}` is no list of protocol versions separated by commas")
    return parse_protocols([",".join(items)])


def missing_between(protocols: frozenset[str]) -> tuple[str, ...]:
    """Versions left out between two that are selected: OpenSSL's clients then stop below the hole."""
    names = list(VERSIONS)
    places = [names.index(name) for name in protocols]
    return tuple(name.replace("V", "v") for name in names[min(places) : max(places)] if name not in protocols)


def cipher_words(text: str) -> tuple[str, ...]:
    """The words of a cipher string as OpenSSL writes it: ``HIGH:!aNULL:TLS_AES_256_GCM_SHA384``."""
    return tuple(word for word in text.replace(",", ":").replace(" ", ":").split(":") if word)


def _version(word: str, *, may_be_gone: bool = False) -> str:
    name = word.strip().upper()
    name = _SPELLINGS.get(name, name)
    if name in VERSIONS or (may_be_gone and name in _GONE):
        return name
    if name in _GONE:
        raise TlsError(f"{word} is not there any more")
    raise TlsError(f"unknown protocol version `{word}`; known: TLSv1, TLSv1.1, TLSv1.2, TLSv1.3")


def _select(set_list: Any, words: Sequence[str], what: str) -> None:
    # OpenSSL passes over a name it does not know as long as another one is left, so each is tried by itself first.
    for word in words:
        if word[0] not in "!-+@":
            _try(set_list, word, f"{what} `{word}` is unknown")
    _try(set_list, ":".join(words), f"`{':'.join(words)}` selects no {what}")


def _try(set_list: Any, text: str, complaint: str) -> None:
    try:
        set_list(text.encode("ascii"))
    except (SSL.Error, UnicodeEncodeError) as error:
        raise TlsError(complaint) from error


def _set_curves(context: Any, curves: Sequence[str]) -> None:
    # pyOpenSSL has a method for one curve only; the binding below it has the list.
    if not CAN_CHOOSE_CURVES:
        raise TlsError(f"curves can't be chosen with cryptography {cryptography.__version__}: it takes 47 or newer")
    try:
        text = ":".join(curves).encode("ascii")
    except UnicodeEncodeError:
        text = b"\xff"
    selected = _OPENSSL._lib.SSL_CTX_set1_curves_list(context._context, text) == 1
    if not selected:
        while _OPENSSL._lib.ERR_get_error():  # an error left in the queue would be taken for one of the next connection
            pass
        raise TlsError(f"`{':'.join(curves)}` selects no curve, or names an unknown one")
