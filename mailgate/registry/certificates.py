"""The declarations of `tls` as listeners have it: in a listener, and in the global scope for those without their own.

What they come to, contexts and their mistakes, is made in inbound/tls_settings.py; it is kept in `ListenerTls.made`, so that
listeners that share a directive share its contexts, and one mistake is reported once.
"""

from __future__ import annotations

import re
from typing import Any

import idna

from mailgate.config import values as v
from mailgate.config.diagnostics import Problem
from mailgate.config.lexer import Token
from mailgate.config.schema import REQUIRED, Argument, Block, Directive
from mailgate.config.suggest import did_you_mean

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")


class ServerName(v.Value):
    """A host name in lower case and A-labels, or ``*.example.org`` for whatever is one label below."""

    metavar = "NAME"

    def parse_word(self, word: Token, scope: v.Scope) -> str:
        text = word.text.lower().removesuffix(".")
        star, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
        if not name.isascii():
            try:
                name = idna.encode(name, uts46=True).decode("ascii")
            except idna.IDNAError:
                name = ""
        labels = name.split(".")
        if len(name) > 253 or not all(map(_LABEL.match, labels)) or re.fullmatch(r"[0-9.]+", name):
            hint = "such as `mx.example.org`, or `*.example.org` for one label below"
            raise Problem(word.span, f"`{word.shown}` is no name that a client can ask for", code="E0505", hint=hint)
        return star + name


class _BlockAlone(v.Value):
    """No word: what is shown stands in the block."""

    metavar = ""

    def parse_element(self, line: v.Line) -> None:
        word = line.peek()
        if word is not None:
            line.rest()
            notes = ("possible: off, self_signed, file, or a block alone",)
            hint = did_you_mean(word.text, ("off", "self_signed", "file"))
            raise Problem(word.span, f"`{word.shown}` is not possible here", code="E0505", hint=hint, notes=notes)
        if not line.has_block:
            raise Problem(line.end, "`tls` needs one of off, self_signed, file here, or a block", code="E0404")


class SniBlock(Block):
    """What clients are shown that ask for one name."""

    server_name = Argument("NAME", ServerName(), doc="The name that they ask for; `*.example.org` is one label below.")
    file = Directive(
        "file",
        v.List(v.Path(), minimum=2),
        default=REQUIRED,
        doc="Pairs of certificate and key file (PEM), one for each kind of key.",
        origin="smtp-server",
    )
    client_ca = Directive("client_ca", v.Path(), doc="As around this block, for this name.")
    client_auth = Directive("client_auth", v.Choice("off", "optional", "required"), doc="As around this block, for this name.")


class ListenerTls(Block):
    """Certificates, and what is asked of clients."""

    protocols = Directive(
        "protocols",
        v.Strings("VERSION"),
        default=(),
        doc="Lowest and highest version (`tls1.2 tls1.3`), or a list with exclusions; TLS 1.2 and 1.3 by default.",
        origin="maddy",
    )
    ciphers = Directive(
        "ciphers",
        v.Strings("CIPHER"),
        default=(),
        doc="Cipher suites by OpenSSL's names; those of Mozilla's profile \"intermediate\" by default.",
        origin="maddy",
    )
    curves = Directive(
        "curves",
        v.Strings("CURVE"),
        default=(),
        doc="Key exchange groups, the preferred first; X25519, prime256v1 and secp384r1 by default.",
        origin="maddy",
    )
    client_ca = Directive(
        "client_ca",
        v.Path(),
        doc="File with the certificates that vouch for clients (PEM): of authorities, or of clients themselves.",
        origin="smtp-server",
    )
    client_auth = Directive(
        "client_auth",
        v.Choice("off", "optional", "required"),
        default="off",
        doc="Whether clients are asked for a certificate; one that is not good ends the handshake, with `required` a missing one"
        " too.",
        origin="smtp-server",
    )
    sni = Directive(
        "sni",
        block=SniBlock,
        repeatable=True,
        block_required=True,
        doc="What is shown to clients that ask for this name, whatever names stand in the certificates.",
        origin="smtp-server",
    )
    sni_lookup = Directive(
        "sni_lookup",
        v.ModuleLine("table"),
        doc="A table that is asked for names nothing else is known for: it gives the paths of certificate and key, or of one file"
        " with both.",
        origin="smtp-server",
    )

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}
        """What it came to, by the name of the gateway: `inbound.tls_settings` knows."""

    @property
    def word(self) -> str:
        """off, self_signed, file, or "" where everything is in the block."""
        return str(self.value.word)

    @property
    def files(self) -> tuple[str, ...]:
        """Certificate, key, certificate, key, …"""
        return self.value.value if self.word == "file" else ()


LINE = v.OneOf({"off": v.Nothing(), "self_signed": v.Nothing(), "file": v.List(v.Path(), minimum=2), "": _BlockAlone()})
"""What stands on the line of `tls`."""
