"""The TLS of a target's endpoints as the configuration writes it, made into decisions and a context."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import idna

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive
from mailgate.outbound.auth_settings import Authentication
from mailgate.outbound.dane import MODES, Dane
from mailgate.outbound.pki import Pki
from mailgate.outbound.tls_client import TlsClient, client_options
from mailgate.outbound.tls_policy import Decision, OnFailure, PolicyError, Start, TlsMode, TlsWords, decide, effective_mode
from mailgate.outbound.written import Written
from mailgate.registry import Report
from mailgate.tls.client import ClientContext, server_name
from mailgate.tls.options import TlsError, TlsOptions, cipher_words, missing_between, parse_protocol_list


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
        v.Choice(*(mode.value for mode in TlsMode), *(dane.value for dane in Dane)),
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
    tls_protocols = Directive(
        "tls_protocols",
        v.Strings("VERSION"),
        default=("!SSLv2,!SSLv3,!TLSv1,!TLSv1.1",),
        doc="Versions, separated by commas: those named, or all but those with a `!`.",
        origin="halon",
    )
    tls_ciphers = Directive(
        "tls_ciphers",
        v.Strings("CIPHERS"),
        default=(),
        doc="A cipher string of OpenSSL's; suites of TLS 1.3 (`TLS_…`) may stand in it.",
        origin="halon",
    )
    tls_capture_peer_cert = Directive(
        "tls_capture_peer_cert",
        v.Boolean(),
        default=False,
        doc="Keep the certificates that the next hop showed in the record of each attempt.",
        origin="halon",
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
    capture: bool
    dane: Dane | None = None
    """What is published by TLSA goes before ``decision``."""


def report_tls(block: TlsSettings, report: Report) -> bool:
    """What is wrong within one block, whatever else is written; False if something is."""
    mistakes = list(_mistakes(block))
    for directive, complaint in mistakes:
        report.error(block.span_of(directive), complaint, code="E0735")
    if mistakes:
        return False
    holes = missing_between(_protocols(block.tls_protocols))
    if holes:
        text = f"a client can't leave out a version between two others ({', '.join(holes)}): the newer ones are not used"
        report.warning(block.span_of("tls_protocols"), text, code="W0715")
    return True


def _mistakes(block: TlsSettings) -> Iterator[tuple[str, str]]:
    if block.span_of("tls_protocols"):
        try:
            _protocols(block.tls_protocols)
        except TlsError as error:
            yield "tls_protocols", str(error)
    if block.span_of("tls_ciphers"):
        try:
            TlsOptions(ciphers=_ciphers(block.tls_ciphers)).check()
        except TlsError as error:
            yield "tls_ciphers", str(error)
    for name in block.tls_verify_name:
        if not _is_reference(name):
            yield "tls_verify_name", f"`{name}` is no host name, no address and no `.name`"
    sni = block.tls_sni
    if sni is not None and sni.word not in ("yes", "no") and not _is_host_name(str(sni.value)):
        yield "tls_sni", f"`{sni.value}` is no host name"


def endpoint_tls(written: Written, address: v.EndpointAddress, auth: Authentication, default: TlsMode) -> EndpointTls:
    """:raises PolicyError, TlsError: for what can't be."""
    insecure = written.value("auth_insecure")
    names = names_of(written, address.host)
    mode = effective_mode(
        TlsWords(
            address.scheme,
            mode_of(written.value("tls")),
            written.value("attempt_starttls") if written.has("attempt_starttls") else None,
            written.value("require_tls"),
            sends_secret=auth.sends_secret,
            has_names=bool(names),
            auth_insecure=insecure,
            default=default,
        )
    )
    _check_certificate(written, address, auth)
    secret = auth.credentials is not None and not insecure and address.scheme != "unix"
    normal, strict = decisions(written, mode, address, secret=secret)
    context = _context(written)
    if normal.start is not Start.NEVER and normal.on_bad_peer is not OnFailure.IGNORE and not context.trusts_anybody:
        text = f"`tls {mode.value}` trusts nobody: it needs `root_ca`, `ca` of a `pki`, or `tls_default_ca yes`"
        raise PolicyError("tls_default_ca", text)
    return EndpointTls(mode, names, normal, strict, context, written.value("tls_capture_peer_cert"), dane_of(written, address))


