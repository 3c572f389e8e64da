"""`msgpipeline NAME { … }`: a pipeline that others deliver to by name."""

from __future__ import annotations

from mailgate.config.diagnostics import Report
from mailgate.pipeline.compile import NamedPipeline
from mailgate.registry import Module


class MsgPipeline(NamedPipeline, Module):
    """A pipeline with a name, for `deliver_to &NAME`; it runs inside the transaction of the listener that got the mail."""

    name = "msgpipeline"
    provides = ("target",)
    configure_damaged = True

    @property
    def title(self) -> str:
        return f"msgpipeline {self.context.name}"

    def configure(self, report: Report) -> None:
        self.router(report, self.context.local_domains)
