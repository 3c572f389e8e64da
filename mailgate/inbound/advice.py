"""What a listener's settings lead to that its operator may not want: warnings of `mailgate check`."""

from __future__ import annotations

import ipaddress
from typing import Any

from mailgate.registry import Report


def advise(listener: Any, report: Report) -> None:
    """Limits that limit nothing here, and trust without a limit."""
    for name in ("proxy_protocol", "xclient", "xforward"):
        block = getattr(listener, name)
        if block is not None and any(network.prefixlen == 0 for network in block.trust or ()):
            place = block.span_of("trust")
            report.warning(place, f"`{name}` is believed from everybody", code="W0724", hint="name the networks of your proxies")
    for directive, why in _without_effect(listener):
        report.warning(listener.span_of(directive), f"`{directive}` has no effect here", code="W0714", hint=why)


def _without_effect(listener: Any) -> list[tuple[str, str]]:
    """(directive, why), of those that are written in the block."""
    proxied = listener.proxy_protocol is not None or listener.xclient is not None
    local = all(endpoint.scheme == "unix" or _is_loopback(endpoint.host) for endpoint in listener.endpoints) and not proxied
    lifetime = listener.session_timeout.value if listener.session_timeout else None
    per_ip = listener.max_connections_per_ip
    found = [
        ("max_connections_per_ip", "clients on this machine are not counted", local),
        ("max_connections_per_ip", f"`max_connections` is {listener.max_connections}", per_ip > listener.max_connections),
        (
            "relay_from",
            "clients on unix sockets are not asked",
            not proxied and all(one.scheme == "unix" for one in listener.endpoints),
        ),
        (
            "handshake_timeout",
            "there is neither TLS nor a proxy",
            (listener.tls is None or listener.tls.word == "off") and listener.proxy_protocol is None,
        ),
        ("tls_start", "there is no tcp:// address", not any(one.scheme == "tcp" for one in listener.endpoints)),
        *(
            (
                directive,
                "`session_timeout` ends the session before",
                lifetime is not None and getattr(listener, directive) > lifetime,
            )
            for directive in ("read_timeout", "data_timeout")
        ),
    ]
    return [(directive, why) for directive, why, idle in found if idle and listener.span_of(directive) is not None]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
