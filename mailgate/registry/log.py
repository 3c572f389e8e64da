"""The declaration of `log`: where the lines go, in which form, from which level on. mailgate/logs makes destinations of it."""

from __future__ import annotations

from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive

_DESTINATIONS: dict[str, Any] = {"stderr": v.Nothing(), "stdout": v.Nothing(), "file": v.Path(), "syslog": v.Nothing()}

LINE = v.OneOf({**_DESTINATIONS, "json": v.OneOf(_DESTINATIONS)})
"""What stands on the line."""


class LogBlock(Block):
    """One destination of the log."""

    level = Directive(
        "level",
        v.Choice("debug", "info", "warn", "error"),
        doc="The lowest level that goes there; info by default, debug with `twistd mailgate --debug`.",
    )
