"""One destination is dead and ten thousand messages wait for it: the others do not notice.

Simulated time: what is measured is what the queue makes a message wait, not what the machine does. The file of the queue is real.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mailgate.testing.gateway import WholeGateway
from mailgate.testing.names import MemoryNames
from mailgate.testing.network import EPOCH, SimulatedReactor, adapters_for
from mailgate.testing.nexthop import Action, Connection, NextHop, Step
from tests.support.ledger import message
from tests.support.queue_files import Crowd
from tests.support.scenario import SMTP, SimulatedCase

WAITING = 10_000
MESSAGES = 600
EVERY = 0.05
"""Seconds between two messages."""
DOMAINS = 5
GROWS_AT_MOST = 1.1
MOST_DIALLED = 60
"""Twenty at once at first, then one after the other, each time later."""
DEAD = "192.0.2.66"


@pytest.mark.slow
class FairnessTests(SimulatedCase):
    def setUp(self) -> None:
        super().setUp()
        self.lay_out()

    def lay_out(self) -> None:
        self.reactor = SimulatedReactor(self.seed, latency=(0.002, 0.04))
        self.names = MemoryNames(self.reactor)
        self.accepted: dict[bytes, float] = {}
        self.took: list[float] = []

    def hear(self, step: Step, connection: Connection, line: bytes) -> Action | None:
        if step is Step.DOT:
            (path,) = connection.transactions[-1].paths
            self.took.append(self.reactor.seconds() - self.accepted[path])
        return None

    def start(self) -> WholeGateway:
        for number in range(DOMAINS):
            address = f"192.0.2.{number + 1}"
            self.names.add(f"d{number}.test", "A", address)
            hop = NextHop(script=self.hear)
            hop.listen(self.reactor, port=25, interface=address)
            self.hops.append(hop)
        self.names.add("dead.test", "A", DEAD)
        text = (
            "hostname gateway.test\ntarget.remote direct\n"
            "target.queue outbound {\n    target &direct\n    bounce {\n        discard\n    }\n}\n"
            f"smtp {SMTP} {{\n    tls off\n    reverse_lookup no\n    deliver_to &outbound\n}}\n"
        )
        adapters = replace(adapters_for(self.reactor), resolver=self.names.resolver())
        self.running = WholeGateway(text, adapters, self.directory)
        self.reactor.run(self.running.start())
        return self.running

    def percentile(self) -> float:
        """Of the seconds from our 250 to the next hop's, over so many messages."""
        client = self.client()
        for number in range(MESSAGES):
            recipient = b"r%d@d%d.test" % (number, number % DOMAINS)
            self.accepted[recipient] = self.reactor.seconds()
            replies = self.deliver(client, recipient, content=message("fair"))
            self.assertEqual(replies[-1][:3], b"250")
            self.accepted[recipient] = self.reactor.seconds()
            self.reactor.settle(EVERY)
        self.reactor.run(client.quit())
        self.reactor.settle(60)
        self.assertEqual(len(self.took), MESSAGES)
        return sorted(self.took)[MESSAGES * 99 // 100]

    def test_the_others_do_not_notice(self) -> None:
        """Dead is: nobody answers at all, so that attempts last, or connections are refused."""
        self.start()
        alone = self.percentile()
        for dies in (SimulatedReactor.black_hole, SimulatedReactor.refuse):
            with self.row(dies.__name__):
                self.lay_out()
                dies(self.reactor, DEAD, 25)
                crowd = Crowd(
                    WAITING,
                    "direct",
                    [("dead.test", "rcpt@dead.test")],
                    arrived=lambda at: EPOCH - 3600 * (1 - at),
                    due=lambda at: EPOCH,
                )
                crowd.write(Path(self.directory) / "queue" / "outbound" / "1.sqlite")
                self.start()
                beside = self.percentile()
                dialled = sum(key == (DEAD, 25) for _, key in self.reactor.connects)
                print(
                    f"\np99 of {MESSAGES} messages: {alone:.3f} s alone, {beside:.3f} s beside {WAITING:,} for a dead destination"
                    f" ({dies.__name__}), which was dialled {dialled} times in {self.reactor.seconds():.0f} s"
                )
                self.assertLess(beside, GROWS_AT_MOST * alone)
                self.assertTrue(0 < dialled <= MOST_DIALLED, dialled)
