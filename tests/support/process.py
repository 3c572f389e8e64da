"""The gateway as its users run it: `twistd -n --pidfile= mailgate -c FILE`, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

READY = "gateway.start"
"""The event that the log shows once every listener accepts."""
DEADLINE = 30.0


class DidNotStart(AssertionError):
    """The process ended, or said nothing in time; the text is its output."""


class GatewayProcess:
    """One running gateway. Its working directory is of no use to it on purpose: it must run from anywhere."""

    def __init__(
        self, config: str | Path, *options: str, environment: dict[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> None:
        """``prefix``: the program that runs it, `ip netns exec NAME` say, with its arguments; it must not fork."""
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._elsewhere = tempfile.TemporaryDirectory(prefix="mailgate-elsewhere-")
        self._process = subprocess.Popen(
            [*prefix, twistd(), "-n", "--pidfile=", "mailgate", *options, "-c", str(config)],
            cwd=self._elsewhere.name,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        with self._changed:
            return "\n".join(self._lines)

    def wait_until_ready(self) -> GatewayProcess:
        """Wait until it listens.

        :raises DidNotStart: it ended instead.
        """
        if not self.wait_for_line(READY):
            self.kill()
            raise DidNotStart(self.log)
        return self

    def wait_for_line(self, *texts: str, deadline: float = DEADLINE) -> bool:
        """Wait until the log has a line with all ``texts``; False if the process ended or time ran out before."""

        def told() -> bool:
            return any(all(text in line for text in texts) for line in self._lines)

        with self._changed:
            self._changed.wait_for(lambda: told() or self._ended, deadline)
            return told()

    def wait(self, deadline: float = DEADLINE) -> int:
        """Wait until it has ended by itself; returns the exit status."""
        status = self._process.wait(deadline)
        self._finish()
        return status

    def stop(self, deadline: float = DEADLINE) -> str:
        """SIGTERM, wait; returns the log.

        :raises AssertionError: it doesn't end in time, or in another way than by this signal.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(deadline)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"SIGTERM did not end it within {deadline:g}s\n{self.log}") from None
        self._finish()
        if self._process.returncode not in (0, -signal.SIGTERM):  # twistd ends by the signal it was sent, after the drain
            raise AssertionError(f"it ended with status {self._process.returncode}\n{self.log}")
        return self.log

    def stop_beside(self) -> Any:
        """`stop` in a thread, while this process's reactor goes on: a Deferred of the log."""
        return deferToThread(self.stop)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._finish()

    def _finish(self) -> None:
        self._reader.join(5)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._elsewhere.cleanup()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def twistd() -> str:
    """The twistd of this interpreter's environment."""
    return str(Path(sys.executable).parent / "twistd")
