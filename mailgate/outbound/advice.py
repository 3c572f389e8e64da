"""What a target's settings lead to that its operator may not want: warnings of `mailgate check`, as pure functions."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from mailgate.outbound.tls_policy import TlsMode

LINK_DIRECTIVES = frozenset(
    {"tls", "require_tls", "tls_verify_name", "verify_failure", "auth_insecure", "tls_client", "tls_client_cert", "tls_sni"}
    | {"tls_protocols", "tls_ciphers", "tls_capture_peer_cert"}
    | {"source_ip", "source_selection", "source_ip_fallback", "nonlocal_source"}
)
"""Of which it matters whether they are written."""

_VERIFIED = frozenset({TlsMode.OPTIONAL_VERIFY, TlsMode.REQUIRE_VERIFY})
_MAY_BE_CLEAR = frozenset({TlsMode.DISABLED, TlsMode.OPTIONAL, TlsMode.OPTIONAL_VERIFY})


@dataclass(frozen=True, slots=True)
class Advice:
    """One warning; ``directive`` is the one to point at."""

    directive: str
    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """How an endpoint is spoken to. ``secret``: a password is sent; ``written``: directives that stand in the file."""

    mode: TlsMode
    names: tuple[str, ...]
    secret: bool
    written: Set[str]


def warnings_of(address: Any, link: LinkFacts) -> Iterator[Advice]:
    """Of one endpoint."""
    mode, written = link.mode, link.written
    clear = mode in _MAY_BE_CLEAR and address.scheme == "tcp"
    if link.secret and address.scheme != "unix" and not _is_loopback(address.host) and mode is not TlsMode.REQUIRE_VERIFY:
        how = "in plain text" if clear else "to a peer that is not verified"
        yield Advice("auth_insecure", "W0713", f"the password of `auth` may go to {address} {how}", "`tls require_verify`")
    if mode in _VERIFIED and not link.names:
        yield Advice(
            "tls_verify_host",
            "W0710",
            f"any trusted certificate passes for {address}: no name is verified",
            "`tls_verify_name NAME`",
        )
    if mode is TlsMode.REQUIRE and "require_tls" in written:
        yield Advice("tls", "W0711", f"what goes to {address} is encrypted, but to whom is not verified", "`tls require_verify`")
    if clear and _is_public(address.host):
        yield Advice("tls", "W0712", f"what goes to {address} over a public network may be plain text", "`tls require_verify`")
    if "tls_verify_name" in written and mode not in _VERIFIED:
        yield _idle("tls_verify_name", f"`tls {mode.value}` verifies nothing")
    if "verify_failure" in written and mode is not TlsMode.OPTIONAL_VERIFY:
        yield _idle("verify_failure", "it is for `tls optional_verify`")
    if "source_ip" not in written:
        for directive in ("source_selection", "source_ip_fallback", "nonlocal_source"):
            if directive in written:
                yield _idle(directive, "there is no `source_ip`")
    if mode is TlsMode.DISABLED and address.scheme == "tcp":
        for directive in ("tls_client", "tls_client_cert", "tls_sni", "tls_protocols", "tls_ciphers", "tls_capture_peer_cert"):
            if directive in written:
                yield _idle(directive, "TLS is disabled")


def pool_warnings(target: Any) -> Iterator[Advice]:
    """Of the limits of a target."""

    def written(directive: str) -> bool:
        return target.span_of(directive) is not None

    each = target.max_connections_per_endpoint
    if each is not None and each > target.max_connections:
        yield _idle("max_connections_per_endpoint", f"`max_connections` is {target.max_connections}")
    if written("max_idle") and target.max_idle > target.max_connections:
        yield _idle("max_idle", f"`max_connections` is {target.max_connections}")
    if target.max_idle == 0 and written("idle_timeout"):
        yield _idle("idle_timeout", "`max_idle 0` keeps no connection")


def _idle(directive: str, why: str) -> Advice:
    return Advice(directive, "W0714", f"`{directive}` has no effect here", why)


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"
