"""Floods and slow peers against a gateway in a process of its own: thousands of idle clients, a thousand slow ones in every
state, no descriptor left. What is measured is what an honest client notices meanwhile.

The figures of a run are printed (`-s`); docs/reliability.md has them.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import ssl
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import leaf
from tests.support.invariants import check_log, open_descriptors
from tests.support.ports import free_ports
from tests.support.process import GatewayProcess

pytestmark = pytest.mark.proof

PROMPT = 0.2
"""How soon a client must be answered, whatever others do."""
IDLE_CLIENTS = 5000
SLOW_CLIENTS = 1000
HEADER = b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 25\r\n"
ENVELOPE = b"EHLO client.test\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n"

CONFIG = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls file {chain} {key}
local_domains y.test

smtp tcp://127.0.0.1:{plain} tls://127.0.0.1:{secure} {{
    max_connections {most}
    handshake_timeout {handshake}s
    read_timeout {read}s
    data_timeout {data}s
    discard
}}
smtp tcp://127.0.0.1:{proxied} {{
    max_connections 20000
    handshake_timeout {handshake}s
    proxy_protocol {{
        trust 127.0.0.0/8
    }}
    greeting_delay 3s
    read_timeout {read}s
    discard
}}
"""


class _Flood(SynchronousTestCase):
    def gateway(self, *, handshake: int = 30, read: int = 300, data: int = 600, most: int = 20000) -> GatewayProcess:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-flood-")
        self.addCleanup(directory.cleanup)
        home = Path(directory.name)
        self.plain, self.secure, self.proxied = free_ports(3)
        certificate = leaf("localhost", "127.0.0.1")
        config = home / "mailgate.conf"
        config.write_text(
            CONFIG.format(
                home=home,
                chain=certificate.chain_path,
                key=certificate.key_path,
                plain=self.plain,
                secure=self.secure,
                proxied=self.proxied,
                handshake=handshake,
                read=read,
                data=data,
                most=most,
            )
        )
        self.process = GatewayProcess(config).wait_until_ready()
        self.addCleanup(self.process.kill)
        self.sockets: list[socket.socket] = []
        self.addCleanup(self.hang_up)
        return self.process

    def hang_up(self) -> None:
        for opened in self.sockets:
            opened.close()
        self.sockets.clear()

    def need_descriptors(self, count: int) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < count:
            self.skipTest(f"only {hard} descriptors may be open")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(count, resource.getrlimit(resource.RLIMIT_NOFILE)[0]), hard))

    def connect(self, port: int) -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.sockets.append(opened)
        return opened

    def greeting_time(self) -> float:
        """How long a new client waits for its greeting."""
        before = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.plain), timeout=10) as client:
            self.assertEqual(b"220", client.recv(512)[:3])
        return time.monotonic() - before

    def memory(self) -> int:
        """Octets of memory that the gateway has for itself."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Private_"))

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def until(self, condition: Callable[[], bool], seconds: float, what: str) -> float:
        """Wait until it holds; returns how long that took."""
        began = time.monotonic()
        while not condition():
            self.assertLess(time.monotonic() - began, seconds, what)
            time.sleep(0.02)
        return time.monotonic() - began


class Honest(threading.Thread):
    """A client that sends message after message over one connection, and notes how long each takes."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.times: list[float] = []
        self.error: Exception | None = None
        self._ended = threading.Event()
        self._port = port

    def run(self) -> None:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=20) as client:
                lines = client.makefile("rb")
                self._ask(client, lines, b"", 1)
                self._ask(client, lines, b"EHLO honest.test\r\n", 1)
                while not self._ended.is_set():
                    before = time.monotonic()
                    self._ask(client, lines, b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n", 3)
                    self._ask(client, lines, b"Subject: x\r\n\r\nhello\r\n.\r\n", 1)
                    self.times.append(time.monotonic() - before)
                    time.sleep(0.02)
        except Exception as error:
            self.error = error

    def _ask(self, client: socket.socket, lines: object, data: bytes, replies: int) -> None:
        client.sendall(data)
        while replies:
            line = lines.readline()  # type: ignore[attr-defined]
            if line[:1] not in (b"2", b"3"):
                raise AssertionError(f"{line!r} to {data!r}")
            replies -= line[3:4] == b" "

    def finish(self) -> float:
        """The 99th percentile of its times."""
        self._ended.set()
        self.join(30)
        if self.error is not None:
            raise self.error
        return statistics.quantiles(self.times, n=100)[98]


class IdleClients(_Flood):
    def test_thousands_of_idle_clients(self) -> None:
        """A new one is greeted at once, and each costs little."""
        self.need_descriptors(2 * IDLE_CLIENTS)
        gateway = self.gateway()
        self.greeting_time()
        before = self.memory()
        for _ in range(IDLE_CLIENTS):
            self.connect(self.plain).sendall(b"")
        for opened in self.sockets:
            self.assertEqual(b"220", opened.recv(512)[:3])
            opened.sendall(b"EHLO idle.test\r\n")
        for opened in self.sockets:
            self.assertEqual(b"250", opened.recv(2048)[:3])
        each = (self.memory() - before) / IDLE_CLIENTS
        slowest = max(self.greeting_time() for _ in range(20))
        print(f"\n{IDLE_CLIENTS} idle clients: greeted within {slowest * 1000:.0f} ms, {each / 1024:.1f} KiB each")
        self.assertLess(slowest, PROMPT)
        self.assertLess(each, 12 << 10)
        self.hang_up()
        self.until(lambda: open_descriptors(gateway.pid) < 100, 10, "descriptors are left")
        check_log(gateway.stop())

    def test_idle_clients_under_tls(self) -> None:
        count = 500
        gateway = self.gateway()
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        secured: list[ssl.SSLSocket] = []

        def more(number: int) -> None:
            for _ in range(number):
                client = context.wrap_socket(self.connect(self.secure))
                secured.append(client)
                self.assertEqual(b"220", client.recv(512)[:3])

        more(20)
        before = self.memory()
        more(count)
        each = (self.memory() - before) / count
        for client in secured:
            client.close()
        print(f"\n{count} idle clients under TLS: {each / 1024:.1f} KiB each")
        self.assertLess(each, 40 << 10)
        check_log(gateway.stop())


class SlowClients(_Flood):
    """Each kind of slowness has its clients, all at once; ``end`` is by when the last of a kind must be gone."""

    HANDSHAKE, READ, DATA, LINGER = 4, 4, 6, 5

    def kinds(self) -> dict[str, tuple[int, bytes, bytes, float]]:
        """By name: the port, what is said at once, what is said again and again, and when it must be over."""
        command = self.READ + self.LINGER
        return {
            "PROXY header": (self.proxied, HEADER[:20], b"", self.HANDSHAKE),
            "PROXY header, byte by byte": (self.proxied, b"PROXY TCP4 192.0.2.7", b"0", self.HANDSHAKE),
            "TLS handshake": (self.secure, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0", self.HANDSHAKE),
            "greeting": (self.proxied, HEADER, b"", 3 + command),
            "STARTTLS": (self.plain, b"EHLO client.test\r\nSTARTTLS\r\n", b"", self.HANDSHAKE),
            "silence": (self.plain, b"", b"", command),
            "command, byte by byte": (self.plain, b"EHLO client.test\r\nNOOP ", b"x", command),
            "DATA": (self.plain, ENVELOPE + b"DATA\r\n", b"", command),
            "DATA, byte by byte": (self.plain, ENVELOPE + b"DATA\r\n", b"x", self.DATA + self.LINGER),
            "BDAT": (self.plain, ENVELOPE + b"BDAT 1000000 LAST\r\n", b"x", self.DATA + self.LINGER),
            "lingering": (self.plain, b"QUIT\r\n", b"", self.LINGER),
            "never reading": (self.plain, b"EHLO client.test\r\n" * 99, b"EHLO client.test\r\n", command),
        }

    def test_a_thousand_in_every_state(self) -> None:
        self.need_descriptors(3 * SLOW_CLIENTS)
        gateway = self.gateway(handshake=self.HANDSHAKE, read=self.READ, data=self.DATA)
        base = open_descriptors(gateway.pid)
        honest = Honest(self.plain)
        honest.start()
        kinds = self.kinds()
        number = SLOW_CLIENTS // len(kinds) + 1
        poll = select.poll()
        began: dict[int, tuple[str, float]] = {}
        drips: dict[int, tuple[socket.socket, bytes]] = {}
        for _ in range(number):
            for name, (port, first, more, _end) in kinds.items():
                opened = self.connect(port)
                opened.setblocking(False)
                if port == self.plain and first:
                    greeted = select.poll()  # who speaks before the greeting is another kind
                    greeted.register(opened, select.POLLIN)
                    greeted.poll(10_000)
                opened.send(first)
                began[opened.fileno()] = (name, time.monotonic())
                poll.register(opened, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
                if more:
                    drips[opened.fileno()] = (opened, more)
        longest = dict.fromkeys(kinds, 0.0)
        limit = time.monotonic() + max(end for _, _, _, end in kinds.values()) + 10
        while began and time.monotonic() < limit:
            for descriptor, _ in poll.poll(200):
                name, since = began.pop(descriptor)
                longest[name] = max(longest[name], time.monotonic() - since)
                poll.unregister(descriptor)
                drips.pop(descriptor, None)
            for descriptor, (opened, more) in list(drips.items()):
                try:
                    opened.send(more)
                except OSError:
                    drips.pop(descriptor)
        self.assertEqual([], sorted({name for name, _ in began.values()}), "they are still there")
        p99 = honest.finish()
        print(f"\n{number * len(kinds)} slow clients, {len(honest.times)} honest messages: p99 {p99 * 1000:.0f} ms")
        for name, seconds in longest.items():
            print(f"  {name:28} gone after {seconds:4.1f} s")
            self.assertLess(seconds, kinds[name][3] + 2, name)
        self.assertLess(p99, PROMPT)
        self.until(lambda: open_descriptors(gateway.pid) <= base + 5, self.LINGER + 2, "descriptors are left")
        check_log(gateway.stop())


class TooMany(_Flood):
    def test_refused_at_once(self) -> None:
        """Beyond max_connections everybody hears so at once, and those who are inside do not notice."""
        gateway = self.gateway(most=50)
        honest = Honest(self.plain)
        honest.start()
        self.until(lambda: len(honest.times) > 5, 10, "the honest client does not begin")
        while len(self.sockets) < 49:
            self.assertEqual(b"220", self.connect(self.plain).recv(512)[:3])
        times: list[float] = []
        for _ in range(1000):
            before = time.monotonic()
            with socket.create_connection(("127.0.0.1", self.plain), timeout=10) as late:
                self.assertEqual(b"421 4.7.0", late.recv(512)[:9])
            times.append(time.monotonic() - before)
        slowest = statistics.quantiles(times, n=100)[98]
        p99 = honest.finish()
        print(f"\n1,000 clients too many: refused within {slowest * 1000:.1f} ms (p99), honest p99 {p99 * 1000:.0f} ms")
        self.assertLess(slowest, 0.05)
        self.assertLess(p99, PROMPT)
        check_log(gateway.stop())


class NoDescriptors(_Flood):
    def test_exhausted(self) -> None:
        """Sessions go on, nothing spins, and with the flood the trouble is over."""
        gateway = self.gateway()
        honest = Honest(self.plain)
        honest.start()
        self.until(lambda: len(honest.times) > 5, 10, "the honest client does not begin")
        limit = open_descriptors(gateway.pid) + 50
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (limit, limit))
        for _ in range(200):
            opened = socket.socket()
            opened.setblocking(False)
            self.sockets.append(opened)
            opened.connect_ex(("127.0.0.1", self.plain))
        time.sleep(0.5)
        before, cpu, messages = time.monotonic(), self.cpu_seconds(), len(honest.times)
        refused = 0
        while time.monotonic() - before < 3.0:
            with socket.socket() as late:
                late.settimeout(1)
                try:
                    late.connect(("127.0.0.1", self.plain))
                    refused += late.recv(512) == b""
                except OSError:
                    refused += 1
            time.sleep(0.1)
        load = (self.cpu_seconds() - cpu) / (time.monotonic() - before)
        served = len(honest.times) - messages
        self.hang_up()
        back = self.until(self._greets, 5, "nobody is greeted")
        p99 = honest.finish()
        print(
            f"\nno descriptor left: {refused} clients turned away, {served} messages meanwhile, {load:.0%} of a core,"
            f" back after {back * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"
        )
        self.assertGreater(refused, 10)
        self.assertGreater(served, 20)
        self.assertLess(load, 0.5)
        self.assertLess(back, 1.0)
        check_log(gateway.stop())

    def _greets(self) -> bool:
        try:
            return self.greeting_time() < PROMPT
        except (OSError, AssertionError):
            return False
