"""What systemd is told, over a datagram socket."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.admin.notify import ServiceManager
from mailgate.net.waiting import spawn
from mailgate.runtime import Outcome, Verdict


class Live:
    session_count = 3
    generation = 2


class NotifyTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-notify-")
        self.addCleanup(directory.cleanup)
        self.clock = Clock()
        self.listen(str(Path(directory.name) / "notify"))

    def listen(self, name: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind(name.replace("@", "\0", 1))
        self.socket.setblocking(False)
        self.environment = {"NOTIFY_SOCKET": name}

    def manager(self, **environment: str) -> ServiceManager:
        live: Any = Live()
        return ServiceManager(live, self.clock, {**self.environment, **environment}, lambda: 12.5)

    def told(self) -> list[list[str]]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return found

    def test_ready_once_the_listeners_accept(self) -> None:
        manager = self.manager()
        self.assertEqual(self.told(), [])
        manager.adopt()
        manager.adopt()
        self.assertEqual(self.told(), [["READY=1", "STATUS=Serving, configuration 2"]])

    def test_around_a_reload(self) -> None:
        manager = self.manager()
        manager.reloading()
        manager.reloaded(Outcome(Verdict.REFUSED, "a.conf:1:1: error: no\nsecond line"))
        begin, end = self.told()
        self.assertEqual(begin, ["RELOADING=1", "MONOTONIC_USEC=12500000", "STATUS=Reloading"])
        self.assertEqual(end[0], "READY=1")
        self.assertEqual(end[1], "STATUS=Serving, configuration 2; reload refused: a.conf:1:1: error: no second line")

    def test_the_drain(self) -> None:
        self.manager().stopping()
        self.assertEqual(self.told(), [["STOPPING=1", "STATUS=Draining 3 sessions"]])

    def test_an_abstract_socket(self) -> None:
        self.listen(f"@mailgate-test-{os.getpid()}")
        self.manager().adopt()
        self.assertEqual(self.told()[0][0], "READY=1")

    def test_the_watchdog_hears_twice_in_its_time(self) -> None:
        manager = self.manager(WATCHDOG_USEC="10000000", WATCHDOG_PID=str(os.getpid()))
        manager.adopt()
        self.told()
        self.clock.pump([1] * 20)
        self.assertEqual(self.told(), [["WATCHDOG=1"]] * 4)
        self.successResultOf(spawn(manager.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_watchdog_for_another_process_is_not_ours(self) -> None:
        self.manager(WATCHDOG_USEC="10000000", WATCHDOG_PID="1").adopt()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_without_a_manager_and_with_one_that_is_gone(self) -> None:
        self.environment = {}
        self.manager().adopt()
        self.environment = {"NOTIFY_SOCKET": "/nonexistent/notify"}
        self.manager().adopt()
        self.assertEqual(self.told(), [])