def mode_of(word: str | None) -> TlsMode | None:
    """The mode that `tls` says, of a DANE mode that without DANE."""
    return None if word is None else MODES[word] if word in MODES else TlsMode(word)


def dane_of(written: Written, address: v.EndpointAddress) -> Dane | None:
    word = written.value("tls")
    return Dane(word) if word in MODES and address.scheme != "unix" else None


def decisions(written: Written, mode: TlsMode, address: v.EndpointAddress, *, secret: bool = False) -> tuple[Decision, Decision]:
    """For messages as they are, and for those that ask for REQUIRETLS."""
    names = names_of(written, address.host)
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
    return normal, strict


def names_of(written: Written, host: str) -> tuple[str, ...]:
    """The names to verify for a host."""
    return (*([host] if written.value("tls_verify_host") else []), *written.value("tls_verify_name"))


def _check_certificate(written: Written, address: v.EndpointAddress, auth: Authentication) -> None:
    client, pki = written.value("tls_client"), written.value("tls_client_cert")
    has_certificate = client is not None and client.cert is not None
    if has_certificate and pki is not None:
        raise PolicyError("tls_client_cert", "both `tls_client` and `tls_client_cert` give a certificate")
    if auth.shows_certificate and address.scheme != "unix" and not has_certificate and pki is None:
        raise PolicyError("auth", "`auth external` needs a certificate: `tls_client_cert`, or `cert` and `key` in `tls_client`")
    for directive, attribute in (("tls_protocols", "protocols"), ("tls_ciphers", "ciphers")):
        if client is not None and getattr(client, attribute) and written.has(directive):
            raise PolicyError(directive, f"both `{directive}` and `{attribute}` of `tls_client` say it")


def _sni(choice: Any, host: str) -> str | None:
    if choice is None or choice.word == "yes":
        return host or None
    return None if choice.word == "no" else str(choice.value)


def _context(written: Written) -> ClientContext:
    """:raises TlsError: for files and options that can't be used."""
    client: TlsClient | None = written.value("tls_client")
    pki: Pki | None = written.value("tls_client_cert")
    use_default_ca: bool | None = written.value("tls_default_ca")
    protocols, ciphers = _protocols(written.value("tls_protocols")), _ciphers(written.value("tls_ciphers"))
    pair, authorities = (pki.key_pair(), pki.ca) if pki is not None else (None, ())
    if client is not None:
        return client.make(
            use_default_ca=use_default_ca, certificate=pair, authorities=authorities, protocols=protocols, ciphers=ciphers
        )
    default_ca = not authorities if use_default_ca is None else use_default_ca
    options = client_options(protocols, ciphers)
    if pair is None and not authorities and default_ca:
        return _system_context(options)
    return ClientContext(authorities, default_ca, pair, options)


@lru_cache(maxsize=16)
def _system_context(options: TlsOptions) -> ClientContext:
    """The system's certificate authorities and nothing else: what most endpoints have. Reading them takes 30 ms."""
    return ClientContext((), True, None, options)


def _protocols(words: Sequence[str]) -> frozenset[str]:
    return parse_protocol_list(" ".join(words))


def _ciphers(words: Sequence[str]) -> tuple[str, ...]:
    return cipher_words(" ".join(words))


def _is_reference(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return _is_host_name(name.removeprefix("."))
    return True


def _is_host_name(name: str) -> bool:
    try:
        encoded = idna.encode(name.rstrip("."), uts46=True) if not name.isascii() else name.encode()
    except idna.IDNAError:
        return False
    return server_name(name) is not None and all(
        label and len(label) < 64 and set(label.lower()) <= _HOST_OCTETS for label in encoded.rstrip(b".").split(b".")
    )


_HOST_OCTETS = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
