"""`tls_client { … }`: trust anchors and options of outgoing TLS, in a target or named at the top level."""

from __future__ import annotations

from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.registry import Module, Report
from mailgate.tls.advice import advise_keys
from mailgate.tls.client import ClientContext
from mailgate.tls.options import CLIENT_DEFAULTS, TlsError, TlsOptions, parse_protocols
from mailgate.tls.pairs import KeyPair


class TlsClient(Module):
    """Settings of TLS towards next hops: whom to trust, what to show, which versions and ciphers."""

    name = "tls_client"
    root_ca = Directive(
        "root_ca",
        v.List(v.Path()),
        default=(),
        doc="Files with the certificates to trust (PEM), in place of the system's.",
        origin="maddy",
    )
    cert = Directive("cert", v.Path(), doc="Our own certificate with its intermediates (PEM).", origin="maddy")
    key = Directive("key", v.Path(), doc="The private key of `cert` (PEM).", origin="maddy")
    protocols = Directive(
        "protocols",
        v.Strings("VERSION"),
        default=(),
        doc="Lowest and highest version (`tls1.2 tls1.3`), or a list with exclusions; TLS 1.2 and up by default.",
        origin="maddy",
    )
    ciphers = Directive("ciphers", v.Strings("CIPHER"), default=(), doc="Cipher suites by OpenSSL's names.", origin="maddy")
    curves = Directive("curves", v.Strings("CURVE"), default=(), doc="Key exchange groups, the preferred first.", origin="maddy")

    def configure(self, report: Report) -> None:
        if (self.cert is None) != (self.key is None):
            missing = "key" if self.key is None else "cert"
            report.error(
                self.span_of("cert") or self.span_of("key"),
                f"`cert` and `key` belong together: `{missing}` is missing",
                code="E0720",
            )
            return
        if self.key is not None:
            advise_keys([self.key], self.span_of("key"), report)
        try:
            self.make(use_default_ca=False)
        except TlsError as error:
            report.error(self.span, str(error), code="E0720")

    def make(
        self,
        *,
        use_default_ca: bool | None = None,
        certificate: KeyPair | None = None,
        authorities: tuple[str, ...] = (),
        protocols: frozenset[str] | None = None,
        ciphers: tuple[str, ...] = (),
    ) -> ClientContext:
        """A context with these settings; the system's authorities are trusted where none are named, unless said otherwise.
        ``certificate`` and further ``authorities`` come from a `pki`; ``protocols`` and ``ciphers``, which count where this block
        has none, from `tls_protocols` and `tls_ciphers`.

        :raises TlsError: for files and options that can't be used.
        """
        pair = KeyPair.load(self.cert, self.key) if self.cert is not None and self.key is not None else certificate
        trusted = (*self.root_ca, *authorities)
        default = not trusted if use_default_ca is None else use_default_ca
        versions = parse_protocols(self.protocols) if self.protocols else protocols
        return ClientContext(trusted, default, pair, client_options(versions, self.ciphers or ciphers, self.curves))


def client_options(
    protocols: frozenset[str] | None = None, ciphers: tuple[str, ...] = (), curves: tuple[str, ...] = ()
) -> TlsOptions:
    """What is not said is the default of clients."""
    return TlsOptions(protocols or CLIENT_DEFAULTS.protocols, ciphers or CLIENT_DEFAULTS.ciphers, curves)
