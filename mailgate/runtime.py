"""The running gateway of one configuration: bind, start, stop.

`Gateway` owns the order of things. `bind` opens every listening port while we may still be root, and all of them or none;
`start` brings up tables, targets and whatever else the modules hold, then lets the listeners accept; `stop` closes
the listeners, waits for the sessions to drain, and only then takes the modules down under them.
"""

from __future__ import annotations

from typing import Any

from mailgate.adapters import Adapters
from mailgate.events import EventLog
from mailgate.registry import Configuration, Module

_events = EventLog("mailgate.runtime")


class CannotListen(Exception):
    """A listener's port can't be bound; the text names the directive's file and line."""


class Gateway:
    """One configuration, alive."""

    def __init__(self, configuration: Configuration, adapters: Adapters) -> None:
        self._configuration = configuration
        self._adapters = adapters
        self._started: list[Module] = []

    @property
    def listeners(self) -> list[Any]:
        """The listener modules, in the order of the file."""
        return self._configuration.listeners

    def bind(self) -> None:
        """Open every listening port.

        :raises CannotListen: one can't be had; those opened before it are closed again.
        """

    async def start(self) -> None:
        """Start the modules, then accept. If one module fails, those already started are stopped again."""

    async def stop(self) -> None:
        """Stop accepting, drain the sessions, stop the modules. Safe to call at any stage, and twice."""
