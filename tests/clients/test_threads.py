"""Bounds, retries and the breaker of `clients.threads`, without a server."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgate.adapters import Adapters
from mailgate.clients import threads
from mailgate.clients.breaker import FAILURES, FIRST_PAUSE
from mailgate.clients.threads import IDLE, WAITING, NoAnswer, Threads, Unanswerable
from mailgate.net.waiting import spawn


class FakeLink:
    def __init__(self) -> None:
        self.is_closed = False
        self.is_aborted = False

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True


class ThreadsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.links: list[FakeLink] = []
        self.is_down = False
        self.held: list[Callable[[], None]] | None = None
        adapters = Adapters(self.clock, lambda: 0.0, maybeDeferred, random.Random(0))
        self.threads: Threads[FakeLink] = Threads(
            "the server", self.connect, adapters, links=2, deadline=5, run_in_thread=self.run_in_thread
        )

    def run_in_thread(self, function: Callable[[], Any]) -> Any:
        if self.held is None:
            return maybeDeferred(function)
        answer: Deferred[Any] = Deferred()
        self.held.append(lambda: maybeDeferred(function).chainDeferred(answer))
        return answer

    def connect(self) -> FakeLink:
        if self.is_down:
            raise OSError("refused")
        self.links.append(FakeLink())
        return self.links[-1]

    def ask(self, work: Callable[[FakeLink], Any] = lambda link: "yes") -> Deferred[Any]:
        return spawn(self.threads.ask(work))

    def failure(self, asked: Deferred[Any]) -> str:
        return str(self.failureResultOf(asked, NoAnswer).value)

    def test_a_link_is_used_again_while_it_is_fresh(self) -> None:
        for _ in range(3):
            self.assertEqual(self.successResultOf(self.ask()), "yes")
        self.assertEqual(len(self.links), 1)
        self.clock.advance(IDLE)
        self.assertEqual(self.successResultOf(self.ask()), "yes")
        self.assertEqual([link.is_closed for link in self.links], [True, False])

    def test_an_idle_link_that_is_broken_costs_a_second_try(self) -> None:
        self.successResultOf(self.ask())
        first = self.links[0]

        def work(link: FakeLink) -> str:
            if link is first:
                raise EOFError
            return "from the second"

        self.assertEqual(self.successResultOf(self.ask(work)), "from the second")
        self.assertTrue(first.is_closed)

    def test_a_new_link_that_fails_is_a_failure(self) -> None:
        def work(_: FakeLink) -> str:
            raise ValueError("no such column")

        self.assertEqual(self.failure(self.ask(work)), "the server: no such column")
        self.assertEqual([link.is_closed for link in self.links], [True])

    def test_who_fails_in_a_row_is_left_alone(self) -> None:
        self.is_down = True
        for _ in range(FAILURES):
            self.assertIn("refused", self.failure(self.ask()))
        self.is_down = False
        self.assertIn("left alone", self.failure(self.ask()))
        self.clock.advance(FIRST_PAUSE)
        self.assertEqual(self.successResultOf(self.ask()), "yes")

    def test_a_key_of_which_nothing_can_be_made_is_nobodys_outage(self) -> None:
        """Whoever chooses keys must not be able to have a server left alone."""

        def work(_: FakeLink) -> str:
            raise Unanswerable("more than 1000 rows")

        for _ in range(FAILURES + 1):
            self.assertEqual(self.failure(self.ask(work)), "the server: more than 1000 rows")
        self.assertEqual(self.successResultOf(self.ask()), "yes")
        self.assertEqual(len(self.links), FAILURES + 2, "a link that failed is not used again, and nothing is asked twice")

    def test_too_many_wait(self) -> None:
        self.held = []
        asked = [self.ask() for _ in range(WAITING + 2)]
        self.assertIn("too many", self.failure(self.ask()))
        for answer in self.held:
            answer()
        self.assertEqual({self.successResultOf(one) for one in asked}, {"yes"})

    def test_the_deadline(self) -> None:
        self.held = []
        asked = self.ask()
        self.clock.advance(5)
        self.assertIn("no answer in time", self.failure(asked))
        self.held.pop()()  # the thread comes to it too late: nothing is asked
        self.flushLoggedErrors(NoAnswer)
        self.assertEqual([link.is_closed for link in self.links], [True])

    def test_cancelled(self) -> None:
        self.held = []
        asked = self.ask()
        asked.cancel()
        self.failureResultOf(asked)
        self.held = None
        self.assertEqual(self.successResultOf(self.ask()), "yes")


class StoppingTests(TestCase):
    timeout = 20

    async def test_a_library_that_never_returns_does_not_hold_up_the_end(self) -> None:
        self.patch(threads, "STOPPING", 0.05)
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        begun: Deferred[None] = Deferred()

        def work(_: FakeLink) -> None:
            reactor.callFromThread(begun.callback, None)  # type: ignore[attr-defined]
            go_on.wait()

        adapters = Adapters(reactor, lambda: 0.0, maybeDeferred, random.Random(0))
        asked: Threads[FakeLink] = Threads("the library", FakeLink, adapters, links=1, deadline=0.1)
        question = spawn(asked.ask(work))
        await begun
        await self.assertFailure(question, NoAnswer)
        await asked.stop()
        self.assertFalse(go_on.is_set())
