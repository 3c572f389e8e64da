"""A reload in two steps: every worker is ready before any changes over, and whoever can't is the end of it for all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.net.waiting import DeadlineExceeded, spawn, within
from mailgate.runtime import Refusal
from mailgate.workers.crew import CHANGE_OVER, Crew
from mailgate.workers.link import WorkerGone
from mailgate.workers.slot import State
from mailgate.workers.staff import Staff


class FakeSlot:
    """Keeps what it is asked, and is answered by the test."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = State.SERVING
        self.last_end = ""
        self.sessions = self.old = self.beats = 0
        self.asked: list[tuple[str, Deferred[dict[str, Any]]]] = []
        self.started = self.replaced = self.hurried = 0

    def start(self) -> None:
        self.started += 1
        self.state = State.STARTING

    def restart_now(self) -> None:
        self.hurried += 1

    def replace(self) -> None:
        self.replaced += 1

    def ask(self, message: dict[str, Any], sockets: Any = None) -> Deferred[dict[str, Any]]:
        answer: Deferred[dict[str, Any]] = Deferred()
        self.asked.append((message["do"], answer))
        return answer

    @property
    def heard(self) -> list[str]:
        return [what for what, _ in self.asked]

    def says(self, what: str, reason: str = "") -> None:
        self.asked[-1][1].callback({"says": what, "reason": reason})


class CrewTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        adapters: Any = SimpleNamespace(reactor=self.clock)
        nothing: Any = None
        self.staff = Staff(2, adapters, nothing)
        self.slots = [FakeSlot(1), FakeSlot(2)]
        self.staff.slots = self.slots  # type: ignore[assignment]
        self.first = self.crew()
        self.first._adopt()

    def crew(self, old: Crew | None = None) -> Crew:
        listener = SimpleNamespace(endpoints=(), addresses=("tcp://h:25",), shutdown_timeout=5.0)
        settings = SimpleNamespace(runtime_dir="/nowhere")
        configuration: Any = SimpleNamespace(listeners=[listener], globals=settings, modules=[])
        crew = Crew(configuration, self.staff, {"texts": {}})
        if old is not None:
            crew.succeed(old)
        crew.bind()
        return crew

    def heard(self) -> list[list[str]]:
        return [slot.heard for slot in self.slots]

    def test_nobody_changes_over_before_everybody_is_ready(self) -> None:
        crew = self.crew(self.first)
        ready = spawn(crew.start_modules())
        self.slots[0].says("prepared")
        self.assertNoResult(ready)
        self.assertEqual(self.heard(), [["reload"], ["reload"]])
        self.slots[1].says("prepared")
        self.successResultOf(ready)
        crew.accept()
        settled = spawn(crew.settled())
        self.assertEqual(self.heard(), [["reload", "commit"], ["reload", "commit"]])
        self.slots[0].says("reloaded")
        self.assertNoResult(settled)
        self.slots[1].says("reloaded")
        self.successResultOf(settled)
        self.assertEqual(self.staff.beginning, crew._begin)

    def test_one_that_refuses_is_the_end_of_it_for_all(self) -> None:
        crew = self.crew(self.first)
        ready = spawn(crew.start_modules())
        self.slots[0].says("prepared")
        self.slots[1].says("refused", "no such directory")
        self.assertEqual(str(self.failureResultOf(ready, Refusal).value), "worker 2: no such directory")
        stopped = spawn(crew.stop())
        self.assertEqual(self.heard(), [["reload", "abandon"], ["reload"]])
        self.assertNoResult(stopped)
        self.slots[0].says("refused")
        self.successResultOf(stopped)
        self.assertEqual(self.staff.beginning, self.first._begin)

    def test_one_that_ends_meanwhile_too(self) -> None:
        crew = self.crew(self.first)
        ready = spawn(crew.start_modules())
        self.slots[0].says("prepared")
        self.slots[1].asked[-1][1].errback(WorkerGone("worker 2 ended: killed by SIGKILL"))
        self.assertIn("killed by SIGKILL", str(self.failureResultOf(ready, Refusal).value))

    def test_one_that_takes_too_long_is_told_that_it_is_over(self) -> None:
        crew = self.crew(self.first)
        ready = spawn(within(crew.start_modules(), 10.0, self.clock))
        self.slots[0].says("prepared")
        self.clock.advance(10.0)
        self.failureResultOf(ready, DeadlineExceeded)
        stopped = spawn(crew.stop())
        self.assertEqual(self.heard(), [["reload", "abandon"], ["reload", "abandon"]])
        for slot in self.slots:
            slot.says("refused")
        self.successResultOf(stopped)

    def test_one_that_is_away_is_started_with_what_is_in_force_then(self) -> None:
        self.slots[1].state = State.WAITING
        crew = self.crew(self.first)
        ready = spawn(crew.start_modules())
        self.slots[0].says("prepared")
        self.successResultOf(ready)
        crew.accept()
        self.assertEqual(self.heard(), [["reload", "commit"], []])
        self.assertEqual(self.slots[1].hurried, 1)
        self.assertEqual(self.staff.beginning, crew._begin)

    def test_one_on_its_way_up_is_waited_for(self) -> None:
        self.slots[1].state = State.STARTING
        crew = self.crew(self.first)
        ready = spawn(crew.start_modules())
        self.assertEqual(self.heard(), [[], []])
        self.slots[1].state = State.SERVING
        self.staff._changed()
        self.assertEqual(self.heard(), [["reload"], ["reload"]])
        for slot in self.slots:
            slot.says("prepared")
        self.successResultOf(ready)

    def test_one_that_does_not_change_over_is_replaced(self) -> None:
        crew = self.crew(self.first)
        spawn(crew.start_modules())
        for slot in self.slots:
            slot.says("prepared")
        crew.accept()
        settled = spawn(crew.settled())
        self.slots[0].says("refused", "internal error")
        self.clock.advance(CHANGE_OVER)  # the other one says nothing: it comes to it when it can
        self.successResultOf(settled)
        self.assertEqual([slot.replaced for slot in self.slots], [1, 0])

    def test_an_old_one_is_let_go_when_no_worker_has_sessions_under_it(self) -> None:
        gone = spawn(self.first.emptied())
        self.slots[0].old = 1
        for _ in range(3):
            for slot in self.slots:
                slot.beats += 1
            self.staff._changed()
        self.assertNoResult(gone)
        self.slots[0].old = 0
        self.staff._changed()
        self.successResultOf(gone)

    def test_a_start_fails_with_the_first_worker_that_can_not(self) -> None:
        crew = self.crew()
        started = spawn(crew.start())
        self.assertEqual([slot.started for slot in self.slots], [1, 1])
        self.slots[0].state = State.SERVING
        self.staff._changed()
        self.assertNoResult(started)
        self.slots[1].state, self.slots[1].last_end = State.WAITING, "exit status 1: no"
        self.staff._changed()
        failure = self.failureResultOf(started, Refusal)
        self.assertEqual(str(failure.value), "worker 2 could not start: exit status 1: no")
