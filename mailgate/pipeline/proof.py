"""What `mailgate check` proves of a compiled pipeline: that all mail meets a decision, and that no stranger may relay.

`Tour` takes a handful of senders and recipients through a `Router`: one for each rule, table and modifier, and strangers that
nobody names (samples.py). They pass the real rules, tables and modifiers, so what arrives somewhere would arrive there from
the wire too; only what would need a socket is not asked. A table that can't be asked matches none of the samples (its keys are
the operator's), but a *sender* that it has can be forged by anybody, so its source block is entered by one.

`find_relays`: an unauthenticated client reaches a target that keeps what it gets (irrevocable, or a queue) with a recipient
outside ``local_domains``. The proof is an `Envelope` one can try. An address that an alias leads to elsewhere is not one, as
long as the client does not choose where. Without ``local_domains``, the domains that rules and tables name count as local.

`find_hole`: the envelope that shows what a missing default leaves open.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from mailgate.interfaces import Finality
from mailgate.message.envelope import Envelope, Recipient, Session
from mailgate.pipeline.lookup import quoted_local_part
from mailgate.pipeline.router import (
    Branch,
    Deliver,
    DeliverTo,
    Discard,
    Handling,
    Reject,
    Router,
    Rules,
    Side,
    Through,
    rule_keys,
)
from mailgate.pipeline.samples import STRANGER, answers_offline, strange_domain, table_keys
from mailgate.smtp.address import NULL_ADDRESS, Address, domain_key
from mailgate.smtp.reply import MailError

MAX_STEPS = 200_000
"""Addresses asked about in one tour: pipelines that lead to each other from many places have very many ways."""

CLIENTS = ("203.0.113.9", "198.51.100.9", "192.0.2.9", "8.8.8.8", "2001:db8::9", "2001:4860:4860::8888")
"""Who knocks: the first that is in no trusted network."""


@dataclass(frozen=True, slots=True)
class Try:
    """An envelope that anybody can try out."""

    client: str
    sender: str
    recipient: str

    def __str__(self) -> str:
        return f"client {self.client}, MAIL FROM:<{self.sender}>, RCPT TO:<{self.recipient}>"


@dataclass(frozen=True, slots=True)
class Relay:
    """A way to a target that is open to strangers."""

    step: DeliverTo
    envelope: Try


@dataclass(frozen=True, slots=True)
class Sample:
    """One address on its way. ``guess``: the sender is some key of this table, which can't be asked now."""

    original: Address
    current: Address
    guess: str = ""

    @property
    def shown(self) -> str:
        return f"any key of {self.guess}" if self.guess else str(self.original)


Samples = tuple[Sample, ...]
End = DeliverTo | Reject | Discard
Arrival = Callable[[End, Samples, Samples], None]


