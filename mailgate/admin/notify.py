"""What systemd is told (sd_notify(3)): datagrams to the socket that it names in the environment, nothing without it.

READY=1 after the listeners accept, RELOADING=1 with the time and READY=1 around a reload, STOPPING=1 at the drain, a STATUS
line with each, and WATCHDOG=1 in time if it watches. The socket's name may be a path or, with ``@``, an abstract one.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from mailgate.events import Event, EventLog
from mailgate.runtime import Companion, LiveGateway, Outcome, Verdict

_events = EventLog("mailgate.admin")


class ServiceManager(Companion):
    """Tells the manager of ``environment``, if there is one."""

    def __init__(
        self,
        live: LiveGateway,
        reactor: Any,
        environment: Mapping[str, str] = os.environ,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live = live
        self._reactor = reactor
        self._monotonic = monotonic
        self._address = environment.get("NOTIFY_SOCKET", "")
        watched = environment.get("WATCHDOG_PID") in (None, str(os.getpid()))
        period = environment.get("WATCHDOG_USEC", "")
        self._beat = int(period) / 2_000_000 if watched and period.isdecimal() else 0.0
        """Seconds between two signs of life: half of what it waits for."""
        self._began = False
        self._call: Any = None

    def adopt(self) -> None:
        if not self._began:
            self._began = True
            self._tell("READY=1", f"STATUS={self._status()}")
            if self._beat:
                self._live_on()

    def reloading(self) -> None:
        self._tell("RELOADING=1", f"MONOTONIC_USEC={int(self._monotonic() * 1_000_000)}", "STATUS=Reloading")

    def reloaded(self, outcome: Outcome) -> None:
        refused = "" if outcome.verdict is Verdict.DONE else f"; reload {outcome.verdict.value}: {outcome.reason}"
        self._tell("READY=1", f"STATUS={self._status()}{refused}")

    def stopping(self) -> None:
        self._tell("STOPPING=1", f"STATUS=Draining {self._live.session_count} sessions")

    async def stop(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _status(self) -> str:
        return f"Serving, configuration {self._live.generation}"

    def _live_on(self) -> None:
        self._tell("WATCHDOG=1")
        self._call = self._reactor.callLater(self._beat, self._live_on)

    def _tell(self, *facts: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        lines = "\n".join(fact.replace("\n", " ") for fact in facts)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as opened:
                opened.setblocking(False)
                opened.sendto(lines.encode("utf-8", "replace"), address)
        except OSError as error:
            _events.warn(Event.CONTROL_UNAVAILABLE, reason=f"service manager: {error.strerror or error}")
