"""Contexts of the accepting side: one for each key pair, chosen by the name that the client asks for (RFC 6066 3).

`ServerContexts` is built while the configuration is loaded, so all of its mistakes are load errors. The first pair is the
default: for clients that send no name or one nobody has, since a client that doesn't verify (most of those that relay)
would otherwise end in clear text. ``*.example.org`` stands for exactly one label, and an exact name wins over it.

Sessions are resumed by tickets only: the cache in memory would grow with the number of clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from mailgate.tls.options import SERVER_DEFAULTS, TlsError, TlsOptions
from mailgate.tls.pairs import KeyPair


class ServerContexts:
    """Every context of one listener.

    :raises TlsError: for a pair or an option that OpenSSL refuses, and for no pair at all.
    """

    def __init__(self, pairs: Sequence[KeyPair], options: TlsOptions = SERVER_DEFAULTS) -> None:
        if not pairs:
            raise TlsError("no certificate is given")
        self.pairs = tuple(pairs)
        self._by_name: dict[str, Any] = {}
        contexts = [self._context(pair, options) for pair in self.pairs]
        for pair, context in zip(self.pairs, contexts, strict=True):
            for name in pair.names:
                self._by_name.setdefault(name, context)
        self._default = contexts[0]
        self._default.set_tlsext_servername_callback(self._choose)

    def _context(self, pair: KeyPair, options: TlsOptions) -> Any:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        options.apply(context)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        pair.install(context)
        return context

    def _choose(self, connection: Any) -> None:
        context = self.for_name(connection.get_servername())
        if context is not self._default:
            connection.set_context(context)

    def for_name(self, name: bytes | None) -> Any:
        """The context for a server name as it came: exact, then the wildcard over it, then the default."""
        if name is None:
            return self._default
        try:
            text = name.decode("ascii").lower().rstrip(".")
        except UnicodeDecodeError:
            return self._default
        _, _, parent = text.partition(".")
        return self._by_name.get(text) or self._by_name.get(f"*.{parent}") or self._default

    def connection_creator(self) -> ServerConnectionCreator:
        """For `transport.startTLS` and `TLSMemoryBIOFactory`."""
        return ServerConnectionCreator(self._default)


@implementer(IOpenSSLServerConnectionCreator)
class ServerConnectionCreator:
    """Makes the connection on the default context; the name that the client sends moves it to another."""

    __slots__ = ("_context",)

    def __init__(self, context: Any) -> None:
        self._context = context

    def serverConnectionForTLS(self, protocol: Any) -> Any:
        return SSL.Connection(self._context, None)
