"""A guided tour through a `Router`: a handful of clients, senders and recipients take every way that some of them can take.

They are samples (samples.py) of what anybody may say; each passes the real rules, tables, modifiers and conditions, so what
arrives somewhere would arrive there from the wire too. Only what would need a socket is not asked: a table that can't be asked
matches none of them (its keys are the operator's), but a *sender* that it has can be forged by anybody, so its source block is
entered by one; a condition that asks such a table is taken to be false.

Clients, senders and recipients go as sets: a rule divides the set it looks at, and a condition the sets that its variables belong
to, so that the cost is that of the rules and not of the combinations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar

from mailgate.config.closures import EvaluationError
from mailgate.config.domains import LocalDomains
from mailgate.message.envelope import Envelope, Recipient, Session
from mailgate.net.waiting import begin
from mailgate.pipeline.conditions import CONTENT_NAMES, View
from mailgate.pipeline.router import (
    AfterBody,
    Branch,
    Condition,
    Deliver,
    DeliverTo,
    Discard,
    Handling,
    Reject,
    Router,
    Rules,
    Side,
)
from mailgate.pipeline.samples import STRANGER, answers_offline, sample_addresses, strange_domain
from mailgate.smtp.address import NULL_ADDRESS, Address, rule_keys
from mailgate.smtp.reply import MailError

MAX_STEPS = 200_000
"""Questions of one tour: pipelines that lead to each other from many places have very many ways."""

MAX_LOCALS = 8
"""Local domains that are tried as such: is_local() knows no difference between them."""

SENDER_NAMES = frozenset({"sender", "sender_domain"})
RCPT_NAMES = frozenset({"rcpt", "rcpt_domain"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One address on its way. ``guess``: the sender is some key of this table, which can't be asked now."""

    original: Address
    current: Address
    guess: str = ""

    @property
    def shown(self) -> str:
        return f"any key of {self.guess}" if self.guess else str(self.original)


Clients = tuple[Session, ...]
Samples = tuple[Sample, ...]
End = DeliverTo | Reject | Discard
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Crowd:
    """Each of these clients with each of these senders."""

    clients: Clients
    senders: Samples


Arrival = Callable[[End, Crowd, Samples], None]


