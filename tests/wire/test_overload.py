"""Five times more than can be delivered (class 10 of what must hold): what is accepted stays at the peak, the rest hears 421 or
45x at once, and afterwards all is as before.

The gateway runs in a process of its own. Either it delivers to itself, to a listener that takes `CAPACITY` messages a second and
makes the others wait, as a busy next hop does; or its own processor is what is short. A message is a connection, as from many
clients with one message each. The figures of a run are printed (`-s`).
"""

from __future__ import annotations

import os
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.support.invariants import check_log
from tests.support.ports import free_ports
from tests.support.process import GatewayProcess

pytestmark = pytest.mark.proof

CONFIG = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls off
smtp tcp://127.0.0.1:{port} {{
    max_connections 64
    max_connections_per_ip 64
    reverse_lookup no
    {limits}
    deliver_to smtp tcp://127.0.0.1:{inner} {{
        tls disabled
    }}
}}
smtp tcp://127.0.0.1:{inner} {{
    reverse_lookup no
    limits {{
        all rate {capacity} 1s wait 1m
    }}
    discard
}}
"""
BUSY = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls off
smtp tcp://127.0.0.1:{port} {{
    max_connections 200
    max_lag 100ms
    reverse_lookup no
    discard
}}
"""
CONCURRENCY = "limits {\n        all concurrency 24\n    }"
MESSAGE = b"Subject: overload\r\n\r\n" + b"x" * 70 + b"\r\n" + b"." + b"\r\n"
STEPS = (
    (1, b"EHLO client.test\r\n"),
    (1, b"MAIL FROM:<a@client.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n"),
    (3, MESSAGE),
    (1, b"QUIT\r\n"),
)
"""How many replies come before what is said next."""
MANY = 20
STEPS_TO_MANY = (
    STEPS[0],
    (1, b"MAIL FROM:<a@client.test>\r\n" + b"RCPT TO:<b@y.test>\r\n" * MANY + b"DATA\r\n"),
    (2 + MANY, MESSAGE),
    STEPS[3],
)
"""A message that costs the gateway more than its clients."""
Steps: TypeAlias = Sequence[tuple[int, bytes]]
OPEN_AT_MOST = 1500
PROMPT = 0.05
CAPACITY = 100
"""Messages a second."""


@dataclass
class Figures:
    """What became of the messages of one run."""

    seconds: float
    accepted: int = 0
    refused: int = 0
    """4yz at any step."""
    lost: int = 0
    """Closed or unanswered without a reply."""
    refusals: list[float] = field(default_factory=list)
    """Seconds from connecting to the refusal."""

    @property
    def goodput(self) -> float:
        return self.accepted / self.seconds

    def __str__(self) -> str:
        slow = sorted(self.refusals)[int(len(self.refusals) * 0.95)] * 1000 if self.refusals else 0.0
        middle = statistics.median(self.refusals) * 1000 if self.refusals else 0.0
        told = f"refused {self.refused} (median {middle:.0f} ms, p95 {slow:.0f} ms), lost {self.lost}"
        return f"{self.goodput:.0f}/s accepted in {self.seconds:.0f} s, {told}"


class Message:
    """One client with one message."""

    def __init__(self, port: int, steps: Steps = STEPS) -> None:
        self.steps = steps
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))
        self.since = time.monotonic()
        self.unread = b""
        self.step = 0
        self.outcome = ""

    def read(self) -> None:
        """Take what has come and say what is next; ``outcome`` is set when it is over."""
        try:
            data = self.socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.unread += data
        lines = self.unread.split(b"\r\n")[:-1]
        replies = [line for line in lines if line[3:4] == b" "]
        refusal = any(line[:1] in (b"4", b"5") for line in replies)
        if refusal:
            self.outcome = "refused"
        elif not data:
            self.outcome = "lost"
        elif self.step < len(self.steps) and len(replies) >= self.steps[self.step][0]:
            self.unread = b""
            if self.step == len(self.steps) - 1:
                self.outcome = "accepted"
            self.socket.send(self.steps[self.step][1])
            self.step += 1


