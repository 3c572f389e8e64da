"""A gateway in a process of its own that is made to fail at a system call: killed at it, or told that the disk did not do it.

The process is forked from the test's, so that hundreds of them start in seconds; it has its own reactor and one thread for files.
strace does the rest. It is attached to one of the two threads, since it counts the calls of each thread by itself, and injects a
signal, or an error, at call number N; what it wrote tells how many calls of that kind there were, and whether number N was one.
"""

from __future__ import annotations

import gc
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from twisted.internet import threads
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher
from twisted.python.threadpool import ThreadPool

from mailgate.adapters import Adapters
from mailgate.net.waiting import spawn
from mailgate.queue import recorder
from mailgate.testing.gateway import WholeGateway
from tests.support.servers import missing

DEADLINE = 20.0
LOOK = 0.004
_CALL = re.compile(r"^(\w+)\(", re.MULTILINE)
LOOP, FILES = "event loop", "files"
"""The threads of a gateway."""
QUIET = 6
"""Looks in a row at which no thread has run since the last one: what was begun is over."""


def needs_strace() -> str:
    """The program; a test is skipped where it is missing, or not allowed."""
    program = shutil.which("strace")
    if program is None:
        missing("strace", "strace")
    if subprocess.run([program, "-qq", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode != 0:
        missing("the right to trace processes", "strace")
    return program


async def until(reactor: Any, condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """Wait for something outside this process. :raises AssertionError: it did not happen."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline:g} s")
        await deferLater(reactor, LOOK)


class ForkedGateway:
    """One gateway process on ``directory``, which has its files; `ready` waits until it listens."""

    def __init__(self, text: str, directory: Path, reactor: Any) -> None:
        self._reactor = reactor
        self._reading, writing = os.pipe()
        self.log = directory / "log"
        self._status: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _be_a_gateway(text, str(directory), writing, self.log)
        os.close(writing)
        os.set_blocking(self._reading, False)

    async def ready(self) -> ForkedGateway:
        def said() -> bool:
            try:
                if os.read(self._reading, 1):
                    return True
            except BlockingIOError:
                return False
            raise AssertionError(f"the gateway did not start:\n{self.log_text}")

        await until(self._reactor, said, "the gateway listens")
        return self

    @property
    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def is_alive(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status is None

    def thread(self, role: str) -> int:
        """The number of one of its threads."""
        if role == LOOP:
            return self.pid
        (files,) = (int(task.name) for task in Path(f"/proc/{self.pid}/task").iterdir() if int(task.name) != self.pid)
        return files

    async def quiet(self) -> None:
        """Wait until it sleeps, or is dead."""
        before, same = "", 0
        while self.is_alive and same < QUIET:
            now = self._activity()
            same = same + 1 if now == before else 0
            before = now
            await deferLater(self._reactor, LOOK)

    def _activity(self) -> str:
        """Changes whenever one of its threads has run, or wants to."""
        try:
            states = [(task / "status").read_text() for task in Path(f"/proc/{self.pid}/task").iterdir()]
        except OSError:
            return ""
        if not all("State:\tS" in state for state in states):
            return f"busy at {time.monotonic()}"
        return "".join(line for state in states for line in state.splitlines() if "ctxt_switches" in line)

    async def kill(self, number: int = signal.SIGKILL) -> None:
        if self.is_alive:
            os.kill(self.pid, number)
            await until(self._reactor, lambda: not self.is_alive, "the gateway ends")
        self.close()

    def close(self) -> None:
        if self._reading >= 0:
            os.close(self._reading)
            self._reading = -1


def _be_a_gateway(text: str, directory: str, ready: int, log: Path) -> None:
    """The child: it never comes back."""
    status = 1
    try:
        gc.freeze()  # what is the parent's is not taken down here
        for observer in list(globalLogPublisher._observers):
            globalLogPublisher.removeObserver(observer)
        recorder.STORE_RETRY = 0.2
        reactor: Any = EPollReactor()
        pool = ThreadPool(1, 1)
        pool.start()
        adapters = Adapters(
            reactor,
            time.time,
            lambda function, *arguments: threads.deferToThreadPool(reactor, pool, function, *arguments),
            random.Random(os.getpid()),
        )
        gateway = WholeGateway(text, adapters, directory)
        failed: list[Any] = []

        def ended(result: Any) -> None:
            if result is not None:
                failed.append(result)
            reactor.stop()

        def stop(*_: Any) -> None:
            reactor.callFromThread(lambda: spawn(gateway.stop()).addBoth(ended))

        def begun(_: Any) -> None:
            os.write(ready, b"+")

        gateway.log = LogFile(log)
        signal.signal(signal.SIGTERM, stop)
        reactor.callWhenRunning(lambda: spawn(gateway.start()).addCallbacks(begun, ended))
        reactor.run(installSignalHandlers=False)
        pool.stop()
        gateway.log.extend(str(one) for one in failed)
        status = len(failed)
    except BaseException:
        LogFile(log).append(traceback.format_exc())
    finally:
        os._exit(status)


class LogFile(list[str]):
    """The lines of a gateway's log, which outlive it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("a", buffering=1)

    def append(self, line: str) -> None:
        self._file.write(f"{line}\n")

    def extend(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.append(line)


class Tracer:
    """strace on one thread of a running gateway. ``options`` choose what is traced and injected."""

    def __init__(self, program: str, gateway: ForkedGateway, role: str, *options: str) -> None:
        self._output = tempfile.NamedTemporaryFile(prefix="mailgate-strace-")  # noqa: SIM115 - it lives as long as this
        self._status = Path(f"/proc/{gateway.pid}/task/{gateway.thread(role)}/status")
        self._process = subprocess.Popen(
            [program, "-qq", "-p", str(gateway.thread(role)), "-o", self._output.name, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    @property
    def is_there(self) -> bool:
        """Whether the thread is traced, or gone."""
        try:
            return "TracerPid:\t0\n" not in self._status.read_text()
        except OSError:
            return True

    def stop(self) -> None:
        """Let the process go on without it."""
        self._process.terminate()
        self._process.wait(DEADLINE)
        assert self._process.stderr is not None
        self._process.stderr.close()

    @property
    def calls(self) -> Counter[str]:
        """How often each call was made."""
        return Counter(_CALL.findall(self._text))

    @property
    def injected(self) -> int:
        """At how many of them an error was injected."""
        return self._text.count("(INJECTED)")

    @property
    def _text(self) -> str:
        return Path(self._output.name).read_text(errors="replace")


def rows_left(path: Path) -> dict[str, int]:
    """Rows in the tables of a queue's file that are empty when nothing waits."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
    try:
        tables = ("entry", "recipient", "body", "piece", "history", "damaged")
        return {table: connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables}
    finally:
        connection.close()