class Tour:
    """Takes samples through a router. ``arrive`` hears of each decision that some of them come to, with all that do."""

    def __init__(self, router: Router, arrive: Arrival, admits: Callable[[Address], bool] = lambda _: True) -> None:
        """``admits``: whether the listener lets a client name this recipient at all."""
        self._arrive = arrive
        self._admits = admits
        self._left = MAX_STEPS
        self._router = router
        self.stranger = strange_domain(_named_domains(router))

    def run(self) -> None:
        senders = [NULL_ADDRESS, Address(STRANGER, self.stranger), *_sample_addresses(self._router, Side.SOURCE, self.stranger)]
        self._pipeline(self._router, _originals(senders), None)

    def _pipeline(self, router: Router, senders: Samples, recipients: Samples | None) -> None:
        """``recipients`` is None on the outermost: each source block gets those that make a difference in it."""
        senders = self._rewritten(router.sender_modifiers, senders)
        route = router.route
        if not (isinstance(route, Rules) and route.side is Side.SOURCE):
            if recipients is None:
                recipients = self._recipients(router)
            self._block(router, route, senders, self._expanded(router.rcpt_modifiers, recipients))
            return
        for branch, some in self._partition(route, senders):
            if not _decides_more_than_reject(branch):
                self._arrive_all(branch, some, recipients)
                continue
            theirs = self._recipients(branch, router) if recipients is None else recipients
            theirs = self._expanded((*router.rcpt_modifiers, *branch.rcpt_modifiers), theirs)
            self._block(branch, branch.route, self._rewritten(branch.sender_modifiers, some), theirs)

    def _arrive_all(self, branch: Branch, senders: Samples, recipients: Samples | None) -> None:
        assert not isinstance(branch.route, Rules | Deliver)
        self._arrive(branch.route, senders, _originals([Address(STRANGER, self.stranger)]) if recipients is None else recipients)

    def _block(self, branch: Branch, route: Handling | Rules, senders: Samples, recipients: Samples) -> None:
        if not senders or not recipients:
            return
        if not isinstance(route, Rules):
            self._handle(route, senders, recipients)
            return
        for chosen, some in self._partition(route, recipients):
            assert not isinstance(chosen.route, Rules)  # destination blocks hold no rules
            theirs = self._rewritten(chosen.sender_modifiers, senders)
            self._handle(chosen.route, theirs, self._expanded(chosen.rcpt_modifiers, some))

    def _handle(self, handling: Handling, senders: Samples, recipients: Samples) -> None:
        if not senders or not recipients:
            return
        if not isinstance(handling, Deliver):
            self._arrive(handling, senders, recipients)
            return
        for step in handling.steps:
            if isinstance(step, DeliverTo):
                self._arrive(step, senders, recipients)
            else:
                self._pipeline(step.router, senders, recipients)

    # Samples

    def _recipients(self, *branches: Branch) -> Samples:
        found = [Address(STRANGER, self.stranger), Address("postmaster", "")]
        for branch in branches:
            found += _sample_addresses(branch, Side.DESTINATION, self.stranger, deep=branch is branches[0])
        return _originals(filter(self._admits, found))

    def _spend(self, count: int) -> bool:
        self._left -= count
        return self._left > 0

    def _partition(self, rules: Rules, samples: Samples) -> Iterator[tuple[Branch, Samples]]:
        """Which of them each branch gets, in the order of the branches' first sample."""
        if not self._spend(len(samples)):
            return
        found: dict[Branch, list[Sample]] = {}
        for table, branch in rules.tables:
            if rules.side is Side.SOURCE and not answers_offline(table):
                found[branch] = [Sample(NULL_ADDRESS, Address(STRANGER, self.stranger), _title(table))]
        for sample in samples:
            key, domain = rule_keys(sample.current)
            branch = next((branch for table, branch in rules.tables if _ask(table, key)), None) or rules.find(key, domain)
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


def _originals(addresses: Iterable[Address]) -> Samples:
    return tuple(Sample(address, address) for address in dict.fromkeys(addresses))


def _title(table: Any) -> str:
    name = getattr(getattr(table, "context", None), "name", "")
    return f"table `{name}`" if name else "the table"


def _ask(table: Any, key: str) -> bool:
    if not answers_offline(table):
        return False
    try:
        return bool(table.lookup(key))
    except MailError:
        return False


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


def _decides_more_than_reject(branch: Branch) -> bool:
    return isinstance(branch.route, Rules | Deliver)


def _branches_below(branch: Branch, seen: set[int]) -> Iterator[Branch]:
    """The branch and all within it, other pipelines' too, each once."""
    waiting = [branch]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one.route, Rules):
            waiting += one.route.branches()
        elif isinstance(one.route, Deliver):
            waiting += [step.router for step in one.route.steps if isinstance(step, Through)]


def _sample_addresses(top: Branch, side: Side, stranger: str, *, deep: bool = True) -> Iterator[Address]:
    """Addresses that make a difference within a branch: keys of rules and tables, and what modifiers look for. ``deep`` no:
    only the modifiers of the branch itself."""
    texts: list[str] = []
    for branch in _branches_below(top, set()) if deep else (top,):
        modifiers = branch.rcpt_modifiers if side is Side.DESTINATION else branch.sender_modifiers
        for modifier in modifiers:
            if hasattr(modifier, "sample_keys"):
                texts += modifier.sample_keys(stranger)
        route = branch.route
        if not deep or not isinstance(route, Rules) or route.side is not side:
            continue
        for table, _ in route.tables:
            texts += table_keys(table, stranger)
        texts += [key for key, inner in route.exact.items() if _decides_more_than_reject(inner)]
        for domain, inner in route.domains.items():
            if _decides_more_than_reject(inner):
                yield Address(STRANGER, domain)
        for suffix, inner in route.suffixes.items():
            if _decides_more_than_reject(inner):
                yield Address(STRANGER, f"{stranger.partition('.')[0]}.{suffix}")
    for text in texts:
        local_part, at, domain = text.rpartition("@")
        if at and local_part and _is_domain(domain):
            yield Address(quoted_local_part(local_part), domain)


