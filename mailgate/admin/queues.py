"""What is asked of queues, and done to them, over HTTP: the routes below /v1/queue.

Everything goes by pages: an answer looks at `PAGE` entries at most, and names where to go on (``next``, null behind the last).
So no request takes long and no answer is large, however much waits. Without ``queue`` it is all queues, in the order of the file.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from mailgate.adapters import Adapters
from mailgate.admin.site import Answer, Fault, Question, Route
from mailgate.admin.subjects import queues_of
from mailgate.events import Event, EventLog
from mailgate.queue.engine import Queue
from mailgate.queue.entry import Entry, LastTry
from mailgate.queue.operators import ACTS, PAGE, Context, Done, candidates, chosen, perform
from mailgate.queue.selection import Candidate, WhereError, compile_where
from mailgate.queue.store import Damaged, StoreError
from mailgate.queue.survey import AGES
from mailgate.registry.administration import Role
from mailgate.runtime import LiveGateway

MOST_IDS = 1000
"""Message ids in one request."""
PIECE = 1 << 19
"""Octets of content in one answer."""

_events = EventLog("mailgate.admin")
Chooses = Callable[[Candidate], bool]


class QueueViews:
    """Of one gateway."""

    def __init__(self, live: LiveGateway, adapters: Adapters) -> None:
        self._live = live
        self._adapters = adapters

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v1/queue", Role.VIEW, _guarded(self.stats)),
            Route("GET", "/v1/queue/survey", Role.VIEW, _guarded(self.survey)),
            Route("GET", "/v1/queue/entries", Role.VIEW, _guarded(self.entries)),
            Route("GET", "/v1/queue/message", Role.VIEW, _guarded(self.message)),
            Route("GET", "/v1/queue/content", Role.ADMIN, _guarded(self.content)),
            Route("POST", "/v1/queue", Role.OPERATE, _guarded(self.act)),
        ]

    # Looking

    async def stats(self, question: Question) -> Answer:
        """Every queue in numbers."""
        return Answer(200, {"queues": [await self._numbers(name, queue) for name, queue in self._queues(question.query).items()]})

    async def _numbers(self, name: str, queue: Queue) -> dict[str, Any]:
        down = [one for one in queue.destinations.report() if one.is_down]
        return {**await numbers(name, queue), "down": [self._destination(one) for one in down[:100]]}

    async def survey(self, question: Question) -> Answer:
        """Recipients by age and destination, and by what they heard last."""
        found = []
        for name, queue in self._queues(question.query).items():
            survey = await queue.store.survey(self._adapters.wall_time())
            clusters = sorted(survey.clusters.items(), key=lambda item: -item[1])
            found.append(
                {
                    "queue": name,
                    "recipients": survey.recipients,
                    "paused": queue.paused or None,
                    "destinations": [
                        {"destination": destination, "recipients": sum(columns), "ages": columns}
                        for destination, columns in sorted(survey.destinations.items(), key=lambda item: -sum(item[1]))
                    ],
                    "clusters": [
                        {"code": code or None, "status": status, "text": text, "recipients": count}
                        for (code, status, text), count in clusters
                    ],
                }
            )
        return Answer(200, {"ages": [*(name for name, _ in AGES), "older"], "queues": found})

    async def entries(self, question: Question) -> Answer:
        """``where``, ``after`` (a ``next``), ``limit`` (entries in the answer)."""
        chooses = _where(question.query.get("where"))
        limit = _number(question.query, "limit", 100, PAGE)
        name, queue, entries, following = await self._page(question.query, PAGE if chooses else limit)
        if queue is None:
            return Answer(200, {"entries": [], "next": None})
        meant = chosen(queue, entries, chooses, self._adapters.wall_time())
        if len(meant) > limit:
            meant = meant[:limit]
            following = f"{name}:{queue.store.cursor(meant[-1][0].id)}"
        now = self._adapters.wall_time()
        return Answer(200, {"entries": [_entry(name, entry, rows, now) for entry, rows in meant], "next": following})

    async def message(self, question: Question) -> Answer:
        """All that is known of a message, by its ``id``: in every queue, for every target."""
        now = self._adapters.wall_time()
        found = []
        for name, queue in self._queues(question.query).items():
            for entry in await queue.store.find(_text(question.query, "id")):
                history = await queue.store.history(entry.id)
                ways = {row.destination for row in entry.recipients}
                found.append(
                    {
                        **_entry(name, entry, candidates(queue, entry, now), now),
                        **_particulars(entry),
                        "history": [{"at": _time(line.at), "text": line.text} for line in history],
                        "paused": queue.paused or None,
                        "destinations": [self._destination(one) for one in queue.destinations.report() if one.name in ways],
                    }
                )
        if not found:
            raise Fault(404, f"no queue has a message {question.query['id']}")
        return Answer(200, {"entries": found})

    async def content(self, question: Question) -> Answer:
        """A piece of what an entry's next hop would get: ``queue``, ``number``, ``offset``; base64."""
        queues = self._queues(question.query)
        number, offset = (_number(question.query, name, 0, 1 << 62) for name in ("number", "offset"))
        queue = queues[_text(question.query, "queue")]
        entry = await queue.store.entry(number)
        if entry is None:
            raise Fault(404, f"there is no entry {number} any more")
        message = await queue.store.message(entry)
        try:
            reading = message.read(offset, min(PIECE, max(message.size - offset, 0)))
            piece = reading if isinstance(reading, bytes) else await reading
        finally:
            message.body.release()
        return Answer(200, {"size": message.size, "offset": offset, "data": base64.b64encode(piece).decode()})

    def _destination(self, one: Any) -> dict[str, Any]:
        """What is known of the way there: the back-off and its evidence."""
        return {
            "destination": one.name,
            "in_flight": one.running,
            "failures": one.failures,
            "since": _time(one.since) if one.failures else None,
            "not_before": _time(one.not_before) if one.failures else None,
            "retry_in": max(one.not_before - self._adapters.wall_time(), 0.0) if one.failures else 0.0,
            "reason": one.reason or None,
        }

    # Acting

    async def act(self, question: Question) -> Answer:
        """``{"action": "hold", "where": "…"}`` or ``"ids": […]``; with ``queue``, ``target`` (of reroute), ``dry_run``,
        ``after``. With ids there is one page."""
        body = question.body
        name = _text(body, "action")
        if name not in ACTS:
            raise Fault(400, f"`action` is one of {', '.join(ACTS)}")
        ids, where = body.get("ids"), body.get("where")
        if (ids is None) == (where is None):
            raise Fault(400, "either `ids` or `where` says which")
        target = _text(body, "target") if name == "reroute" else ""
        dry_run = body.get("dry_run", False) is True
        if ids is None:
            return await self._act_where(name, question, _where(_text(body, "where")), target, dry_run)
        if not isinstance(ids, list) or len(ids) > MOST_IDS or not all(isinstance(one, str) for one in ids):
            raise Fault(400, f"`ids` is a list of up to {MOST_IDS} message ids")
        return await self._act_on(name, question, ids, target, dry_run)

    async def _act_where(self, name: str, question: Question, chooses: Chooses | None, target: str, dry_run: bool) -> Answer:
        which, queue, entries, following = await self._page(question.body, PAGE)
        done = Done()
        if queue is not None:
            context = self._context(queue, question, target, chooses)
            done = await perform(name, context, entries, dry_run=dry_run)
            self._log(name, context, which, str(question.body["where"]), done, dry_run)
        return Answer(200, {**asdict(done), "next": following, "missing": []})

    async def _act_on(self, name: str, question: Question, ids: list[str], target: str, dry_run: bool) -> Answer:
        total = Done()
        seen: set[str] = set()
        for which, queue in self._queues(question.body).items():
            entries = [entry for one in dict.fromkeys(ids) for entry in await queue.store.find(one)]
            if not entries:
                continue
            seen.update(entry.message_id for entry in entries)
            context = self._context(queue, question, target, None)
            done = await perform(name, context, entries, dry_run=dry_run)
            self._log(name, context, which, " ".join(ids), done, dry_run)
            total.merge(done)
        return Answer(200, {**asdict(total), "next": None, "missing": [one for one in ids if one not in seen]})

    def _context(self, queue: Queue, question: Question, target: str, chooses: Chooses | None) -> Context:
        """:raises Fault: there is no such target."""
        if target:
            found = queue.find_target(target)
            if found is None:
                raise Fault(404, f"there is no target {target}")
            if getattr(found, "keeper", None) is not None and found.queue is queue:
                raise Fault(409, f"{target} is the queue itself")
            target = found.label
        return Context(queue, self._adapters.wall_time(), question.who, target, chooses)

    def _log(self, name: str, context: Context, which: str, where: str, done: Done, dry_run: bool) -> None:
        if not dry_run and done.matched:
            _events.info(
                Event.QUEUE_ACT,
                queue=which,
                action=name,
                who=context.who,
                where=where,
                messages=len(done.messages),
                changed=done.changed,
                busy=done.busy,
                target=context.target,
            )

    # Which

    def _queues(self, given: Mapping[str, Any]) -> dict[str, Queue]:
        """:raises Fault: there is no such queue."""
        queues = queues_of(self._live.current.configuration)
        name = given.get("queue")
        if name is None:
            return queues
        if name not in queues:
            raise Fault(404, f"there is no queue {name}; there is {', '.join(queues) or 'none'}")
        return {name: queues[name]}

    async def _page(self, given: Mapping[str, Any], limit: int) -> tuple[str, Queue | None, list[Entry], str | None]:
        """A page of one queue, and where to go on: in it, or in the next one."""
        queues = self._queues(given)
        names = list(queues)
        if not names:
            return "", None, [], None
        name, number = _place(given.get("after"), names)
        entries, following = await queues[name].store.page(number, limit)
        if following is not None:
            return name, queues[name], entries, f"{name}:{following}"
        later = names[names.index(name) + 1 :]
        return name, queues[name], entries, f"{later[0]}:0" if later else None


