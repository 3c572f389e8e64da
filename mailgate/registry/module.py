"""What a module is: a block with a name and a life. And the blocks that belong to no room: groups, and the global scope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mailgate.adapters import Adapters
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.domains import NOTHING_LOCAL, LocalDomains
from mailgate.config.schema import DEFAULTS, Block, Directive
from mailgate.registry.administration import ControlBlock
from mailgate.registry.certificates import LINE as LISTENER_TLS
from mailgate.registry.certificates import ListenerTls
from mailgate.registry.log import LINE as LOG_LINE
from mailgate.registry.log import LogBlock
from mailgate.registry.names import ResolverBlock


@dataclass(frozen=True, slots=True)
class ModuleContext:
    """What a module is given: the outside world and the global settings it may need.

    ``name`` is the instance's name, "" for an inline one; ``label`` how logs and replies call it. ``adapters`` is None, and
    so are the ``spool`` and the ``log``, while a file is only checked.
    """

    adapters: Adapters | None = None
    hostname: str = "localhost"
    state_dir: str = ""
    runtime_dir: str = ""
    name: str = ""
    label: str = ""
    spool: Any = None
    guard: Any = None
    log: Any = None
    resolver: ResolverBlock | None = None
    """The block at the top level; `Adapters.resolver` is made of it."""
    local_domains: LocalDomains = NOTHING_LOCAL
    workers: int = 1
    """Processes that the numbers of the configuration are divided among."""
    instances: Mapping[str, Any] = field(default_factory=dict)
    """Every module of the configuration by name, inline ones by label and place; filled once all are made."""


class Module(Block):
    """Something the language can name.

    ``__init__`` finds its values in place, but not yet what they refer to. ``configure`` comes when all instances exist, and
    in `mailgate check` too: it opens nothing. ``start`` runs before the listeners accept, ``stop`` after the gateway drained.

    A reload makes all modules anew. One whose name and kind are those of an old one (inline: its place among its like) hears
    ``inherit_state`` between ``configure`` and ``start``; the old one hears ``superseded`` when no new session can come to
    it, and ``stop`` when its last session has ended. Both may be alive for hours: state is shared, not moved.
    """

    name: ClassVar[str] = ""
    """As it stands in the file: ``namespace.kind``, or a word of its own."""
    provides: ClassVar[tuple[str, ...]] = ()
    """What a reference to it can stand for; its namespace (or word) if empty."""
    is_listener: ClassVar[bool] = False
    """A listener's line holds addresses, not a name, and nobody needs to refer to it."""
    works_alone: ClassVar[bool] = False
    """Whether it has something to do in a gateway that listens nowhere."""
    starts_last: ClassVar[bool] = False
    """Whether `start` must come after that of all others, and `stop` before: it uses modules that it does not refer to."""
    is_nameless: ClassVar[bool] = False
    """Whether its line begins without a name of the instance, so that nothing can refer to it: as with listeners."""
    configure_damaged: ClassVar[bool] = False
    """Whether `configure` copes with blocks whose ``damaged`` is true, and so can report more. Else it is not called then."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.is_nameless = cls.is_nameless or cls.is_listener

    def __init__(self, context: ModuleContext) -> None:
        self.context = context

    @property
    def label(self) -> str:
        return self.context.label

    def configure(self, report: Report) -> None:
        """Check what only the whole configuration shows."""

    def inherit_state(self, old: Module) -> None:
        """Carry over what ``old``, of the same class, holds and the new settings still allow: pools, limits, caches, counts.

        Take note, and share; leave ``old`` as it is: it goes on serving, and the new configuration may yet be given up because
        another module can't start. What is shared and must be closed is counted from `start` to `stop`: the last one closes it.
        Keep no reference to ``old`` itself beyond `start`, or no configuration is ever released.
        """

    async def start(self) -> None:
        """The gateway starts."""

    def superseded(self) -> None:
        """A newer configuration serves all new sessions: keep nothing for later (idle connections, say) that is not shared."""

    async def stop(self) -> None:
        """The gateway has drained."""


class Group(Module):
    """A named list of modules of one namespace, put in by reference: `checks common { … }`, `check &common`."""

    @property
    def modules(self) -> tuple[Module, ...]:
        return tuple(item.value for item in self.items)


class Checks(Group):
    """A named list of checks: `check &NAME` puts it in."""

    name = "checks"
    members = "check"


class Modifiers(Group):
    """A named list of modifiers: `modify &NAME` puts it in."""

    name = "modifiers"
    members = "modify"


class Globals(Block):
    """Directives of the top level."""

    state_dir = Directive(
        "state_dir",
        v.Path("DIRECTORY", of_file=True),
        default="/var/lib/mailgate",
        doc="Where state is kept; relative paths begin here.",
        origin="maddy",
    )
    runtime_dir = Directive(
        "runtime_dir",
        v.Path("DIRECTORY", of_file=True),
        default="/run/mailgate",
        doc="Where sockets are made; relative unix:// paths begin here.",
        origin="maddy",
    )
    hostname = Directive(
        "hostname", v.OwnName(), default="", doc="The name of this gateway; the system's name by default.", origin="maddy"
    )
    authserv_id = Directive(
        "authserv_id",
        v.String("NAME"),
        default="",
        doc="The name under which results of checks stand in Authentication-Results; that of the gateway by default. Fields with"
        " this name that come in are removed.",
    )
    tls = Directive(
        "tls",
        LISTENER_TLS,
        block=ListenerTls,
        doc="Certificates of the listeners that have none of their own: pairs of certificate and key file.",
        origin="maddy",
    )
    debug = Directive("debug", v.Boolean(), default=False, doc="Log the dialogue with next hops.", origin="maddy")
    local_domains = Directive(
        "local_domains",
        v.DomainsOrTable(),
        default=NOTHING_LOCAL,
        doc="The domains that this gateway is responsible for: for is_local(), relay_from and the rule `postmaster`.",
    )
    body_spool_limit = Directive(
        "body_spool_limit",
        v.Size(minimum=1 << 20),
        default=1 << 30,
        divided=True,
        doc="Disk for message bodies under way; beyond it clients hear 452.",
    )
    shutdown_timeout = Directive(
        "shutdown_timeout",
        v.Duration(),
        default=180.0,
        doc="How long running messages may take to finish when the gateway stops.",
        origin="smtp-server",
    )
    control = Directive(
        "control",
        block=ControlBlock,
        default=DEFAULTS,
        doc="The control socket, `control.sock` in runtime_dir: who may use it. It is there without this line, too.",
    )
    resolver = Directive(
        "resolver",
        block=ResolverBlock,
        block_required=True,
        doc="The DNS servers that are asked; those of /etc/resolv.conf without it. /etc/hosts comes first for addresses.",
        origin="smtp-server",
    )
    log = Directive(
        "log",
        LOG_LINE,
        block=LogBlock,
        repeatable=True,
        doc="Where the log goes; once for each destination, with `json` as one JSON object a line. Without it, where twistd is"
        " told to, or standard output.",
        origin="maddy",
    )
    log_name = Directive(
        "log_name",
        v.String("NAME"),
        default="",
        doc="The name of this component in the log, for hosts with several; mailgate in syslog and JSON by default.",
        origin="smtp-server",
    )
