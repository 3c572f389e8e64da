"""Contexts of the accepting side: which certificate is shown for which name (RFC 6066 3), and whom of the clients it believes.

`ServerContexts` is made at once from what was read, and never changed: `live.LiveContexts` puts a new one in its place when files
change, and running connections keep theirs.

name     An exact name, then the wildcard over it (``*.example.org`` stands for one label), then the default: for clients that
         send no name or one nobody has, since a client that doesn't verify (most of those that relay) would otherwise end in
         clear text. A `Site` is shown under its own name, whatever its certificates say.
type     Of several pairs with a name one of each kind of key (RSA, ECDSA, …) is offered, and the client chooses. Each sends
         its own chain.
clients  Where certificates of clients are asked for, OpenSSL verifies them within the handshake: one that is not good ends it,
         a missing one does where it is required. The policy belongs to the name, as the certificate does, and so there
         are no tickets then: a session begun under one name could be resumed under another, past the question (CVE-2025-23419).
         Protocol versions and ciphers are settled before the name is known; they are the same for all names.

Sessions are resumed by tickets only: the cache in memory would grow with the number of clients.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from mailgate.tls.options import SERVER_DEFAULTS, TlsError, TlsOptions
from mailgate.tls.pairs import KeyPair, explain

_SESSION_ID_CONTEXT = b"mailgate"
"""OpenSSL refuses to resume where clients have certificates and this is empty."""


class ClientAuth(Enum):
    """Whether clients are asked for a certificate."""

    OFF = SSL.VERIFY_NONE
    OPTIONAL = SSL.VERIFY_PEER
    """One that is shown must be good."""
    REQUIRED = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT


@dataclass(frozen=True, slots=True)
class Clients:
    """What is asked of clients, and who vouches for them: authorities, or certificates of clients themselves."""

    auth: ClientAuth = ClientAuth.OFF
    trusted: tuple[x509.Certificate, ...] = ()


ANYBODY = Clients()


@dataclass(frozen=True, slots=True)
class Site:
    """What is shown to those who ask for ``name``, which may be ``*.example.org``."""

    name: str
    pairs: tuple[KeyPair, ...]
    clients: Clients = ANYBODY


class ServerContexts:
    """Every context of one listener. ``pairs`` are shown under the names that stand in them, the first by default; a site's name
    goes before them. Without pairs the first site is the default.

    :raises TlsError: for a pair or an option that OpenSSL refuses, and for nothing to show at all.
    """

    def __init__(
        self,
        pairs: Sequence[KeyPair],
        options: TlsOptions = SERVER_DEFAULTS,
        clients: Clients = ANYBODY,
        sites: Sequence[Site] = (),
        *,
        may_be_empty: bool = False,
    ) -> None:
        if not pairs and not sites and not may_be_empty:
            raise TlsError("no certificate is given")
        self.pairs = tuple(pairs)
        self._options = options
        self._tickets = all(one.auth is ClientAuth.OFF for one in (clients, *(site.clients for site in sites)))
        self._clients = clients
        self._by_name: dict[str, Any] = {site.name: self.context(site.pairs, site.clients) for site in sites}
        made: dict[tuple[int, ...], Any] = {}
        for pair in self.pairs:
            for name in pair.names:
                if name not in self._by_name:
                    self._by_name[name] = self._shared(made, [other for other in self.pairs if name in other.names])
        self._default = self._default_context(made)
        self._default.set_tlsext_servername_callback(self._choose)
        self.creator = ServerConnectionCreator(self._default)
        """For `transport.startTLS` and `TLSMemoryBIOFactory`: the name that the client sends chooses the context."""

    def _shared(self, made: dict[tuple[int, ...], Any], pairs: list[KeyPair]) -> Any:
        """One context for each set of pairs."""
        key = tuple(map(id, pairs))
        if key not in made:
            made[key] = self.context(pairs, self._clients)
        return made[key]

    def _default_context(self, made: dict[tuple[int, ...], Any]) -> Any:
        if not self.pairs:
            return next(iter(self._by_name.values()), None) or self.context((), self._clients)
        first = self.pairs[0]
        alike = [pair for pair in self.pairs if pair is first or (first.names and first.names[0] in pair.names)]
        return self._shared(made, alike)

    def context(self, pairs: Iterable[KeyPair], clients: Clients) -> Any:
        """A `SSL.Context` that shows these pairs.

        :raises TlsError: for a pair or an option that OpenSSL refuses.
        """
        context: Any = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._options.apply(context)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_session_id(_SESSION_ID_CONTEXT)
        if not self._tickets:
            context.set_options(SSL.OP_NO_TICKET)
        _install(context, list(pairs))
        if clients.auth is not ClientAuth.OFF:
            _ask_for_certificates(context, clients)
        return context

    def _choose(self, connection: Any) -> None:
        context = self.for_name(connection.get_servername())
        if context is not self._default:
            connection.set_context(context)
            connection.set_verify(context.get_verify_mode())  # the mode stays behind when a connection moves

    def for_name(self, name: bytes | None) -> Any:
        """The context for a server name as it came, or the default."""
        return self.known(name) or self._default

    def known(self, name: bytes | None) -> Any:
        """The context for a server name as it came: exact, or the wildcard over it; None if nothing is shown under it."""
        if name is None:
            return None
        try:
            text = name.decode("ascii").lower().rstrip(".")
        except UnicodeDecodeError:
            return None
        _, _, parent = text.partition(".")
        return self._by_name.get(text) or self._by_name.get(f"*.{parent}")

    def connection_creator(self) -> ServerConnectionCreator:
        """The `creator`."""
        return self.creator


@implementer(IOpenSSLServerConnectionCreator)
class ServerConnectionCreator:
    """Makes the connection on one context; if that is a default one, the name that the client sends moves it to another."""

    __slots__ = ("_context",)

    def __init__(self, context: Any) -> None:
        self._context = context

    def serverConnectionForTLS(self, protocol: Any) -> Any:
        return SSL.Connection(self._context, None)


def _install(context: Any, pairs: Sequence[KeyPair]) -> None:
    """Use one pair for each kind of key, the first of it."""
    kinds: dict[str, KeyPair] = {}
    for pair in pairs:
        kinds.setdefault(pair.kind, pair)
    if len(kinds) < 2:
        for pair in kinds.values():
            pair.install(context)
        return
    for pair in kinds.values():
        _install_beside(context, pair)


def _install_beside(context: Any, pair: KeyPair) -> None:
    """A pair with a chain of its own: pyOpenSSL's `add_extra_chain_cert` has one for all pairs, only a file has one for each."""
    with tempfile.NamedTemporaryFile(prefix="mailgate-chain-", suffix=".pem") as file:
        file.write(b"".join(certificate.public_bytes(Encoding.PEM) for certificate in pair.chain))
        file.flush()
        try:
            context.use_certificate_chain_file(os.fsencode(file.name))
            context.use_privatekey(pair.key)
            context.check_privatekey()
        except (SSL.Error, TypeError) as error:
            raise TlsError(f"{pair.source}: OpenSSL refuses the certificate or its key: {explain(error)}") from error


def _ask_for_certificates(context: Any, clients: Clients) -> None:
    store = context.get_cert_store()
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # whatever the file holds is trusted, an intermediate too
    for certificate in clients.trusted:
        store.add_cert(crypto.X509.from_cryptography(certificate))
        context.add_client_ca(certificate)  # the names go to the client, so that it knows which certificate to show
    context.set_verify(clients.auth.value)
