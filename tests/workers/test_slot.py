"""One worker's place: starts, ends, back-off, and signs of life, with a process that only the test ends."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mailgate.workers import slot as slots
from mailgate.workers.link import WorkerGone
from mailgate.workers.slot import FIRST_PAUSE, LONGEST_PAUSE, PATIENCE, STEADY, Backoff, Slot, State


class BackoffTests(SynchronousTestCase):
    def test_the_first_end_is_bad_luck_then_it_doubles(self) -> None:
        backoff = Backoff()
        pauses = [backoff.after(served) for served in (STEADY + 1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)]
        self.assertEqual(pauses, [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE, LONGEST_PAUSE])

    def test_one_that_never_served_is_not_started_at_once(self) -> None:
        self.assertEqual(Backoff().after(0.0), FIRST_PAUSE)

    def test_a_steady_one_is_forgiven(self) -> None:
        backoff = Backoff()
        for _ in range(5):
            backoff.after(1.0)
        self.assertEqual(backoff.after(STEADY), 0.0)

    def test_a_new_configuration_is_a_new_beginning(self) -> None:
        backoff = Backoff()
        for _ in range(5):
            backoff.after(1.0)
        backoff.forget()
        self.assertEqual(backoff.after(1.0), 0.0)


class FakeProcess:
    def __init__(self, pid: int, protocol: Any) -> None:
        self.pid = pid
        self.protocol = protocol
        self.signals: list[str] = []

    def signalProcess(self, name: str) -> None:
        self.signals.append(name)

    def end(self, number: int | None = None, status: int = 0) -> None:
        reason = ProcessDone(0) if number is None and not status else ProcessTerminated(status or None, number)
        self.protocol.processEnded(Failure(reason))


class FakeLink:
    def __init__(self, heard: Any) -> None:
        self.hear = heard
        self.sent: list[dict[str, Any]] = []
        self.open = True

    def send(self, message: dict[str, Any], sockets: Any = ()) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.open = False


class SlotTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.processes: list[FakeProcess] = []
        self.links: list[FakeLink] = []
        self.patch(slots, "open_link", self.open_link)
        self.changes: list[State] = []
        self.slot = Slot(
            1, self.clock, self.spawn, lambda number: ({"record": {}}, {}), lambda slot: self.changes.append(slot.state)
        )

    def spawn(self, number: int, protocol: Any, link: int) -> FakeProcess:
        self.processes.append(FakeProcess(100 + len(self.processes), protocol))
        return self.processes[-1]

    def open_link(self, reactor: Any, end: socket.socket, heard: Any, ended: Any) -> FakeLink:
        end.close()
        self.links.append(FakeLink(lambda **message: heard(message, [])))
        return self.links[-1]

    def serving(self) -> None:
        self.slot.start()
        self.links[-1].hear(says="ready")

    def test_it_is_told_what_to_serve_and_serves_when_it_says_so(self) -> None:
        self.slot.start()
        self.assertEqual(self.links[0].sent, [{"do": "start", "record": {}}])
        self.assertEqual(self.slot.report.state, "starting")
        self.links[0].hear(says="ready")
        self.assertEqual((self.slot.report.state, self.slot.report.pid), ("serving", 100))
        self.assertEqual(self.changes, [State.SERVING])

    def test_one_that_is_killed_is_replaced_at_once_then_after_pauses(self) -> None:
        self.serving()
        self.clock.advance(0.1)
        self.processes[0].end(9)
        self.assertEqual((self.slot.state, self.slot.last_end, self.slot.restarts), (State.WAITING, "killed by SIGKILL", 1))
        self.clock.advance(0)
        self.assertEqual((self.slot.state, self.slot.pid), (State.STARTING, 101))
        self.links[1].hear(says="failed", reason="no such file")
        self.processes[1].end(status=1)
        self.assertEqual(self.slot.last_end, "exit status 1: no such file")
        self.clock.advance(FIRST_PAUSE - 0.1)
        self.assertEqual(len(self.processes), 2)
        self.clock.advance(0.1)
        self.assertEqual(len(self.processes), 3)
        self.processes[2].end(status=1)
        self.clock.advance(FIRST_PAUSE)
        self.assertEqual(len(self.processes), 3)
        self.slot.restart_now()
        self.assertEqual(len(self.processes), 4)

    def test_a_question_to_one_that_ends_has_an_answer(self) -> None:
        self.serving()
        asked = self.slot.ask({"do": "ask"})
        answered = self.slot.ask({"do": "ask"})
        self.links[0].hear(says="answer", id=2, status=200)
        self.assertEqual(self.successResultOf(answered)["status"], 200)
        self.processes[0].end(11)
        self.assertIn("SIGSEGV", str(self.failureResultOf(asked, WorkerGone).value))
        self.failureResultOf(self.slot.ask({"do": "ask"}), WorkerGone)

    def test_an_answer_that_nobody_waits_for_any_more_is_dropped(self) -> None:
        self.serving()
        asked = self.slot.ask({"do": "ask"})
        asked.addErrback(lambda _: None)
        asked.cancel()
        self.links[0].hear(says="answer", id=1, status=200)

    def test_one_that_gives_no_sign_of_life_is_ended(self) -> None:
        self.serving()
        for _ in range(5):
            self.clock.advance(PATIENCE - 1)
            self.links[0].hear(says="beat", sessions=3, old=0)
        self.assertEqual((self.processes[0].signals, self.slot.sessions), ([], 3))
        self.clock.advance(PATIENCE)
        self.assertEqual(self.processes[0].signals, ["ABRT"])

    def test_one_that_stops_is_not_replaced(self) -> None:
        self.serving()
        ended = self.slot.stop()
        self.assertEqual(self.links[0].sent[-1], {"do": "stop"})
        self.assertNoResult(ended)
        self.clock.advance(PATIENCE * 3)
        self.assertEqual(self.processes[0].signals, [])  # the staff knows how long a drain may take
        self.processes[0].end()
        self.successResultOf(ended)
        self.assertEqual(self.slot.report.state, "down")
        self.clock.advance(LONGEST_PAUSE)
        self.assertEqual(len(self.processes), 1)

    def test_stopping_between_two_tries_starts_no_other(self) -> None:
        self.slot.start()
        self.processes[0].end(status=1)
        self.successResultOf(self.slot.stop())
        self.clock.advance(LONGEST_PAUSE)
        self.assertEqual(len(self.processes), 1)

    def test_no_process_to_be_had_is_tried_again(self) -> None:
        def refuse(number: int, protocol: Any, link: int) -> Any:
            raise OSError(11, "Resource temporarily unavailable")

        slot = Slot(1, self.clock, refuse, lambda number: ({}, {}), lambda slot: None)
        slot.start()
        self.assertEqual((slot.state, slot.restarts), (State.WAITING, 1))
        self.assertIn("Resource temporarily unavailable", slot.last_end)
        slot.stop()

    def test_what_it_logs_for_twistd_is_logged_line_by_line(self) -> None:
        seen: list[tuple[str, str]] = []
        self.patch(slots, "relay", lambda level, text: seen.append((level, text)))
        self.slot.start()
        protocol = self.processes[0].protocol
        for piece in (b"info message.done a=", b"b\nwarn x\nerr", b"or y\n"):
            protocol.childDataReceived(4, piece)
        self.assertEqual(seen, [("info", "message.done a=b"), ("warn", "x"), ("error", "y")])
