"""What is written for one endpoint: in its own `endpoint { }` block, else in its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mailgate.config.schema import Block
from mailgate.config.source import Span


@dataclass(frozen=True, slots=True)
class Written:
    """``block`` is the target itself for an endpoint without a block of its own."""

    block: Block
    target: Block

    def value(self, directive: str) -> Any:
        """The endpoint's own value if it has one, else the target's."""
        return getattr(self.block if self.block.span_of(directive) else self.target, directive)

    def has(self, directive: str) -> bool:
        return bool(self.block.span_of(directive) or self.target.span_of(directive))

    def place(self, directive: str) -> Span | None:
        """Where to point at for this directive."""
        return self.block.span_of(directive) or self.target.span_of(directive) or self.block.span or self.target.span
