"""Writing to a transport now instead of in the next turn of the event loop.

Twisted queues what is written and registers the descriptor for writing: two epoll_ctl calls and one turn per write. A
dialogue of short lines nearly always fits into the socket's buffer, so `send` tries the system call first; what does not
fit goes the usual way. This saved a third of the CPU per message (docs/performance.md).

Under TLS there is one turn more: Twisted keeps small writes for the next one, to make larger records of them. Ours are whole
answers or blocks already. Only `send` writes to a connection that may be under TLS, which keeps the order.
"""

from __future__ import annotations

import select
import socket
from typing import Any

from twisted.internet import tcp, unix
from twisted.protocols.tls import TLSMemoryBIOProtocol

_SOCKETS: Any = (tcp.Server, tcp.Client, unix.Server, unix.Client)


def send(transport: Any, data: bytes) -> None:
    """Write ``data``, at once where nothing is queued before it. Without TLS, order with `transport.write` is kept."""
    if isinstance(transport, _SOCKETS) and transport.connected:
        idle = (
            not transport.disconnecting
            and not transport._writeDisconnected
            and not transport._tempDataBuffer
            and transport.offset == len(transport.dataBuffer)
        )
        # An error here is met again, and reported, by the reactor's own write.
        if transport.TLS:  # the socket's own writes would go past the TLS layer, in clear
            tls: Any = TLSMemoryBIOProtocol
            tls.write(transport.protocol, data)
            if idle and not transport.disconnecting:
                transport.doWrite()
            return
        if idle:
            try:
                sent = transport.socket.send(data)
            except OSError:
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
    transport.write(data)


def end_writing(transport: Any) -> None:
    """Half of a close, at once where nothing is queued before it. Without TLS: that has an end of its own."""
    if (
        isinstance(transport, _SOCKETS)
        and transport.connected
        and not transport.disconnecting
        and not transport._writeDisconnected
        and not transport._tempDataBuffer
        and transport.offset == len(transport.dataBuffer)
    ):
        transport._writeDisconnected = True  # what the reactor's next turn would do
        transport._closeWriteConnection()
    else:
        transport.loseWriteConnection()


def is_gone(transport: Any) -> bool:
    """Whether nobody is left at the other end, so that what we say reaches nobody: for a connection that is not read any
    more, where no event would tell. A simulated one tells by itself."""
    if not isinstance(transport, _SOCKETS) or not transport.connected:
        return False
    poller = select.poll()
    poller.register(transport.socket, 0)  # errors and the end of both directions are told unasked
    return bool(poller.poll(0))


def first_input(transport: Any) -> bytes:
    """The first of what a client has said while its connection waited to be accepted; it is still to be read."""
    handle = getattr(transport, "socket", None)
    if handle is None:
        return b""
    try:
        said: bytes = handle.recv(16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return b""
    return said
