"""The running gateway of one configuration: bind, start, accept, drain, stop.

`Gateway` owns the order of things. `bind` opens every listening port while we may still be root, all of them or none; `start`
brings up tables, targets and whatever else the modules hold, then `accept` lets the listeners serve; `stop` closes the
listeners, waits for their sessions to drain, and only then takes the modules down under them.

A *successor* is made beside a gateway that serves (`succeed`): its modules share what the old ones hold, its listeners will take
over the sockets that are open already. Until `accept` it can be given up with `stop`, and the old one has noticed nothing;
`accept` then moves the sockets within one turn of the event loop.

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
from mailgate.runtime.generations import counterparts

_events = EventLog("mailgate.runtime")


class Refusal(Exception):
    """A configuration can't serve, and nothing of ours is wrong; the text is for the operator."""


class Gateway:
    """One configuration, alive."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self._predecessors: dict[Any, Any] = {}
        self._bound: list[Any] = []
        self._started: list[Module] = []

    @property
    def listeners(self) -> list[Any]:
        """The listener modules, in the order of the file."""
        return list(self.configuration.listeners)

    @property
    def session_count(self) -> int:
        return sum(listener.session_count for listener in self.listeners)

    def succeed(self, old: Gateway) -> None:
        """Before `bind`: carry over what ``old`` holds, and leave it as it is."""
        for module, before in counterparts(self.configuration, old.configuration):
            module.inherit_state(before)
        self._predecessors = {port.key: port for listener in old.listeners for port in listener.ports}

    def bind(self) -> None:
        """Open every listening port that is not open already.

        :raises CannotBind: one can't be had; the text names it, the directive's file and line, and why.
        """
        self._make_runtime_dir()
        try:
            for listener in self.listeners:
                listener.bind(self._predecessors)
                self._bound.append(listener)
        except CannotBind:
            bound, self._bound = self._bound, []
            spawn(_stop_all(bound))  # nothing was accepted yet, so nothing is waited for
            raise
        finally:
            self._predecessors = {}

    def _make_runtime_dir(self) -> None:
        """Sockets need it, and after a reboot it may be gone (/run is memory)."""
        directory = self.configuration.globals.runtime_dir
        paths = [endpoint.path for listener in self.listeners for endpoint in listener.endpoints if endpoint.scheme == "unix"]
        if any(os.path.dirname(path) == directory for path in paths):
            try:
                os.makedirs(directory, mode=0o755, exist_ok=True)
            except OSError as error:
                raise CannotBind(f"runtime_dir {directory}: {error.strerror}") from error

    async def start(self) -> None:
        """Start the modules, then accept. What fails to start stops the rest again, and the failure goes on."""
        await self.start_modules()
        self.accept()
        addresses = [address for listener in self._bound for address in listener.addresses]
        _events.info(Event.GATEWAY_START, listeners=" ".join(addresses))

    async def start_modules(self) -> None:
        """All but the listeners, each after what it refers to."""
        modules = [module for module in self.configuration.modules if not module.is_listener]
        try:
            for module in sorted(modules, key=lambda module: module.starts_last):
                self._started.append(module)
                await module.start()
        except BaseException:
            await self.stop()
            raise

    def accept(self) -> None:
        """Serve from this moment on."""
        for listener in self._bound:
            listener.accept()

    async def settled(self) -> None:
        """After `accept`: wait until it holds everywhere."""

    def superseded(self) -> None:
        """A successor serves all new sessions."""
        for module in self.configuration.modules:
            try:
                module.superseded()
            except Exception as error:
                _events.incident("superseded", error, module=module.label)

    async def emptied(self) -> None:
        """Wait until the last session has ended, without hastening any."""
        for listener in self._bound:
            await listener.emptied()

    async def stop(self) -> None:
        """Stop accepting, drain, stop the modules. Safe at any stage, and twice."""
        await drain([self])
        await self.stop_modules()

    async def stop_modules(self) -> None:
        started, self._started = self._started, []
        await _stop_all(reversed(started))

    def take_bound(self) -> list[Any]:
        """The listeners that are still to be drained, for whoever does it."""
        bound, self._bound = self._bound, []
        return bound


async def drain(gateways: Iterable[Gateway]) -> None:
    """Stop accepting, and wait until the sessions of all these have ended, or been ended."""
    bound = [listener for gateway in gateways for listener in gateway.take_bound()]
    await _stop_all(listener for listener in bound if not _is_local(listener))
    await _stop_all(listener for listener in bound if _is_local(listener))


async def _stop_all(modules: Iterable[Any]) -> None:
    """All at once; one that fails does not keep the others from stopping."""
    results = await DeferredList([spawn(module.stop()) for module in modules], consumeErrors=True)
    for succeeded, failure in results:
        if not succeeded:
            _events.incident("stop", failure.value)


def _is_local(listener: Any) -> bool:
    return all(address.startswith("unix:") for address in listener.addresses)
