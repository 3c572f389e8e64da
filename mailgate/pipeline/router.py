"""A compiled pipeline: which mail goes where, as data.

`compile.py` makes a `Router` of a checked configuration once; `routing.py` walks it for each message. Rules are dictionaries,
so that ten thousand of them cost as much as ten. The order of precedence, written here and nowhere else: tables as written,
then the exact address, the domain, the longest ``.domain``, the default.

Every decision keeps the place in the configuration where it is written; refusals say it in the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from mailgate.config import values as v
from mailgate.config.domains import NOTHING_LOCAL, LocalDomains
from mailgate.config.source import Span
from mailgate.interfaces import Finality
from mailgate.smtp.reply import Reply

POSTMASTER = "postmaster"
"""The local part that RFC 5321 4.5.1 reserves, in the form in which it is compared."""


def place(span: Span | None) -> str:
    return span.place if span is not None else ""


class Side(Enum):
    """Which side of the envelope a set of rules looks at."""

    SOURCE = "source"
    DESTINATION = "destination"


@dataclass(frozen=True, slots=True, eq=False)
class DeliverTo:
    """One target of a block."""

    target: Any
    """An ITarget."""
    span: Span | None = None
    copy: bool = False
    """`copy_to`: made once everything else was accepted, and nobody hears of it."""

    @property
    def is_irrevocable(self) -> bool:
        return self.target.finality not in (Finality.TWO_PHASE, Finality.DISCARD)


@dataclass(frozen=True, slots=True, eq=False)
class Through:
    """Another pipeline takes the rewritten envelope: `reroute`, or `deliver_to` a msgpipeline."""

    router: Router
    span: Span | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Deliver:
    """Copies to each of these."""

    steps: tuple[DeliverTo | Through, ...]
    span: Span | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reject:
    reply: Reply
    span: Span | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Discard:
    span: Span | None = None


@dataclass(frozen=True, slots=True, eq=False)
class AfterBody:
    """Decided when the content has come, by a pipeline that sees it."""

    router: Router
    span: Span | None = None
    target: Any = None
    """The one irrevocable target that all its branches end in, where it is not queues that they end in."""
    is_shared: bool = False
    """Who comes to that target comes in the same transaction: nothing on the way there makes a difference."""


Handling: TypeAlias = Deliver | Reject | Discard | AfterBody


def only_step(route: Handling | Rules) -> DeliverTo | None:
    """The one target that all there is to do goes to; None if it is more than that, or less."""
    if isinstance(route, Deliver) and len(route.steps) == 1:
        step = route.steps[0]
        if isinstance(step, DeliverTo) and not step.copy:
            return step
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """One level of rules. All keys are in the form of `rule_keys`; ``<>`` is the exact key "", the bare postmaster
    the exact key ``postmaster``; suffixes are without their leading dot."""

    side: Side
    default: Branch
    tables: tuple[tuple[Any, Branch], ...] = ()
    """(ITable, branch), asked in this order."""
    exact: dict[str, Branch] = field(default_factory=dict)
    domains: dict[str, Branch] = field(default_factory=dict)
    suffixes: dict[str, Branch] = field(default_factory=dict)
    postmaster: Branch | None = None
    """The rule `postmaster`, where a table knows the local domains whose postmaster it means."""
    local: LocalDomains = NOTHING_LOCAL

    def find(self, address: str, domain: str) -> Branch:
        """The branch by everything but the tables, which come first and may make one wait (`routing.py`)."""
        branch = self.exact.get(address)
        if branch is not None:
            return branch
        if domain:
            branch = self.domains.get(domain)
            if branch is not None:
                return branch
            if self.suffixes:
                rest = domain
                while dot := rest.find(".") + 1:
                    rest = rest[dot:]
                    branch = self.suffixes.get(rest)
                    if branch is not None:
                        return branch
        return self.default

    def branches(self) -> Iterator[Branch]:
        for _, branch in self.tables:
            yield branch
        for rules in (self.exact, self.domains, self.suffixes):
            yield from rules.values()
        yield self.default


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One `when`: if ``test`` is true its branch takes the place of what stands behind it, and there is no way back."""

    test: v.Condition
    branch: Branch
    span: Span | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """One block of a pipeline. Its checks and modifiers run first, then its conditions are asked in written order; ``route``
    is for what none of them takes. Modifiers stand in the tuple of each stage that they have something to do in."""

    route: Handling | Rules
    span: Span | None = None
    checks: tuple[Any, ...] = ()
    """ICheck."""
    sender_modifiers: tuple[Any, ...] = ()
    rcpt_modifiers: tuple[Any, ...] = ()
    body_modifiers: tuple[Any, ...] = ()
    """IModifier."""
    conditions: tuple[Condition, ...] = ()
    only: DeliverTo | None = field(default=None, init=False)
    """Set when it delivers every recipient to one target and asks nothing more of the sender or the recipient."""

    def __post_init__(self) -> None:
        if not (self.checks or self.sender_modifiers or self.rcpt_modifiers or self.conditions):
            object.__setattr__(self, "only", only_step(self.route))

    def inner(self) -> Iterator[Branch]:
        """The blocks right within this one, nested pipelines not included."""
        for condition in self.conditions:
            yield condition.branch
        if isinstance(self.route, Rules):
            yield from self.route.branches()


@dataclass(frozen=True, slots=True, eq=False)
class RelayRule:
    """`relay_from`: who may send to other domains than ours. Clients on unix sockets may: who can open one is a matter of
    file permissions. So may clients that have logged in."""

    networks: tuple[Any, ...]
    local: LocalDomains = NOTHING_LOCAL
    span: Span | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Router(Branch):
    """The outermost block of a pipeline."""

    relay: RelayRule | None = None
    """Of a listener with `relay_from`."""
    session_checks: tuple[Any, ...] = ()
    """Of a listener: those that have stages of the session (`pipeline.check`); others may stand in ``checks`` besides."""


def irrevocable_copies(handling: Handling) -> int:
    """The most irrevocable targets that one recipient handled like this can end in."""
    if isinstance(handling, AfterBody):
        return _most_copies(handling.router)
    if not isinstance(handling, Deliver):
        return 0
    return sum(step.is_irrevocable if isinstance(step, DeliverTo) else _most_copies(step.router) for step in handling.steps)


def _most_copies(branch: Branch) -> int:
    own = 0 if isinstance(branch.route, Rules) else irrevocable_copies(branch.route)
    return max([own, *map(_most_copies, set(branch.inner()))])
