"""The running gateway of one configuration: bind, start, stop.

`Gateway` owns the order of things. `bind` opens every listening port while we may still be root, all of them or none; `start`
brings up tables, targets and whatever else the modules hold, then lets the listeners accept; `stop` closes the
listeners, waits for their sessions to drain, and only then takes the modules down under them.

Listeners on unix sockets drain last: a gateway may deliver to itself through one (the demo does), and a message that is
still coming in over the network needs its way out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import DeferredList

from mailgate.events import Event, EventLog
from mailgate.inbound.ports import CannotBind
from mailgate.net.waiting import spawn
from mailgate.registry import Configuration, Module

__all__ = ["CannotBind", "Gateway"]

_events = EventLog("mailgate.runtime")


class Gateway:
    """One configuration, alive."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._bound: list[Any] = []
        self._started: list[Module] = []

    @property
    def listeners(self) -> list[Any]:
        """The listener modules, in the order of the file."""
        return list(self._configuration.listeners)

    def bind(self) -> None:
        """Open every listening port.

        :raises CannotBind: one can't be had; the text names it, the directive's file and line, and why.
        """
        self._make_runtime_dir()
        try:
            for listener in self.listeners:
                listener.bind()
                self._bound.append(listener)
        except CannotBind:
            bound, self._bound = self._bound, []
            spawn(_stop_all(bound))  # nothing was accepted yet, so nothing is waited for
            raise

    def _make_runtime_dir(self) -> None:
        """Sockets need it, and after a reboot it may be gone (/run is memory)."""
        directory = self._configuration.globals.runtime_dir
        paths = [endpoint.path for listener in self.listeners for endpoint in listener.endpoints if endpoint.scheme == "unix"]
        if any(os.path.dirname(path) == directory for path in paths):
            try:
                os.makedirs(directory, mode=0o755, exist_ok=True)
            except OSError as error:
                raise CannotBind(f"runtime_dir {directory}: {error.strerror}") from error

    async def start(self) -> None:
        """Start the modules, then accept. What fails to start stops the rest again, and the failure goes on."""
        try:
            for module in (module for module in self._configuration.modules if not module.is_listener):
                self._started.append(module)
                await module.start()
            for module in self._bound:
                self._started.append(module)
                await module.start()
        except BaseException:
            await self.stop()
            raise
        addresses = [address for listener in self._bound for address in listener.addresses]
        _events.info(Event.GATEWAY_START, listeners=" ".join(addresses))

    async def stop(self) -> None:
        """Stop accepting, drain, stop the modules. Safe at any stage, and twice."""
        bound, self._bound = self._bound, []
        started, self._started = self._started, []
        if bound:
            _events.info(Event.GATEWAY_STOP, sessions=sum(listener.session_count for listener in bound))
        await _stop_all(listener for listener in bound if not _is_local(listener))
        await _stop_all(listener for listener in bound if _is_local(listener))
        await _stop_all(module for module in reversed(started) if module not in bound)


async def _stop_all(modules: Iterable[Any]) -> None:
    """All at once; one that fails does not keep the others from stopping."""
    results = await DeferredList([spawn(module.stop()) for module in modules], consumeErrors=True)
    for succeeded, failure in results:
        if not succeeded:
            _events.incident("stop", failure.value)


def _is_local(listener: Any) -> bool:
    return all(address.startswith("unix:") for address in listener.addresses)
