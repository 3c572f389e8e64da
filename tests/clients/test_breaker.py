"""When a server is left alone, and how one finds out that it is back."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.clients.breaker import FAILURES, FIRST_PAUSE, MAX_PAUSE, Breaker


class BreakerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.breaker = Breaker(self.clock.seconds)

    def fail_often(self) -> None:
        for _ in range(FAILURES):
            self.assertTrue(self.breaker.begin())
            self.breaker.failed()

    def test_it_opens_after_failures_in_a_row(self) -> None:
        for _ in range(FAILURES - 1):
            self.breaker.begin()
            self.breaker.failed()
        self.breaker.begin()
        self.breaker.succeeded()
        self.fail_often()
        self.assertFalse(self.breaker.begin())

    def test_after_the_pause_one_may_try(self) -> None:
        self.fail_often()
        self.clock.advance(FIRST_PAUSE)
        self.assertEqual([self.breaker.begin() for _ in range(3)], [True, False, False])
        self.breaker.succeeded()
        self.assertEqual([self.breaker.begin() for _ in range(3)], [True, True, True])

    def test_who_gives_up_leaves_the_trial_to_the_next(self) -> None:
        self.fail_often()
        self.clock.advance(FIRST_PAUSE)
        self.breaker.begin()
        self.breaker.gave_up()
        self.assertTrue(self.breaker.begin())

    def test_pauses_grow_to_a_bound(self) -> None:
        self.fail_often()
        pauses = []
        for _ in range(8):
            waited = 0.0
            while not self.breaker.begin():
                self.clock.advance(0.5)
                waited += 0.5
            pauses.append(waited)
            self.breaker.failed()
        self.assertEqual(pauses, [1, 2, 4, 8, MAX_PAUSE, MAX_PAUSE, MAX_PAUSE, MAX_PAUSE])
