"""What supervisor and worker say to each other, over a socket pair that nobody else has: JSON objects, each behind its
length.

To a worker (``do`` names it; sockets travel beside, in the order of ``sockets``, a list of places and how many each has):

| do | with | |
|---|---|---|
| start | record, secret, sockets | serve this configuration; answered by ready or failed |
| reload | id, record, sockets | make it ready beside the one that serves; answered by prepared or refused |
| commit | id | change over; answered by reloaded or refused |
| abandon | id, reason | it comes to nothing; answered by refused, when nothing of it is left |
| ask | id, method, path, query, body, who | a question of administration; answered by answer |
| reopen | | the files of the log |
| stop | | drain, and end |

From a worker (``says``): ready, failed (reason); to what had an id, with that id: prepared, refused (reason), reloaded,
answer (status, body, kind); and every few seconds beat (sessions, old), without which it is taken for dead. When the link
ends the worker drains and ends too.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.internet.protocol import Factory
from twisted.protocols.basic import Int32StringReceiver
from zope.interface import implementer

from mailgate.interpreter import socket_of
from mailgate.workers.sockets import Place

MAX_LENGTH = 256 << 20
"""A configuration with all that it imports."""


class WorkerGone(Exception):
    """It ended before it answered."""


@implementer(IFileDescriptorReceiver)
class Link(Int32StringReceiver):
    """One end. ``heard(message, sockets)`` is called with each message, ``ended()`` once."""

    MAX_LENGTH = MAX_LENGTH

    def __init__(self, heard: Callable[[dict[str, Any], list[socket.socket]], None], ended: Callable[[], None]) -> None:
        self._heard = heard
        self._ended = ended
        self._descriptors: list[int] = []
        self._open = False

    def connectionMade(self) -> None:
        self._open = True

    def send(self, message: dict[str, Any], sockets: Iterable[tuple[Place, Sequence[socket.socket]]] = ()) -> None:
        """To an end that is gone nothing is sent."""
        if not self._open:
            return
        groups = list(sockets)
        if groups:
            message = {**message, "sockets": [[*place, len(group)] for place, group in groups]}
        transport: Any = self.transport
        for _, group in groups:
            for one in group:
                transport.sendFileDescriptor(one.fileno())
        self.sendString(json.dumps(message, separators=(",", ":")).encode())  # type: ignore[no-untyped-call]

    def close(self) -> None:
        if self._open and self.transport is not None:
            self.transport.loseConnection()

    def fileDescriptorReceived(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._descriptors.append(descriptor)

    def stringReceived(self, string: bytes) -> None:
        message = json.loads(string)
        count = sum(number for _, _, number in message.get("sockets", ()))
        mine, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        self._heard(message, [socket_of(descriptor) for descriptor in mine])

    def connectionLost(self, reason: Any = None) -> None:
        self._open = False
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        self._ended()


def open_link(
    reactor: Any,
    end: socket.socket,
    heard: Callable[[dict[str, Any], list[socket.socket]], None],
    ended: Callable[[], None],
) -> Link:
    """A link over this end of a socket pair, which is ours to close."""
    link = Link(heard, ended)
    with end:  # adoptStreamConnection works on a duplicate
        end.setblocking(False)
        reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: link))
    return link


def grouped(message: dict[str, Any], sockets: Sequence[socket.socket]) -> dict[Place, list[socket.socket]]:
    """The sockets of a message by their places."""
    found: dict[Place, list[socket.socket]] = {}
    position = 0
    for host, port, count in message.get("sockets", ()):
        found[host, port] = list(sockets[position : position + count])
        position += count
    return found
