"""Many clients, failing next hops, slow and vanishing peers, all at once: one seed is one run, and I1 to I8 hold after each.

A failing seed is replayed by `SEEDS=17 python -m pytest tests/wire/test_gateway_simulation.py`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable

import pytest
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from mailgate.testing.client import ConnectionEnded, RawClient, connect
from mailgate.testing.nexthop import DEAF, DROP, ENDLESS, GARBAGE, HANG, RESET, Action, Connection, NextHop, Step, say
from tests.support.invariants import check_content
from tests.support.ledger import Ledger, message, token_of
from tests.support.scenario import LMTP, SMTP, SimulatedCase

FAULTS: tuple[Action, ...] = (
    *(HANG, DEAF, DROP, RESET, GARBAGE, ENDLESS),
    *(say(b"421 4.3.2 closing", then_drop=True), say(b"450 4.2.0 later"), say(b"550 5.1.1 no"), say(b"354 what")),
)
LINES = (
    b"",
    b".",
    b"..",
    b". ",
    b"text",
    b".hidden",
    b"\xc3\xa4\xff",
    b"From: x",
    b"x" * 998,
    b"QUIT",
    b"MAIL FROM:<evil@x.test>",
)
LARGE_LINE = (b"y" * 76 + b"\r\n") * 64

TARGET = """\
    connect_timeout 10s
    command_timeout 15s
    submission_timeout 30s
    lease_timeout 10s
    max_connections 6
    max_idle 3
    idle_timeout 20s
    health {
        failures 2
        backoff 2s 20s
    }
