"""The log of the running gateway: the destinations of its configuration, changed by a reload like everything else."""

from __future__ import annotations

from collections.abc import Callable

from mailgate.inbound.ports import CannotBind
from mailgate.logs.destinations import CannotLog
from mailgate.logs.detail import detail
from mailgate.logs.outputs import Output, Outputs
from mailgate.logs.settings import open_logs
from mailgate.registry import Configuration
from mailgate.runtime.live import Companion


class LogOutputs(Companion):
    """Keeps ``outputs`` at what the configuration says, or at ``otherwise``, if it has no `log` line and that is given."""

    def __init__(self, outputs: Outputs, *, debug: bool = False, otherwise: Callable[[], Output] | None = None) -> None:
        self._outputs = outputs
        self._debug = debug
        self._otherwise = otherwise
        self._next: list[Output] = []

    def prepare(self, configuration: Configuration) -> None:
        current = self._outputs.current
        try:
            self._next = open_logs(configuration.globals, current, debug=self._debug)
        except CannotLog as error:
            raise CannotBind(str(error)) from error
        if not self._next and self._otherwise is not None:
            unplanned = [output for output in current if output.plan is None]
            self._next = unplanned or [self._otherwise()]

    def give_up(self) -> None:
        for output in self._next:
            if output not in self._outputs.current:
                output.close()
        self._next = []

    def adopt(self) -> None:
        self._outputs.use(self._next)
        debugging = self._debug or any(output.level == "debug" and output.plan is not None for output in self._next)
        detail.begin(debugging=debugging)
