"""The cache on a simulated clock: how long what is kept, and how much."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.dns.answer import Answer, Status
from mailgate.dns.cache import EXPANSION, MAX_FAILURE, OVERHEAD, Cache, lifetime
from mailgate.dns.failure import ServerFailure, Timeout


def answer(expires: float, size: int = 100) -> Answer:
    return Answer("a.test", "A", Status.FOUND, ("x",), "a.test", False, expires, False, size)


class CacheTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.cache = Cache(1 << 20, self.clock.seconds)

    def test_an_answer_is_kept_until_it_expires(self) -> None:
        kept = answer(10.0)
        self.cache.keep("a", kept)
        self.clock.advance(9.9)
        self.assertIs(self.cache.get("a"), kept)
        self.clock.advance(0.1)
        self.assertIsNone(self.cache.get("a"))

    def test_what_expires_now_is_not_kept(self) -> None:
        self.cache.keep("a", answer(0.0))
        self.assertEqual((len(self.cache), self.cache.size), (0, 0))

    def test_lifetimes_are_bounded(self) -> None:
        for status, ttl, expected in (
            (Status.FOUND, 300.0, 300.0),
            (Status.FOUND, 2.0**31, 86400.0),
            (Status.FOUND, float("inf"), 86400.0),
            (Status.NODATA, 86400.0, 10800.0),
            (Status.NXDOMAIN, 60.0, 60.0),
            (Status.NXDOMAIN, 0.0, 0.0),
        ):
            self.assertEqual(lifetime(status, ttl), expected, (status, ttl))

    def test_failures_back_off_and_end(self) -> None:
        lengths = []
        for _ in range(9):
            self.cache.keep_failure("a", ServerFailure("a.test", "A", "SERVFAIL"))
            start = self.clock.seconds()
            while self.cache.get("a") is not None:
                self.clock.advance(0.5)
            lengths.append(self.clock.seconds() - start)
        self.assertEqual(lengths, [1, 2, 4, 8, 16, 32, 60, 60, 60])

    def test_a_failure_long_ago_is_forgotten(self) -> None:
        for _ in range(4):
            self.cache.keep_failure("a", Timeout("a.test", "A", "no answer"))
        self.clock.advance(8 + MAX_FAILURE)
        self.cache.keep_failure("a", Timeout("a.test", "A", "no answer"))
        self.clock.advance(1.0)
        self.assertIsNone(self.cache.get("a"))

    def test_an_answer_ends_the_row_of_failures(self) -> None:
        for _ in range(4):
            self.cache.keep_failure("a", Timeout("a.test", "A", "no answer"))
        self.cache.keep("a", answer(5.0))
        self.assertIsInstance(self.cache.get("a"), Answer)
        self.cache.keep_failure("a", Timeout("a.test", "A", "no answer"))
        self.clock.advance(1.0)
        self.assertIsNone(self.cache.get("a"))

    def test_what_was_not_asked_for_longest_goes_first(self) -> None:
        cost = OVERHEAD + EXPANSION * 100
        cache = Cache(3 * cost, self.clock.seconds)
        for key in "abc":
            cache.keep(key, answer(100.0))
        cache.get("a")
        cache.keep("d", answer(100.0))
        self.assertEqual([key for key in "abcd" if cache.get(key) is not None], ["a", "c", "d"])
        self.assertEqual(cache.size, 3 * cost)

    def test_an_answer_larger_than_the_cache_is_not_kept(self) -> None:
        cache = Cache(10_000, self.clock.seconds)
        cache.keep("a", answer(100.0, 65535))
        self.assertEqual((len(cache), cache.size), (0, 0))

    def test_a_cache_of_nothing(self) -> None:
        cache = Cache(0, self.clock.seconds)
        cache.keep("a", answer(100.0))
        cache.keep_failure("b", Timeout("b.test", "A", "no answer"))
        self.assertIsNone(cache.get("a") or cache.get("b"))

    def test_one_key_is_counted_once(self) -> None:
        for size in (10, 500, 20):
            self.cache.keep("a", answer(100.0, size))
        self.assertEqual(self.cache.size, OVERHEAD + EXPANSION * 20)
        self.cache.clear()
        self.assertEqual(self.cache.size, 0)
