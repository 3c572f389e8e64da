"""What is kept of answers, and that a key is asked for once at a time."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.clients.cache import Cache
from mailgate.net.waiting import Wait, spawn


class CacheTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.cache: Cache[tuple[str, ...]] = Cache(self.clock.seconds, size=2, found=60, missing=10)
        self.asked: list[tuple[str, Deferred[tuple[str, ...]]]] = []

    async def ask(self, key: str) -> tuple[str, ...]:
        answer: Deferred[tuple[str, ...]] = Deferred()
        self.asked.append((key, answer))
        return await answer

    def get(self, key: str) -> Any:
        return self.cache.get(key, self.ask)

    def settle(self, key: str, *values: str) -> None:
        wait = self.get(key)
        self.assertIsInstance(wait, Wait)
        self.asked[-1][1].callback(values)
        self.assertEqual(wait.result(), values)

    def test_an_answer_is_kept_for_its_time(self) -> None:
        for values, seconds in ((("x",), 60), ((), 10)):
            self.settle("key", *values)
            self.clock.advance(seconds - 1)
            self.assertEqual(self.get("key"), values)
            self.clock.advance(1)
            self.settle("key", *values)
            self.clock.advance(100)

    def test_a_key_is_asked_for_once_at_a_time(self) -> None:
        waits = [self.get("key") for _ in range(3)]
        self.assertEqual(len(self.asked), 1)
        self.asked[0][1].callback(("x",))
        self.assertEqual([wait.result() for wait in waits], [("x",)] * 3)

    def test_who_goes_takes_nobody_along(self) -> None:
        gone, stays = spawn(_settled(self.get("key"))), self.get("key")
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.asked[0][1].callback(("x",))
        self.assertEqual(stays.result(), ("x",))
        self.assertEqual(self.get("key"), ("x",))

    def test_a_failure_is_told_to_all_and_not_kept(self) -> None:
        waits = [self.get("key") for _ in range(2)]
        self.asked[0][1].errback(OSError("down"))
        for wait in waits:
            self.assertRaises(OSError, wait.result)
        self.settle("key", "x")

    def test_the_one_not_asked_for_longest_goes_first(self) -> None:
        self.settle("a", "1")
        self.settle("b", "2")
        self.get("a")
        self.settle("c", "3")
        self.assertEqual((self.get("a"), self.get("c"), len(self.cache)), (("1",), ("3",), 2))
        self.settle("b", "2")


async def _settled(wait: Any) -> Any:
    return await wait
