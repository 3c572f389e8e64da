"""The memory of addresses whose opportunistic TLS is broken: bounded, and not for ever."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.outbound.tls_memory import KEPT, MOST, BrokenTls


class BrokenTlsTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.memory = BrokenTls(self.clock.seconds)

    def test_known_until_its_time_is_over(self) -> None:
        self.memory.remember("192.0.2.1", "reset")
        self.clock.advance(KEPT - 1)
        self.assertEqual((self.memory.reason("192.0.2.1"), self.memory.reason("192.0.2.2")), ("reset", ""))
        self.clock.advance(1)
        self.assertEqual(self.memory.reason("192.0.2.1"), "")

    def test_the_oldest_is_forgotten_when_there_are_too_many(self) -> None:
        for number in range(MOST):
            self.memory.remember(str(number), "x")
        self.memory.remember("0", "again")
        self.memory.remember("one more", "x")
        self.assertEqual((self.memory.reason("1"), self.memory.reason("0")), ("", "again"))
