"""Administration of a gateway with several workers: the supervisor answers for all of them.

Each route of a single gateway is here too, with the same roles and answers of the same form. What it answers is asked of
every worker over its link and made one (`merging`), but for what the supervisor knows itself: health and reload. Pages of a
queue are those of one worker after the other.

A worker that is away, between its end and its successor's start, is missing from what is looked at, and the answer names it
(``absent``); an act upon queues and pools is then refused, or it would be done in part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from twisted.internet.defer import CancelledError, DeferredList

from mailgate.adapters import Adapters
from mailgate.admin import merging
from mailgate.admin.merging import Merge, Parts
from mailgate.admin.metrics import CONTENT_TYPE
from mailgate.admin.site import Answer, Fault, Question, Route, table
from mailgate.admin.summed import SUPERVISOR, Sum
from mailgate.admin.views import Views
from mailgate.events import EventLog
from mailgate.net.waiting import DeadlineExceeded, spawn, within
from mailgate.runtime import LiveGateway
from mailgate.workers import Answers, Staff, WorkerGone
from mailgate.workers.slot import Slot

PATIENCE = 30.0
"""Seconds for an answer of one worker."""
PROBE_PATIENCE = 320.0
"""A probe takes as long as the endpoint's timeouts let it; a survey of a long queue looks at every entry."""

MERGED: Mapping[tuple[str, str], Merge] = {
    ("GET", "/v1/sessions"): merging.sessions,
    ("GET", "/v1/pools"): merging.pools,
    ("GET", "/v1/limits"): merging.limits,
    ("GET", "/v1/certificates"): merging.first,
    ("POST", "/v1/pools"): merging.pool_act,
    ("GET", "/v1/log"): merging.first,
    ("POST", "/v1/log"): merging.first,
    ("GET", "/v1/queue"): merging.queue_stats,
    ("GET", "/v1/queue/survey"): merging.queue_survey,
    ("GET", "/v1/queue/message"): merging.queue_entries,
}
"""Questions for every worker, and how their answers are one."""
OWN = frozenset({("GET", "/health/live"), ("POST", "/v1/reload")})
"""The supervisor is asked as any gateway is."""

_events = EventLog("mailgate.admin")


