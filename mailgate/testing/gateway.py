"""A whole gateway inside a test: configuration text in, listeners up, log lines kept.

It runs on whatever `Adapters` it's given: `mailgate.testing.network.adapters_for` for simulated time and network, or ones over
the real reactor. Everything between the sockets is the code that `twistd mailgate` runs.

    reactor = SimulatedReactor(seed=3)
    gateway = WholeGateway(text, adapters_for(reactor), directory)
    reactor.run(gateway.start())
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from twisted.logger import eventAsText, globalLogPublisher

from mailgate.adapters import Adapters
from mailgate.config.diagnostics import render
from mailgate.message.body import Spool
from mailgate.registry import Configuration, build
from mailgate.runtime import Gateway


class Misconfigured(AssertionError):
    """The configuration has errors; the text is the diagnostics."""


class WholeGateway:
    """One gateway. ``directory`` holds its configuration file, and is its state_dir and runtime_dir unless the text says else."""

    def __init__(self, text: str, adapters: Adapters, directory: str) -> None:
        self.log: list[str] = []
        self.path = Path(directory) / "mailgate.conf"
        if "state_dir" not in text:
            text = f"state_dir {directory}\nruntime_dir {directory}\n{text}"
        self.path.write_text(text)
        built = build(str(self.path), adapters, outfit=lambda settings: {"spool": Spool(settings.body_spool_limit, adapters)})
        if built.configuration is None:
            raise Misconfigured(render(built.diagnostics, color=False))
        self.configuration: Configuration = built.configuration
        self._gateway = Gateway(self.configuration)

    async def start(self) -> None:
        """Bind and accept."""
        globalLogPublisher.addObserver(cast(Any, self._keep))
        self._gateway.bind()
        await self._gateway.start()

    async def stop(self) -> None:
        """Stop accepting, drain, take everything down."""
        try:
            await self._gateway.stop()
        finally:
            globalLogPublisher.removeObserver(cast(Any, self._keep))

    def logged(self, event: str) -> list[str]:
        """Lines of one kind, such as ``message.done``."""
        return [line for line in self.log if line == event or line.startswith(event + " ")]

    @property
    def log_text(self) -> str:
        return "\n".join(self.log)

    def _keep(self, event: dict[str, Any]) -> None:
        if "event_text" in event:
            self.log.append(str(event["event_text"]))
        elif str(event.get("log_namespace", "")).startswith("mailgate") or "log_failure" in event:
            self.log.append(eventAsText(event, includeTimestamp=False, includeSystem=False))
