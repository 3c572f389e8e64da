"""Token buckets: how much passes in any stretch of time, and that memory is bounded."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.limits.buckets import Buckets

STEPS = st.lists(st.floats(min_value=0, max_value=30), max_size=60)


def passed(buckets: Buckets, times: list[float], patience: float = 0.0) -> list[float]:
    """When each of those may go ahead who are let in."""
    found = [(at, buckets.take("k", at, patience)) for at in times]
    return sorted(at + wait for at, wait in found if wait >= 0)


def running(steps: list[float], start: float) -> list[float]:
    times = []
    for step in steps:
        start += step
        times.append(start)
    return times


class RateTests(SynchronousTestCase):
    def test_a_full_bucket_is_a_burst_and_then_one_at_a_time(self) -> None:
        buckets = Buckets(3, 60.0, 1000.0)
        self.assertEqual([buckets.take("k", 1000.0) for _ in range(4)], [0.0, 0.0, 0.0, -1.0])
        self.assertEqual(buckets.take("k", 1019.0), -1.0)
        self.assertEqual([buckets.take("k", 1020.0) for _ in range(2)], [0.0, -1.0])
        self.assertEqual([buckets.take("k", 1060.0) for _ in range(3)], [0.0, 0.0, -1.0])

    def test_keys_do_not_share(self) -> None:
        buckets = Buckets(1, 60.0, 0.0)
        self.assertEqual([buckets.take(key, 0.0) for key in ("a", "b", "a")], [0.0, 0.0, -1.0])

    def test_those_who_wait_go_one_after_the_other(self) -> None:
        buckets = Buckets(1, 2.0, 0.0)
        self.assertEqual([buckets.take("k", 0.0, 5.0) for _ in range(4)], [0.0, 2.0, 4.0, -1.0])

    def test_what_is_given_back_is_there_again(self) -> None:
        buckets = Buckets(1, 60.0, 0.0)
        buckets.take("k", 0.0)
        buckets.give_back("k")
        self.assertEqual(buckets.take("k", 0.0), 0.0)

    def test_looking_takes_nothing(self) -> None:
        buckets = Buckets(1, 60.0, 0.0)
        self.assertEqual([buckets.wait("k", 0.0) for _ in range(3)], [0.0, 0.0, 0.0])
        buckets.take("k", 0.0)
        self.assertEqual(buckets.wait("k", 15.0), 45.0)

    def test_a_thousand_a_second_are_a_thousand(self) -> None:
        """Sums of floats at the size of the wall's clock."""
        buckets = Buckets(1000, 1.0, 1.7e9)
        self.assertEqual(sum(buckets.take("k", 1.7e9) == 0.0 for _ in range(1100)), 1000)

    def test_a_clock_that_jumps_back_shuts_nobody_out(self) -> None:
        buckets = Buckets(2, 10.0, 5000.0)
        for _ in range(2):
            buckets.take("k", 5000.0)
        self.assertEqual(buckets.take("k", 1000.0), -1.0)
        self.assertEqual(buckets.take("k", 1005.0), 0.0)
        self.assertEqual(buckets.take("new", 1000.0), 0.0)

    @settings(max_examples=100)
    @given(steps=STEPS, count=st.integers(1, 20), period=st.floats(0.5, 100), start=st.floats(0, 2e9))
    def test_never_more_than_a_bucket_and_what_flows_in(
        self, steps: list[float], count: int, period: float, start: float
    ) -> None:
        going = passed(Buckets(count, period, start), running(steps, start))
        for first, begin in enumerate(going):
            for last in range(first, len(going)):
                self.assertLessEqual(last - first + 1, count + (going[last] - begin) * count / period + 0.01)

    @settings(max_examples=100)
    @given(steps=STEPS, count=st.integers(1, 20), period=st.floats(0.5, 100), patience=st.floats(0, 50))
    def test_the_same_holds_where_some_wait(self, steps: list[float], count: int, period: float, patience: float) -> None:
        going = passed(Buckets(count, period, 0.0), running(steps, 0.0), patience)
        for first, begin in enumerate(going):
            for last in range(first, len(going)):
                self.assertLessEqual(last - first + 1, count + (going[last] - begin) * count / period + 0.01)

    @settings(max_examples=100)
    @given(steps=STEPS, count=st.integers(1, 20), period=st.floats(0.5, 100))
    def test_nobody_is_refused_who_keeps_the_pace(self, steps: list[float], count: int, period: float) -> None:
        pace = period / count
        buckets = Buckets(count, period, 0.0)
        for at in running([max(step, pace * 1.001) for step in steps], 0.0):
            self.assertEqual(buckets.take("k", at), 0.0)


class MemoryTests(SynchronousTestCase):
    def test_full_buckets_are_forgotten(self) -> None:
        buckets = Buckets(1, 10.0, 0.0)
        for number in range(1000):
            buckets.take(f"k{number}", 0.0)
        self.assertEqual(len(buckets), 1000)
        for number in range(1000):
            buckets.take(f"other{number}", 20.0)
        self.assertEqual(len(buckets), 1000)

    def test_a_flood_of_sources_is_bounded_and_forgets_no_busy_one(self) -> None:
        buckets = Buckets(1, 1e6, 0.0, most=100)
        for number in range(1000):
            buckets.take("busy", float(number))
            buckets.take(f"k{number}", float(number))
            self.assertLessEqual(len(buckets), 101)
        self.assertEqual(buckets.take("busy", 1000.0), -1.0)

    def test_other_sizes_keep_what_is_missing(self) -> None:
        buckets = Buckets(4, 40.0, 0.0)
        for _ in range(3):
            buckets.take("k", 0.0)
        wider = buckets.converted(10, 10.0, 0.0)
        self.assertEqual(sum(wider.take("k", 0.0) == 0.0 for _ in range(20)), 7)
        narrower = buckets.converted(2, 10.0, 0.0)
        self.assertEqual(narrower.take("k", 0.0), -1.0)
        self.assertEqual(narrower.take("k", 5.0), 0.0)
