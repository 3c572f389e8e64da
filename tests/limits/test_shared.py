"""Limits that a counter counts: what it is asked, and what holds while it can't be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.limits.limits import Exceeded, Kind, Lease, Limits, Line, Scope, Subject
from mailgate.limits.shared import Ask, Shared, Taken
from mailgate.net.waiting import as_deferred
from tests.modules.support import errors


class FakeCounter:
    """Answers what it is told, and remembers."""

    label = "counter"

    def __init__(self) -> None:
        self.asked: list[Sequence[Ask]] = []
        self.answers: list[Any] = []
        self.given_back: list[Taken] = []

    async def take(self, asks: Sequence[Ask]) -> Taken:
        self.asked.append(asks)
        answer = self.answers.pop(0) if self.answers else Taken(-1, 0.0, "h", tuple(ask.key for ask in asks if not ask.period))
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Deferred):
            return await answer
        assert isinstance(answer, Taken)
        return answer

    def give_back(self, taken: Taken) -> None:
        self.given_back.append(taken)


RATE = Line(Scope.IP, Kind.RATE, 20, 60.0)
SLOTS = Line(Scope.ALL, Kind.CONCURRENCY, 10)
SUBJECT = Subject(ip="192.0.2.1")


class SharedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.counter = FakeCounter()

    def gate(self, *lines: Line, refuses: bool = False, workers: int = 1) -> Any:
        shared = Shared(self.counter, "all", refuses=refuses)
        return Limits(lines, self.clock, workers=workers, shared=shared).gate(tuple(Scope), "here")

    def acquire(self, gate: Any, subject: Subject = SUBJECT) -> Any:
        answer = gate.acquire(subject)
        return answer if isinstance(answer, Lease | Exceeded) else as_deferred(answer)

    def test_all_lines_in_one_question_and_undivided(self) -> None:
        lease = self.acquire(self.gate(SLOTS, RATE, workers=4))
        self.assertEqual(self.counter.asked, [[Ask("all:ip rate:192.0.2.1", 20, 60.0), Ask("all:all concurrency:*", 10)]])
        self.assertEqual(self.counter.given_back, [])
        lease.release()
        lease.release()
        self.assertEqual([taken.holder for taken in self.counter.given_back], ["h"])

    def test_who_is_unknown_is_not_asked_for(self) -> None:
        self.assertIsInstance(self.acquire(self.gate(RATE), Subject()), Lease)
        self.assertEqual(self.counter.asked, [])

    def test_refused_by_which(self) -> None:
        self.counter.answers = [Taken(1)]
        answer = self.acquire(self.gate(SLOTS, RATE))
        self.assertEqual(answer, Exceeded(Scope.ALL, "all concurrency 10", "*"))

    def test_a_token_that_is_ahead_is_waited_for(self) -> None:
        self.counter.answers = [Taken(-1, 3.0)]
        waiting = self.acquire(self.gate(Line(Scope.IP, Kind.RATE, 20, 60.0, 5.0)))
        self.assertEqual(self.counter.asked[0][0].patience, 5.0)
        self.assertNoResult(waiting)
        self.clock.advance(3)
        self.assertIsInstance(self.successResultOf(waiting), Lease)

    def test_who_stops_waiting_gives_the_slots_back(self) -> None:
        self.counter.answers = [Taken(-1, 3.0, "h", ("slot",))]
        waiting = self.acquire(self.gate(SLOTS, RATE))
        waiting.cancel()
        self.failureResultOf(waiting)
        self.assertEqual(len(self.counter.given_back), 1)

    def test_a_slot_is_asked_for_again_until_the_time_is_over(self) -> None:
        self.counter.answers = [Taken(0)] * 100
        waiting = self.acquire(self.gate(Line(Scope.ALL, Kind.CONCURRENCY, 10, wait=5.0)))
        for _ in range(60):
            self.clock.advance(0.1)
        self.assertIsInstance(self.successResultOf(waiting), Exceeded)
        self.assertLess(len(self.counter.asked), 12)

    def test_a_slot_that_becomes_free(self) -> None:
        self.counter.answers = [Taken(0), Taken(0)]
        waiting = self.acquire(self.gate(Line(Scope.ALL, Kind.CONCURRENCY, 10, wait=5.0)))
        for _ in range(10):
            self.clock.advance(0.1)
        self.assertIsInstance(self.successResultOf(waiting), Lease)

    def test_without_a_counter_each_counts_its_part(self) -> None:
        gate = self.gate(RATE, workers=4)
        self.counter.answers = [OSError("gone")] * 6
        answers = [self.acquire(gate) for _ in range(6)]
        self.assertEqual([isinstance(answer, Lease) for answer in answers], [True] * 5 + [False])
        self.assertIsInstance(self.acquire(gate), Lease, "it counts together again")

    def test_without_a_counter_nobody(self) -> None:
        gate = self.gate(RATE, refuses=True)
        self.counter.answers = [OSError("gone")]
        self.assertIsInstance(self.acquire(gate), Exceeded)
        self.assertIsInstance(self.acquire(gate), Lease)

    def test_mistakes(self) -> None:
        counter = "counter.redis c\n"
        for lines in (
            "limits all {\n shared &c\n ip rate 1 1s\n}",
            "limits all {\n on_failure local\n ip rate 1 1s\n}",
            "smtp tcp://127.0.0.1:2525 {\n tls off\n limits {\n shared &c\n on_failure local\n ip rate 1 1s\n}\n discard\n}",
        ):
            self.assertIn("E0753", " ".join(errors(counter + lines)), lines)