class Tour:
    """Takes samples through a router. ``arrive`` hears of each decision that some of them come to, with all that do.
    ``admits``: whether the listener lets a client name this recipient at all; ``refused``: the ways that only refuse, too."""

    def __init__(
        self,
        router: Router,
        clients: Iterable[Session],
        local: LocalDomains,
        arrive: Arrival,
        admits: Callable[[Address], bool] = lambda _: True,
        refused: bool = False,
    ) -> None:
        self._router = router
        self._clients = tuple(clients)
        self._knows_local = local.table is None or answers_offline(local.table)
        self._locals = [Address(STRANGER, domain) for domain in sorted(local.domains)[:MAX_LOCALS]]
        self._arrive = arrive
        self._admits = admits
        self._refused = refused
        self._left = MAX_STEPS
        self.stranger = strange_domain(router)

    def run(self) -> None:
        senders = [NULL_ADDRESS, Address(STRANGER, self.stranger), *self._locals]
        senders += sample_addresses(self._router, Side.SOURCE, self.stranger, refused=self._refused)
        self._enter(self._router, Crowd(self._clients, _originals(senders)), None, ())

    # At MAIL

    def _enter(self, branch: Branch, crowd: Crowd, recipients: Samples | None, outer: tuple[Branch, ...]) -> None:
        """Down to a decision or to the rules for recipients. ``recipients`` is None at first: each block gets those that make
        a difference in it. ``outer`` are the blocks of this pipeline around: their modifiers of recipients apply as well."""
        crowd = Crowd(crowd.clients, self._rewritten(branch.sender_modifiers, crowd.senders))
        path = (*outer, branch)
        rest = [crowd]
        for condition in branch.conditions:
            some, rest = self._divide(condition, rest)
            for part in some:
                self._enter(condition.branch, part, recipients, path)
        for part in rest:
            self._choose_source(branch, part, recipients, path)

    def _choose_source(self, branch: Branch, crowd: Crowd, recipients: Samples | None, path: tuple[Branch, ...]) -> None:
        route = branch.route
        if isinstance(route, Rules) and route.side is Side.SOURCE:
            for inner, senders in self._partition(route, crowd.senders):
                self._enter(inner, Crowd(crowd.clients, senders), recipients, path)
            return
        theirs = self._recipients(path) if recipients is None else recipients
        for outer in path:
            theirs = self._expanded(outer.rcpt_modifiers, theirs)
        if not isinstance(route, Rules):
            self._handle(route, crowd, theirs)
            return
        for inner, some in self._partition(route, theirs):
            self._take(inner, crowd, some)

    def _divide(self, condition: Condition, crowds: Iterable[Crowd]) -> tuple[list[Crowd], list[Crowd]]:
        """Those for whom a condition is true, and those for whom it is not; one about the content may be either for all."""
        names = condition.test.expression.names
        if names & CONTENT_NAMES:
            return list(crowds), list(crowds)
        yes: list[Crowd] = []
        no: list[Crowd] = []
        for crowd in crowds:
            if names and names <= SENDER_NAMES:
                true, false = self._sort(crowd.senders, lambda one: self._holds(condition, crowd.clients[0], one))  # noqa: B023
                parts = [(Crowd(crowd.clients, true), Crowd(crowd.clients, false))]
            elif names & SENDER_NAMES:
                parts = []
                for client in crowd.clients:
                    true, false = self._sort(crowd.senders, lambda one: self._holds(condition, client, one))  # noqa: B023
                    parts.append((Crowd((client,), true), Crowd((client,), false)))
            else:
                some, others = self._sort(crowd.clients, lambda one: self._holds(condition, one, crowd.senders[0]))  # noqa: B023
                parts = [(Crowd(some, crowd.senders), Crowd(others, crowd.senders))]
            yes += [true for true, _ in parts if true.clients and true.senders]
            no += [false for _, false in parts if false.clients and false.senders]
        return yes, no

    # At RCPT

    def _take(self, branch: Branch, crowd: Crowd, recipients: Samples) -> None:
        """Through a destination block."""
        crowd = Crowd(crowd.clients, self._rewritten(branch.sender_modifiers, crowd.senders))
        recipients = self._expanded(branch.rcpt_modifiers, recipients)
        rest = [(crowd, recipients)]
        for condition in branch.conditions:
            undecided, rest = rest, []
            for one, theirs in undecided:
                for true, part, some in self._divide_at_rcpt(condition, one, theirs):
                    if true:
                        self._take(condition.branch, part, some)
                    else:
                        rest.append((part, some))
        assert not isinstance(branch.route, Rules)  # destination blocks hold no rules
        for part, some in rest:
            self._handle(branch.route, part, some)

    def _divide_at_rcpt(self, condition: Condition, crowd: Crowd, recipients: Samples) -> Iterator[tuple[bool, Crowd, Samples]]:
        names = condition.test.expression.names
        if not crowd.senders or not recipients:
            return
        if names & CONTENT_NAMES:
            yield True, crowd, recipients
            yield False, crowd, recipients
            return
        if not names & RCPT_NAMES:
            for true, crowds in zip((True, False), self._divide(condition, [crowd]), strict=True):
                for part in crowds:
                    yield true, part, recipients
            return
        parts = [crowd]
        if names - RCPT_NAMES - SENDER_NAMES:
            parts = [Crowd((client,), crowd.senders) for client in crowd.clients]
        if names & SENDER_NAMES:
            parts = [Crowd(part.clients, (sender,)) for part in parts for sender in part.senders]
        for part in parts:
            client, sender = part.clients[0], part.senders[0]
            sorted_out = self._sort(recipients, lambda one: self._holds(condition, client, sender, one.current))  # noqa: B023
            for true, some in zip((True, False), sorted_out, strict=True):
                if some:
                    yield true, part, some

    def _handle(self, handling: Handling, crowd: Crowd, recipients: Samples) -> None:
        if not crowd.clients or not crowd.senders or not recipients:
            return
        if isinstance(handling, AfterBody):
            self._enter(handling.router, crowd, recipients, ())
            return
        if not isinstance(handling, Deliver):
            self._arrive(handling, crowd, recipients)
            return
        for step in handling.steps:
            if isinstance(step, DeliverTo):
                self._arrive(step, crowd, recipients)
            else:
                self._enter(step.router, crowd, recipients, ())

    # Samples

    def _recipients(self, path: tuple[Branch, ...]) -> Samples:
        found = [Address(STRANGER, self.stranger), Address("postmaster", ""), *self._locals]
        for branch in path:
            deep = branch is path[-1]
            found += sample_addresses(branch, Side.DESTINATION, self.stranger, deep=deep, refused=self._refused)
        return _originals(filter(self._admits, found))

    def _spend(self, count: int) -> bool:
        self._left -= count
        return self._left > 0

    def _sort(self, samples: Sequence[T], judge: Callable[[T], bool]) -> tuple[tuple[T, ...], tuple[T, ...]]:
        yes: list[T] = []
        no: list[T] = []
        if samples and self._spend(len(samples)):
            for sample in samples:
                (yes if judge(sample) else no).append(sample)
        return tuple(yes), tuple(no)

    def _holds(self, condition: Condition, client: Session, sender: Sample, rcpt: Address = NULL_ADDRESS) -> bool:
        expression = condition.test.expression
        if expression.waits and not (self._knows_local and all(map(answers_offline, expression.tables))):
            return False
        view = View(Envelope("check", sender.current, client), rcpt)
        try:
            value = expression.call(view)
            return bool(begin(value) if expression.waits else value)
        except EvaluationError:
            return False

    def _partition(self, rules: Rules, samples: Samples) -> Iterator[tuple[Branch, Samples]]:
        """Which of them each branch gets."""
        if not self._spend(len(samples)):
            return
        found: dict[Branch, list[Sample]] = {}
        for table, branch in rules.tables:
            if rules.side is Side.SOURCE and not answers_offline(table):
                found[branch] = [Sample(NULL_ADDRESS, Address(STRANGER, self.stranger), _title(table))]
        for sample in samples:
            key, domain = rule_keys(sample.current)
            branch = next((branch for table, branch in rules.tables if ask(table, key)), None) or rules.find(key, domain)
            found.setdefault(branch, []).append(sample)
        for branch, some in found.items():
            yield branch, tuple(some)

    def _rewritten(self, modifiers: Sequence[Any], samples: Samples) -> Samples:
        for modifier in modifiers:
            if answers_offline(modifier) and self._spend(len(samples)):
                samples = tuple(chain.from_iterable(_senders(modifier, sample) for sample in samples))
        return samples

    def _expanded(self, modifiers: Sequence[Any], samples: Samples) -> Samples:
        for modifier in modifiers:
            if answers_offline(modifier) and self._spend(len(samples)):
                samples = tuple(chain.from_iterable(_expansion(modifier, sample) for sample in samples))
        return samples


def ask(table: Any, key: str) -> bool:
    """Whether a table has a key; one that can't be asked now, or fails, has none."""
    if not answers_offline(table):
        return False
    try:
        return bool(table.lookup(key))
    except MailError:
        return False


def _originals(addresses: Iterable[Address]) -> Samples:
    return tuple(Sample(address, address) for address in dict.fromkeys(addresses))


def _title(table: Any) -> str:
    name = getattr(getattr(table, "context", None), "name", "")
    return f"table `{name}`" if name else "the table"


_NOBODY = Session("check", "", "localhost")


def _senders(modifier: Any, sample: Sample) -> Samples:
    if sample.guess:
        return (sample,)
    try:
        return (replace(sample, current=modifier.sender(Envelope("check", sample.current, _NOBODY))),)
    except MailError:
        return ()


def _expansion(modifier: Any, sample: Sample) -> Samples:
    try:
        return tuple(replace(sample, current=address) for address in modifier.rcpt(Recipient(sample.current)))
    except MailError:
        return ()
