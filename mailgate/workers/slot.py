"""The place of one worker: who serves there now, and what happens when it ends.

A worker that ends unasked is replaced: at once, if it had served for `STEADY` seconds, else after a pause that doubles from
`FIRST_PAUSE` to `LONGEST_PAUSE`; it is never given up. Meanwhile connections wait in the queue of its socket. Why it ended
(signal or status, and what it said of it) goes to the log and is shown by `mailgate status`.

A worker that gives no sign of life for `PATIENCE` seconds is ended with SIGABRT: its event loop stands still. It shows where
on standard error (faulthandler).
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel

from mailgate.events import Event, EventLog
from mailgate.workers.link import Link, WorkerGone, open_link

STEADY = 60.0
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
PATIENCE = 60.0
LAST_WORDS = 4000
"""Characters of a reason that are kept."""

_events = EventLog("mailgate.workers")
_relayed = Logger(namespace="mailgate.worker")


class State(Enum):
    """What becomes of a place."""

    EMPTY = "down"
    """Nobody is there, and nobody is asked for."""
    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting"
    """Its worker ended; the next one is started after a pause."""
    STOPPING = "draining"


@dataclass(frozen=True, slots=True)
class SlotReport:
    """For commands and metrics. Seconds; ``since`` is how long it has been in this state."""

    worker: int
    pid: int | None
    state: str
    since: float
    sessions: int
    restarts: int
    last_end: str
    """How the one before ended; "" if there was none."""


class Spawn(Protocol):
    """Start a process for a worker. Its end of the link is descriptor 3."""

    def __call__(self, number: int, protocol: ProcessProtocol, link: int) -> Any: ...


class Backoff:
    """How long to wait before the next start."""

    def __init__(self) -> None:
        self._pause = 0.0

    def after(self, served: float) -> float:
        """``served``: how long the one that ended had served, 0 if it never did. The first end is bad luck."""
        if served >= STEADY:
            self._pause = 0.0
        pause = self._pause
        self._pause = min(pause * 2, LONGEST_PAUSE) if pause else FIRST_PAUSE
        return pause if served else max(pause, FIRST_PAUSE)

    def forget(self) -> None:
        """A new configuration is a new beginning."""
        self._pause = 0.0


def relay(level: str, text: str) -> None:
    """Log what a worker has logged."""
    _relayed.emit(LogLevel.lookupByName(level), "{text}", text=text, relayed=True)


class Slot:
    """See the module's docstring. ``begin()`` gives the message and the sockets that a worker starts with; ``changed(slot)`` is
    called when it has become ready, or has ended."""

    def __init__(
        self,
        number: int,
        reactor: Any,
        spawn: Spawn,
        begin: Callable[[int], tuple[dict[str, Any], Mapping[Any, Sequence[socket.socket]]]],
        changed: Callable[[Slot], None],
    ) -> None:
        self.number = number
        self.state = State.EMPTY
        self.sessions = 0
        self.old = 0
        """Configurations before the one in force that still have sessions there."""
        self.pid: int | None = None
        self.restarts = 0
        self.last_end = ""
        self.beats = 0
        self.failure = ""
        """What it said when it could not start."""
        self._reactor = reactor
        self._spawn = spawn
        self._begin = begin
        self._changed = changed
        self._backoff = Backoff()
        self._since = reactor.seconds()
        self._process: Any = None
        self._link: Link | None = None
        self._timer: Any = None
        self._watch: Any = None
        self._asked: dict[int, Deferred[dict[str, Any]]] = {}
        self._next = 0
        self._ended: list[Deferred[None]] = []

    @property
    def answers(self) -> bool:
        """Whether there is somebody to ask."""
        return self.state in (State.SERVING, State.STOPPING)

    @property
    def report(self) -> SlotReport:
        since = round(self._reactor.seconds() - self._since, 3)
        return SlotReport(self.number, self.pid, self.state.value, since, self.sessions, self.restarts, self.last_end)

    # Life

    def start(self) -> None:
        """Put a worker here."""
        self._timer = None
        self._enter(State.STARTING)
        self.failure = ""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                self._process = self._spawn(self.number, _Process(self._process_ended), theirs.fileno())
        except OSError as error:  # no more processes, or no memory
            ours.close()
            self._process_ended(f"no process could be made: {error.strerror}")
            return
        self.pid = self._process.pid
        self._link = open_link(self._reactor, ours, self._heard, lambda: None)
        message, sockets = self._begin(self.number)
        self._link.send({"do": "start", **message}, sockets.items())
        self._alive()

    def restart_now(self) -> None:
        """If it is between two tries: try at once."""
        if self.state is State.WAITING:
            self._backoff.forget()
            self._timer.cancel()
            self.start()

    def stop(self) -> Deferred[None]:
        """Let its worker drain and end; nobody takes its place."""
        ended: Deferred[None] = Deferred()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._process is None:
            self._enter(State.EMPTY)
            ended.callback(None)
            return ended
        self._enter(State.STOPPING)
        self._ended.append(ended)
        self.send({"do": "stop"})
        return ended

    def kill(self) -> None:
        """It did not end when it was told to."""
        self._signal("KILL")

    def replace(self) -> None:
        """Let it drain and end, and put another in its place."""
        self.send({"do": "stop"})

    def _signal(self, name: str) -> None:
        if self._process is not None:
            try:
                self._process.signalProcess(name)
            except ProcessExitedAlready:
                pass

    def _enter(self, state: State) -> None:
        self.state = state
        self._since = self._reactor.seconds()

    def _alive(self) -> None:
        if self._watch is not None and self._watch.active():
            self._watch.reset(PATIENCE)
        else:
            self._watch = self._reactor.callLater(PATIENCE, self._hung)

    def _hung(self) -> None:
        if self.state is State.STOPPING:
            return
        _events.error(Event.WORKER_HUNG, worker=self.number, pid=self.pid, seconds=PATIENCE)
        self._signal("ABRT")

    def _process_ended(self, how: str) -> None:
        served = self._reactor.seconds() - self._since if self.state is State.SERVING else 0.0
        state, pid = self.state, self.pid
        self._process = self.pid = None
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._watch is not None and self._watch.active():
            self._watch.cancel()
        self.last_end = f"{how}: {self.failure}" if self.failure else how
        sessions, self.sessions, self.old = self.sessions, 0, 0
        self._fail_asked()
        if state is State.STOPPING:
            self._enter(State.EMPTY)
        else:
            pause = self._backoff.after(served)
            _events.error(
                Event.WORKER_ENDED,
                worker=self.number,
                pid=pid,
                reason=self.last_end,
                sessions=sessions,
                served=served,
                retry_in=pause,
            )
            self.restarts += 1
            self._enter(State.WAITING)
            self._timer = self._reactor.callLater(pause, self.start)
        self._changed(self)
        ended, self._ended = self._ended, []
        for waiting in ended:
            waiting.callback(None)

    def _fail_asked(self) -> None:
        asked, self._asked = list(self._asked.values()), {}
        for waiting in asked:
            waiting.errback(WorkerGone(f"worker {self.number} ended: {self.last_end}"))

    # The link

    def send(self, message: dict[str, Any], sockets: Mapping[Any, Sequence[socket.socket]] | None = None) -> None:
        if self._link is not None:
            self._link.send(message, (sockets or {}).items())

    def ask(
        self, message: Mapping[str, Any], sockets: Mapping[Any, Sequence[socket.socket]] | None = None
    ) -> Deferred[dict[str, Any]]:
        """Send it, and wait for what the worker says to it, or `WorkerGone`."""
        self._next += 1
        number = self._next
        answer: Deferred[dict[str, Any]] = Deferred(lambda _: self._forget(number))
        if self._link is None:
            answer.errback(WorkerGone(f"worker {self.number} is {self.state.value}"))
            return answer
        self._asked[number] = answer
        self.send({**message, "id": number}, sockets)
        return answer

    def _forget(self, number: int) -> None:
        self._asked.pop(number, None)

    def _heard(self, message: dict[str, Any], sockets: list[socket.socket]) -> None:
        if self._process is None:
            return
        self._alive()
        if "id" in message:
            waiting = self._asked.pop(message["id"], None)
            if waiting is not None:
                waiting.callback(message)
            return
        match message["says"]:
            case "beat":
                self.sessions, self.old = message["sessions"], message["old"]
                self.beats += 1
                self._changed(self)
            case "ready" if self.state is State.STARTING:
                self._enter(State.SERVING)
                _events.info(Event.WORKER_READY, worker=self.number, pid=self.pid, restarts=self.restarts)
                self._changed(self)
            case "failed":
                self.failure = str(message["reason"])[:LAST_WORDS]


class _Process(ProcessProtocol):
    """Hears of the end, and of log lines for twistd's own log, if that is where they go: ``level event …``."""

    def __init__(self, ended: Callable[[str], None]) -> None:
        self._ended = ended
        self._rest = b""

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            level, _, text = line.decode("utf-8", "replace").partition(" ")
            relay(level, text)

    def processEnded(self, reason: Any) -> None:
        number = getattr(reason.value, "signal", None)
        if number is not None:
            try:
                self._ended(f"killed by {signal.Signals(number).name}")
            except ValueError:
                self._ended(f"killed by signal {number}")
        else:
            self._ended(f"exit status {getattr(reason.value, 'exitCode', 0) or 0}")
