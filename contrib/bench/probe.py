"""What smtp-source can't tell: the latency of single messages at a given rate, and what an idle connection costs."""

from __future__ import annotations

import resource
import socket
import threading
import time

from .processes import Running

BODY = b"Subject: probe\r\n\r\n" + (b"x" * 70 + b"\r\n") * 70


class Dialogue:
    """One blocking SMTP connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        self._reply()
        self.command(b"EHLO probe.bench.test")

    def _reply(self) -> bytes:
        while (line := self._file.readline())[3:4] == b"-":
            pass
        if line[:1] not in (b"2", b"3"):
            raise ConnectionError(line)
        return line

    def command(self, line: bytes) -> None:
        self._socket.sendall(line + b"\r\n")
        self._reply()

    def message(self) -> float:
        """Send one; returns the seconds from MAIL to the answer to the dot."""
        began = time.perf_counter()
        self.command(b"MAIL FROM:<sender@bench.test>")
        self.command(b"RCPT TO:<rcpt@bench.test>")
        self.command(b"DATA")
        self.command(BODY + b".")
        return time.perf_counter() - began

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def latency(port: int, *, rate: float, seconds: float, connections: int = 4) -> list[float]:
    """Seconds per message, sorted, at ``rate`` messages a second spread evenly over some connections."""
    times: list[float] = []
    start = time.perf_counter() + 0.2
    end = start + seconds

    def send(offset: float) -> None:
        dialogue = Dialogue(port)
        due = start + offset
        while due < end:
            time.sleep(max(0.0, due - time.perf_counter()))
            times.append(dialogue.message())
            due += connections / rate
        dialogue.close()

    threads = [threading.Thread(target=send, args=(number / rate,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(times)


def idle_memory(server: Running, port: int, *, connections: int) -> tuple[float, float]:
    """Bytes that one idle connection (after EHLO) costs the server, and the seconds until one more client is greeted."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections * 2 + 100  # a socket and its file object each, and what is open anyway
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    idle: list[Dialogue] = []
    try:
        # The first third fills what the process had free; only what comes after it is growth.
        idle += [Dialogue(port) for _ in range(connections // 3)]
        before = server.memory()
        idle += [Dialogue(port) for _ in range(connections - len(idle))]
        after = server.memory()
        began = time.perf_counter()
        Dialogue(port).close()
        return (after - before) / (connections - connections // 3), time.perf_counter() - began
    finally:
        for dialogue in idle:
            dialogue.close()
