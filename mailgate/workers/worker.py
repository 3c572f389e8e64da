"""The worker's end of the link: does as the supervisor says, with the gateway that `begin` makes.

It never reloads by itself. At a reload its gateway makes the successor ready, says so, and waits (`LiveGateway.consent`) for
commit or abandon. When the supervisor is gone it drains and ends: nobody would replace it, and its addresses belong to
whoever comes next.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from mailgate.config.files import Recorded
from mailgate.events import EventLog
from mailgate.inbound.ports import CannotBind
from mailgate.net.waiting import spawn
from mailgate.runtime import Assembler, LiveGateway, Refusal, Verdict
from mailgate.workers.link import Link, grouped
from mailgate.workers.sockets import Place

BEAT = 2.0
"""Seconds between two signs of life."""

_events = EventLog("mailgate.workers")

Answers = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""A question (method, path, query, body, who) and its answer (status, body, kind)."""


class Inherited:
    """The sockets that came over the link and that no port has taken."""

    def __init__(self) -> None:
        self._sockets: dict[Place, list[socket.socket]] = {}

    def add(self, sockets: dict[Place, list[socket.socket]]) -> None:
        self._sockets.update(sockets)

    def take(self, place: Place) -> list[socket.socket]:
        """They are the caller's now; empty if there are none."""
        return self._sockets.pop(place, [])

    def close(self) -> None:
        """What nobody wanted."""
        for sockets in self._sockets.values():
            for one in sockets:
                one.close()
        self._sockets = {}


class CannotStart(Exception):
    """A gateway can't be made of this; the text is for the operator."""


class Worker:
    """One worker. ``begin(message)`` makes assembler, gateway and answers of the start message, or raises `CannotStart`;
    ``end(failed)`` ends the process."""

    def __init__(
        self,
        reactor: Any,
        inherited: Inherited,
        begin: Callable[[dict[str, Any]], tuple[Assembler, LiveGateway, Answers]],
        ready: Callable[[], None],
        reopen: Callable[[], None],
        end: Callable[[bool], None],
    ) -> None:
        self.link: Link | None = None
        self._reactor = reactor
        self._inherited = inherited
        self._make = begin
        self._ready = ready
        self._reopen = reopen
        self._end = end
        self._assembler: Assembler | None = None
        self._live: LiveGateway | None = None
        self._answers: Answers | None = None
        self._reloading = False
        self._reload: int | None = None
        """The ids of what the supervisor has said of a reload, and not heard the answer to."""
        self._commit: int | None = None
        self._abandon: int | None = None
        self._consented: Deferred[None] | None = None
        self._refusal: Refusal | None = None
        """Why a reload comes to nothing that is not ready yet."""
        self._starting: Deferred[None] | None = None
        self._stopping = False
        self._beating: Any = None

    def heard(self, message: dict[str, Any], sockets: list[socket.socket]) -> None:
        """From the supervisor."""
        self._inherited.add(grouped(message, sockets))
        match message["do"]:
            case "start":
                self._starting = spawn(self._start(message))
            case "reload":
                self._begin_reload(message)
            case "commit":
                self._commit = message["id"]
                self._decide(None)
            case "abandon":
                self._abandon = message["id"]
                self._decide(Refusal(message["reason"]))
            case "ask":
                spawn(self._answer(message))
            case "reopen":
                self._reopen()
            case "stop":
                self.stop()

    def stop(self) -> None:
        """Drain and end. Also when the link has ended, or somebody has sent us SIGTERM."""
        if not self._stopping:
            self._stopping = True
            spawn(self._stop())

    async def _start(self, message: dict[str, Any]) -> None:
        self._beat()
        try:
            self._assembler, self._live, self._answers = self._make(message)
            self._live.consent = self._consent
            self._live.bind()
            await self._live.start()
        except CancelledError:
            return
        except (CannotStart, CannotBind) as error:
            self._fail(str(error))
            return
        except Exception as error:
            _events.incident("start", error)
            self._fail(f"the gateway could not start: {error}")
            return
        self._inherited.close()
        self._ready()
        self._beat_now()
        self._say(says="ready")

    def _fail(self, reason: str) -> None:
        self._say(says="failed", reason=reason)
        self._stopping = True
        spawn(self._stop(failed=True))

    async def _stop(self, *, failed: bool = False) -> None:
        if self._starting is not None:
            self._starting.cancel()
        try:
            if self._live is not None:
                await self._live.stop()
        except Exception as error:
            _events.incident("stop", error)
        self._inherited.close()
        if self._beating is not None and self._beating.active():
            self._beating.cancel()
        self._end(failed)

    # Reload

    def _begin_reload(self, message: dict[str, Any]) -> None:
        assert self._live is not None
        assert self._assembler is not None
        self._reload, self._reloading, self._refusal = message["id"], True, None
        self._assembler.files = Recorded(message["record"])
        spawn(self._finish_reload(self._live))

    async def _finish_reload(self, live: LiveGateway) -> None:
        outcome = await live.reload()
        self._inherited.close()
        self._beat_now()
        self._reloading = False
        says = "reloaded" if outcome.verdict is Verdict.DONE else "refused"
        for number in (self._reload, self._commit, self._abandon):
            if number is not None:
                self._say(says=says, id=number, reason=outcome.reason)
        self._reload = self._commit = self._abandon = None

    async def _consent(self) -> None:
        """Ready: say so, and wait."""
        if self._refusal is not None:
            raise self._refusal
        self._consented = Deferred()
        number, self._reload = self._reload, None
        self._say(says="prepared", id=number)
        try:
            await self._consented
        finally:
            self._consented = None

    def _decide(self, refusal: Refusal | None) -> None:
        consented, self._consented = self._consented, None
        if consented is None:
            self._refusal = refusal
            if not self._reloading and self._abandon is not None:
                self._say(says="refused", id=self._abandon, reason="nothing was under way")
                self._abandon = None
        elif refusal is None:
            consented.callback(None)
        else:
            consented.errback(refusal)

    # The link

    async def _answer(self, message: dict[str, Any]) -> None:
        if self._answers is None:
            self._say(says="answer", id=message["id"], status=503, body={"error": "it starts"}, kind="")
            return
        self._say(says="answer", id=message["id"], **await self._answers(message))

    def _beat(self) -> None:
        self._beat_now()
        self._beating = self._reactor.callLater(BEAT, self._beat)

    def _beat_now(self) -> None:
        live = self._live
        self._say(says="beat", sessions=live.session_count if live else 0, old=len(live.old) if live else 0)

    def _say(self, **message: Any) -> None:
        if self.link is not None:
            self.link.send(message)
