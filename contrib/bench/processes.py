"""Processes under measurement: started, watched through /proc, ended. Linux only."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TICK = os.sysconf("SC_CLK_TCK")
SAMPLING = 0.2
"""Seconds between two looks at memory: often enough for a body of 10 MiB, too seldom to cost anything."""
PATIENCE = 20.0
"""Seconds until a server beside a relay is ready."""
LOOPBACK = "127.0.0.1"


class NotReady(Exception):
    """A server did not come up in time; the text has the end of its log."""


def family(first: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [first]
    for pid in found:
        found += children.get(pid, [])
    return found


class Running:
    """One server, with all its children."""

    def __init__(
        self,
        command: list[str],
        directory: Path,
        log: Path,
        port: int,
        deadline: float = 15.0,
        *,
        tls: bool = False,
        host: str = LOOPBACK,
    ) -> None:
        """``tls``: on ``port`` TLS comes first."""
        self.log = log
        self._tls = tls
        self._host = host
        self._more: list[Running | Beside] = []
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            self._wait_for(port, deadline)
        except NotReady:
            self.stop()
            raise

    def _wait_for(self, port: int, deadline: float) -> None:
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            try:
                with self._connect(port) as client:
                    client.settimeout(deadline)
                    if client.recv(512).startswith(b"220"):
                        client.sendall(b"QUIT\r\n")
                        client.recv(512)
                        return
            except OSError:
                time.sleep(0.05)
        raise NotReady(f"{self._process.args!r}\n" + self.log.read_text(errors="replace")[-3000:])

    def _connect(self, port: int) -> socket.socket:
        client = socket.create_connection((self._host, port), timeout=1)
        if not self._tls:
            return client
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(client)

    def with_more(self, other: Running | Beside) -> Running:
        """Another server's work is counted as this one's; it is ended by whoever started it."""
        self._more.append(other)
        return self

    @property
    def pids(self) -> list[int]:
        return family(self._process.pid) + [pid for other in self._more for pid in other.pids]

    def cpu_seconds(self) -> float:
        """User and system time so far, of living and of reaped children too."""
        ticks = 0
        for pid in self.pids:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += sum(int(field) for field in fields[11:15])
        return ticks / TICK

    def memory(self) -> int:
        """Resident bytes, shared pages counted in proportion (PSS), so that many processes are not over-counted."""
        total = 0
        for pid in self.pids:
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            for line in rollup.splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        return total

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Beside:
    """A server that a relay needs: a database, a directory, names. ``more`` is for Popen, another user to run as say."""

    def __init__(self, command: list[str], directory: Path, log: Path, ready: Callable[[], bool], **more: Any) -> None:
        with log.open("wb") as output:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                command, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **more
            )
        end = time.monotonic() + PATIENCE
        while not ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise NotReady(f"{command[0]} does not come up\n" + log.read_text(errors="replace")[-3000:])
            time.sleep(0.05)

    @property
    def pids(self) -> list[int]:
        return family(self.process.pid)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()


def takes_connections(port: int) -> Callable[[], bool]:
    """Ready is what can be connected to."""

    def ready() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((LOOPBACK, port)) == 0

    return ready


class PeakMemory:
    """Watches a server's memory while the block runs."""

    def __init__(self, server: Running | None) -> None:
        self._server = server
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.base = server.memory() if server else 0
        self.peak = self.base

    def _watch(self) -> None:
        while self._server is not None and not self._done.wait(SAMPLING):
            self.peak = max(self.peak, self._server.memory())

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind((LOOPBACK, 0))
    ports = [int(opened.getsockname()[1]) for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports
