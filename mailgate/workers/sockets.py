"""The listening sockets of a gateway with several workers. The supervisor opens them, while it may still be root, and keeps
them.

Of a TCP address each worker has a socket of its own, all bound to it with SO_REUSEPORT: the kernel deals new connections out
among them by a hash of both ends. What comes to a worker's socket while it is away, because it died or changes over, waits in
that socket's queue for its successor: nobody is refused. Of a unix address there is one socket, which all workers share.

SO_REUSEPORT lets any process of the same user join in, a second gateway by mistake for one, and it would get half of the
connections. So an address is first bound without it, which fails if anybody else listens there.

A unix socket has its owner, group and mode before anybody can connect to it: they are set between bind(2) and listen(2).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from mailgate.events import Event, EventLog
from mailgate.inbound.ports import ANY, BACKLOG, CannotBind, place_of
from mailgate.inbound.unix_sockets import SocketAccess
from mailgate.net.unix import remove_stale

Place = tuple[str, int]
"""Host and port, or path and 0 (`inbound.ports.place_of`)."""

_events = EventLog("mailgate.workers")


class Address:
    """The sockets of one place, open: by worker, those of both families for ``*``."""

    def __init__(self, place: Place, by_worker: Sequence[Sequence[socket.socket]], path: str = "") -> None:
        self.place = place
        self.by_worker = by_worker
        self._path = path

    def close(self) -> None:
        """Nobody new comes. Connections in the queues of sockets that no worker has any more are reset."""
        for opened in {id(one): one for sockets in self.by_worker for one in sockets}.values():
            opened.close()
        if self._path:
            try:
                os.unlink(self._path)
            except OSError as error:  # it is gone already, or privileges were dropped
                _events.warn(Event.LISTENER_CLOSE, address=self._path, error=error.strerror)


def open_addresses(listeners: Iterable[Any], known: Iterable[Place], workers: int) -> dict[Place, Address]:
    """All addresses of these listeners that are not ``known``, for so many workers.

    :raises CannotBind: one can't be had, and none is left open. The text names it, and the listener's file and line.
    """
    taken = set(known)
    opened: dict[Place, Address] = {}
    try:
        for listener in listeners:
            for endpoint in listener.endpoints:
                place = place_of(endpoint.scheme, endpoint.host, endpoint.port, endpoint.path)
                if place not in taken:
                    taken.add(place)
                    opened[place] = _open(endpoint, place, listener, workers)
    except CannotBind:
        for address in opened.values():
            address.close()
        raise
    return opened


def _open(endpoint: Any, place: Place, listener: Any, workers: int) -> Address:
    try:
        if endpoint.scheme == "unix":
            shared = _open_unix(endpoint.path, listener.socket_access)
            return Address(place, [[shared]] * workers, endpoint.path)
        if endpoint.host != "*":
            return Address(place, [[one] for one in _open_tcp(endpoint.host, endpoint.port, workers)])
        first = _open_tcp(ANY[socket.AF_INET], endpoint.port, workers)
        try:
            second = _open_tcp(ANY[socket.AF_INET6], endpoint.port, workers)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                _close(first)
                raise
            return Address(place, [[one] for one in first])
        return Address(place, list(zip(first, second, strict=True)))
    except OSError as error:
        where = f"{listener.span.place}: " if listener.span else ""
        raise CannotBind(f"{where}cannot listen on {endpoint}: {error.strerror or error}") from error


def _open_tcp(host: str, port: int, workers: int) -> list[socket.socket]:
    """:raises OSError: it can't be had."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    )[0]
    if port:
        with _socket(family, kind, protocol) as alone:
            alone.bind(address)
    opened: list[socket.socket] = []
    try:
        for _ in range(workers):
            one = _socket(family, kind, protocol)
            opened.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(address)
            address = one.getsockname()  # the others get the port that the system chose for the first
            one.listen(BACKLOG)
    except OSError:
        _close(opened)
        raise
    return opened


def _socket(family: int, kind: int, protocol: int) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def _open_unix(path: str, access: SocketAccess) -> socket.socket:
    remove_stale(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        opened.bind(path)
        try:
            access.apply(path)
            opened.listen(BACKLOG)
        except OSError:
            os.unlink(path)
            raise
    except OSError:
        opened.close()
        raise
    return opened


def _close(sockets: Iterable[socket.socket]) -> None:
    for one in sockets:
        one.close()