def _is_domain(text: str) -> bool:
    return bool(text) and (text.startswith("[") or all(text.split("."))) and not any(c in text for c in ' \t<>()@,;:"/\\')


def _named_domains(router: Router) -> Iterator[str]:
    """Every domain that a rule or a table's key names."""
    for branch in _branches_below(router, set()):
        if isinstance(branch.route, Rules):
            yield from branch.route.domains
            yield from branch.route.suffixes
            for key in branch.route.exact:
                yield key.rpartition("@")[2]
            for table, _ in branch.route.tables:
                for key in getattr(table, "static_keys", ()):
                    yield key.rpartition("@")[2]


# Open relays


class Locality:
    """What is outside: of ``local_domains`` and their sub-domains; or, where there are none or they can't be known now, of
    everything that is named."""

    def __init__(self, local_domains: Any, stranger: str) -> None:
        self._known: frozenset[str] = frozenset(map(domain_key, getattr(local_domains, "domains", local_domains)))
        self._table = getattr(local_domains, "table", None)
        self._by_name = answers_offline(self._table) if self._table is not None else bool(self._known)
        self._label = stranger.partition(".")[0]

    def is_foreign(self, address: Address) -> bool:
        domain = domain_key(address.domain)
        labels = domain.split(".")
        if not domain or len(labels) < 2:  # no mail leaves for the bare postmaster or a name without a dot
            return False
        if self._by_name:
            return not any(self.is_local(".".join(labels[start:])) for start in range(len(labels)))
        return any(self._label in label for label in labels[-2:])

    def is_local(self, domain: str) -> bool:
        return domain in self._known or (self._table is not None and bool(_ask(self._table, domain)))

    def is_chosen(self, address: Address) -> bool:
        """Whether the domain is one that the client wrote somewhere."""
        return self._label in domain_key(address.domain)


def find_relays(
    router: Router,
    *,
    local_domains: Any = (),
    trusted: Iterable[Any] = (),
    restricted: bool = False,
) -> list[Relay]:
    """Each target that strangers reach through the router, with a proof.

    ``trusted``: networks of clients that may relay. ``restricted``: the listener refuses strangers a recipient outside
    ``local_domains`` by itself (`relay_from`).
    """
    client = outside_client(trusted)
    if client is None:
        return []
    found: dict[DeliverTo, Relay] = {}

    def arrive(end: End, senders: Samples, recipients: Samples) -> None:
        if not isinstance(end, DeliverTo) or end in found or end.target.finality is Finality.DISCARD:
            return
        relayed = [
            sample.original
            for sample in recipients
            if locality.is_foreign(sample.current)
            and (locality.is_foreign(sample.original) or locality.is_chosen(sample.current))
        ]
        if relayed:
            sender = min(senders, key=lambda one: (bool(one.guess), one.original.is_null))
            found[end] = Relay(end, Try(client, sender.shown, str(min(relayed, key=_oddness))))

    def admits(address: Address) -> bool:
        return not restricted or not address.domain or locality.is_local(domain_key(address.domain))

    tour = Tour(router, arrive, admits)
    locality = Locality(local_domains, tour.stranger)
    tour.run()
    return list(found.values())


def _oddness(address: Address) -> tuple[bool, bool, int]:
    """The plainest proof convinces most."""
    return address.local_part.startswith('"'), address.local_part != STRANGER, len(str(address))


def outside_client(trusted: Iterable[Any], candidates: Iterable[str] = CLIENTS) -> str | None:
    """An address in none of these networks; None if they hold everybody."""
    networks = list(trusted)
    for text in candidates:
        address = ipaddress.ip_address(text)
        if not any(address.version == network.version and address in network for network in networks):
            return text
    return None


def is_exempt(endpoint: Any) -> bool:
    """Only this machine's own processes reach it."""
    if endpoint.scheme == "unix":
        return True
    try:
        return ipaddress.ip_address(endpoint.host).is_loopback
    except ValueError:
        return False


# Coverage


def find_hole(router: Router, hole: Handling) -> Try | None:
    """An envelope that comes to ``hole``, a decision that is not there; None if none of the samples does."""
    found: list[Try] = []

    def arrive(end: End, senders: Samples, recipients: Samples) -> None:
        if end is hole and not found:
            found.append(Try(CLIENTS[0], senders[-1].shown, recipients[-1].shown))

    Tour(router, arrive).run()
    return found[0] if found else None
