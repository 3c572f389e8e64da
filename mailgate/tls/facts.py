"""What a finished handshake was, for Received, logs and records."""

from __future__ import annotations

from typing import Any

from mailgate.message.envelope import TlsFacts


def tls_facts(connection: Any, peer_name: str = "") -> TlsFacts:
    """Facts of a `SSL.Connection`; ``peer_name`` is the name that verification matched."""
    name = connection.get_servername()
    return TlsFacts(
        version=connection.get_protocol_version_name().replace("TLSv", "TLS"),
        cipher=connection.get_cipher_name() or "",
        sni=name.decode("ascii", "replace") if name else "",
        peer_name=peer_name,
    )