class Clients:
    """Messages under way. ``rate`` a second come whatever becomes of the others; without, as many as ``at_once``."""

    def __init__(self, port: int, steps: Steps = STEPS) -> None:
        self._port = port
        self._steps = steps
        self._selector = selectors.DefaultSelector()
        self._open: set[Message] = set()

    def run(self, seconds: float, *, rate: float = 0.0, at_once: int = 0) -> Figures:
        figures = Figures(seconds)
        begin = time.monotonic()
        begun = 0
        while (now := time.monotonic()) < begin + seconds:
            due = int((now - begin) * rate) - begun if rate else at_once - len(self._open)
            for _ in range(min(due, OPEN_AT_MOST - len(self._open))):
                self._begin()
            begun += max(due, 0)
            self._look(figures, 0.005)
        return figures

    def finish(self, seconds: float = 10.0) -> Figures:
        """Until the last has its answer."""
        figures = Figures(seconds)
        end = time.monotonic() + seconds
        while self._open and time.monotonic() < end:
            self._look(figures, 0.05)
        figures.lost += len(self._open)
        for message in list(self._open):
            self._end(message)
        return figures

    def _begin(self) -> None:
        message = Message(self._port, self._steps)
        self._open.add(message)
        self._selector.register(message.socket, selectors.EVENT_READ, message)

    def _look(self, figures: Figures, patience: float) -> None:
        for key, _ in self._selector.select(patience):
            message: Message = key.data
            message.read()
            if message.outcome:
                setattr(figures, message.outcome, getattr(figures, message.outcome) + 1)
                if message.outcome == "refused":
                    figures.refusals.append(time.monotonic() - message.since)
                self._end(message)

    def _end(self, message: Message) -> None:
        self._open.discard(message)
        self._selector.unregister(message.socket)
        message.socket.close()


class OverloadTests(SynchronousTestCase):
    def gateway(self, config: str, limits: str = "") -> tuple[GatewayProcess, int]:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-overload-")
        self.addCleanup(directory.cleanup)
        port, inner = free_ports(2)
        path = Path(directory.name) / "mailgate.conf"
        path.write_text(config.format(home=directory.name, port=port, inner=inner, limits=limits, capacity=CAPACITY))
        running = GatewayProcess(path)
        self.addCleanup(running.kill)
        return running.wait_until_ready(), port

    def overload(self, limits: str) -> None:
        running, port = self.gateway(CONFIG, limits)
        clients = Clients(port)
        clients.run(2.0, at_once=16)  # the burst that a full bucket allows is over
        peak = clients.run(4.0, at_once=16)
        clients.finish()
        over = clients.run(8.0, rate=5 * CAPACITY)
        left = clients.finish()
        after = clients.run(4.0, at_once=16)
        clients.finish()
        print(f"\npeak {peak}\nat five times the rate {over}\nafterwards {after}")
        self.assertGreater(over.refused, over.accepted, "this was no overload")
        self.assertGreater(over.goodput, 0.9 * peak.goodput)
        self.assertLess(statistics.median(over.refusals), PROMPT)
        self.assertEqual(over.lost + left.lost, 0)
        self.assertGreater(after.goodput, 0.9 * peak.goodput)
        self.assertEqual(after.refused, 0)
        check_log(running.stop())

    def test_more_connections_than_there_may_be(self) -> None:
        self.overload("")

    def test_more_messages_than_limits_let_in(self) -> None:
        self.overload(CONCURRENCY)

    def test_more_than_the_processor_can_do(self) -> None:
        """Judged by what the gateway makes of a second of the processor, since it has to share that with its clients."""
        running, port = self.gateway(BUSY)
        clients = Clients(port, STEPS_TO_MANY)
        clients.run(1.0, at_once=16)
        before = processor_seconds(running.pid)
        peak = clients.run(4.0, at_once=16)
        cost = (processor_seconds(running.pid) - before) / peak.accepted
        clients.finish()
        before = processor_seconds(running.pid)
        over = clients.run(8.0, rate=5 * peak.goodput)
        spent = processor_seconds(running.pid) - before
        left = clients.finish()
        after = clients.run(4.0, at_once=16)
        clients.finish()
        of_peak = over.accepted * cost / spent
        print(f"\npeak {peak}, {cost * 1e6:.0f} microseconds each")
        print(f"at five times the rate {over}: {of_peak:.0%} of the peak\nafterwards {after}")
        self.assertGreater(over.refused, over.accepted, "this was no overload")
        self.assertGreater(of_peak, 0.8)
        self.assertEqual(over.lost + left.lost, 0)
        self.assertGreater(after.accepted, 0)
        self.assertEqual(after.refused, 0)
        check_log(running.stop())


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
