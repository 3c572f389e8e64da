"""Writing to a transport now instead of in the next turn of the event loop.

Twisted queues what is written and registers the descriptor for writing: two epoll_ctl calls and one turn per write. A
dialogue of short lines nearly always fits into the socket's buffer, so `send` tries the system call first; what does not
fit goes the usual way. This saved a third of the CPU per message (docs/performance.md).
"""

from __future__ import annotations

from typing import Any

from twisted.internet import tcp, unix

_SOCKETS = (tcp.Server, tcp.Client, unix.Server, unix.Client)


def send(transport: Any, data: bytes) -> None:
    """Write ``data``, at once where nothing is queued before it. Order with `transport.write` is kept."""
    if (
        isinstance(transport, _SOCKETS)
        and transport.connected
        and not transport.TLS  # after startTLS the socket's own writes would go past the TLS layer, in clear
        and not transport.disconnecting
        and not transport._writeDisconnected
        and not transport._tempDataBuffer
        and transport.offset == len(transport.dataBuffer)
    ):
        try:
            sent = transport.socket.send(data)
        except OSError:
            sent = 0  # an error is met again, and reported, by the reactor's own write
        if sent == len(data):
            return
        data = data[sent:]
    transport.write(data)