async def numbers(name: str, queue: Queue) -> dict[str, Any]:
    """One queue, as `stats` and `status` tell of it. :raises StoreError: the store can't tell."""
    summary = await queue.store.summary()
    return {
        "queue": name,
        **asdict(summary),
        "oldest": _time(summary.oldest),
        "in_flight": queue.in_flight,
        "paused": queue.paused or None,
        "delivered": queue.delivered,
        "failed": queue.failed,
        "destinations": len(queue.destinations),
    }


def _guarded(view: Callable[[Question], Awaitable[Answer]]) -> Callable[[Question], Awaitable[Answer]]:
    """A store that can't is 503, an expression that is wrong 400."""

    async def guarded(question: Question) -> Answer:
        try:
            return await view(question)
        except WhereError as error:
            raise Fault(400, str(error)) from error
        except Damaged as error:
            raise Fault(409, f"it is damaged, and was set aside: {error}") from error
        except StoreError as error:
            raise Fault(503, str(error)) from error

    return guarded


def _where(text: str | None) -> Chooses | None:
    return compile_where(text) if text is not None else None


def _place(after: Any, names: list[str]) -> tuple[str, int]:
    """:raises Fault: this is no ``next`` of ours."""
    if after is None:
        return names[0], 0
    name, _, number = str(after).rpartition(":")
    if name not in names or not number.isascii() or not number.isdecimal():
        raise Fault(400, "`after` is a `next` of an earlier answer")
    return name, int(number)


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise Fault(400, f"`{name}` is missing, or no text")
    return value


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdecimal()) or int(text) > most:
        raise Fault(400, f"`{name}` is a number up to {most}")
    return int(text)


