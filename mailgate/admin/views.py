"""What the routes answer: the state of the running gateway as JSON, and the acts upon it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import mailgate
from mailgate.adapters import Adapters
from mailgate.admin.metrics import CONTENT_TYPE, Metrics
from mailgate.admin.queues import numbers
from mailgate.admin.site import Answer, Fault, Question, Route
from mailgate.admin.subjects import limits_of, pools_of, queues_of
from mailgate.config.diagnostics import as_dict, render
from mailgate.outbound.operations import NotPossible, PoolControl
from mailgate.queue.engine import Queue
from mailgate.queue.store import StoreError
from mailgate.registry.administration import Role
from mailgate.registry.changes import change_row, difference_lines
from mailgate.runtime import LiveGateway, Outcome, Verdict
from mailgate.tls.pairs import KeyPair

STATUS = {Verdict.DONE: 200, Verdict.FINE: 200, Verdict.REFUSED: 409, Verdict.STOPPING: 503}
"""Of HTTP, for each end of a reload."""


class Views:
    """Of one gateway. ``path`` is its configuration file."""

    def __init__(self, live: LiveGateway, path: str, adapters: Adapters, metrics: Metrics) -> None:
        self._live = live
        self._path = os.path.abspath(path)
        self._adapters = adapters
        self._metrics = metrics

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/health/live", Role.VIEW, self.alive, public=True),
            Route("GET", "/health/ready", Role.VIEW, self.ready, public=True),
            Route("GET", "/v1/status", Role.VIEW, self.status),
            Route("GET", "/v1/sessions", Role.VIEW, self.sessions),
            Route("GET", "/v1/pools", Role.VIEW, self.pools),
            Route("GET", "/v1/limits", Role.VIEW, self.limits),
            Route("GET", "/v1/certificates", Role.VIEW, self.certificates),
            Route("GET", "/metrics", Role.VIEW, self.metrics, public=True),
            Route("POST", "/v1/reload", Role.ADMIN, self.reload),
            Route("POST", "/v1/pools", Role.OPERATE, self.act_on_pool),
        ]

    # Health

    def alive(self, _: Question) -> Answer:
        """It answers, so the event loop turns."""
        return Answer(200, {"live": True})

    def ready(self, _: Question) -> Answer:
        """Whether it takes mail: started, not draining."""
        return Answer(200 if self._live.ready else 503, {"ready": self._live.ready, "state": self._live.state})

    # State

    async def status(self, _: Question) -> Answer:
        live = self._live
        queues = queues_of(live.current.configuration) if live.ready else {}
        return Answer(
            200,
            {
                **self.facts(),
                "sessions": live.session_count,
                "old_configurations": len(live.old),
                "listeners": [
                    {"kind": listener.name, "addresses": list(listener.addresses), "sessions": listener.session_count}
                    for listener in live.current.listeners
                ],
                "queues": [await _queue(name, queue) for name, queue in queues.items()],
            },
        )

    def facts(self) -> dict[str, Any]:
        """Of its status, what is about the process and its configuration."""
        live = self._live
        return {
            "version": mailgate.__version__,
            "pid": os.getpid(),
            "state": live.state,
            "configuration": self._path,
            "generation": live.generation,
            "started": _time(live.started_at),
            "reloaded": _time(live.reloaded_at),
            "uptime": round(self._adapters.wall_time() - live.started_at, 3) if live.started_at else 0,
            "reloads": {verdict.value: count for verdict, count in live.reloads.items()},
            "last_reload": None if live.last is None else _outcome(live.last),
        }

    def sessions(self, _: Question) -> Answer:
        """How many there are, by listener; those of older configurations, the eldest first, for themselves."""
        gateways = [*self._live.old, self._live.current]
        return Answer(
            200,
            {
                "sessions": self._live.session_count,
                "configurations": [
                    {
                        "current": gateway is self._live.current,
                        "listeners": [
                            {"addresses": list(listener.addresses), "sessions": listener.session_count}
                            for listener in gateway.listeners
                        ],
                    }
                    for gateway in gateways
                ],
            },
        )

    def pools(self, _: Question) -> Answer:
        """Every target with its endpoints: state, evidence, next probe."""
        reports = {name: asdict(control.report()) for name, control in self._pools().items()}
        return Answer(200, {"pools": [{**report, "target": name} for name, report in reports.items()]})

    def limits(self, _: Question) -> Answer:
        found = limits_of(self._live.current.configuration)
        return Answer(200, {"limits": [{"place": place, **asdict(state)} for place, states in found for state in states]})

    def certificates(self, _: Question) -> Answer:
        """What each listener shows, and until when it is valid."""
        listeners = [listener for listener in self._live.current.listeners if listener.certificates]
        return Answer(
            200,
            {
                "listeners": [
                    {"addresses": list(listener.addresses), "certificates": list(map(_certificate, listener.certificates))}
                    for listener in listeners
                ]
            },
        )

    async def metrics(self, _: Question) -> Answer:
        return Answer(200, await self._adapters.run_in_thread(self._metrics.render), CONTENT_TYPE)

    # Acts

    async def act_on_pool(self, question: Question) -> Answer:
        """``{"action": "drain", "target": "next", "endpoint": "tcp://…"}``; the answer is the target as it is then."""
        action, target, endpoint = (_text(question.body, name) for name in ("action", "target", "endpoint"))
        act = POOL_ACTIONS.get(action)
        if act is None:
            raise Fault(400, f"`action` is one of {', '.join(POOL_ACTIONS)}")
        control = self._pools().get(target)
        if control is None:
            raise Fault(404, f"there is no target {target}; there is {', '.join(self._pools()) or 'none'}")
        try:
            failure = act(control, endpoint, question.body)
            failure = failure if failure is None else await failure
        except NotPossible as error:
            raise Fault(409, str(error)) from error
        return Answer(200, {"failure": failure or None, "pool": {**asdict(control.report()), "target": target}})

    def _pools(self) -> dict[str, PoolControl]:
        return pools_of(self._live.current.configuration)

    async def reload(self, question: Question) -> Answer:
        """``{"dry_run": true}`` only looks."""
        dry_run = _boolean(question.body, "dry_run")
        outcome = await self._live.reload(dry_run=dry_run)
        found = {
            **_outcome(outcome),
            "generation": self._live.generation,
            "diagnostics": [as_dict(diagnostic) for diagnostic in outcome.diagnostics],
            "rendered": render(outcome.diagnostics, color=False) if outcome.diagnostics else "",
            "changes": [change_row(change) for change in outcome.changes],
            "difference": list(difference_lines(outcome.changes)),
        }
        return Answer(STATUS[outcome.verdict], found)


async def _queue(name: str, queue: Queue) -> dict[str, Any]:
    """A store that fails does not keep the rest of the state from whoever asks."""
    try:
        return await numbers(name, queue)
    except StoreError as error:
        return {"queue": name, "paused": str(error)}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {"verdict": outcome.verdict.value, "reason": outcome.reason, "seconds": round(outcome.seconds, 3)}


def _time(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None


def _certificate(pair: KeyPair) -> dict[str, Any]:
    return {"source": pair.source, "names": list(pair.names), "kind": pair.kind, "expires": pair.expires.isoformat()}


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise Fault(400, f"`{name}` is missing, or no text")
    return value


def _weigh(control: PoolControl, endpoint: str, body: Mapping[str, Any]) -> None:
    weight = body.get("weight")
    if not isinstance(weight, int) or isinstance(weight, bool):
        raise Fault(400, "`weight` is a number")
    control.weigh(endpoint, weight)


POOL_ACTIONS: dict[str, Callable[[PoolControl, str, Mapping[str, Any]], Any]] = {
    "drain": lambda control, endpoint, _: control.drain(endpoint),
    "undrain": lambda control, endpoint, _: control.undrain(endpoint),
    "eject": lambda control, endpoint, _: control.eject(endpoint, "ejected by an operator"),
    "probe": lambda control, endpoint, _: control.probe(endpoint),
    "weight": _weigh,
}
"""Each answers None, or an awaitable of what failed, "" if nothing did."""


def _boolean(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise Fault(400, f"`{name}` is true or false")
    return value