class Whole:
    """``views`` are those of the supervisor's own gateway."""

    def __init__(self, live: LiveGateway, staff: Staff, adapters: Adapters, views: Views) -> None:
        self._live = live
        self._staff = staff
        self._adapters = adapters
        self._views = views
        self._sum = Sum()
        self.special: Mapping[tuple[str, str], Callable[[Question], Any]] = {
            ("GET", "/health/ready"): self.ready,
            ("GET", "/v1/status"): self.status,
            ("GET", "/metrics"): self.metrics,
            ("GET", "/v1/queue/entries"): self.entries,
            ("GET", "/v1/queue/content"): self.content,
            ("POST", "/v1/queue"): self.act_on_queue,
        }

    def routes(self, routes: list[Route]) -> list[Route]:
        """Those of a single gateway, answered for all."""
        return [replace(route, view=self._view(route)) for route in routes]

    def _view(self, route: Route) -> Callable[[Question], Any]:
        key = route.method, route.path
        if key in OWN:
            return route.view
        if key in self.special:
            return self.special[key]
        merge = MERGED.get(key, merging.by_worker)

        async def merged(question: Question) -> Answer:
            return await self._merged(*key, question, merge)

        return merged

    # The supervisor's own

    def ready(self, _: Question) -> Answer:
        """Whether every worker takes mail: what comes to one that is away has to wait for its successor."""
        away = [slot.number for slot in self._staff.slots if slot not in self._staff.serving]
        ready = self._live.ready and not away
        state = (
            self._live.state
            if not self._live.ready or ready
            else f"worker {away[0]} is {self._staff.slots[away[0] - 1].state.value}"
        )
        return Answer(200 if ready else 503, {"ready": ready, "state": state})

    async def status(self, question: Question) -> Answer:
        answered, _ = await self._ask_all("GET", "/v1/status", question)
        bodies = {number: answer["body"] for number, answer in answered if answer["status"] == 200}
        return Answer(
            200,
            {
                **self._views.facts(),
                **merging.status(list(bodies.items())),
                "workers": [asdict(report) for report in self._staff.reports],
            },
        )

    async def metrics(self, question: Question) -> Answer:
        pids = {slot.number: slot.pid or 0 for slot in self._staff.slots}
        answered, _ = await self._ask_all("GET", "/metrics", question)
        texts = {(number, pids[number]): answer["body"] for number, answer in answered if answer["status"] == 200}
        own = await self._views.metrics(question)
        texts[SUPERVISOR, 0] = own.body
        return Answer(200, await self._adapters.run_in_thread(self._sum.render, texts, self._staff.reports), CONTENT_TYPE)

    # Queues

    async def entries(self, question: Question) -> Answer:
        """A page of one worker, and where to go on."""
        slot, after = self._page(question.query)
        asked = replace(question, query=_with_after(question.query, after))
        answer = await self._ask(slot, "GET", "/v1/queue/entries", asked)
        if answer["status"] != 200:
            return _passed_on(answer)
        body = merging.queue_entries([(slot.number, answer["body"])])
        return Answer(200, {**body, "next": self._next(slot, answer["body"]["next"])})

    async def content(self, question: Question) -> Answer:
        number = question.query.get("number", "")
        if not (number.isascii() and number.isdecimal()):
            raise Fault(400, "`number` is a number")
        worker, own = merging.of_entry(int(number))
        if worker > len(self._staff.slots):
            raise Fault(404, f"there is no entry {number} any more")
        asked = replace(question, query={**question.query, "number": str(own)})
        return _passed_on(await self._ask(self._staff.slots[worker - 1], "GET", "/v1/queue/content", asked))

    async def act_on_queue(self, question: Question) -> Answer:
        if question.body.get("ids") is not None:
            return await self._merged("POST", "/v1/queue", question, merging.queue_done)
        slot, after = self._page(question.body)
        asked = replace(question, body=_with_after(question.body, after))
        answer = await self._ask(slot, "POST", "/v1/queue", asked)
        if answer["status"] != 200:
            return _passed_on(answer)
        return Answer(200, {**answer["body"], "next": self._next(slot, answer["body"]["next"])})

    def _page(self, given: Mapping[str, Any]) -> tuple[Slot, str | None]:
        """Which worker's page is meant by ``after``, and its own ``after``: ``2/NAME:123``."""
        after = given.get("after")
        if after is None:
            return self._staff.slots[0], None
        worker, slash, inner = str(after).partition("/")
        if not slash or not worker.isascii() or not worker.isdecimal() or not 1 <= int(worker) <= len(self._staff.slots):
            raise Fault(400, "`after` is a `next` of an earlier answer")
        return self._staff.slots[int(worker) - 1], inner or None

    def _next(self, slot: Slot, following: str | None) -> str | None:
        if following is not None:
            return f"{slot.number}/{following}"
        return f"{slot.number + 1}/" if slot.number < len(self._staff.slots) else None

    # Asking

    async def _merged(self, method: str, path: str, question: Question, merge: Merge) -> Answer:
        answered, absent = await self._ask_all(method, path, question)
        if absent and method != "GET":
            raise Fault(503, f"worker {absent[0]} is away, and it would be done in part: try again")
        parts: Parts = [(number, answer["body"]) for number, answer in answered if answer["status"] == 200]
        refused = [(number, answer) for number, answer in answered if answer["status"] != 200]
        if refused and (not parts or method != "GET"):
            number, answer = refused[0]
            prefix = f"worker {number}: " if parts else ""
            raise Fault(answer["status"], prefix + str(answer["body"].get("error", "")))
        if not parts:
            raise Fault(503, "no worker answers")
        return Answer(200, {**merge(parts), **({"absent": absent} if absent else {})})

    async def _ask_all(self, method: str, path: str, question: Question) -> tuple[list[tuple[int, dict[str, Any]]], list[int]]:
        """The answers by worker, and who gave none."""
        asking = [spawn(self._try(slot, method, path, question)) for slot in self._staff.slots]
        results = [answer for _, answer in await DeferredList(asking, fireOnOneErrback=True, consumeErrors=True)]
        answered = [(slot.number, answer) for slot, answer in zip(self._staff.slots, results, strict=True) if answer is not None]
        absent = [slot.number for slot, answer in zip(self._staff.slots, results, strict=True) if answer is None]
        return answered, absent

    async def _try(self, slot: Slot, method: str, path: str, question: Question) -> dict[str, Any] | None:
        try:
            return await self._ask(slot, method, path, question)
        except Fault:
            return None

    async def _ask(self, slot: Slot, method: str, path: str, question: Question) -> dict[str, Any]:
        """:raises Fault: it does not answer."""
        if not slot.answers:
            raise Fault(503, f"worker {slot.number} is {slot.state.value}: try again")
        asked = {"do": "ask", "method": method, "path": path, **asdict(question)}
        patience = PROBE_PATIENCE if path == "/v1/pools" or path.endswith("/survey") else PATIENCE
        try:
            return await within(slot.ask(asked), patience, self._adapters.reactor)
        except WorkerGone as error:
            raise Fault(503, f"{error}: try again") from error
        except DeadlineExceeded as error:
            raise Fault(503, f"worker {slot.number} does not answer: {error}") from error


def _with_after(given: Mapping[str, Any], after: str | None) -> dict[str, Any]:
    rest = {name: value for name, value in given.items() if name != "after"}
    return rest if after is None else {**rest, "after": after}


def _passed_on(answer: Mapping[str, Any]) -> Answer:
    return Answer(answer["status"], answer["body"])


def answers(routes: list[Route]) -> Answers:
    """A worker's side: what its supervisor asks, after it has looked who asks, is answered by these."""
    by_path = table(routes)

    async def answer(asked: dict[str, Any]) -> dict[str, Any]:
        view = by_path[asked["path"]][asked["method"]].view
        try:
            given = view(Question(asked["query"], asked["body"], asked["who"]))
            found: Answer = given if isinstance(given, Answer) else await given
        except Fault as fault:
            return {"status": fault.status, "body": {"error": str(fault)}, "kind": ""}
        except CancelledError:
            raise
        except Exception as error:
            _events.incident("admin", error)
            return {"status": 500, "body": {"error": "internal error, see the log"}, "kind": ""}
        return {"status": found.status, "body": found.body, "kind": found.kind}

    return answer
