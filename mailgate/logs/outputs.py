"""All destinations of the log together: the observer that twistd is given, and what changes it while the gateway runs.

There is one `outputs` for the process, as there is one log: twistd makes its observer by a dotted name (`observer`), before the
gateway exists, and SIGUSR1 means every file at once (`reopen`). Destinations that a reload leaves as they are stay open.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from typing import Any

from twisted.logger import ILogObserver
from zope.interface import implementer

from mailgate.events import Event, EventLog
from mailgate.logs.destinations import CannotLog, Descriptor, Destination
from mailgate.logs.detail import LEVELS, detail
from mailgate.logs.lines import Format, TextFormat

_events = EventLog("mailgate.logs")


@implementer(ILogObserver)
class Output:
    """One destination with its format and the lowest level that it shows. ``plan`` is what it was made of, to be compared."""

    def __init__(self, destination: Destination, form: Format, level: str = "debug", plan: Hashable = None) -> None:
        self.plan = plan
        self.level = level
        self._destination = destination
        self._format = form
        self._rank = LEVELS[level]
        self._lost = 0

    def __call__(self, event: dict[str, Any]) -> None:
        level = event["log_level"].name if "log_level" in event else "info"
        if LEVELS[level] < (self._rank if detail.rank < 0 else detail.rank):
            return
        lines = self._format(event)
        if not lines:
            return
        if self._lost:
            lines = self._say_lost(event) + lines
        self._lost = 0 if self._destination.write(lines, level) else self._lost + 1

    def _say_lost(self, event: dict[str, Any]) -> str:
        """There may be room again: first of all the number of events that are missing here."""
        said: list[dict[str, Any]] = []
        EventLog("mailgate.logs", observer=said.append).warn(Event.LOG_LOST, events=self._lost)
        return self._format({**said[0], "log_time": event["log_time"]})

    def reopen(self) -> None:
        self._destination.reopen()

    def close(self) -> None:
        self._destination.close()


@implementer(ILogObserver)
class Outputs:
    """Several at once; none at all is silence."""

    def __init__(self) -> None:
        self._outputs: tuple[Output, ...] = ()

    def __call__(self, event: dict[str, Any]) -> None:
        for output in self._outputs:
            output(event)

    @property
    def current(self) -> tuple[Output, ...]:
        return self._outputs

    def use(self, new: Sequence[Output]) -> None:
        """These from now on; those before that are not among them are closed."""
        before, self._outputs = self._outputs, tuple(new)
        for output in before:
            if output not in self._outputs:
                output.close()

    def reopen(self) -> None:
        """Files begin anew under their names, after logrotate has moved them. One that can't is written on to as it is."""
        for output in self._outputs:
            try:
                output.reopen()
            except CannotLog as error:
                _events.error(Event.LOG_NOT_REOPENED, reason=str(error))


outputs = Outputs()
"""The log of this process."""


def reopen() -> None:
    """For SIGUSR1."""
    outputs.reopen()


def standard_output() -> Output:
    """Where the log goes without a `log` line, with `twistd -n`."""
    return Output(Descriptor(sys.stdout.fileno()), TextFormat())


def observer() -> Outputs | None:
    """The observer factory for twistd, unless it is told another; None, and Twisted decides, if the file names no destination."""
    return outputs if outputs.current else None
