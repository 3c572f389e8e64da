"""Whether an address is this machine's: the system is asked by binding a socket to it, which opens nothing to anybody."""

from __future__ import annotations

import socket
from contextlib import closing
from ipaddress import ip_address


def is_own_address(address: str) -> bool:
    """Loopback addresses are everybody's, and so not meant."""
    if ip_address(address.partition("%")[0]).is_loopback:
        return False
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
