"""The sockets of administration, through reloads: control.sock in runtime_dir, and the addresses of `admin` blocks.

A socket that both configurations have stays as it is; only who may come in changes. New addresses are opened before a reload
changes over, so that one that can't be had stops it.

A control socket can be missing: without a `control` block in the file, a runtime_dir that can't be made or written, or another
gateway's socket in it, is a warning, since mail does not depend on it. Who writes the block wants the socket.
"""

from __future__ import annotations

import grp
import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError

from mailgate.admin.access import Access, tokens
from mailgate.admin.settings import Admin, is_loopback
from mailgate.admin.site import Door, Route, table
from mailgate.events import Event, EventLog
from mailgate.net.unix import remove_stale
from mailgate.registry import Configuration
from mailgate.registry.administration import ControlBlock, Role
from mailgate.runtime import CannotBind, Companion

CONTROL_SOCKET = "control.sock"
BACKLOG = 50
ANYONE = {"0600": Role.NOBODY, "0660": Role.OPERATE, "0666": Role.VIEW}
"""By the mode of the control socket: what whoever may connect may do."""

_events = EventLog("mailgate.admin")


class Doors(Companion):
    """``routes`` are asked for once, when the first socket opens."""

    def __init__(self, reactor: Any, routes: Callable[[], list[Route]]) -> None:
        self._reactor = reactor
        self._routes = routes
        self._table: dict[str, dict[str, Route]] = {}
        self._open: dict[tuple[str, int], tuple[Any, Door]] = {}
        """The listening port and its site, by host and port; that of the control socket by path and 0."""
        self._added: list[tuple[str, int]] = []
        self._next: dict[tuple[str, int], Access] = {}
        self._control: ControlBlock | None = None
        self._next_control: ControlBlock | None = None

    @property
    def addresses(self) -> list[str]:
        """Host and port of each `admin` address, as bound."""
        hosts = [port.getHost() for (_, number), (port, _) in self._open.items() if number]
        return [f"{host.host}:{host.port}" for host in hosts]

    def prepare(self, configuration: Configuration) -> None:
        self._table = self._table or table(self._routes())
        self._added = []
        self._next = {}
        self._next_control = configuration.globals.control
        try:
            self._prepare_control(configuration)
            for module in configuration.modules:
                if isinstance(module, Admin):
                    for endpoint in module.endpoints:
                        access = Access(tokens(module.token), monitored=is_loopback(endpoint))
                        self._prepare((endpoint.host, endpoint.port), access, str(endpoint))
        except CannotBind:
            self.give_up()
            raise

    def give_up(self) -> None:
        for key in self._added:
            port, _ = self._open.pop(key)
            _close(port)
        self._added = []

    def adopt(self) -> None:
        for key in [key for key in self._open if key not in self._next]:
            port, _ = self._open.pop(key)
            _close(port)
        for key, access in self._next.items():
            if key in self._open:
                self._open[key][1].access = access
        self._added = []
        before, self._control = self._control, self._next_control
        path = next((path for path, number in self._open if not number), "")
        if path and before is not None and self._control is not None:
            try:
                _set_owner(path, self._control)
            except OSError as error:
                _events.warn(Event.CONTROL_UNAVAILABLE, reason=f"{path}: {error.strerror or error}")

    async def stop(self) -> None:
        doors, self._open = self._open, {}
        for port, _ in doors.values():
            await _close(port)

    def _prepare_control(self, configuration: Configuration) -> None:
        control = configuration.globals.control
        path = os.path.join(configuration.globals.runtime_dir, CONTROL_SOCKET)
        access = Access(tokens(control.token), ANYONE[control.socket_mode])
        self._next[path, 0] = access
        if (path, 0) in self._open:
            return
        try:
            self._listen_unix(path, control, access)
        except OSError as error:
            reason = f"control socket {path}: {error.strerror or error}"
            if configuration.globals.span_of("control") is not None:
                raise CannotBind(f"{configuration.globals.span_of('control')}: {reason}") from error
            _events.warn(Event.CONTROL_UNAVAILABLE, reason=reason)

    def _listen_unix(self, path: str, control: ControlBlock, access: Access) -> None:
        """:raises OSError: it can't be had."""
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        remove_stale(path)
        door = Door(self._table, access)
        try:
            port = self._reactor.listenUNIX(path, door, BACKLOG, int(control.socket_mode, 8))
        except CannotListenError as error:
            raise OSError(str(error.socketError)) from error
        self._open[path, 0] = (port, door)
        self._added.append((path, 0))
        _set_owner(path, control)

    def _prepare(self, key: tuple[str, int], access: Access, name: str) -> None:
        self._next[key] = access
        if key in self._open:
            return
        door = Door(self._table, access)
        try:
            port = self._reactor.listenTCP(key[1], door, BACKLOG, key[0])
        except CannotListenError as error:
            raise CannotBind(f"cannot listen on {name}: {error.socketError}") from error
        self._open[key] = (port, door)
        self._added.append(key)


def _set_owner(path: str, control: ControlBlock) -> None:
    """:raises OSError: there is no such group, or we are not in it."""
    if not os.path.exists(path):  # in a simulation
        return
    if control.socket_group:
        try:
            group = grp.getgrnam(control.socket_group).gr_gid
        except KeyError:
            raise OSError(f"there is no group {control.socket_group}") from None
        os.chown(path, -1, group)
    os.chmod(path, int(control.socket_mode, 8))


def _close(port: Any) -> Any:
    closing = maybeDeferred(port.stopListening)
    # The file of the control socket is gone already, or we may not remove it since privileges were dropped.
    closing.addErrback(lambda failure: _events.warn(Event.LISTENER_CLOSE, error=failure.getErrorMessage()))
    return closing
