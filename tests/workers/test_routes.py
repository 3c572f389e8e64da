"""Every question that one gateway answers has an answer of several workers, and it was thought about which."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mailgate.admin.log_detail import LogDetail
from mailgate.admin.queues import QueueViews
from mailgate.admin.site import Answer, Fault, Question, Route
from mailgate.admin.views import Views
from mailgate.admin.whole import MERGED, OWN, Whole, answers
from mailgate.net.waiting import spawn
from mailgate.registry.administration import Role
from mailgate.workers.link import WorkerGone
from mailgate.workers.slot import State


class FakeSlot:
    def __init__(self, number: int, *replies: Any, state: State = State.SERVING) -> None:
        self.number = number
        self.state = state
        self.asked: list[dict[str, Any]] = []
        self._replies = list(replies)

    @property
    def answers(self) -> bool:
        return self.state is State.SERVING

    def ask(self, message: dict[str, Any]) -> Deferred[dict[str, Any]]:
        self.asked.append(message)
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            failed: Deferred[dict[str, Any]] = Deferred()
            failed.errback(reply)
            return failed
        status, body = reply
        return succeed({"status": status, "body": body, "kind": ""})


class FakeStaff:
    def __init__(self, *slots: FakeSlot) -> None:
        self.slots = slots
        self.serving = [slot for slot in slots if slot.answers]


class FakeAdapters:
    reactor = Clock()


def whole(*slots: FakeSlot) -> Whole:
    fake: Any = FakeStaff(*slots)
    nothing: Any = None
    adapters: Any = FakeAdapters()
    return Whole(nothing, fake, adapters, nothing)


def every_route() -> list[Route]:
    nothing: Any = None
    views, queues = Views(nothing, "", nothing, nothing), QueueViews(nothing, nothing)
    return [*views.routes(), *queues.routes(), *LogDetail(nothing, nothing, nothing).routes()]


class RouteTests(SynchronousTestCase):
    def asked(self, one: Whole, method: str, path: str, question: Question | None = None) -> Answer:
        route = next(route for route in one.routes(every_route()) if (route.method, route.path) == (method, path))
        given = route.view(question or Question())
        if isinstance(given, Answer):
            return given
        results: list[Any] = []
        spawn(_await(given)).addBoth(results.append)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        answer: Answer = results[0]
        return answer

    def test_every_route_was_decided_upon(self) -> None:
        routes = {(route.method, route.path) for route in every_route()}
        decided = {*MERGED, *OWN, *whole().special}
        self.assertEqual(routes - decided, set(), "say in mailgate/admin/whole.py how workers' answers are one")
        self.assertEqual(decided - routes, set())

    def test_roles_are_the_same(self) -> None:
        before = {(route.method, route.path): (route.role, route.public) for route in every_route()}
        after = {(route.method, route.path): (route.role, route.public) for route in whole().routes(every_route())}
        self.assertEqual(before, after)

    def test_one_that_is_away_is_named(self) -> None:
        body = {"sessions": 1, "configurations": []}
        one = whole(FakeSlot(1, (200, body)), FakeSlot(2, state=State.WAITING))
        answer = self.asked(one, "GET", "/v1/sessions")
        self.assertEqual(answer.body, {"sessions": 1, "configurations": [], "absent": [2]})

    def test_an_act_is_not_done_in_part(self) -> None:
        one = whole(FakeSlot(1, (200, {})), FakeSlot(2, WorkerGone("worker 2 ended: killed by SIGKILL")))
        failed = self.assertRaises(Fault, self.asked, one, "POST", "/v1/pools")
        self.assertEqual(failed.status, 503)

    def test_what_all_refuse_is_refused_with_the_reason_of_one(self) -> None:
        one = whole(FakeSlot(1, (404, {"error": "no"})), FakeSlot(2, (404, {"error": "no"})))
        failed = self.assertRaises(Fault, self.asked, one, "GET", "/v1/queue/message")
        self.assertEqual((failed.status, str(failed)), (404, "no"))

    def test_pages_are_one_workers_after_the_others(self) -> None:
        first = FakeSlot(1, (200, {"entries": [{"number": 5}], "next": "q:5"}), (200, {"entries": [], "next": None}))
        second = FakeSlot(2, (200, {"entries": [{"number": 5}], "next": None}))
        one = whole(first, second)
        numbers, after = [], None
        for _ in range(3):
            query = {"limit": "10"} if after is None else {"limit": "10", "after": after}
            body = self.asked(one, "GET", "/v1/queue/entries", Question(query)).body
            numbers += [entry["number"] for entry in body["entries"]]
            after = body["next"]
        self.assertIsNone(after)
        self.assertEqual(len(set(numbers)), 2)
        self.assertEqual([asked["query"] for asked in first.asked], [{"limit": "10"}, {"limit": "10", "after": "q:5"}])
        self.assertEqual([asked["query"] for asked in second.asked], [{"limit": "10"}])

    def test_a_place_that_no_answer_named_is_refused(self) -> None:
        for after in ("3/", "x/q:1", "q:1", "0/", "/"):
            failed = self.assertRaises(
                Fault, self.asked, whole(FakeSlot(1), FakeSlot(2)), "GET", "/v1/queue/entries", Question({"after": after})
            )
            self.assertEqual(failed.status, 400, after)

    def test_it_is_ready_when_all_are(self) -> None:
        class Live:
            ready = True
            state = "serving"

        for states, status in (((State.SERVING, State.SERVING), 200), ((State.SERVING, State.WAITING), 503)):
            one = whole(*(FakeSlot(number, state=state) for number, state in enumerate(states, 1)))
            one._live = Live()  # type: ignore[assignment]
            answer = self.asked(one, "GET", "/health/ready")
            self.assertEqual(answer.status, status)
        self.assertEqual(answer.body, {"ready": False, "state": "worker 2 is waiting"})

    def test_a_workers_own_mistakes_are_answers_too(self) -> None:
        async def fails(_: Question) -> Answer:
            raise ZeroDivisionError

        async def refuses(_: Question) -> Answer:
            raise Fault(409, "no")

        answer = answers([Route("GET", "/a", Role.VIEW, fails), Route("GET", "/b", Role.VIEW, refuses)])
        for path, status in (("/a", 500), ("/b", 409)):
            asked = {"method": "GET", "path": path, "query": {}, "body": {}, "who": ""}
            self.assertEqual(self.successResultOf(spawn(answer(asked)))["status"], status)
        self.flushLoggedErrors(ZeroDivisionError)


async def _await(given: Any) -> Any:
    return await given
