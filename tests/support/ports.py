"""Free ports of 127.0.0.1."""

from __future__ import annotations

import socket


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different; the system hands out others first before it comes back to them."""
    sockets = []
    for _ in range(count):
        opened = socket.socket()
        opened.bind(("127.0.0.1", 0))
        sockets.append(opened)
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def free_port() -> int:
    return free_ports(1)[0]
