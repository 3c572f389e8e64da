"""Who may do what.

On the control socket the kernel says who is there (SO_PEERCRED): root and the gateway's own user may do everything. Whoever
else the file's mode lets connect may operate, if only the group can, or view, if everyone can. On an `admin` address nobody is
known: on loopback /metrics and /health answer to all, and only there. A token gives its role anywhere; tokens are compared in
constant time.

A browser that was lured to a name of the attacker's for 127.0.0.1 says that name in Host: over TCP only addresses and
``localhost`` are answered without a token (DNS rebinding).
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mailgate.interpreter import SO_PEERCRED
from mailgate.registry.administration import ROLES, Role

_CREDENTIALS = struct.Struct("3i")
_BEARER = re.compile(rb"Bearer +([!-~]+) *\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Access:
    """Of one socket. ``anyone``: the role of whoever gets as far as to connect; ``monitored``: /metrics and /health are
    public."""

    tokens: tuple[tuple[Role, bytes], ...] = ()
    anyone: Role = Role.NOBODY
    monitored: bool = False

    def role(self, credentials: int | None, authorization: bytes | None) -> Role:
        """Of a peer with this uid (None: not known) that said this in Authorization."""
        if credentials is not None and credentials in (0, os.geteuid()):
            return Role.ADMIN
        return max(self.anyone, self._of_token(authorization))

    def _of_token(self, authorization: bytes | None) -> Role:
        match = _BEARER.match(authorization or b"")
        found = Role.NOBODY
        for role, token in self.tokens:
            if hmac.compare_digest(token, match.group(1) if match else b""):
                found = max(found, role)
        return found


def tokens(written: Iterable[tuple[str, Any]]) -> tuple[tuple[Role, bytes], ...]:
    return tuple((ROLES[word], secret.reveal().encode()) for word, secret in written)


def peer_uid(transport: Any) -> int | None:
    """The user at the other end of a unix socket; None where the system does not say."""
    if SO_PEERCRED is None or getattr(transport, "socket", None) is None:
        return None
    if transport.socket.family != socket.AF_UNIX:
        return None
    try:
        credentials = transport.socket.getsockopt(socket.SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid


def is_plain_host(host: bytes | None) -> bool:
    """Whether a Host field names an address or localhost, and no name that somebody else may hold."""
    name = (host or b"").decode("ascii", "replace")
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
