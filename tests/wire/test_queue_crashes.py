"""What the queue promises, at every system call: the process dies there, or the disk says no.

One message is accepted and delivered, again and again; at each run another call is the one that fails. I1 to I3 are counted over
all of it: what was answered 250 is delivered, what was refused is not, and nothing is doubled but where an answer was lost.
"""

from __future__ import annotations

import os
import random
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
from tests.support.crashing import ForkedGateway, Tracer, needs_strace, rows_left, until
from tests.support.ledger import message, token_of
from tests.support.ports import free_port

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]

SMALL = b"Hello.\r\n"
LARGE = (b"x" * 998 + b"\r\n") * 1500
"""Kept in pieces."""
RECIPIENT = b"b@dest.test"
WRITES = ("pwrite64", "ftruncate", "fallocate")
EFFECTS = frozenset(
    (*WRITES, "accept4", "connect", "sendto", "recvfrom", "shutdown", "close", "openat", "unlink", "fdatasync", "fsync")
)
"""Calls that others see, or a disk keeps. A process that dies at any other leaves what it left at the last one of these; with
CRASH_AT=all in the environment it dies at every call all the same (ten minutes)."""
SYNCS = ("fdatasync", "fsync")


class CrashCase(TestCase):
    timeout = 900

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.strace = needs_strace()
        directory = tempfile.TemporaryDirectory(prefix="mailgate-crash-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.hop = NextHop().listen(reactor)
        self.addCleanup(self.hop.close)
        self.port = free_port()
        self.gateway: ForkedGateway | None = None
        self.addCleanup(self.finish)
        self.number = 0
        self.replies: dict[str, bytes] = {}
        self.killed: set[str] = set()

    @property
    def file(self) -> Path:
        return self.home / "queue" / "outbound" / "1.sqlite"

    async def start(self) -> ForkedGateway:
        text = (
            f"hostname gateway.test\ntarget.smtp next {{\n    targets {self.hop.endpoint}\n}}\n"
            "target.queue outbound {\n    target &next\n    bounce {\n        discard\n    }\n}\n"
            f"smtp tcp://127.0.0.1:{self.port} {{\n    tls off\n    deliver_to &outbound\n}}\n"
        )
        self.gateway = ForkedGateway(text, self.home, self.reactor)
        return await self.gateway.ready()

    async def finish(self) -> None:
        if self.gateway is not None:
            await self.gateway.kill()

    async def send(self, body: bytes = SMALL) -> str:
        """One message; its token. The answer is in `replies`, b"" if there was none."""
        self.number += 1
        token = f"t{self.number}"
        self.replies[token] = b""
        try:
            client = await connect(self.reactor, f"tcp://127.0.0.1:{self.port}")
        except Exception:  # it died before it accepted the connection
            return token
        try:
            await client.reply()
            await client.command(b"EHLO client.test")
            answers = await client.deliver(b"a@client.test", [RECIPIENT], message(token, body=body))
            self.replies[token] = next((one for one in answers if one[:1] in b"45"), answers[-1])
        except ConnectionEnded:
            pass
        finally:
            await client.close()
        return token

    @property
    def delivered(self) -> Counter[str]:
        return Counter(token_of(one.content) for one in self.hop.transactions if one.complete)

    async def drained(self) -> None:
        def nothing_is_left() -> bool:
            return not any(rows_left(self.file).values())

        try:
            await until(self.reactor, nothing_is_left, "the queue is empty")
        except AssertionError:
            assert self.gateway is not None
            raise AssertionError(f"{rows_left(self.file)}\n{self.gateway.log_text}") from None

    async def count(self, body: bytes = SMALL) -> Counter[str]:
        """The system calls of one accept and one delivery."""
        gateway = await self.start()
        tracer = Tracer(self.strace, gateway)
        await until(self.reactor, lambda: gateway.is_traced, "strace is there")
        token = await self.send(body)
        self.assertEqual(self.replies[token][:3], b"250", self.replies)
        await self.drained()
        tracer.stop()
        return tracer.calls

    def problems(self) -> list[str]:
        found = []
        for token, reply in self.replies.items():
            copies = self.delivered[token]
            if reply[:1] == b"2" and not copies:
                found.append(f"I1: {token} was answered {reply!r} and is nowhere")
            if reply[:1] in (b"4", b"5") and copies:
                found.append(f"I2: {token} was refused with {reply!r} and was delivered")
            if copies > 1 + (token in self.killed):
                found.append(f"I3: {token} came {copies} times")
        return found


class KillTests(CrashCase):
    async def killed_at(self, name: str, number: int, body: bytes) -> tuple[str, bool]:
        """Send a message; its token, and whether the gateway died at that call. It is dead afterwards in any case."""
        gateway = self.gateway
        assert gateway is not None
        tracer = Tracer(self.strace, gateway, "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}")
        await until(self.reactor, lambda: gateway.is_traced or not gateway.is_alive, "strace is there")
        token = await self.send(body)
        self.killed.add(token)
        if self.replies[token]:
            await until(self.reactor, lambda: not gateway.is_alive or not any(rows_left(self.file).values()), f"{name} {number}")
        killed = not gateway.is_alive
        await gateway.kill()
        tracer.stop()
        return token, killed

    async def killed_at_each_call(self, body: bytes, calls: Counter[str]) -> None:
        doubled = 0
        reached: Counter[str] = Counter()
        for name, most in sorted(calls.items()):
            for number in range(1, most + 1):
                token, killed = await self.killed_at(name, number, body)
                reached[name] += killed
                await self.start()
                await self.drained()
                self.assertEqual(self.problems(), [], f"killed at {name} number {number}")
                doubled += self.delivered[token] > 1
        print(f"\n{dict(calls)}\n{sum(calls.values())} points, killed at {reached.total()} of them, {doubled} came twice")
        print("not reached:", dict(calls - reached))
        for name in {*WRITES, *SYNCS} & set(calls):
            self.assertGreaterEqual(reached[name], calls[name] / 2, f"{name} is hardly reached")

    async def test_small_message(self) -> None:
        calls = await self.count()
        if os.environ.get("CRASH_AT") != "all":
            calls = Counter({name: most for name, most in calls.items() if name in EFFECTS})
        await self.killed_at_each_call(SMALL, calls)

    async def test_large_message_at_each_write(self) -> None:
        calls = await self.count(LARGE)
        await self.killed_at_each_call(LARGE, Counter({name: calls[name] for name in (*SYNCS, "pwrite64") if calls[name]}))


class DiskTests(CrashCase):
    """The call fails once, or from then on until the disk is well again; the same process goes on."""

    async def failing_at_each_call(self, error: str, names: tuple[str, ...], calls: Counter[str], body: bytes) -> None:
        gateway = self.gateway
        assert gateway is not None
        heard: Counter[str] = Counter()
        for name in names:
            for number in range(1, calls[name] + 1):
                for more in ("", "+"):
                    where = f"inject={name}:error={error}:when={number}{more}"
                    tracer = Tracer(self.strace, gateway, "-e", f"trace={name}", "-e", where)
                    await until(self.reactor, lambda: gateway.is_traced, "strace is there")
                    token = await self.send(body)
                    heard[self.replies[token][:9].decode()] += 1
                    tracer.stop()
                    self.assertTrue(gateway.is_alive, where)
                    await self.again(body, where)
                    await self.drained()
                    self.assertEqual(self.problems(), [], where)
        print(f"\n{error}: {dict(heard)}")
        self.assertLessEqual(set(heard), {"250 2.0.0", "451 4.3.0", "452 4.3.1"})
        self.assertTrue(set(heard) - {"250 2.0.0"}, "nothing was refused: the injection hit nothing")

    async def again(self, body: bytes, where: str) -> None:
        """It recovers by itself: within seconds a message is taken."""
        for _ in range(100):
            token = await self.send(body)
            if self.replies[token][:3] == b"250":
                return
            await deferLater(self.reactor, 0.05)
        self.fail(f"it does not recover: {where}")

    async def test_no_space(self) -> None:
        await self.failing_at_each_call("ENOSPC", WRITES, await self.count(), SMALL)

    async def test_no_space_for_pieces(self) -> None:
        calls = await self.count(LARGE)
        await self.failing_at_each_call("ENOSPC", ("pwrite64",), Counter(pwrite64=min(calls["pwrite64"], 12)), LARGE)

    async def test_writes_that_fail(self) -> None:
        await self.failing_at_each_call("EIO", WRITES, await self.count(), SMALL)

    async def test_syncs_that_fail(self) -> None:
        await self.failing_at_each_call("EIO", SYNCS, await self.count(), SMALL)


class LoadTests(CrashCase):
    """The process is killed under load, again and again. ROUNDS=50 is the long run."""

    clients = 10
    stopping = False

    async def client(self) -> None:
        while not self.stopping:
            try:
                client = await connect(self.reactor, f"tcp://127.0.0.1:{self.port}")
            except Exception:  # nobody listens just now
                await deferLater(self.reactor, 0.02)
                continue
            try:
                await client.reply()
                await client.command(b"EHLO client.test")
                while not self.stopping:
                    self.number += 1
                    token = f"t{self.number}"
                    self.replies[token] = b""
                    answers = await client.deliver(b"a@client.test", [RECIPIENT], message(token))
                    self.replies[token] = answers[-1]
            except ConnectionEnded:
                pass
            finally:
                await client.close()

    async def test_killed_again_and_again(self) -> None:
        rounds = int(os.environ.get("ROUNDS", "10"))
        chance = random.Random(rounds)
        await self.start()
        clients = [spawn(self.client()) for _ in range(self.clients)]
        for _ in range(rounds):
            await deferLater(self.reactor, chance.uniform(0.3, 2.5))
            assert self.gateway is not None
            await self.gateway.kill()
            await self.start()
        self.stopping = True
        await DeferredList(clients, fireOnOneErrback=True, consumeErrors=True)
        await self.drained()
        copies = self.delivered
        accepted = [token for token, reply in self.replies.items() if reply[:1] == b"2"]
        twice = sum(count - 1 for count in copies.values() if count > 1)
        in_flight = 20  # deliveries at once to one destination
        print(f"\n{rounds} kills, {len(accepted)} accepted, {len(copies)} arrived, {twice} copies too many")
        self.assertEqual([token for token in accepted if not copies[token]], [], "lost")
        self.assertEqual([token for token, reply in self.replies.items() if reply[:1] in (b"4", b"5") and copies[token]], [])
        self.assertEqual([token for token in copies if token not in self.replies], [])
        self.assertLessEqual(twice, rounds * in_flight)
        self.assertGreater(len(accepted), rounds)