"""


class Run:
    """What one seed decides."""

    def __init__(self, seed: int, case: SimulatedCase) -> None:
        self.random = random.Random(seed)
        self.case = case
        self.reactor = case.reactor
        self.ledger = Ledger()
        self.sent: dict[str, bytes] = {}
        self.trouble = self.random.choice((0.0, 0.02, 0.1, 0.3))
        self.lmtp_store = self.random.random() < 0.5
        if self.random.random() < 0.5:
            self.reactor.chop = self.chop
        self.healthy = False

    def chop(self, data: bytes) -> list[bytes]:
        if len(data) > 4096:
            return [data]
        cuts = sorted(self.random.randrange(len(data) + 1) for _ in range(self.random.randrange(4)))
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return [piece for piece in pieces if piece]

    def script(self, step: Step, connection: Connection, line: bytes) -> Action | None:
        if self.healthy or self.random.random() >= self.trouble:
            return None
        if step is Step.DOT and self.lmtp_store and self.random.random() < 0.5:
            rcpts = connection.transactions[-1].recipients
            replies = [self.random.choice((b"250 2.1.5 ok", b"452 4.2.2 full", b"550 5.2.1 off")) for _ in rcpts]
            return say(*replies[: self.random.randint(0, len(replies))], then_drop=True)
        return self.random.choice(FAULTS)

    def outages(self, hops: Iterable[NextHop]) -> None:
        """Some next hops go away and come back: connections dropped, nobody listening or nobody answering meanwhile."""
        for hop in hops:
            if self.random.random() < 0.3:
                begin, end = sorted((self.random.uniform(0, 60), self.random.uniform(0, 120)))
                away = self.random.choice((self.reactor.refuse, self.reactor.black_hole))
                self.reactor.callLater(begin, away, "127.0.0.1", hop.port)
                self.reactor.callLater(begin, hop.drop_connections)
                self.reactor.callLater(end, self.reactor.heal, "127.0.0.1", hop.port)

    def content(self, token: str) -> bytes:
        """A message as it's meant, dots not stuffed."""
        lines = [self.random.choice(LINES) for _ in range(self.random.randrange(12))]
        body = b"".join(line + b"\r\n" for line in lines)
        if self.random.random() < 0.1:
            body += LARGE_LINE * self.random.randrange(1, 60)
        return message(token, body=body)

    async def pause(self) -> None:
        if self.random.random() < 0.1:
            await deferLater(self.reactor, self.random.choice((0.1, 1.0, 45.0)))

    async def client(self, number: int) -> None:
        """One client: connects, sends some messages, perhaps goes away in the middle of something."""
        await deferLater(self.reactor, self.random.uniform(0, 20))
        lmtp = self.random.random() < 0.5
        client = await connect(self.reactor, LMTP if lmtp else SMTP)
        client.patience = 3600
        client.lmtp = lmtp
        try:
            await client.reply()
            await client.command(b"LHLO c.test" if lmtp else b"EHLO c.test")
            for count in range(self.random.randint(1, 4)):
                await self.message(client, f"m{number}.{count}")
            await client.quit()
        except ConnectionEnded:
            pass
        finally:
            await client.close()

    async def message(self, client: RawClient, token: str) -> None:
        content = self.sent[token] = self.content(token)
        recipients = [b"r%d@y.test" % at for at in range(self.random.choice((1, 1, 1, 2, 3)))]
        leaves = self.random.choice((None,) * 20 + ("mail", "rcpt", "body", "dot"))
        for recipient in recipients:
            self.ledger.answered(token, recipient, b"")
        await client.command(b"MAIL FROM:<%s@c.test>" % token.encode())
        self.leave(client, leaves == "mail")
        accepted = []
        for recipient in recipients:
            await self.pause()
            reply = await client.command(b"RCPT TO:<" + recipient + b">")
            if reply[:1] == b"2":
                accepted.append(recipient)
            else:
                self.ledger.answered(token, recipient, reply)
        self.leave(client, leaves == "rcpt")
        if not accepted:
            await client.command(b"RSET")
            return
        reply = await client.command(b"DATA")
        if reply[:3] != b"354":
            self.answered(token, accepted, [reply] * len(accepted))
            return
        stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"
        half = self.random.randrange(len(stuffed))
        client.send(stuffed[:half])
        await self.pause()
        self.leave(client, leaves == "body")
        client.send(stuffed[half:])
        self.leave(client, leaves == "dot")
        if client.lmtp:
            for recipient in accepted:
                self.answered(token, [recipient], [await client.reply()])
        else:
            self.answered(token, accepted, [await client.reply()] * len(accepted))

    def answered(self, token: str, recipients: Iterable[bytes], replies: Iterable[bytes]) -> None:
        for recipient, reply in zip(recipients, replies, strict=True):
            self.ledger.answered(token, recipient, reply)

    def leave(self, client: RawClient, now: bool) -> None:
        if now:
            if self.random.random() < 0.3:
                client.end()
            else:
                client.drop(reset=self.random.random() < 0.5)
            raise ConnectionEnded

    def check_arrived(self, hops: Iterable[NextHop]) -> None:
        for hop in hops:
            for transaction in hop.transactions:
                token = token_of(transaction.content)
                check_content(transaction.content, self.sent[token])
                self.case.assertEqual(transaction.sender, token.encode() + b"@c.test")


class Simulation(SimulatedCase):
    expect_clean_log = True

    def simulate(self, seed: int) -> int:
        """One run; returns how many messages reached a next hop."""
        run = Run(seed, self)
        hops = [self.hop(lmtp=run.lmtp_store, script=run.script, idle_delay=0.5) for _ in range(run.random.randint(1, 3))]
        self.relay(*hops, target=TARGET)
        run.outages(hops)
        clients = [Deferred.fromCoroutine(run.client(number)) for number in range(run.random.randint(2, 10))]
        self.reactor.run(DeferredList(clients, fireOnOneErrback=True, consumeErrors=True), limit=20_000)
        self.reactor.settle(900)
        run.healthy = True
        run.ledger.book(*hops).check()
        run.check_arrived(hops)
        arrived = sum(len(hop.transactions) for hop in hops)
        self.check_alive()
        return arrived

    def test_seeds(self) -> None:
        arrived = 0
        for seed in seeds(60):
            with self.row(f"SEEDS={seed}"):
                arrived += self.simulate(seed)
        self.assertGreater(arrived, 0)

    @pytest.mark.slow
    def test_many_seeds(self) -> None:
        for seed in seeds(1500, first=1000):
            with self.row(f"SEEDS={seed}"):
                self.simulate(seed)


def seeds(count: int, first: int = 0) -> Iterable[int]:
    chosen = os.environ.get("SEEDS", "")
    return [int(word) for word in chosen.split(",")] if chosen else range(first, first + count)
