"""Listening sockets of one listener.

A `Port` is opened while we may still be root, and everything that can go wrong goes wrong then, by name of the address. It
accepts only from `Port.accept` on; until then connections wait in the kernel's queue.

``*`` stands for all addresses of both families, on two sockets: each is told to keep to its own family, so that a client's IPv4
address never comes in IPv6 clothes (RFC 4291 2.5.5.2) past a rule that names it. On a kernel without IPv6 ``*`` is IPv4.

A worker is given its sockets open (`Adapters.listening`), by the supervisor, who keeps them; that of a unix address is shared by
all workers, and its file is none of their business.

At a reload the sockets of an address go from the old `Port` to the new one as they are: what waits in the kernel's queue is
accepted by the new one, and nobody is refused in between.

A unix socket has its owner, group and mode before anybody can connect to it. One whose file was left behind is removed, but
only when nobody listens on it any more and only if it is a socket.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorSocket
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from mailgate.events import Event
from mailgate.inbound.doorman import Doorman, Lag, Refusal
from mailgate.inbound.protocol import Connection
from mailgate.inbound.sessions import Sessions
from mailgate.inbound.unix_sockets import DEFAULT_ACCESS, SocketAccess
from mailgate.net.unix import remove_stale

BACKLOG = 1024
"""Connections that wait to be accepted: a burst while we start or are busy must not be lost to a full queue."""

ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


class CannotBind(Exception):
    """An address can't be listened on; the text is for the operator."""


class Acceptor(Factory):
    """Makes a `Connection` of each accepted socket, or refuses it."""

    noisy = False

    def __init__(self, sessions: Sessions, address: str, implicit_tls: bool) -> None:
        self.sessions = sessions
        self.address = address
        self.implicit_tls = implicit_tls
        self.lag = Lag(sessions.reactor)
        self.max_lag = sessions.settings.max_lag
        self.standing = 0.0
        """For how long there has been a queue, while those left in it are refused; else 0."""

    def buildProtocol(self, addr: Any) -> Any:
        sessions = self.sessions
        if not sessions.accepting:
            return None
        client = client_address(addr)
        limit = sessions.exceeded(client, max(self.lag.knock(), self.standing))
        if not limit:
            return Connection(sessions, self.address, client, self.implicit_tls)
        sessions.log_refused(self.address, client, limit)
        if self.implicit_tls or sessions.trust.proxy is not None:
            return None
        return Refusal(sessions.refusals[limit])


