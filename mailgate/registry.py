"""Names the language knows, and what they stand for.

A *module* is a `Module` subclass: a block with a name and a life. Built-in ones are found by folder
(``target.smtp`` is the class of that name in mailgate/modules/target/smtp.py) and imported when named, a third party's by the
entry-point group ``mailgate.modules``; the few top-level words without a namespace stand in `WORDS`. `build` makes a
`Configuration` of a file: parse, check, make every instance, resolve references, let each configure itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Argument, Block, Directive

__all__ = ["Argument", "Block", "Directive", "Globals", "Module", "ModuleContext", "Report"]


@dataclass(frozen=True, slots=True)
class ModuleContext:
    """What a module is given: the outside world and the global settings it may need.

    ``name`` is the instance's name, "" for an inline one; ``label`` how logs and replies call it. ``spool`` and ``log`` are made
    by the runtime and None while only checking.
    """

    adapters: Any = None
    hostname: str = "localhost"
    state_dir: str = ""
    runtime_dir: str = ""
    name: str = ""
    label: str = ""
    spool: Any = None
    log: Any = None


class Module(Block):
    """Something the language can name.

    ``__init__`` finds its values in place, but not yet what they refer to. ``configure`` comes when all instances exist, and
    in `mailgate check` too: it opens nothing. ``start`` runs before the listeners accept, ``stop`` after the gateway drained.
    """

    name: ClassVar[str] = ""
    is_listener: ClassVar[bool] = False
    """A listener's line holds addresses, not a name, and nobody needs to refer to it."""

    def __init__(self, context: ModuleContext) -> None:
        self.context = context

    @property
    def label(self) -> str:
        return self.context.label

    def configure(self, report: Report) -> None:
        """Check what only the whole configuration shows."""

    async def start(self) -> None:
        """The gateway starts."""

    async def stop(self) -> None:
        """The gateway has drained."""


class Globals(Block):
    """Directives of the top level."""

    state_dir = Directive("state_dir", v.String("DIRECTORY"), default="/var/lib/mailgate", doc="Where state is kept.", origin="maddy")
    runtime_dir = Directive(
        "runtime_dir", v.String("DIRECTORY"), default="/run/mailgate", doc="Where sockets are made.", origin="maddy"
    )
    hostname = Directive("hostname", v.String("NAME"), default="", doc="The name of this gateway.", origin="maddy")
    debug = Directive("debug", v.Boolean(), default=False, doc="Log the dialogue with next hops.", origin="maddy")
    body_spool_limit = Directive(
        "body_spool_limit", v.Size(minimum=1 << 20), default=1 << 30, doc="Disk for message bodies under way; beyond it clients hear 452."
    )
    shutdown_timeout = Directive("shutdown_timeout", v.Duration(), default=180.0, doc="How long running messages may take to finish at the end.")
