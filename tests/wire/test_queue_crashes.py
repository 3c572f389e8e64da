"""What the queue promises, at every system call: the process dies there, or the disk says no.

One message is accepted and delivered, again and again; at each run another call is the one that fails: of each thread and each
kind of call the first, the second, and so on, until runs have no such call any more. So every point that there is is reached,
though no run has exactly the calls of another. I1 to I3 are counted over all of it: what was answered 250 is delivered, what was
refused is not, and nothing is doubled but where an answer was lost.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import DeferredList
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from mailgate.net.waiting import spawn
from mailgate.testing.client import ConnectionEnded, connect
from mailgate.testing.nexthop import NextHop
from tests.support.crashing import FILES, LOOP, ForkedGateway, Tracer, needs_strace, rows_left, until
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
CRASH_AT=all in the environment it dies at every call all the same."""
SYNCS = ("fdatasync", "fsync")
MISSES = 2
"""Runs in a row that end before call number N: then there is no such call."""


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

    async def trace(self, role: str, *options: str) -> Tracer:
        assert self.gateway is not None
        tracer = Tracer(self.strace, self.gateway, role, *options)
        await until(self.reactor, lambda: tracer.is_there, "strace is there")
        return tracer

    async def kinds(self, role: str, body: bytes = SMALL) -> Counter[str]:
        """The system calls that a thread makes for one accept and one delivery."""
        gateway = await self.start()
        tracer = await self.trace(role)
        token = await self.send(body)
        self.assertEqual(self.replies[token][:3], b"250", self.replies)
        await self.drained()
        await gateway.quiet()
        tracer.stop()
        await gateway.kill()
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
    async def killed_at(self, role: str, name: str, number: int, body: bytes) -> bool:
        """Send a message; whether the gateway died at that call. It is dead afterwards in any case."""
        gateway = await self.start()
        tracer = await self.trace(role, "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}")
        token = await self.send(body)
        self.killed.add(token)
        await until(self.reactor, lambda: not gateway.is_alive or not any(rows_left(self.file).values()), f"{name} {number}")
        await gateway.quiet()
        killed = not gateway.is_alive
        await gateway.kill()
        tracer.stop()
        if not killed:
            self.assertLess(tracer.calls[name], number, f"{name} number {number} did not kill the {role}")
        return killed

    async def killed_at_each_call(self, role: str, body: bytes, names: Collection[str] | None, step: int = 1) -> None:
        """``step`` 2 is every second call of each kind."""
        reached: Counter[str] = Counter()
        kinds = await self.kinds(role, body) + await self.kinds(role, body)
        for name in sorted(kinds if names is None else kinds.keys() & names):
            misses = 0
            while misses < MISSES:
                killed = await self.killed_at(role, name, reached[name] * step + 1, body)
                reached[name] += killed
                misses = 0 if killed else misses + 1
                await self.start()
                await self.drained()
                await self.finish()
                self.assertEqual(self.problems(), [], f"the {role} was killed at {name} number {reached[name]}")
        doubled = sum(self.delivered[token] > 1 for token in self.killed)
        print(f"\n{role}: killed at each of {reached.total()} calls: {dict(reached)}; {doubled} of {len(self.killed)} came twice")
        self.assertGreater(reached.total(), 0)

    async def test_small_message(self) -> None:
        names = None if os.environ.get("CRASH_AT") == "all" else EFFECTS
        for role in (LOOP, FILES):
            await self.killed_at_each_call(role, SMALL, names)

    async def test_large_message_at_each_sync_and_some_writes(self) -> None:
        await self.killed_at_each_call(FILES, LARGE, SYNCS)
        await self.killed_at_each_call(FILES, LARGE, ["pwrite64"], step=31)


