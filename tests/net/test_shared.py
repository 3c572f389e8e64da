"""One answer for several who want it."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from mailgate.net.shared import Shared
from mailgate.net.waiting import Wait, start


class SharedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.asked: list[Wait[int]] = []
        self.cancelled = 0

    async def ask(self) -> int:
        wait: Wait[int] = Wait()
        self.asked.append(wait)
        try:
            return await wait
        except CancelledError:
            self.cancelled += 1
            raise

    def test_asked_once_for_all(self) -> None:
        shared = Shared(self.ask)
        first, second = start(shared.get()), start(shared.get())
        self.asked[0].fire(7)
        assert isinstance(first, Wait)
        assert isinstance(second, Wait)
        self.assertEqual((first.result(), second.result(), start(shared.get()), len(self.asked)), (7, 7, 7, 1))

    def test_who_leaves_stops_nobody_and_the_last_one_the_question(self) -> None:
        shared = Shared(self.ask)
        first, second = start(shared.get()), start(shared.get())
        assert isinstance(first, Wait)
        assert isinstance(second, Wait)
        first.cancel()
        self.assertEqual((self.cancelled, second.done), (0, False))
        second.cancel()
        self.assertEqual(self.cancelled, 1)
        third = start(shared.get())
        assert isinstance(third, Wait)
        self.asked[1].fire(8)
        self.assertEqual(third.result(), 8)

    def test_a_failure_is_everybodys(self) -> None:
        shared = Shared(self.ask)
        waits = [start(shared.get()) for _ in range(2)]
        self.asked[0].fail(ValueError("no"))
        for wait in waits:
            assert isinstance(wait, Wait)
            self.assertRaises(ValueError, wait.result)

    def test_an_answer_at_once(self) -> None:
        async def seven() -> int:
            return 7

        self.assertEqual(start(Shared(seven).get()), 7)
