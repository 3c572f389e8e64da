"""The stage of most gateway tests: one simulated network, a whole gateway on it, next hops and clients around it."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.testing.client import RawClient, connect
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.network import SimulatedReactor, adapters_for
from mailgate.testing.nexthop import NextHop
from tests.support.invariants import check_log
from tests.support.ledger import message

SMTP = "tcp://127.0.0.1:25"
LMTP = "tcp://127.0.0.1:24"


class SimulatedCase(SynchronousTestCase):
    """After each test: the gateway stops in bounded time, its log shows nothing unforeseen, no connection is left (I7, I8)."""

    seed = 1
    expect_clean_log = True

    def setUp(self) -> None:
        self._failed_rows: list[str] = []
        self._raise()

    def tearDown(self) -> None:
        self._strike()
        if self._failed_rows:
            self.fail("\n\n".join(self._failed_rows))

    @contextmanager
    def row(self, name: str) -> Iterator[None]:
        """One row of a table, on a stage of its own. What fails in it is reported at the end, so that the others run too."""
        self._strike()
        self._raise()
        try:
            yield
            self.reactor.settle(60)
            self._strike()
        except Exception:
            self._failed_rows.append(f"{name}\n{traceback.format_exc()}")
            self.running = None

    def _raise(self) -> None:
        self.reactor = SimulatedReactor(self.seed)
        self.hops: list[NextHop] = []
        self.running: WholeGateway | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="mailgate-test-")
        self.directory = self._directory.name

    def _strike(self) -> None:
        running, self.running = self.running, None
        try:
            if running is not None:
                self.reactor.run(running.stop(), limit=600)
                self.reactor.settle(10)
                for hop in self.hops:
                    hop.drop_connections()
                self.reactor.settle(10)
                self.assertEqual(self.reactor.transports, set(), "connections are left")
                if self.expect_clean_log:
                    check_log(running.log_text)
        finally:
            self._directory.cleanup()

    def hop(self, **options: Any) -> NextHop:
        """A next hop that listens."""
        hop = NextHop(**options).listen(self.reactor)
        self.hops.append(hop)
        return hop

    def gateway(self, text: str) -> WholeGateway:
        """Start a gateway with this configuration."""
        self.running = WholeGateway("hostname gateway.test\n" + text, adapters_for(self.reactor), self.directory)
        self.reactor.run(self.running.start())
        return self.running

    def relay(self, *hops: NextHop, target: str = "", listener: str = "") -> WholeGateway:
        """The plainest gateway: everything to one target with these endpoints, by SMTP on port 25 and LMTP on port 24."""
        kind = "lmtp" if hops[0].lmtp else "smtp"
        endpoints = " ".join(hop.endpoint for hop in hops)
        return self.gateway(
            f"target.{kind} next {{\n    targets {endpoints}\n{target}\n}}\n"
            f"smtp {SMTP} {{\n    tls off\n{listener}\n    deliver_to &next\n}}\n"
            f"lmtp {LMTP} {{\n    tls off\n{listener}\n    deliver_to &next\n}}\n"
        )

    def client(self, endpoint: str = SMTP, hello: bytes = b"") -> RawClient:
        """A connected client that has read the greeting and said hello."""
        client = self.reactor.run(connect(self.reactor, endpoint))
        client.patience = 3600.0
        greeting = self.reactor.run(client.reply())
        self.assertEqual(greeting[:4], b"220 ", greeting)
        reply = self.reactor.run(client.command(hello or (b"LHLO client.test" if endpoint == LMTP else b"EHLO client.test")))
        self.assertEqual(reply[:3], b"250", reply)
        client.lmtp = endpoint == LMTP
        return client

    def say(self, client: RawClient, *lines: bytes) -> list[bytes]:
        return self.reactor.run(client.say(*lines), limit=3601)

    def ask(self, client: RawClient, line: bytes) -> bytes:
        return self.reactor.run(client.command(line), limit=3601)

    def deliver(
        self, client: RawClient, *recipients: bytes, content: bytes = b"", sender: bytes = b"sender@client.test"
    ) -> list[bytes]:
        """One transaction; returns all replies, from MAIL's on."""
        return self.reactor.run(client.deliver(sender, recipients, content or message("plain")), limit=3601)

    def check_alive(self, endpoint: str = SMTP) -> None:
        """I8: a clean message passes within a second."""
        before = self.reactor.seconds()
        client = self.client(endpoint)
        replies = self.deliver(client, b"alive@y.test", content=message("alive"))
        self.assertEqual(replies[-1][:3], b"250", replies)
        self.assertLess(self.reactor.seconds() - before, 1.0)
        self.reactor.run(client.quit())


def codes(replies: list[bytes]) -> list[bytes]:
    """The three digits of each."""
    return [reply[:3] for reply in replies]


def statuses(replies: list[bytes]) -> list[bytes]:
    """Code and enhanced code of each reply's last line: ``452 4.5.3``."""
    return [b" ".join(reply.rpartition(b"\n")[2].split(b" ")[:2]) for reply in replies]
