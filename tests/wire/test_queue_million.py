"""A queue with a million entries is as good as an empty one: it starts, lists, accepts and delivers as fast, in bounded memory.

The gateway runs in a process of its own, and delivers what comes meanwhile to a listener of its own. Rates are compared with
those of an empty queue in the same run, by the processor's time. The figures are printed (`-s`).
"""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli import main
from tests.support.ports import free_ports
from tests.support.process import GatewayProcess
from tests.support.queue_files import BODY, HEADER, Crowd

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]

ENTRIES = 1_000_000
DOMAINS = 1_000
DAY = 86400.0
READY_WITHIN = 10.0
LISTED_WITHIN = 0.5
MORE_MEMORY = 48 << 20
"""Octets that the million may cost: the caches of sqlite's connections, and what a listing holds."""
SESSIONS = 8
MESSAGES = 250
"""Of each session."""
SLOWER = 1.35
"""What a message may cost with the million, in processor time, for one with an empty queue; the rest is the machine's unrest."""

CONFIG = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls off
target.smtp next {{
    targets tcp://127.0.0.1:{inner}
}}
target.queue outbound {{
    target &next
    bounce {{
        discard
    }}
}}
smtp tcp://127.0.0.1:{port} {{
    reverse_lookup no
    deliver_to &outbound
}}
smtp tcp://127.0.0.1:{inner} {{
    reverse_lookup no
    discard
}}
"""


def crowd(now: float) -> Crowd:
    """The first ones three days old, all tried before, and due again within a day."""
    names = [("&next", "rcpt@d0.test"), *((f"d{number}.test", f"rcpt@d{number}.test") for number in range(1, DOMAINS))]
    return Crowd(ENTRIES, "next", names, lambda at: now - 3 * DAY * (1 - at), lambda at: now + DAY * (0.1 + 0.9 * at), retries=3)


@dataclass(frozen=True)
class Measured:
    ready: float
    memory: int
    listed: float
    command: float
    rate: float
    cost: float
    """Seconds of processor time for a message."""
    memory_at_the_end: int


class MillionTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-million-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def measure(self, home: Path) -> Measured:
        home.mkdir(exist_ok=True)
        port, inner = free_ports(2)
        config = home / "mailgate.conf"
        config.write_text(CONFIG.format(home=home, port=port, inner=inner))
        began = time.monotonic()
        gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(gateway.kill)
        ready = time.monotonic() - began
        memory = _memory(gateway.pid)
        _send(port, 1, 20)
        listed, command = self.list(config)
        self.drain(home)
        used, began = _used(gateway.pid), time.monotonic()
        _send(port, SESSIONS, MESSAGES)
        self.drain(home)
        rate = SESSIONS * MESSAGES / (time.monotonic() - began)
        cost = (_used(gateway.pid) - used) / (SESSIONS * MESSAGES)
        measured = Measured(ready, memory, listed, command, rate, cost, _memory(gateway.pid))
        gateway.stop()
        return measured

    def list(self, config: Path) -> tuple[float, float]:
        """Seconds until the first screen is there: for the answer, and for the command with its start."""
        began = time.monotonic()
        result = CliRunner().invoke(main, ["queue", "ls", "--limit", "50", "-c", str(config)])
        answered = time.monotonic() - began
        self.assertEqual(result.exit_code, 0, result.output)
        program = str(Path(sys.executable).parent / "mailgate")
        began = time.monotonic()
        subprocess.run([program, "queue", "ls", "--limit", "50", "-c", str(config)], check=True, capture_output=True)
        return answered, time.monotonic() - began

    def drain(self, home: Path) -> None:
        """Wait until what was sent now is delivered."""
        path = home / "queue" / "outbound" / "1.sqlite"
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as connection:
            for _ in range(2000):
                (left,) = connection.execute("SELECT COUNT(*) FROM entry WHERE id > ?", (ENTRIES,)).fetchone()
                if not left:
                    break
                time.sleep(0.01)
            else:
                self.fail("what was sent does not leave")
        connection.close()

    def test_as_fast_as_an_empty_one(self) -> None:
        full = self.directory / "full"
        began = time.monotonic()
        file = full / "queue" / "outbound" / "1.sqlite"
        crowd(time.time()).write(file)
        size = file.stat().st_size
        print(f"\n{ENTRIES:,} entries, {size >> 20} MiB, written in {time.monotonic() - began:.0f} s")
        empty = self.measure(self.directory / "empty")
        found = self.measure(full)
        for name, one in (("empty", empty), ("a million", found)):
            print(
                f"{name}: ready {one.ready:.1f} s, {one.memory >> 20} MiB; first screen {one.listed:.3f} s"
                f" (with the command's start {one.command:.2f} s); {one.rate:.0f} messages/s, {one.cost * 1000:.2f} ms each;"
                f" {one.memory_at_the_end >> 20} MiB at the end"
            )
        self.assertLess(found.ready, READY_WITHIN)
        self.assertLess(found.listed, LISTED_WITHIN)
        self.assertLess(found.memory - empty.memory, MORE_MEMORY)
        self.assertLess(found.memory_at_the_end - empty.memory_at_the_end, MORE_MEMORY)
        self.assertLess(found.cost, SLOWER * empty.cost)


def _send(port: int, sessions: int, messages: int) -> None:
    """So many messages in each of so many sessions at once; every one is accepted."""
    with ThreadPoolExecutor(sessions) as pool:
        for accepted in pool.map(lambda _: _session(port, messages), range(sessions)):
            assert accepted == messages


def _session(port: int, messages: int) -> int:
    accepted = 0
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as replies:

        def reply() -> bytes:
            line: bytes = replies.readline()
            while line[3:4] == b"-":
                line = replies.readline()
            return line

        reply()
        connection.sendall(b"EHLO client.test\r\n")
        reply()
        for number in range(messages):
            connection.sendall(b"MAIL FROM:<a@client.test>\r\nRCPT TO:<r%d@dest.test>\r\nDATA\r\n" % number)
            assert [reply()[:3] for _ in range(3)] == [b"250", b"250", b"354"]
            connection.sendall(HEADER + BODY + b".\r\n")
            accepted += reply()[:3] == b"250"
        connection.sendall(b"QUIT\r\n")
        reply()
    return accepted


def _memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


def _used(pid: int) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
