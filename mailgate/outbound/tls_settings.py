"""The TLS of a target's endpoints as the configuration writes it, made into decisions and a context."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive, Refused
from mailgate.outbound.auth_settings import Authentication
from mailgate.outbound.pki import Pki
from mailgate.outbound.tls_client import TlsClient
from mailgate.outbound.tls_policy import Decision, PolicyError, TlsMode, TlsWords, decide, effective_mode
from mailgate.outbound.written import Written
from mailgate.tls.client import ClientContext

_DANE = Refused("dane", "DANE comes with direct delivery")


class TlsSettings(Block):
    """Whether TLS is used, required, verified, and how."""

    attempt_starttls = Directive(
        "attempt_starttls",
        v.Boolean(),
        default=True,
        doc="STARTTLS if it is offered; if the handshake fails, a new connection without it, unless TLS is required.",
        origin="maddy",
    )
    require_tls = Directive(
        "require_tls",
        v.Boolean(),
        default=False,
        doc="No message over plain text; the certificate is verified unless `tls require` is asked for.",
        origin="maddy",
    )
    tls = Directive(
        "tls",
        v.Choice(
            *(mode.value for mode in TlsMode),
            _DANE,
            Refused("dane_require", _DANE.reason),
            Refused("dane_fallback_require_verify", _DANE.reason),
        ),
        doc="Whether TLS is used, required, verified.",
        origin="halon",
    )
    tls_sni = Directive(
        "tls_sni",
        v.OneOf({"yes": v.Nothing(), "no": v.Nothing(), "": v.String("NAME")}),
        doc="The server name that is asked for; the endpoint's host name by default.",
        origin="halon",
    )
    tls_verify_host = Directive(
        "tls_verify_host", v.Boolean(), default=True, doc="The endpoint's host is a name to verify.", origin="halon"
    )
    tls_verify_name = Directive(
        "tls_verify_name",
        v.Strings("NAME"),
        default=(),
        doc="More names to verify, one of which must match; `.name` is any one label below.",
        origin="halon",
    )
    tls_default_ca = Directive(
        "tls_default_ca",
        v.Boolean(),
        doc="Trust the system's authorities; by default where no `root_ca` is given.",
        origin="halon",
    )
    verify_failure = Directive(
        "verify_failure",
        v.Choice("next", "clear"),
        default="next",
        doc="What `tls optional_verify` does about a bad certificate: the next endpoint, or a new connection in clear text.",
    )
    tls_client = Directive(
        "tls_client", v.BlockOrReference("tls_client"), doc="Trust anchors, certificate and options of TLS.", origin="maddy"
    )
    tls_client_cert = Directive(
        "tls_client_cert",
        v.ReferenceTo("pki", prefix="pki:"),
        doc="Our certificate towards the next hop, of a `pki`: &NAME, or pki:NAME.",
        origin="halon",
    )


@dataclass(frozen=True, slots=True)
class EndpointTls:
    """``names``: those to verify; ``requiretls`` is the decision for messages that ask for REQUIRETLS."""

    mode: TlsMode
    names: tuple[str, ...]
    decision: Decision
    requiretls: Decision
    context: Any


def endpoint_tls(written: Written, address: v.EndpointAddress, auth: Authentication, default: TlsMode) -> EndpointTls:
    """:raises PolicyError, TlsError: for what can't be."""
    insecure = written.value("auth_insecure")
    mode = effective_mode(
        TlsWords(
            address.scheme,
            TlsMode(written.value("tls")) if written.value("tls") else None,
            written.value("attempt_starttls") if written.has("attempt_starttls") else None,
            written.value("require_tls"),
            sends_secret=auth.sends_secret,
            auth_insecure=insecure,
            default=default,
        )
    )
    client, pki = written.value("tls_client"), written.value("tls_client_cert")
    has_certificate = client is not None and client.cert is not None
    if has_certificate and pki is not None:
        raise PolicyError("tls_client_cert", "both `tls_client` and `tls_client_cert` give a certificate")
    if auth.shows_certificate and address.scheme != "unix" and not has_certificate and pki is None:
        raise PolicyError("auth", "`auth external` needs a certificate: `tls_client_cert`, or `cert` and `key` in `tls_client`")
    names = (*([address.host] if written.value("tls_verify_host") else []), *written.value("tls_verify_name"))
    secret = auth.credentials is not None and not insecure and address.scheme != "unix"
    normal, strict = (
        decide(
            mode,
            implicit=address.scheme == "tls",
            requiretls=requiretls and address.scheme != "unix",
            credentials=secret,
            clear_after_bad_peer=written.value("verify_failure") == "clear",
            names=names or ((address.host,) if requiretls else ()),
            sni=_sni(written.value("tls_sni"), address.host),
        )
        for requiretls in (False, True)
    )
    return EndpointTls(mode, names, normal, strict, _context(client, pki, written.value("tls_default_ca")))


def _sni(choice: Any, host: str) -> str | None:
    if choice is None or choice.word == "yes":
        return host or None
    return None if choice.word == "no" else str(choice.value)


def _context(client: TlsClient | None, pki: Pki | None, use_default_ca: bool | None) -> ClientContext:
    """:raises TlsError: for files and options that can't be used."""
    pair, authorities = (pki.key_pair(), pki.ca) if pki is not None else (None, ())
    if client is not None:
        return client.make(use_default_ca=use_default_ca, certificate=pair, authorities=authorities)
    default_ca = not authorities if use_default_ca is None else use_default_ca
    if pair is None and not authorities and default_ca:
        return _system_context()
    return ClientContext(authorities, default_ca, pair)


@lru_cache(maxsize=1)
def _system_context() -> ClientContext:
    """The system's certificate authorities and nothing else: what most endpoints have. Reading them takes 30 ms."""
    return ClientContext((), True, None)
