"""From the `log` lines of a configuration to outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mailgate.logs.destinations import CannotLog, Descriptor, Destination, LogFile, Syslog
from mailgate.logs.lines import Format, JsonFormat, SyslogFormat, TextFormat
from mailgate.logs.outputs import Output
from mailgate.registry import Globals

DEFAULT_NAME = "mailgate"


@dataclass(frozen=True, slots=True)
class Plan:
    """One `log` line. ``kind``: stderr, stdout, file, syslog."""

    kind: str
    path: str
    json: bool
    level: str
    name: str


def plans(settings: Globals, *, debug: bool = False) -> list[Plan]:
    """``debug``: what has no level of its own shows debug events too."""
    found = []
    for line in settings.log:
        as_json = line.value.word == "json"
        chosen = line.value.value if as_json else line.value
        level = line.level or ("debug" if debug else "info")
        found.append(Plan(chosen.word, chosen.value or "", as_json, level, settings.log_name))
    return found


def open_logs(settings: Globals, current: Iterable[Output] = (), *, debug: bool = False) -> list[Output]:
    """The outputs of a configuration; those among ``current`` that are wanted again are taken over.

    :raises CannotLog: one can't be had; what was opened for the others is closed again.
    """
    there = {output.plan: output for output in current}
    made: list[Output] = []
    try:
        for plan in dict.fromkeys(plans(settings, debug=debug)):
            made.append(there.get(plan) or Output(_destination(plan), _format(plan), plan.level, plan))
    except CannotLog:
        for output in made:
            if output.plan not in there:
                output.close()
        raise
    return made


def _destination(plan: Plan) -> Destination:
    match plan.kind:
        case "file":
            return LogFile(plan.path)
        case "syslog":
            return Syslog(plan.name or DEFAULT_NAME)
        case "stdout":
            return Descriptor(1)
        case _:
            return Descriptor(2)


def _format(plan: Plan) -> Format:
    if plan.json:
        return JsonFormat(plan.name or DEFAULT_NAME)
    return SyslogFormat() if plan.kind == "syslog" else TextFormat(plan.name)
