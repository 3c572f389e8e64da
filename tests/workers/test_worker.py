"""The worker's end of the link, and the link itself: over a real socket pair, with a gateway that only the test moves."""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from mailgate.config.files import Recorded
from mailgate.runtime import Outcome, Refusal, Verdict
from mailgate.workers import Inherited, Worker
from mailgate.workers.link import open_link
from mailgate.workers.worker import CannotStart


class Live:
    """What a worker asks of its gateway."""

    def __init__(self) -> None:
        self.consent: Any = None
        self.session_count = 2
        self.old: list[Any] = []
        self.stopped = False
        self.reloads: list[str] = []
        self.trouble = ""

    def bind(self) -> None:
        """Nothing is in the way."""

    async def start(self) -> None:
        """At once."""

    async def stop(self) -> None:
        self.stopped = True

    async def reload(self) -> Outcome:
        if self.trouble:
            return Outcome(Verdict.REFUSED, self.trouble)
        try:
            await self.consent()
        except Refusal as error:
            self.reloads.append("given up")
            return Outcome(Verdict.REFUSED, str(error))
        self.reloads.append("done")
        return Outcome(Verdict.DONE)


class Assembler:
    files: Any = None


class WorkerTests(TestCase):
    timeout = 20

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.live = Live()
        self.assembler = Assembler()
        self.inherited = Inherited()
        self.said: list[dict[str, Any]] = []
        self._waiting: list[tuple[Any, Deferred[None]]] = []
        self.ended: Deferred[bool] = Deferred()
        self.reopened = 0
        self.cannot = ""
        ours, theirs = socket.socketpair()
        self.worker = Worker(reactor, self.inherited, self.begin, lambda: None, self.reopen, self.ended.callback)
        self.worker.link = open_link(reactor, theirs, self.worker.heard, self.worker.stop)
        self.link = open_link(reactor, ours, self.hear, lambda: None)
        self.addCleanup(self.finish)

    async def finish(self) -> None:
        self.link.close()
        await self.ended

    def begin(self, message: dict[str, Any]) -> Any:
        if self.cannot:
            raise CannotStart(self.cannot)

        async def answers(asked: dict[str, Any]) -> dict[str, Any]:
            return {"status": 200, "body": {"path": asked["path"]}, "kind": "k"}

        return self.assembler, self.live, answers

    def reopen(self) -> None:
        self.reopened += 1

    def hear(self, message: dict[str, Any], sockets: list[socket.socket]) -> None:
        self.said.append(message)
        for wanted, waiting in list(self._waiting):
            if wanted(message):
                self._waiting.remove((wanted, waiting))
                waiting.callback(None)

    async def until(self, says: str, **fields: Any) -> dict[str, Any]:
        def wanted(message: dict[str, Any]) -> bool:
            return message["says"] == says and all(message.get(name) == value for name, value in fields.items())

        if not any(map(wanted, self.said)):
            waiting: Deferred[None] = Deferred()
            self._waiting.append((wanted, waiting))
            await waiting
        return next(message for message in self.said if wanted(message))

    async def started(self) -> None:
        self.link.send({"do": "start", "record": {}, "secret": ""})
        await self.until("ready")

    async def test_it_says_when_it_is_ready_and_how_it_is(self) -> None:
        await self.started()
        beat = await self.until("beat", sessions=2)
        self.assertEqual(beat["old"], 0)

    async def test_it_says_why_it_can_not_start_and_ends(self) -> None:
        self.cannot = "line 3: no"
        self.link.send({"do": "start", "record": {}, "secret": ""})
        self.assertEqual((await self.until("failed"))["reason"], "line 3: no")
        self.assertTrue(await self.ended)
        self.ended = Deferred()
        self.ended.callback(True)

    async def test_a_reload_waits_for_everybody(self) -> None:
        await self.started()
        self.link.send({"do": "reload", "id": 1, "record": {"texts": {"f": "x"}, "patterns": {}}})
        await self.until("prepared", id=1)
        self.assertEqual(self.live.reloads, [])
        self.assertIsInstance(self.assembler.files, Recorded)
        self.assertEqual(self.assembler.files.read("f"), "x")
        self.link.send({"do": "commit", "id": 2})
        await self.until("reloaded", id=2)
        self.assertEqual(self.live.reloads, ["done"])

    async def test_a_reload_that_others_refuse_comes_to_nothing(self) -> None:
        await self.started()
        self.link.send({"do": "reload", "id": 1, "record": {"texts": {}, "patterns": {}}})
        await self.until("prepared", id=1)
        self.link.send({"do": "abandon", "id": 2, "reason": "worker 2 can't"})
        self.assertEqual((await self.until("refused", id=2))["reason"], "worker 2 can't")
        self.assertEqual(self.live.reloads, ["given up"])
        self.link.send({"do": "reload", "id": 3, "record": {"texts": {}, "patterns": {}}})
        await self.until("prepared", id=3)
        self.link.send({"do": "commit", "id": 4})
        await self.until("reloaded", id=4)

    async def test_one_that_is_abandoned_before_it_was_ready(self) -> None:
        await self.started()
        held: Deferred[None] = Deferred()
        consent = self.live.consent

        async def late() -> None:
            await held
            await consent()

        self.live.consent = late
        self.link.send({"do": "reload", "id": 1, "record": {"texts": {}, "patterns": {}}})
        self.link.send({"do": "abandon", "id": 2, "reason": "too late"})
        self.link.send({"do": "ask", "id": 9, "method": "GET", "path": "/x", "query": {}, "body": {}, "who": ""})
        await self.until("answer", id=9)
        held.callback(None)
        self.assertEqual((await self.until("refused", id=2))["reason"], "too late")
        await self.until("refused", id=1)
        self.assertEqual(self.live.reloads, ["given up"])

    async def test_what_it_can_not_have_it_refuses_at_once(self) -> None:
        await self.started()
        self.live.trouble = "a module can't start"
        self.link.send({"do": "reload", "id": 1, "record": {"texts": {}, "patterns": {}}})
        self.assertEqual((await self.until("refused", id=1))["reason"], "a module can't start")
        self.link.send({"do": "abandon", "id": 2, "reason": "x"})
        await self.until("refused", id=2)

    async def test_questions_are_answered_before_it_is_ready_too(self) -> None:
        self.link.send({"do": "ask", "id": 5, "method": "GET", "path": "/x", "query": {}, "body": {}, "who": ""})
        self.assertEqual((await self.until("answer", id=5))["status"], 503)
        await self.started()
        self.link.send({"do": "ask", "id": 6, "method": "GET", "path": "/x", "query": {}, "body": {}, "who": ""})
        self.assertEqual((await self.until("answer", id=6))["body"], {"path": "/x"})
        self.link.send({"do": "reopen"})
        self.link.send({"do": "ask", "id": 7, "method": "GET", "path": "/x", "query": {}, "body": {}, "who": ""})
        await self.until("answer", id=7)
        self.assertEqual(self.reopened, 1)

    async def test_sockets_come_with_their_places_and_what_nobody_takes_is_closed(self) -> None:
        pairs = [socket.socketpair() for _ in range(3)]
        wanted = {("h", 25): [pairs[0][0], pairs[1][0]], ("/s", 0): [pairs[2][0]]}
        taken: list[socket.socket] = []
        self.live.bind = lambda: taken.extend(self.inherited.take(("h", 25)))  # type: ignore[method-assign]
        self.link.send({"do": "start", "record": {}, "secret": ""}, wanted.items())
        await self.until("ready")
        self.assertEqual(len(taken), 2)
        taken[1].send(b"x")
        self.assertEqual(pairs[1][1].recv(1), b"x")
        self.assertFalse(os.get_inheritable(taken[0].fileno()))
        pairs[2][0].close()
        self.assertEqual(pairs[2][1].recv(1), b"")  # the worker has closed its own
        for one in (*taken, *(end for pair in pairs for end in pair)):
            one.close()

    async def test_it_drains_and_ends_when_told_or_when_the_supervisor_is_gone(self) -> None:
        await self.started()
        self.link.send({"do": "stop"})
        self.assertFalse(await self.ended)
        self.assertTrue(self.live.stopped)
        self.ended = Deferred()
        self.ended.callback(False)