def _time(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None


def _entry(name: str, entry: Entry, rows: list[Candidate], now: float) -> dict[str, Any]:
    return {
        "id": entry.message_id,
        "queue": name,
        "number": entry.id,
        "target": entry.target,
        "sender": str(entry.sender),
        "size": entry.size,
        "arrived": _time(entry.arrived),
        "age": round(max(now - entry.arrived, 0.0), 3),
        "recipients": [_recipient(one, now) for one in rows],
    }


def _recipient(one: Candidate, now: float) -> dict[str, Any]:
    row = one.row
    return {
        "address": str(row.address),
        "state": one.state,
        "destination": row.destination,
        "due": _time(row.due),
        "due_in": round(max(row.due - now, 0.0), 3),
        "retries": row.retries,
        "notified": row.notified,
        "reports": row.reports,
        "in_doubt": row.in_doubt,
        "reason": row.reason or None,
        "notify": sorted(row.parameters.notify),
        "last": _last(row.last) if row.last is not None else None,
    }


def _last(last: LastTry) -> dict[str, Any]:
    return {
        "at": _time(last.at),
        "code": last.code or None,
        "status": last.status or None,
        "text": last.text,
        "class": last.kind or None,
        "remote": last.remote,
        **{name: value or None for name, value in asdict(last.way).items()},
    }


def _particulars(entry: Entry) -> dict[str, Any]:
    given = entry.parameters
    return {
        "priority": entry.priority,
        "origin": {name: value for name, value in asdict(entry.origin).items() if value},
        "parameters": {
            "body": given.body.value if given.body is not None else None,
            "smtputf8": given.smtputf8,
            "requiretls": given.requiretls,
            "ret": given.ret,
            "envid": given.envid,
        },
    }
