"""Driving coroutines: the same results, failures and cancellations as Twisted's own, and nothing where nothing waits."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.net.waiting import DeadlineExceeded, Wait, as_deferred, begin, spawn, start, within


async def _returns(value: Any) -> Any:
    return value


async def _raises() -> None:
    raise KeyError("x")


class WaitTests(SynchronousTestCase):
    """Awaited under each driver: ours, and Twisted's, which knows only Deferreds."""

    drivers = (spawn, Deferred.fromCoroutine, lambda coroutine: as_deferred(start(coroutine)))

    def test_a_value_that_is_there_is_no_wait(self) -> None:
        for drive in self.drivers[:2]:
            waiting: Wait[int] = Wait()
            waiting.fire(3)
            self.assertEqual(self.successResultOf(drive(_await(waiting))), 3)

    def test_a_value_that_comes_later(self) -> None:
        for drive in self.drivers:
            waiting: Wait[int] = Wait()
            result = drive(_await(waiting))
            self.assertNoResult(result)
            waiting.fire(3)
            self.assertEqual(self.successResultOf(result), 3)

    def test_a_failure_is_raised_where_it_was_awaited(self) -> None:
        for drive in self.drivers:
            waiting: Wait[int] = Wait()
            result = drive(_await(waiting))
            waiting.fail(KeyError("x"))
            self.failureResultOf(result, KeyError)

    def test_cancelling_what_awaits_cancels_it(self) -> None:
        for drive in self.drivers:
            cancelled: list[bool] = []
            waiting: Wait[int] = Wait(lambda seen=cancelled: seen.append(True))  # type: ignore[misc]
            result = drive(_await(waiting))
            result.cancel()
            self.failureResultOf(result, CancelledError)
            self.assertEqual((cancelled, waiting.done), ([True], True))

    def test_who_is_told_of_the_cancellation_may_give_the_value(self) -> None:
        for drive in self.drivers:
            waiting: Wait[int] = Wait(lambda: waiting.fire(7))  # noqa: B023
            result = drive(_await(waiting))
            result.cancel()
            self.assertEqual(self.successResultOf(result), 7)

    def test_cancelling_what_is_done_does_nothing(self) -> None:
        waiting: Wait[int] = Wait(lambda: self.fail("it was done"))
        waiting.fire(1)
        waiting.cancel()
        self.assertEqual(waiting.result(), 1)

    def test_a_second_waiter_is_an_error(self) -> None:
        waiting: Wait[int] = Wait()
        first = spawn(_await(waiting))
        self.failureResultOf(spawn(_await(waiting)), RuntimeError)
        waiting.fire(1)
        self.assertEqual(self.successResultOf(first), 1)

    def test_through_coroutines_and_with_a_deadline(self) -> None:
        for drive in self.drivers:
            clock = Clock()
            result = drive(_await(within(_await(Wait()), 5, clock)))
            clock.advance(5)
            self.failureResultOf(result, DeadlineExceeded)


class StartTests(SynchronousTestCase):
    def test_a_result_that_is_there_is_itself(self) -> None:
        self.assertEqual(start(_returns(5)), 5)
        with self.assertRaises(KeyError):
            start(_raises())

    def test_what_waits_is_a_wait(self) -> None:
        for waiting in (Wait(), Deferred()):
            result = start(_await(waiting))
            self.assertIsInstance(result, Wait)
            (waiting.fire if isinstance(waiting, Wait) else waiting.callback)(2)
            self.assertEqual(result.result(), 2)

    def test_cancelling_it_cancels_what_is_waited_for(self) -> None:
        inner: Wait[int] = Wait()
        result = start(_await(start(_await(inner))))
        result.cancel()
        self.assertTrue(inner.done)
        with self.assertRaises(CancelledError):
            result.result()


class BeginTests(SynchronousTestCase):
    def test_a_result_that_is_there_needs_no_deferred(self) -> None:
        self.assertEqual(begin(_returns(5)), 5)

    def test_an_exception_is_raised(self) -> None:
        with self.assertRaises(KeyError):
            begin(_raises())

    def test_a_wait_gives_a_deferred(self) -> None:
        waiting: Deferred[int] = Deferred()

        async def work() -> int:
            return await waiting + 1

        result = begin(work())
        self.assertIsInstance(result, Deferred)
        waiting.callback(1)
        self.assertEqual(self.successResultOf(result), 2)

    def test_an_awaited_deferred_that_has_fired_is_no_wait(self) -> None:
        async def work() -> Any:
            return await succeed(3)

        self.assertEqual(begin(work()), 3)


