"""Slots: never more than there are, a fair line, and nothing left behind."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.limits import slots as module
from mailgate.limits.slots import Slots


class SlotsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.slots = Slots(self.clock)

    def test_as_many_as_there_are(self) -> None:
        self.assertEqual([self.slots.take("k", 2) for _ in range(3)], [True, True, False])
        self.slots.release("k")
        self.assertTrue(self.slots.take("k", 2))

    def test_keys_do_not_share_and_leave_nothing(self) -> None:
        self.assertTrue(self.slots.take("a", 1))
        self.assertTrue(self.slots.take("b", 1))
        self.slots.release("a")
        self.slots.release("b")
        self.assertEqual((len(self.slots), self.slots.held), (0, 0))

    def test_the_first_in_line_gets_it(self) -> None:
        self.slots.take("k", 1)
        first, second = self.slots.wait("k", 1, 10), self.slots.wait("k", 1, 10)
        self.slots.release("k")
        self.assertFalse(self.slots.take("k", 1), "somebody new passed those who wait")
        self.clock.advance(0)
        self.assertTrue(first.result())
        self.assertFalse(second.done)

    def test_patience_ends(self) -> None:
        self.slots.take("k", 1)
        waiting = self.slots.wait("k", 1, 10)
        self.clock.advance(9.9)
        self.assertFalse(waiting.done)
        self.clock.advance(0.2)
        self.assertFalse(waiting.result())
        self.assertEqual(self.slots.waiting, 0)

    def test_who_leaves_the_line_gets_nothing(self) -> None:
        self.slots.take("k", 1)
        first, second = self.slots.wait("k", 1, 10), self.slots.wait("k", 1, 10)
        first.cancel()
        self.slots.release("k")
        self.clock.advance(0)
        self.assertRaises(CancelledError, first.result)
        self.assertTrue(second.result())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_leaves_with_a_slot_not_yet_heard_of_passes_it_on(self) -> None:
        self.slots.take("k", 1)
        first, second = self.slots.wait("k", 1, 10), self.slots.wait("k", 1, 10)
        self.slots.release("k")
        first.cancel()
        self.clock.advance(0)
        self.assertTrue(second.result())
        self.assertEqual(self.slots.held, 1)

    def test_a_thousand_in_line_are_no_thousand_frames(self) -> None:
        self.slots.take("k", 1)
        for _ in range(3000):
            waiting = self.slots.wait("k", 1, 10)
            waiting.when_done(lambda: self.slots.release("k"))
        self.slots.release("k")
        for _ in range(3001):
            self.clock.advance(0)
        self.assertEqual((self.slots.held, self.slots.waiting), (0, 0))

    def test_the_line_is_bounded(self) -> None:
        self.patch(module, "MAX_WAITING", 2)
        self.slots.take("k", 1)
        waiting = [self.slots.wait("k", 1, 10) for _ in range(3)]
        self.clock.advance(0)
        self.assertEqual([one.done for one in waiting], [False, False, True])
        self.assertFalse(waiting[2].result())

    def test_a_configuration_with_more_slots_lets_more_in(self) -> None:
        self.slots.take("k", 1)
        self.assertTrue(self.slots.take("k", 2))
        self.assertFalse(self.slots.take("k", 2))
        self.slots.release("k")
        self.assertFalse(self.slots.take("k", 1))


class SlotsMachine(RuleBasedStateMachine):
    """Holders come, wait, lose patience, go; the count is right at every moment, and at the end nothing is left."""

    COUNT = 2

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.slots = Slots(self.clock)
        self.holders = 0
        self.waiting: list[module._Waiting] = []

    def settle(self) -> None:
        for waiter in [one for one in self.waiting if one.done]:
            self.waiting.remove(waiter)
            self.holders += waiter.result()

    @rule()
    def come(self) -> None:
        if self.slots.take("k", self.COUNT):
            self.holders += 1
        else:
            waiter = self.slots.wait("k", self.COUNT, 10)
            assert isinstance(waiter, module._Waiting)
            self.waiting.append(waiter)

    @precondition(lambda self: self.holders)
    @rule()
    def go(self) -> None:
        self.holders -= 1
        self.slots.release("k")

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def lose_interest(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(waiter)
        waiter.cancel()

    @rule(seconds=st.sampled_from([0.0, 4.0, 11.0]))
    def time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()

    @invariant()
    def count_is_right(self) -> None:
        given = sum(waiter.given for waiter in self.waiting)
        assert self.slots.held == self.holders + given <= self.COUNT
        assert self.slots.waiting == len(self.waiting) - given

    @invariant()
    def nobody_waits_beside_a_free_slot(self) -> None:
        assert not (self.slots.waiting and self.slots.held < self.COUNT)

    def teardown(self) -> None:
        self.clock.advance(0)
        self.settle()
        for waiter in self.waiting:
            waiter.cancel()
        for _ in range(self.holders):
            self.slots.release("k")
        assert (self.slots.held, self.slots.waiting, len(self.slots)) == (0, 0, 0)
        assert self.clock.getDelayedCalls() == []


SlotsMachineTests = SlotsMachine.TestCase
SlotsMachineTests.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
