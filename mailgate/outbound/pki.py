"""`pki NAME { … }`: a certificate of ours for next hops, by name, so that targets and endpoints share it."""

from __future__ import annotations

from mailgate.config import values as v
from mailgate.config.schema import REQUIRED, Directive
from mailgate.config.source import Span
from mailgate.registry import Module, Report
from mailgate.tls.advice import advise_keys
from mailgate.tls.client import ClientContext
from mailgate.tls.options import TlsError
from mailgate.tls.pairs import KeyPair


class PkiError(TlsError):
    """What is wrong with a `pki`, and where: said there once, however many targets use it."""

    def __init__(self, message: str, span: Span | None) -> None:
        super().__init__(message)
        self.span = span


class Pki(Module):
    """A certificate with its key, and whom to trust where it is used: `tls_client_cert &NAME` in a target or endpoint."""

    name = "pki"
    certificate = Directive(
        "certificate",
        v.Path(),
        default=REQUIRED,
        doc="The certificate with its intermediates behind it (PEM).",
        origin="halon",
    )
    private_key = Directive(
        "private_key", v.Path(), default=REQUIRED, doc="The private key of `certificate` (PEM, no passphrase).", origin="halon"
    )
    ca = Directive(
        "ca",
        v.List(v.Path()),
        default=(),
        doc="Files with the certificates to trust (PEM), in place of the system's; those of `tls_client` count besides.",
    )

    def configure(self, report: Report) -> None:
        try:
            self.key_pair()
        except PkiError as error:
            report.error(error.span, str(error), code="E0720")
        advise_keys([self.private_key], self.span_of("private_key"), report)

    def key_pair(self) -> KeyPair:
        """:raises PkiError: for files that can't be used, those of `ca` too."""
        span = self.span_of("certificate")
        try:
            pair = KeyPair.load(self.certificate, self.private_key)
            ClientContext((), False, pair)
            span = self.span_of("ca")
            ClientContext(self.ca)
        except TlsError as error:
            raise PkiError(str(error), span) from error
        return pair