class SpawnTests(SynchronousTestCase):
    def test_result_and_failure_at_once(self) -> None:
        self.assertEqual(self.successResultOf(spawn(_returns(None))), None)
        self.failureResultOf(spawn(_raises()), KeyError)

    def test_a_failure_that_comes_later_is_raised_where_it_was_awaited(self) -> None:
        waiting: Deferred[None] = Deferred()
        seen: list[str] = []

        async def work() -> str:
            try:
                await waiting
            except KeyError:
                seen.append("caught")
            return await succeed("end")

        result = spawn(work())
        waiting.errback(KeyError("x"))
        self.assertEqual((self.successResultOf(result), seen), ("end", ["caught"]))
        self.assertIsNone(self.successResultOf(waiting))  # its failure was taken

    def test_an_uncaught_failure_is_the_result(self) -> None:
        waiting: Deferred[None] = Deferred()
        result = spawn(within(waiting, 5, Clock()))
        waiting.errback(KeyError("x"))
        self.failureResultOf(result, KeyError)

    def test_cancelling_cancels_what_is_waited_for(self) -> None:
        cancelled: list[bool] = []
        waiting: Deferred[None] = Deferred(lambda _: cancelled.append(True))
        cleaned: list[bool] = []

        async def work() -> None:
            try:
                await waiting
            finally:
                cleaned.append(True)

        result = spawn(work())
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual((cancelled, cleaned), ([True], [True]))

    def test_a_coroutine_may_refuse_to_be_cancelled(self) -> None:
        first: Deferred[None] = Deferred()
        second: Deferred[None] = Deferred()
        ended: list[bool] = []

        async def work() -> None:
            try:
                await first
            except CancelledError:
                await second
            ended.append(True)

        result = spawn(work())
        result.cancel()
        self.failureResultOf(result, CancelledError)
        second.callback(None)
        self.assertEqual(ended, [True])

    def test_a_failure_after_the_cancellation_is_logged(self) -> None:
        second: Deferred[None] = Deferred()

        async def work() -> None:
            try:
                await Deferred()
            except CancelledError:
                await second

        self.failureResultOf(self._cancelled(work()), CancelledError)
        second.errback(KeyError("late"))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def _cancelled(self, coroutine: Any) -> Deferred[Any]:
        result = spawn(coroutine)
        result.cancel()
        return result

    def test_a_deferred_that_waits_for_another(self) -> None:
        outer: Deferred[Any] = Deferred()
        inner: Deferred[int] = Deferred()
        result = spawn(_await(outer))
        outer.callback(None)
        chained: Deferred[Any] = succeed(None).addCallback(lambda _: inner)
        later = spawn(_await(chained))
        self.assertNoResult(later)
        inner.callback(7)
        self.assertEqual((self.successResultOf(result), self.successResultOf(later)), (None, 7))

    def test_many_waits_do_not_deepen_the_stack(self) -> None:
        async def work() -> int:
            total = 0
            for number in range(5000):
                total += await succeed(number)
            return total

        self.assertEqual(self.successResultOf(spawn(work())), sum(range(5000)))

    @given(st.lists(st.sampled_from(["now", "later", "fails now", "fails later", "wait later", "wait fails later"]), max_size=8))
    def test_agrees_with_twisted(self, steps: list[str]) -> None:
        self.assertEqual(self._trace(spawn, steps), self._trace(Deferred.fromCoroutine, steps))

    def _trace(self, drive: Any, steps: list[str]) -> tuple[list[str], list[Any]]:
        waiting: list[Any] = []
        seen: list[str] = []

        async def work() -> str:
            for step in steps:
                try:
                    seen.append(await self._wait(step, waiting))
                except KeyError:
                    seen.append("error")
            return "done"

        results: list[Any] = []
        drive(work()).addBoth(results.append)
        while waiting:
            waiting.pop()()
        return seen, results

    def _wait(self, step: str, waiting: list[Any]) -> Any:
        if step.endswith("now"):
            return fail(KeyError()) if step.startswith("fails") else succeed("value")
        if step.startswith("wait"):
            wait: Wait[str] = Wait()
            waiting.append((lambda: wait.fail(KeyError())) if "fails" in step else lambda: wait.fire("value"))
            return wait
        deferred: Deferred[Any] = Deferred()
        waiting.append((lambda: deferred.errback(KeyError())) if "fails" in step else lambda: deferred.callback("value"))
        return deferred


async def _await(awaitable: Any) -> Any:
    return await awaitable


class WithinTests(SynchronousTestCase):
    def test_in_time(self) -> None:
        clock, waiting = Clock(), Deferred()
        result = spawn(within(waiting, 5, clock))
        waiting.callback("x")
        self.assertEqual(self.successResultOf(result), "x")
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_too_late_cancels_what_was_awaited(self) -> None:
        clock, cancelled = Clock(), []
        waiting: Deferred[None] = Deferred(lambda _: cancelled.append(True))
        result = spawn(within(waiting, 5, clock))
        clock.advance(5)
        self.failureResultOf(result, DeadlineExceeded)
        self.assertEqual(cancelled, [True])

    def test_being_cancelled_is_no_deadline(self) -> None:
        clock = Clock()
        result = spawn(within(Deferred(), 5, clock))
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_coroutines_and_deferreds(self) -> None:
        waiting: Deferred[None] = Deferred()
        self.assertIs(as_deferred(waiting), waiting)
        self.assertEqual(self.successResultOf(as_deferred(_returns(1))), 1)
