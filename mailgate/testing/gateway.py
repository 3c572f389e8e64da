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
from mailgate.registry import Configuration
from mailgate.runtime import Assembler, LiveGateway, Outcome


class Misconfigured(AssertionError):
    """The configuration has errors; the text is the diagnostics."""


class WholeGateway:
    """One gateway. ``directory`` holds its configuration file, and is its state_dir and runtime_dir unless the text says else."""

    def __init__(self, text: str, adapters: Adapters, directory: str) -> None:
        self.log: list[str] = []
        self.path = Path(directory) / "mailgate.conf"
        self._directory = directory
        self.write(text)
        assembler = Assembler(str(self.path), adapters)
        built = assembler.assemble()
        if built.configuration is None:
            raise Misconfigured(render(built.diagnostics, color=False))
        self.live = LiveGateway(assembler, built.configuration, adapters)

    @property
    def configuration(self) -> Configuration:
        """What serves new sessions."""
        return self.live.current.configuration

    def write(self, text: str) -> None:
        """Change the file; `reload` makes it count."""
        if "state_dir" not in text:
            text = f"state_dir {self._directory}\nruntime_dir {self._directory}\n{text}"
        self.path.write_text(text)

    async def reload(self, text: str | None = None, *, dry_run: bool = False) -> Outcome:
        """Reload, with another ``text`` if one is given."""
        if text is not None:
            self.write(text)
        return await self.live.reload(dry_run=dry_run)

    async def start(self) -> None:
        """Bind and accept."""
        globalLogPublisher.addObserver(cast(Any, self._keep))
        self.live.bind()
        await self.live.start()

    async def stop(self) -> None:
        """Stop accepting, drain, take everything down."""
        try:
            await self.live.stop()
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