class Port:
    """The sockets of one address: two for ``*``, else one.

    ``predecessor`` has them open already: they are its own until `accept`. ``given`` are open too, and ours from now on.

    :raises CannotBind: when one can't be had; none is left open then.
    """

    def __init__(
        self,
        sessions: Sessions,
        scheme: str,
        host: str,
        port: int,
        path: str,
        address: str,
        predecessor: Port | None = None,
        *,
        implicit_tls: bool = False,
        access: SocketAccess = DEFAULT_ACCESS,
        given: Sequence[socket.socket] | None = None,
    ) -> None:
        self.address = address
        self.key = place_of(scheme, host, port, path)
        self._sessions = sessions
        self._acceptor = Acceptor(sessions, address, implicit_tls)
        self._ports: list[Any] = []
        self._doors: list[Doorman] = []
        self._paused: list[Any] = []
        self._access = access
        self._path = path
        """Of a unix socket, else ""."""
        self._predecessor = predecessor
        if predecessor is not None:
            return
        try:
            if given is not None:
                self._add_given(given)
            elif scheme == "unix":
                self._add(self._listen_unix(path))
            elif host == "*":
                self._listen_on_both(port)
            else:
                self._add(self._listen_tcp(host, port))
        except CannotBind:
            for opened in self._ports:
                opened.stopListening()
            raise

    @property
    def numbers(self) -> tuple[int, ...]:
        """Port numbers as bound, for a configured port of 0."""
        hosts = [opened.getHost() for opened in self._ports]
        return tuple(host.port for host in hosts if hasattr(host, "port"))

    def accept(self) -> None:
        """Accept connections from now on; those of a predecessor are ours in the same moment."""
        if self._predecessor is not None:
            self._take_over(self._predecessor)
        for paused in self._paused:
            paused.startReading()
        self._paused.clear()

    def _take_over(self, old: Port) -> None:
        self._predecessor = None
        if self._path and self._access != old._access:
            try:
                self._access.apply(self._path)
            except OSError as error:  # privileges were dropped
                self._sessions.events.error(Event.LISTENER_SOCKET, address=self.address, error=error.strerror)
        self._ports, old._ports = old._ports, []
        self._doors, old._doors = old._doors, []
        for opened in self._ports:
            before, opened.factory = opened.factory, self._acceptor
            self._acceptor.doStart()  # type: ignore[no-untyped-call]
            before.doStop()

    def close(self) -> list[Deferred[None]]:
        """Stop listening: a Deferred for each socket; it never fails."""
        self._predecessor = None
        self._acceptor.lag.close()
        for door in self._doors:
            door.close()
        closing = [maybeDeferred(opened.stopListening) for opened in self._ports]
        self._ports.clear()
        for waiting in closing:
            waiting.addErrback(self._close_failed)
        return closing

    def _close_failed(self, failure: Failure) -> None:
        # The file of a unix socket is gone already, or we may not remove it since privileges were dropped.
        self._sessions.events.warn(Event.LISTENER_CLOSE, address=self.address, error=failure.getErrorMessage())

    def _add(self, opened: Any) -> None:
        self._ports.append(opened)
        if isinstance(opened, tcp.Port):
            self._doors.append(Doorman(opened, self._sessions.reactor))
        if hasattr(opened, "stopReading"):
            opened.stopReading()
            self._paused.append(opened)

    def _listen_on_both(self, port: int) -> None:
        self._add(self._listen_tcp(ANY[socket.AF_INET], port))
        try:
            self._add(self._listen_tcp(ANY[socket.AF_INET6], port))
        except CannotBind as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise

    def _listen_tcp(self, host: str, port: int) -> Any:
        reactor = self._sessions.reactor
        try:
            if host == ANY[socket.AF_INET6] and IReactorSocket.providedBy(reactor):
                return self._adopt(_ipv6_only(port))
            return reactor.listenTCP(port, self._acceptor, BACKLOG, host)
        except CannotListenError as error:
            raise self._error(error.socketError) from error.socketError
        except OSError as error:
            raise self._error(error) from error

    def _add_given(self, given: Sequence[socket.socket]) -> None:
        if not given:
            raise CannotBind(f"cannot listen on {self.address}: the supervisor has no socket for it")
        for opened in given:
            self._add(self._share_unix(opened) if opened.family == socket.AF_UNIX else self._adopt(opened))

    def _adopt(self, opened: socket.socket) -> Any:
        with opened:  # adoptStreamPort works on a duplicate
            port = self._sessions.reactor.adoptStreamPort(opened.fileno(), opened.family, self._acceptor)
            opened.setblocking(False)  # PyPy's duplicate has made it block
            return port

    def _share_unix(self, opened: socket.socket) -> Any:
        with opened:
            adopt: Any = SharedUnixPort._fromListeningDescriptor
            port = adopt(self._sessions.reactor, opened.fileno(), self._acceptor)
            opened.setblocking(False)
        port.startListening()
        return port

    def _listen_unix(self, path: str) -> Any:
        try:
            remove_stale(path)
            if not self._access.gives_away:
                return self._sessions.reactor.listenUNIX(path, self._acceptor, BACKLOG, self._access.mode)
            opened = self._sessions.reactor.listenUNIX(path, self._acceptor, BACKLOG, 0o600)
            try:
                self._access.apply(path)
            except OSError:
                maybeDeferred(opened.stopListening).addErrback(lambda _: None)  # it looks for the file in its next turn
                os.unlink(path)
                raise
            return opened
        except CannotListenError as error:
            raise self._error(error.socketError) from error.socketError
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: Any) -> CannotBind:
        return CannotBind(f"cannot listen on {self.address}: {getattr(error, 'strerror', None) or error}")


class SharedUnixPort(unix.Port):
    """A listening unix socket that another process has made: its file is neither given a mode here nor removed."""

    _shouldShutdown = False
    """That would end the socket for all who share it."""

    def startListening(self) -> None:
        port: Any = self
        port.factory.doStart()
        port.socket, port._preexistingSocket = port._preexistingSocket, None
        port.fileno = port.socket.fileno
        port.connected = True
        port.numberAccepts = 100
        port.startReading()

    def connectionLost(self, reason: Failure) -> None:
        tcp.Port.connectionLost(self, reason)


def place_of(scheme: str, host: str, port: int, path: str) -> tuple[str, int]:
    """What two addresses have in common that can be served by one socket: with TLS from the first byte or without."""
    return (path, 0) if scheme == "unix" else (host, port)


def client_address(addr: Any) -> str:
    """The peer's address without a zone and not in the mapped form; "" for a unix socket."""
    host: str = getattr(addr, "host", "") or ""
    host = host.partition("%")[0]
    return host[7:] if host.startswith("::ffff:") and "." in host else host


def _ipv6_only(port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(("::", port))
        opened.listen(BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened
