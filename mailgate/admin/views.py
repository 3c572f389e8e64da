"""What the routes answer: the state of the running gateway as JSON, and the acts upon it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import mailgate
from mailgate.admin.site import Answer, Fault, Question, Route
from mailgate.config.diagnostics import as_dict, render
from mailgate.registry.administration import Role
from mailgate.registry.changes import change_row, difference_lines
from mailgate.runtime import LiveGateway, Outcome, Verdict

STATUS = {Verdict.DONE: 200, Verdict.FINE: 200, Verdict.REFUSED: 409, Verdict.STOPPING: 503}
"""Of HTTP, for each end of a reload."""


class Views:
    """Of one gateway. ``path`` is its configuration file."""

    def __init__(self, live: LiveGateway, path: str, wall_time: Callable[[], float]) -> None:
        self._live = live
        self._path = os.path.abspath(path)
        self._wall_time = wall_time

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/health/live", Role.VIEW, self.alive, public=True),
            Route("GET", "/health/ready", Role.VIEW, self.ready, public=True),
            Route("GET", "/v1/status", Role.VIEW, self.status),
            Route("GET", "/v1/sessions", Role.VIEW, self.sessions),
            Route("POST", "/v1/reload", Role.OPERATE, self.reload),
        ]

    # Health

    def alive(self, _: Question) -> Answer:
        """It answers, so the event loop turns."""
        return Answer(200, {"live": True})

    def ready(self, _: Question) -> Answer:
        """Whether it takes mail: started, not draining."""
        return Answer(200 if self._live.ready else 503, {"ready": self._live.ready, "state": self._live.state})

    # State

    def status(self, _: Question) -> Answer:
        live = self._live
        return Answer(
            200,
            {
                "version": mailgate.__version__,
                "pid": os.getpid(),
                "state": live.state,
                "configuration": self._path,
                "generation": live.generation,
                "started": _time(live.started_at),
                "reloaded": _time(live.reloaded_at),
                "uptime": round(self._wall_time() - live.started_at, 3) if live.started_at else 0,
                "sessions": live.session_count,
                "old_configurations": len(live.old),
                "reloads": {verdict.value: count for verdict, count in live.reloads.items()},
                "last_reload": None if live.last is None else _outcome(live.last),
                "listeners": [
                    {"kind": listener.name, "addresses": list(listener.addresses), "sessions": listener.session_count}
                    for listener in live.current.listeners
                ],
            },
        )

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

    # Acts

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


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {"verdict": outcome.verdict.value, "reason": outcome.reason, "seconds": round(outcome.seconds, 3)}


def _time(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None


def _boolean(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise Fault(400, f"`{name}` is true or false")
    return value
