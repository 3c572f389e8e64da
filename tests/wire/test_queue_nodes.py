"""Two gateways on one queue in PostgreSQL, under load, while one is killed, or stands still past its lease, or the server falls.

I1 to I3 are counted over all of it: what was answered 250 is delivered, what was refused is not, and a second copy is possible
only of what was being delivered when it happened. ROUNDS=20 in the environment is the long run.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import DeferredList
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from mailgate.net.waiting import spawn
from mailgate.testing.client import ConnectionEnded, connect
from mailgate.testing.nexthop import NextHop
from tests.support.crashing import ForkedGateway, until
from tests.support.ledger import message, token_of
from tests.support.ports import free_port
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RECIPIENT = b"b@dest.test"
LEASE = 2
IN_FLIGHT = 20
"""Deliveries at once from one node to one destination."""
CLIENTS = 8


class NodesUnderLoad(TestCase):
    timeout = 800

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.server = Postgres()
        self.addCleanup(self.server.close)
        self.dsn = self.server.database()
        directory = tempfile.TemporaryDirectory(prefix="mailgate-nodes-", ignore_cleanup_errors=True)
        self.addCleanup(directory.cleanup)
        self.hop = NextHop().listen(reactor)
        self.addCleanup(self.hop.close)
        self.homes = [Path(directory.name) / name for name in ("first", "second")]
        self.ports = [free_port(), free_port()]
        self.nodes: list[ForkedGateway | None] = [None, None]
        self.addCleanup(self.finish)
        self.rounds = int(os.environ.get("ROUNDS", "3"))
        self.chance = random.Random(self.rounds)
        self.replies: dict[str, bytes] = {}
        self.stopping = False

    async def start(self, which: int) -> None:
        home = self.homes[which]
        home.mkdir(exist_ok=True)
        text = (
            f"hostname gateway.test\ntarget.smtp next {{\n    targets {self.hop.endpoint}\n}}\n"
            f'target.queue outbound {{\n    target &next\n    store postgres "{self.dsn}"\n    lease {LEASE}s\n'
            "    bounce {\n        discard\n    }\n}\n"
            f"smtp tcp://127.0.0.1:{self.ports[which]} {{\n    tls off\n    deliver_to &outbound\n}}\n"
        )
        self.nodes[which] = await ForkedGateway(text, home, self.reactor).ready()

    def node(self, which: int) -> ForkedGateway:
        node = self.nodes[which]
        assert node is not None
        return node

    async def finish(self) -> None:
        for node in self.nodes:
            if node is not None:
                await node.kill()

    def pause(self, least: float, most: float) -> Any:
        return deferLater(self.reactor, self.chance.uniform(least, most))

    async def client(self, which: int) -> None:
        while not self.stopping:
            try:
                client = await connect(self.reactor, f"tcp://127.0.0.1:{self.ports[which]}")
            except Exception:  # nobody listens just now
                await deferLater(self.reactor, 0.05)
                continue
            try:
                await client.reply()
                await client.command(b"EHLO client.test")
                while not self.stopping:
                    token = f"t{len(self.replies)}"
                    self.replies[token] = b""
                    answers = await client.deliver(b"a@client.test", [RECIPIENT], message(token))
                    self.replies[token] = next((one for one in answers if one[:1] in b"45"), answers[-1])
                    if self.replies[token][:1] != b"2":
                        await deferLater(self.reactor, 0.05)
            except ConnectionEnded:
                pass
            finally:
                await client.close()

    def left(self) -> Counter[str]:
        tables = ("entry", "recipient", "body", "history", "damaged")
        counts = ", ".join(f"(SELECT count(*) FROM mailgate_outbound.{table})" for table in tables)
        ((*found,),) = self.server.execute(self.dsn, f"SELECT {counts}")
        return +Counter(dict(zip(tables, found, strict=True)))

    async def run_through(self, disturb: Any) -> tuple[int, int]:
        """Load while ``disturb(round)`` does its worst; then all must be delivered. Accepted, and copies too many."""
        for which in (0, 1):
            await self.start(which)
        clients = [spawn(self.client(number % 2)) for number in range(CLIENTS)]
        for number in range(self.rounds):
            await self.pause(0.3, 2.0)
            await disturb(number)
        await self.pause(0.3, 0.5)
        self.stopping = True
        await DeferredList(clients, fireOnOneErrback=True, consumeErrors=True)
        try:
            await until(self.reactor, lambda: not self.left(), "the queue is empty", 60)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.left()}\n{self.node(0).log_text}\n{self.node(1).log_text}") from None
        copies = Counter(token_of(one.content) for one in self.hop.transactions if one.complete)
        accepted = [token for token, reply in self.replies.items() if reply[:1] == b"2"]
        refused = [token for token, reply in self.replies.items() if reply[:1] in (b"4", b"5")]
        twice = sum(count - 1 for count in copies.values() if count > 1)
        heard = dict(Counter(reply[:9].decode() for reply in self.replies.values()))
        name = self.id().rpartition(".")[2]
        print(f"\n{name}: {self.rounds} rounds, clients heard {heard}, {len(copies)} arrived, {twice} copies too many")
        self.assertEqual([token for token in accepted if not copies[token]], [], "I1: lost")
        self.assertEqual([token for token in refused if copies[token]], [], "I2: refused, and delivered")
        self.assertEqual([token for token in copies if token not in self.replies], [], "I2: never sent")
        self.assertGreater(len(accepted), 10 * self.rounds, f"{heard}\n{self.node(0).log_text[:3000]}")
        return len(accepted), twice

    async def test_one_is_killed(self) -> None:
        async def disturb(number: int) -> None:
            await self.node(number % 2).kill()
            await self.pause(0.1, 1.5 * LEASE)
            await self.start(number % 2)

        _, twice = await self.run_through(disturb)
        self.assertLessEqual(twice, self.rounds * IN_FLIGHT, "I3")

    async def test_one_stands_still_past_its_lease(self) -> None:
        async def disturb(number: int) -> None:
            os.kill(self.node(number % 2).pid, signal.SIGSTOP)
            await self.pause(2 * LEASE, 2.5 * LEASE)
            os.kill(self.node(number % 2).pid, signal.SIGCONT)

        _, twice = await self.run_through(disturb)
        taken_over = sum(self.node(which).log_text.count("queue.taken_over") for which in (0, 1))
        self.assertGreater(taken_over, 0, "nothing was being delivered when it stood still")
        self.assertLessEqual(twice, self.rounds * IN_FLIGHT, "I3")

    async def test_the_server_falls(self) -> None:
        async def disturb(number: int) -> None:
            self.server.stop((signal.SIGINT, signal.SIGQUIT)[number % 2])
            await self.pause(0.1, 0.5)
            self.server.start()

        _, twice = await self.run_through(disturb)
        self.assertEqual([self.node(which).is_alive for which in (0, 1)], [True, True])
        self.assertLessEqual(twice, self.rounds * 2 * IN_FLIGHT, "I3")