class DiskTests(CrashCase):
    """The call fails once, or from then on until the disk is well again; the same process goes on."""

    async def failing_at_each_call(self, error: str, names: Collection[str], body: bytes, most: int = 1 << 20) -> None:
        kinds = await self.kinds(FILES, body)
        heard: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        await self.start()
        for name in sorted(kinds.keys() & names):
            misses = 0
            number = 1
            while misses < MISSES and number <= most:
                hit = await self.fails_at(name, number, error, body, heard)
                misses = 0 if hit else misses + 1
                failed[name] += hit
                number += hit
        print(f"\n{error} at each of {failed.total()} calls, once and from then on: {dict(failed)}; answers {dict(heard)}")
        self.assertLessEqual(set(heard), {"250 2.0.0", "451 4.3.0", "452 4.3.1"})
        self.assertTrue(set(heard) - {"250 2.0.0"}, "nothing was refused: the injection hit nothing")

    async def fails_at(self, name: str, number: int, error: str, body: bytes, heard: Counter[str]) -> bool:
        """Whether there was such a call."""
        gateway = self.gateway
        assert gateway is not None
        hits = 0
        for more in ("", "+"):
            where = f"inject={name}:error={error}:when={number}{more}"
            tracer = await self.trace(FILES, "-e", f"trace={name}", "-e", where)
            token = await self.send(body)
            heard[self.replies[token][:9].decode()] += 1
            await gateway.quiet()
            tracer.stop()
            hits += tracer.injected > 0
            self.assertTrue(gateway.is_alive, where)
            await self.again(body, where)
            await self.drained()
            self.assertEqual(self.problems(), [], where)
        return hits > 0

    async def test_killed_right_after_a_sync_that_failed(self) -> None:
        """The transaction lies there whole, and its client was refused: the next process must not deliver it."""
        refused = 0
        for number in range(1, (await self.kinds(FILES))["fdatasync"] + 1):
            gateway = await self.start()
            tracer = await self.trace(FILES, "-e", "trace=fdatasync", "-e", f"inject=fdatasync:error=EIO:when={number}+")
            token = await self.send()
            self.killed.add(token)
            refused += self.replies[token][:3] == b"451"
            await gateway.kill()
            tracer.stop()
            await self.start()
            await self.drained()
            await self.finish()
            self.assertEqual(self.problems(), [], number)
        print(f"\nkilled after a sync that failed: {refused} refused, none of them came")
        self.assertGreater(refused, 0)

    async def again(self, body: bytes, where: str) -> None:
        """It recovers by itself: within seconds a message is taken."""
        for _ in range(100):
            token = await self.send(body)
            if self.replies[token][:3] == b"250":
                return
            await deferLater(self.reactor, 0.05)
        self.fail(f"it does not recover: {where}")

    async def test_no_space(self) -> None:
        await self.failing_at_each_call("ENOSPC", WRITES, SMALL)

    async def test_no_space_for_pieces(self) -> None:
        await self.failing_at_each_call("ENOSPC", ["pwrite64"], LARGE, most=12)

    async def test_writes_that_fail(self) -> None:
        await self.failing_at_each_call("EIO", WRITES, SMALL)

    async def test_syncs_that_fail(self) -> None:
        await self.failing_at_each_call("EIO", SYNCS, SMALL)


class LoadTests(CrashCase):
    """The process is killed under load, again and again, until enough was accepted. ROUNDS=50 is the long run."""

    clients = 20
    accepted_each = 400
    """Messages for each round, at least."""
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

    def accepted(self) -> int:
        return sum(reply[:1] == b"2" for reply in self.replies.values())

    async def test_killed_again_and_again(self) -> None:
        rounds = int(os.environ.get("ROUNDS", "10"))
        chance = random.Random(rounds)
        await self.start()
        clients = [spawn(self.client()) for _ in range(self.clients)]
        kills = 0
        while kills < rounds or self.accepted() < rounds * self.accepted_each:
            await deferLater(self.reactor, chance.uniform(0.3, 2.5))
            assert self.gateway is not None
            await self.gateway.kill()
            await self.start()
            kills += 1
        self.stopping = True
        await DeferredList(clients, fireOnOneErrback=True, consumeErrors=True)
        await self.drained()
        copies = self.delivered
        accepted = [token for token, reply in self.replies.items() if reply[:1] == b"2"]
        self.assertGreaterEqual(len(accepted), rounds * self.accepted_each)
        twice = sum(count - 1 for count in copies.values() if count > 1)
        in_flight = 20  # deliveries at once to one destination
        print(f"\n{kills} kills, {len(accepted)} accepted, {len(copies)} arrived, {twice} copies too many")
        self.assertEqual([token for token in accepted if not copies[token]], [], "lost")
        self.assertEqual([token for token, reply in self.replies.items() if reply[:1] in (b"4", b"5") and copies[token]], [])
        self.assertEqual([token for token in copies if token not in self.replies], [])
        self.assertLessEqual(twice, kills * in_flight)
