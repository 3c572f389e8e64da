"""Programs that judge something: started without a shell, with bounded time, output and number.

`Programs.run` gives a program its input piece by piece as it reads, and returns its exit code and output. It is killed when its
time is over, when it writes too much, and when nobody waits for it any more; a program that ends without reading everything is
none the worse. Its environment is what it is given, and it has no descriptors but its three: nothing of ours.

It is the leader of a session of its own, by setsid(1), so that all that it has started goes with it: when it is killed and when
it ends its process group is killed. What leaves the group on purpose is left alone, but nobody waits for it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.net.waiting import DeadlineExceeded, Wait, spawn, within

MAX_WORD = (128 << 10) - 1
"""Octets of one argument or variable, and..."""
MAX_WORDS = 1 << 20
"""... of all: what Linux takes at least (execve(2)). Beyond it exec fails in the child, which can't be told from an exit code."""


class ProgramFailure(Exception):
    """It did not come to an end of its own."""


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    output: bytes


class Programs:
    """Those of one module: at most ``most`` at a time."""

    def __init__(self, reactor: Any, *, seconds: float, most: int, max_output: int) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._max_output = max_output
        self._turns = DeferredSemaphore(most)

    async def run(self, command: Sequence[str], environment: Mapping[str, str], content: AsyncIterator[bytes]) -> Ended:
        """:raises ProgramFailure: it could not be started, or was killed."""
        setsid = setsid_path()
        words = [*command, *(f"{name}={value}" for name, value in environment.items())]
        sizes = [len(os.fsencode(word)) for word in words]
        if setsid is None or max(sizes) > MAX_WORD or sum(sizes) > MAX_WORDS:
            raise ProgramFailure("it can't be started: " + ("there is no setsid" if setsid is None else "too long arguments"))
        try:
            await within(self._turns.acquire(), self._seconds, self._reactor)
        except DeadlineExceeded as error:
            raise ProgramFailure("too many are running") from error
        running = _Running(self._max_output)
        try:
            try:
                self._reactor.spawnProcess(running, setsid, [setsid, *command], env=dict(environment), path="/")
            except OSError as error:
                raise ProgramFailure(f"it can't be started: {error.strerror}") from error
            feeding = spawn(running.feed(content))
            feeding.addErrback(lambda failure: running.give_up(failure))
            try:
                return await within(running.ended, self._seconds, self._reactor)
            except DeadlineExceeded as error:
                raise ProgramFailure(f"not done within {self._seconds:g}s") from error
            finally:
                feeding.cancel()
        finally:
            running.let_go()
            self._turns.release()


def setsid_path() -> str | None:
    """Where the program is that makes a session and becomes another (util-linux, which is part of every system, or busybox)."""
    return shutil.which("setsid", path=os.defpath)


@implementer(IPushProducer)
class _Running(ProcessProtocol):
    def __init__(self, max_output: int) -> None:
        self.ended: Deferred[Ended] = Deferred()
        self._max_output = max_output
        self._output: list[bytes] = []
        self._size = 0
        self._is_paused = False
        self._resumed: Wait[None] | None = None
        self._is_over = False
        self._trouble: ProgramFailure | None = None
        self._group = 0

    def connectionMade(self) -> None:
        self._group = self.transport.pid  # type: ignore[union-attr]

    async def feed(self, content: AsyncIterator[bytes]) -> None:
        transport: Any = self.transport
        stdin = transport.pipes.get(0)
        if stdin is not None:
            stdin.registerProducer(self, True)
        async for piece in content:
            if self._is_over or transport.pipes.get(0) is None:
                return  # it wants no more
            transport.write(piece)
            if self._is_paused:
                self._resumed = Wait()
                await self._resumed
        if transport.pipes.get(0) is not None:
            transport.pipes[0].unregisterProducer()
        transport.closeStdin()

    def give_up(self, failure: Failure) -> None:
        """What it should have read can't be had."""
        if failure.check(CancelledError) is None:
            self._trouble = ProgramFailure(f"no input for it: {failure.value}")
            self.kill()

    def kill(self) -> None:
        if not self._is_over and self.transport is not None:
            self._kill_group()
            try:
                self.transport.signalProcess("KILL")  # if it had no group yet
            except ProcessExitedAlready:
                pass

    def _kill_group(self) -> None:
        try:
            os.killpg(self._group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # nobody is left in it; some systems say so for zombies by the other error

    def let_go(self) -> None:
        """Nobody waits any more."""
        self.kill()
        if self.transport is not None:
            self.transport.loseConnection()  # else who has left the group might hold our pipes open

    def processExited(self, reason: Failure) -> None:
        """At once, while its number can't be another's."""
        self._kill_group()

    def outReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._max_output:
            self._trouble = ProgramFailure("it writes too much")
            self.kill()
        else:
            self._output.append(data)

    def errReceived(self, data: bytes) -> None:
        """What it complains of is read, so that it does not hang."""

    def inConnectionLost(self) -> None:
        self.resumeProducing()

    def processEnded(self, reason: Failure) -> None:
        self._is_over = True
        self.resumeProducing()
        if self.ended.called:
            return
        status: Any = reason.value
        if self._trouble is not None:
            self.ended.errback(self._trouble)
        elif reason.check(ProcessDone) is not None:
            self.ended.callback(Ended(0, b"".join(self._output)))
        elif status.exitCode is None:
            self.ended.errback(ProgramFailure(f"ended by signal {status.signal}"))
        else:
            self.ended.callback(Ended(status.exitCode, b"".join(self._output)))

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.done:
            resumed.fire(None)

    def stopProducing(self) -> None:
        self.resumeProducing()
