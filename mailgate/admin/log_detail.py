"""`/v1/log`: more or less of the log for some minutes (mailgate/logs/detail.py), and its end by the clock or by a reload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailgate.admin.site import Answer, Fault, Question, Route
from mailgate.events import Event, EventLog
from mailgate.logs.detail import Detail, Subject, Watch
from mailgate.registry.administration import Role
from mailgate.runtime import Companion, LiveGateway

SHOWN = ("debug", "info", "warn", "error")
SECONDS = 600.0
"""For how long, unless it is said."""
MOST = 86400.0
MAX_WATCHES = 50

_events = EventLog("mailgate.admin")


class LogDetail(Companion):
    """Of one gateway and its process's ``detail``."""

    def __init__(self, live: LiveGateway, detail: Detail, reactor: Any) -> None:
        self._live = live
        self._detail = detail
        self._reactor = reactor
        self._call: Any = None

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v1/log", Role.VIEW, self.show),
            Route("POST", "/v1/log", Role.OPERATE, self.act),
        ]

    def adopt(self) -> None:
        """A reload has ended whatever there was (`LogOutputs.adopt`)."""
        self._arm()

    def stopping(self) -> None:
        self._detail.reset()
        self._arm()

    def show(self, _: Question) -> Answer:
        now = self._reactor.seconds()
        level = self._detail.level
        return Answer(
            200,
            {
                "level": None if level is None else {"level": level[0], "seconds": round(level[1] - now)},
                "watches": [
                    {"subject": str(watch.subject), "value": watch.value, "seconds": round(until - now)}
                    for watch, until in self._detail.watches.items()
                ],
            },
        )

    def act(self, question: Question) -> Answer:
        """``{"action": "level", "level": "debug", "seconds": 600}``, ``{"action": "watch", "subject": "target", "value": …}``,
        ``{"action": "reset"}``; the answer is what `show` says then."""
        body = question.body
        action = body.get("action")
        until = self._reactor.seconds() + _seconds(body)
        if action == "level":
            what = self._set_level(body, until)
        elif action == "watch":
            what = self._watch(body, until)
        elif action == "reset":
            self._detail.reset()
            what = "reset"
        else:
            raise Fault(400, "`action` is one of level, watch, reset")
        self._arm()
        _events.warn(Event.LOG_DETAIL, what=what, seconds=0 if action == "reset" else round(_seconds(body)), by=question.who)
        return self.show(question)

    def _set_level(self, body: Mapping[str, Any], until: float) -> str:
        level = body.get("level")
        if level not in SHOWN:
            raise Fault(400, f"`level` is one of {', '.join(SHOWN)}")
        self._detail.set_level(level, until)
        return f"level {level}"

    def _watch(self, body: Mapping[str, Any], until: float) -> str:
        subject, value = body.get("subject"), body.get("value")
        if subject not in [each.value for each in Subject]:
            raise Fault(400, f"`subject` is one of {', '.join(Subject)}")
        if not isinstance(value, str) or not value:
            raise Fault(400, "`value` is missing, or no text")
        watch = Watch(Subject(subject), value)
        self._check(watch)
        if len(self._detail.watches) >= MAX_WATCHES and watch not in self._detail.watches:
            raise Fault(409, f"{MAX_WATCHES} are watched already")
        try:
            self._detail.watch(watch, until)
        except ValueError as error:
            raise Fault(400, str(error)) from error
        return str(watch)

    def _check(self, watch: Watch) -> None:
        """What can't be there is a mistake in writing."""
        current = self._live.current
        known: list[str] | None = None
        if watch.subject is Subject.LISTENER:
            known = [address for listener in current.listeners for address in listener.addresses]
        elif watch.subject is Subject.TARGET:
            known = [module.label for module in current.configuration.modules if hasattr(module, "debug")]
        elif watch.subject is Subject.RECIPIENT and "@" not in watch.value:
            raise Fault(400, "a recipient is an address, or @domain")
        if known is not None and watch.value not in known:
            raise Fault(404, f"there is no {watch}; there is {', '.join(known) or 'none'}")

    def _arm(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        end = self._detail.next_end
        self._call = None if end is None else self._reactor.callLater(max(0.0, end - self._reactor.seconds()), self._expire)

    def _expire(self) -> None:
        for what in self._detail.expire(self._reactor.seconds()):
            _events.warn(Event.LOG_DETAIL, what=what, seconds=0, by="the clock")
        self._arm()


def _seconds(body: Mapping[str, Any]) -> float:
    seconds = body.get("seconds", SECONDS)
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds <= MOST:
        raise Fault(400, f"`seconds` is a number up to {MOST:.0f}")
    return float(seconds)
