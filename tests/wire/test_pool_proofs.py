"""Proofs about pools: endpoints that die, flap, hang, crawl and come back, and connections that close while nobody looks.

Most are on the simulated clock; the ones marked slow take minutes, or real time, and print the figures of docs/reliability.md:

    pytest -m slow -s tests/wire/test_pool_proofs.py
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgate.net.waiting import spawn
from mailgate.testing.client import RawClient, connect
from mailgate.testing.network import SimulatedReactor
from mailgate.testing.nexthop import DROP, HANG, RESET, Action, NextHop, Step, say
from mailgate.testing.script import Connection
from tests.outbound.support import Observed, deliver, endpoint_settings, make_hops, timeouts
from tests.support.ledger import message
from tests.support.ports import free_port
from tests.support.process import GatewayProcess
from tests.support.scenario import SimulatedCase

DELAY = 2.0
"""Seconds that each answer of a slow next hop takes."""


class _SlowTransport:
    """Says everything later, in order; closes behind that."""

    def __init__(self, transport: Any, clock: Any) -> None:
        self._transport = transport
        self._clock = clock

    def write(self, data: bytes) -> None:
        self._clock.callLater(DELAY, self._transport.write, data)

    def loseConnection(self) -> None:
        self._clock.callLater(DELAY, self._transport.loseConnection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class SlowNextHop(NextHop):
    def buildProtocol(self, addr: Any) -> Any:
        peer = super().buildProtocol(addr)
        made = peer.makeConnection
        peer.makeConnection = lambda transport: made(_SlowTransport(transport, self.reactor))  # type: ignore[method-assign]
        return peer


class EndpointProofs(SimulatedCase):
    """Through a whole gateway: what the client hears, and how long it waits for it."""

    def send(self) -> tuple[bytes, float]:
        """One message by a client of its own: the refusal, or the last reply; and how long all of them took."""
        client = self.client()
        began = self.reactor.seconds()
        replies = self.deliver(client, b"r@y.test")
        seconds = self.reactor.seconds() - began
        client.drop()
        return next((reply for reply in replies if reply[:1] in (b"4", b"5")), replies[-1]), seconds

    def test_a_dead_first_endpoint_costs_its_time_once(self) -> None:
        for dead in (self.reactor.black_hole, self.reactor.refuse):
            with self.row(dead.__name__):
                first, second = self.hop(), self.hop()
                getattr(self.reactor, dead.__name__)("127.0.0.1", first.port)
                self.relay(first, second)
                waits = []
                for _ in range(20):
                    reply, seconds = self.send()
                    self.assertEqual(reply[:3], b"250")
                    waits.append(seconds)
                self.assertLess(waits[0], 3.5)
                self.assertLess(max(waits[1:]), 0.1)
                dialled = [at for at, address in self.reactor.connects if address == ("127.0.0.1", first.port)]
                self.assertEqual(len(dialled), 1)

    def test_a_flapping_endpoint_disturbs_nobody(self) -> None:
        """Up and down every seven seconds for ten minutes; a message each half second."""
        first, second = self.hop(), self.hop()
        gateway = self.relay(first, second)
        for number in range(1200):
            if number % 14 == 0:
                if number % 28:
                    self.reactor.heal("127.0.0.1", first.port)
                else:
                    self.reactor.refuse("127.0.0.1", first.port)
                    first.drop_connections()
            reply, seconds = self.send()
            self.assertEqual(reply[:3], b"250", number)
            self.assertLess(seconds, 0.1, number)
            self.reactor.settle(0.5)
        self.assertEqual(len(first.transactions) + len(second.transactions), 1200)
        self.assertGreater(len(first.transactions), 0)
        failed = [line for line in gateway.logged("delivery.attempt") if "stage=connect" in line]
        self.assertLess(len(failed), 90, "it is tried as often as its back-off allows")

    def test_a_slow_endpoint_gets_little_where_the_least_busy_is_asked(self) -> None:
        slow, fast = SlowNextHop().listen(self.reactor), self.hop()
        self.hops.append(slow)
        self.relay(slow, fast, target="    balance least_busy\n")
        clients = [self.client() for _ in range(10)]
        sending = [spawn(self.sends(one, 30)) for one in clients]
        heard = self.reactor.run(gatherResults(sending), limit=3600)
        self.assertEqual({reply for replies in heard for reply in replies}, {b"250"})
        self.assertLess(len(slow.transactions), 60)
        self.assertEqual(len(slow.transactions) + len(fast.transactions), 300)

    async def sends(self, client: RawClient, count: int) -> list[bytes]:
        final = []
        for _ in range(count):
            replies = await client.deliver(b"sender@client.test", [b"r@y.test"], message("m"))
            final.append(replies[-1][:3])
            await deferLater(self.reactor, 0.05)
        return final

    def test_a_black_hole_in_the_middle_of_the_day(self) -> None:
        """The host vanishes: idle connections are dead without a word, new ones are not answered."""
        gone: list[bool] = []
        first = self.hop(script=lambda step, connection, line: HANG if gone and step is Step.MAIL else None)
        second = self.hop()
        self.relay(first, second, target="    command_timeout 20s\n")
        clients = [spawn(self.sends(self.client(), 1)) for _ in range(5)]
        self.reactor.run(gatherResults(clients))
        self.assertEqual(len(first.connections), 5)
        self.reactor.black_hole("127.0.0.1", first.port)
        gone.append(True)
        waits = []
        for _ in range(20):
            reply, seconds = self.send()
            self.assertEqual(reply[:3], b"250")
            waits.append(seconds)
        self.assertLess(max(waits), 21)
        self.assertLess(sum(seconds > 0.1 for seconds in waits), 3)

    def test_all_down_is_451_within_the_budget_and_back_again_mail_flows(self) -> None:
        for dead, budget in ((self.reactor.refuse, 1.0), (self.reactor.black_hole, 31.0)):
            with self.row(dead.__name__):
                hops = [self.hop() for _ in range(3)]
                self.relay(*hops, target="    failover {\n        total 30s\n    }\n")
                self.assertEqual(self.send()[0][:3], b"250")
                for hop in hops:
                    getattr(self.reactor, dead.__name__)("127.0.0.1", hop.port)
                    hop.drop_connections()
                self.reactor.settle(1)
                for _ in range(20):
                    reply, seconds = self.send()
                    self.assertEqual(reply[:9], b"451 4.4.1", reply)
                    self.assertLess(seconds, budget)
                    self.reactor.settle(30)
                for hop in hops:
                    self.reactor.heal("127.0.0.1", hop.port)
                back = self.reactor.seconds()
                while self.send()[0][:3] != b"250":
                    self.reactor.settle(1)
                self.assertLess(self.reactor.seconds() - back, 10)


WAYS: list[Action] = [DROP, RESET, say(b"421 4.4.2 idle", then_drop=True), say(b"421 4.4.2 idle")]


class RestlessNextHop(NextHop):
    """Closes half of its connections within 30 ms after a message, one way or another."""

    def __init__(self, clock: Any, seed: int) -> None:
        self._clock = clock
        self._chance = random.Random(seed)
        self.closed = 0
        self.forgotten = 0
        self._answered: dict[Connection, float] = {}
        super().__init__(script=self._act)

    @property
    def idle_delay(self) -> float:  # type: ignore[override]
        return self._chance.uniform(0.005, 0.03)

    @idle_delay.setter
    def idle_delay(self, seconds: float) -> None: ...

    def _act(self, step: Step, connection: Connection, line: bytes) -> Action | None:
        now = self._clock.seconds()
        if step is Step.DOT:
            self._answered[connection] = now
        if step is not Step.IDLE or self._chance.random() < 0.5 or now - self._answered.get(connection, 0.0) < 0.005:
            return None  # a reset any sooner destroys the answer to the dot, which is not a connection that is idle
        self.closed += 1
        return self._chance.choice(WAYS)

    def forget(self) -> None:
        """What was counted: or memory is what is measured."""
        self.forgotten += len(self.transactions)
        self.transactions.clear()
        del self.connections[:-100]
        self._answered.clear()


class _IdleCloses:
    """Connections that the next hop closes while they are idle, also in the very moment they are used again."""

    def __init__(self, clock: Any, count: int, seed: int) -> None:
        self.clock = clock
        self.count = count
        self.codes: Counter[int] = Counter()
        self.observed = Observed()
        self.hop = RestlessNextHop(clock, seed).listen(clock)
        self.engine = make_hops(clock, endpoint_settings(self.hop.endpoint, timeouts=timeouts()), observed=self.observed)
        self._chance = random.Random(seed)

    def run(self) -> Any:
        """Six at once."""
        return gatherResults([spawn(self._send(self.count // 6)) for _ in range(6)])

    async def _send(self, count: int) -> None:
        for _ in range(count):
            heard, replies = await deliver(self.engine)
            self.codes[(replies or heard)[-1].code] += 1
            await deferLater(self.clock, self._chance.uniform(0, 0.03))
            if len(self.hop.transactions) > 5000:
                self.hop.forget()  # type: ignore[attr-defined]
                self.observed.events.clear()

    def check(self, test: Any) -> str:
        hop: Any = self.hop
        hop.forget()
        test.assertEqual((dict(self.codes), hop.forgotten), ({250: self.count}, self.count))
        test.assertGreater(hop.closed, self.count // 10)
        circuit = self.engine.endpoints[0].circuit
        test.assertEqual((circuit.closed, list(circuit.evidence)), (True, []), "it is nobody's failure")
        return f"\nidle closes: {self.count} messages, {hop.closed} connections closed under them, 0 errors"


class IdleCloseProof(SynchronousTestCase):
    def closes(self, count: int, seed: int) -> str:
        network = SimulatedReactor(seed)
        proof = _IdleCloses(network, count, seed)
        network.run(proof.run(), limit=1e9)
        return proof.check(self)

    def test_no_client_hears_of_it(self) -> None:
        for seed in range(3):
            self.closes(600, seed)

    @pytest.mark.proof
    def test_a_hundred_thousand_messages(self) -> None:
        print(self.closes(100_002, 7), "(simulated)")


@pytest.mark.proof
class IdleCloseOverSocketsProof(TestCase):
    timeout = 300

    async def test_over_sockets(self) -> None:
        proof = _IdleCloses(reactor, 6000, 11)
        self.addCleanup(proof.hop.close)
        self.addCleanup(proof.engine.pool.close)
        await proof.run()
        print(proof.check(self), "(sockets)")


@pytest.mark.proof
class KilledUnderLoad(TestCase):
    """A gateway process of its own, four next hops on sockets, clients at a steady rate; two of the four are killed."""

    CLIENTS = 8
    PAUSE = 0.08
    NOISE = 0.025
    """Seconds of p99 that a machine with other work may add: below, twice as much says nothing."""

    timeout = 120

    async def test_half_of_a_pool_is_killed(self) -> None:
        hops = [NextHop().listen(reactor) for _ in range(4)]
        for hop in hops:
            self.addCleanup(hop.close)
        port = free_port()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        config = Path(directory.name) / "mailgate.conf"
        endpoints = " ".join(hop.endpoint for hop in hops)
        config.write_text(
            f"hostname gateway.test\nstate_dir {directory.name}\nruntime_dir {directory.name}\n"
            f"target.smtp pool {{\n    targets {endpoints}\n    balance round_robin\n    tls disabled\n}}\n"
            f"smtp tcp://127.0.0.1:{port} {{\n    tls off\n    deliver_to &pool\n}}\n"
        )
        gateway = GatewayProcess(config)
        self.addCleanup(gateway.kill)
        gateway.wait_until_ready()
        self.results: list[tuple[float, float, bytes]] = []
        self.stopped = False
        clients = [spawn(self.load(port)) for _ in range(self.CLIENTS)]
        await deferLater(reactor, 6)
        killed = reactor.seconds()  # type: ignore[attr-defined]
        for hop in hops[:2]:
            await hop.stop_listening()
            hop.drop_connections()
        await deferLater(reactor, 15)
        self.stopped = True
        await gatherResults(clients)
        before = [seconds for at, seconds, _ in self.results if killed - 5 < at < killed]
        after = [seconds for at, seconds, _ in self.results if at > killed + 10]
        unknown = [reply for _, _, reply in self.results if reply.startswith(b"451 4.4.2")]
        errors = [reply for _, _, reply in self.results if reply[:3] != b"250" and reply not in unknown]
        self.assertEqual(errors, [])
        # An answer to the final dot that died with its host can't be had elsewhere: at most those in flight.
        self.assertLessEqual(len(unknown), self.CLIENTS)
        self.assertLess(p99(after), max(2 * p99(before), self.NOISE), (p99(before), p99(after)))
        self.assertGreater(min(len(hop.transactions) for hop in hops[2:]), 100)
        worst = max(seconds for at, seconds, _ in self.results if killed <= at)
        print(
            f"\nhalf of a pool killed: {len(self.results)} messages, {len(errors)} errors, {len(unknown)} unknown outcomes;"
            f" p99 {p99(before) * 1000:.1f} ms before, {p99(after) * 1000:.1f} ms after 10 s, worst {worst * 1000:.0f} ms"
        )

    async def load(self, port: int) -> None:
        client = await connect(reactor, f"tcp://127.0.0.1:{port}")
        await client.reply()
        await client.command(b"EHLO client.test")
        while not self.stopped:
            began = reactor.seconds()  # type: ignore[attr-defined]
            replies = await client.deliver(b"sender@client.test", [b"r@y.test"], message("m"))
            refused = next((reply for reply in replies if reply[:1] in (b"4", b"5")), replies[-1])
            self.results.append((began, reactor.seconds() - began, refused))  # type: ignore[attr-defined]
            await deferLater(reactor, self.PAUSE)
        await client.quit()


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]
