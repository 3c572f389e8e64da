"""Where the mail of one transaction goes: a walk over a `Router`.

The sender passes each pipeline once (checks, modifiers, choice of the source block); the result is a `Path`. Each recipient
then passes the path: checks on the address the client gave, modifiers (one address to any number), choice of the block
by the rewritten address, the block's checks and modifiers, its handling. `reroute` and `deliver_to` a msgpipeline continue on
a path of their own, for the sender as rewritten so far. The outcome is a list of `Plan`: nothing has been said to any
next hop by then, so a refusal costs nothing.

A refusal is a `MailError` with the place of its rule. A table that fails is one too (451 4.3.0): never "no match".

Every decision is a method of its own (`enter`, `choose`, `take`, `through`, …), so that `explain` (trace.py) can listen to the
walk of real mail: it is a subclass that notes what each of them was given and gave, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mailgate.config.source import Span
from mailgate.interfaces import Finality
from mailgate.message.envelope import Envelope, Recipient, Session
from mailgate.pipeline.checks import OpenCheck, ask
from mailgate.pipeline.conditions import ContentFacts, ContentView, View, client_address, holds
from mailgate.pipeline.lookup import look_up
from mailgate.pipeline.router import (
    POSTMASTER,
    AfterBody,
    Branch,
    Condition,
    DeliverTo,
    Discard,
    Handling,
    Reject,
    RelayRule,
    Router,
    Rules,
    Side,
    Through,
    only_step,
    place,
)
from mailgate.smtp.address import NULL_ADDRESS, Address, rule_keys
from mailgate.smtp.parameters import MailParameters
from mailgate.smtp.reply import MailError, Reply, TemporaryError

RELAY_DENIED = Reply(550, "5.7.1", "Relaying denied")

MAX_EXPANSION = 1000
"""Addresses that one recipient may become, over all pipelines: a table gone wrong must not become a mail bomb."""


@dataclass(slots=True, eq=False)
class Path:
    """One pipeline as the sender of this message passed it."""

    router: Router
    envelope: Envelope
    """With the sender as the pipeline's own and its source block's modifiers rewrote it."""
    route: Handling | Rules
    checks: tuple[OpenCheck, ...] = ()
    rcpt_modifiers: tuple[Any, ...] = ()
    body_modifiers: tuple[Any, ...] = ()
    relay: RelayRule | None = None
    """Set when this client may send to our own domains only."""
    only: DeliverTo | None = None
    """Set when every recipient has the same one target and nothing else is asked."""
    is_straight: bool = False
    """Nothing stands between a recipient and the choice of its block: with `Branch.only`, the way of most mail."""
    opened: dict[Branch, tuple[Envelope, tuple[OpenCheck, ...]]] = field(default_factory=dict)
    """Destination blocks with checks or modifiers that saw the sender already."""

    def __post_init__(self) -> None:
        if self.checks or self.rcpt_modifiers:
            return
        if self.route.__class__ is Rules:
            self.is_straight = True
        else:
            self.only = only_step(self.route)


@dataclass(slots=True, eq=False)
class Plan:
    """One address of one recipient, and the transaction it needs. ``target`` is None for `discard`."""

    target: Any
    envelope: Envelope
    recipient: Recipient
    body_modifiers: tuple[Any, ...]
    checks: tuple[OpenCheck, ...]
    span: Span | None
    """The decision."""
    marks: tuple[Any, ...] = ()
    """The checks among them whose findings its message bears."""
    key: tuple[Any, ...] = ()
    """What recipients must have in common to share a transaction. MAIL parameters are the same for all."""
    copy: bool = False
    """`copy_to`: made when everything else was accepted."""
    is_irrevocable: bool = False
    is_grouped: bool = False
    """Its transaction is one of several of its target: `find_group` comes before it is promised."""
    final_answer: object = None
    """What it depends on: equal for those who share the answer (docs/architecture.md, "Delivering once")."""
    delivery: Any = None
    """The transaction it takes part in, once that is so."""
    after: AfterBody | None = None
    """Set where the content decides: `Routing.finish` gives the plans that take this one's place."""

    def __post_init__(self) -> None:
        if self.checks:
            self.marks = tuple(dict.fromkeys(check.check for check in self.checks if check.marks))
        self.key = (self.target, self.body_modifiers, self.envelope, self.marks)  # one envelope for each sender: from_sender
        if self.target is not None:
            finality = self.target.finality
            self.is_irrevocable = finality is not Finality.TWO_PHASE and finality is not Finality.DISCARD
            self.is_grouped = finality is Finality.GROUP
            self.final_answer = (self.key, self.recipient) if finality is Finality.RECIPIENT else self.key
        elif self.after is not None:
            self._wait_for_content(self.after)

    def _wait_for_content(self, after: AfterBody) -> None:
        """Whatever the content decides, it will be queues, or one target whose answer can be counted now."""
        self.key = (after, *self.key[1:])
        if after.target is not None:
            shared = after.is_shared and after.target.finality is Finality.TRANSACTION
            self.is_irrevocable = True
            self.final_answer = (after.target, *self.key[1:]) if shared else (self.key, self.recipient)

    @property
    def is_to_deliver(self) -> bool:
        """It has a target, or may get one from the content."""
        return self.target is not None or self.after is not None

    @property
    def where(self) -> str:
        """``file:line`` of the decision."""
        return place(self.span)

    async def find_group(self) -> None:
        """Of a target that makes transactions by groups of recipients. :raises MailError: there is none for this one."""
        group = self.target.group(self.envelope, self.recipient)
        self.key = self.final_answer = (*self.key, await group if hasattr(group, "__await__") else group)


class Routing:
    """The walk of one message. ``opened`` are all its checks, to be closed by the transaction."""

    __slots__ = ("_contents", "_envelopes", "_nested", "content", "opened", "waits_for_content")

    def __init__(self) -> None:
        self._envelopes: dict[tuple[Address, MailParameters], Envelope] = {}
        self._nested: dict[tuple[Router, Envelope, ContentFacts | None], Path] = {}
        self._contents: dict[tuple[Any, ...], ContentFacts] = {}
        self.opened: list[OpenCheck] = []
        self.content: ContentFacts | None = None
        """Set while `after_body` is passed."""
        self.waits_for_content = False
        """Somebody has come to an `after_body`."""

    async def enter(self, router: Router, envelope: Envelope) -> Path:
        """Pass the sender through a pipeline, down to its source block. :raises MailError: refused."""
        branch: Branch | None = router
        checks: tuple[OpenCheck, ...] = ()
        rcpt_modifiers: tuple[Any, ...] = ()
        body_modifiers: tuple[Any, ...] = ()
        while branch is not None:
            if branch.checks:
                checks += await self.open(branch.checks, envelope)
            if branch.sender_modifiers:
                envelope = await self.rewrite_sender(branch.sender_modifiers, envelope)
            rcpt_modifiers += branch.rcpt_modifiers
            body_modifiers += branch.body_modifiers
            route = branch.route
            branch = await self.decide(branch.conditions, envelope) if branch.conditions else None
            if branch is None and isinstance(route, Rules) and route.side is Side.SOURCE:
                branch = await self.choose(route, envelope.sender)
        if isinstance(route, Reject):
            raise _rejected(route)
        relay = router.relay
        if relay is not None and may_relay(relay, envelope.session):
            relay = None
        return Path(router, envelope, route, checks, rcpt_modifiers, body_modifiers, relay)

    async def plan(self, path: Path, recipient: Recipient) -> list[Plan]:
        """Everything that one recipient needs. :raises MailError: refused, in whole."""
        if path.relay is not None:
            await self.refuse_relaying(path.relay, recipient)
        if path.only is not None:
            return [Plan(path.only.target, path.envelope, recipient, path.body_modifiers, (), path.only.span)]
        if path.is_straight:
            branch = await self.choose(path.route, recipient.address)  # type: ignore[arg-type]  # straight means Rules
            only = branch.only
            if only is not None:
                modified_by = path.body_modifiers + branch.body_modifiers
                return [Plan(only.target, path.envelope, recipient, modified_by, (), only.span)]
            plans: list[Plan] = []
            await self.take(path, branch, path.envelope, recipient, path.body_modifiers, (), plans)
        else:
            plans = []
            await self._walk(path, recipient, (), (), plans)
        return plans if len(plans) == 1 else _without_repetition(plans)

    async def finish(self, waiting: Plan, content: Callable[[Sequence[Any]], ContentFacts]) -> list[Plan]:
        """What takes the place of a plan that waited for the content; ``content(marks)`` is what the conditions see of it for
        those whose messages bear the findings of these checks. :raises MailError: refused, in whole."""
        assert waiting.after is not None
        self.content = self._contents.get(waiting.marks)
        if self.content is None:
            self.content = self._contents[waiting.marks] = content(waiting.marks)
        plans: list[Plan] = []
        step = Through(waiting.after.router, waiting.span)
        await self.through(step, waiting.envelope, waiting.recipient, waiting.body_modifiers, waiting.checks, plans)
        return plans if len(plans) == 1 else _without_repetition(plans)

    async def _walk(
        self,
        path: Path,
        recipient: Recipient,
        modified_by: tuple[Any, ...],
        judged_by: tuple[OpenCheck, ...],
        plans: list[Plan],
    ) -> None:
        if path.checks:
            await ask(path.checks, "rcpt", recipient)
        modified_by += path.body_modifiers
        judged_by += path.checks
        expanded = await self.expand(path.rcpt_modifiers, recipient) if path.rcpt_modifiers else (recipient,)
        for rewritten in expanded:
            route = path.route
            if not isinstance(route, Rules):
                await self.handle(route, path.envelope, rewritten, modified_by, judged_by, plans)
                continue
            branch = await self.choose(route, rewritten.address)
            await self.take(path, branch, path.envelope, rewritten, modified_by, judged_by, plans)

    async def take(
        self,
        path: Path,
        branch: Branch,
        envelope: Envelope,
        recipient: Recipient,
        modified_by: tuple[Any, ...],
        judged_by: tuple[OpenCheck, ...],
        plans: list[Plan],
    ) -> None:
        """Pass one recipient through the block that was chosen for it; the block around it left ``envelope`` like this."""
        checks: tuple[OpenCheck, ...] = ()
        if branch.checks or branch.sender_modifiers:
            envelope, checks = await self._open_branch(path, branch, envelope)
        if checks:
            await ask(checks, "rcpt", recipient)
        modified_by += branch.body_modifiers
        judged_by += checks
        assert not isinstance(branch.route, Rules)  # destination blocks hold no rules
        for final in await self.expand(branch.rcpt_modifiers, recipient) if branch.rcpt_modifiers else (recipient,):
            inner = await self.decide(branch.conditions, envelope, final.address) if branch.conditions else None
            if inner is None:
                await self.handle(branch.route, envelope, final, modified_by, judged_by, plans)
            else:
                await self.take(path, inner, envelope, final, modified_by, judged_by, plans)

    async def handle(
        self,
        handling: Handling,
        envelope: Envelope,
        recipient: Recipient,
        modified_by: tuple[Any, ...],
        judged_by: tuple[OpenCheck, ...],
        plans: list[Plan],
    ) -> None:
        if len(plans) >= MAX_EXPANSION:
            raise TemporaryError(
                "Too many addresses behind this one", enhanced="4.3.5", reason="expansion limit", where=place(handling.span)
            )
        if isinstance(handling, Reject):
            raise _rejected(handling)
        if isinstance(handling, AfterBody):
            self.waits_for_content = True
            plans.append(Plan(None, envelope, recipient, modified_by, judged_by, handling.span, after=handling))
            return
        if isinstance(handling, Discard):
            plans.append(Plan(None, envelope, recipient, modified_by, judged_by, handling.span))
            return
        for step in handling.steps:
            if isinstance(step, DeliverTo):
                plans.append(Plan(step.target, envelope, recipient, modified_by, judged_by, step.span, copy=step.copy))
            else:
                await self.through(step, envelope, recipient, modified_by, judged_by, plans)

    async def through(
        self,
        step: Through,
        envelope: Envelope,
        recipient: Recipient,
        modified_by: tuple[Any, ...],
        judged_by: tuple[OpenCheck, ...],
        plans: list[Plan],
    ) -> None:
        """Pass one recipient through another pipeline, which the sender passes once."""
        nested = await self._enter_nested(step.router, envelope)
        await self._walk(nested, recipient, modified_by, judged_by, plans)

    async def _enter_nested(self, router: Router, envelope: Envelope) -> Path:
        key = (router, envelope, self.content)
        path = self._nested.get(key)
        if path is None:
            path = self._nested[key] = await self.enter(router, envelope)
        return path

    async def _open_branch(self, path: Path, branch: Branch, envelope: Envelope) -> tuple[Envelope, tuple[OpenCheck, ...]]:
        """A destination block's checks and modifiers see the sender once, when the first recipient comes to the block.
        ``envelope`` has the sender as the block around it left it, always the same on one path."""
        if not branch.checks and not branch.sender_modifiers:
            return envelope, ()
        opened = path.opened.get(branch)
        if opened is None:
            checks = await self.open(branch.checks, envelope)
            envelope = await self.rewrite_sender(branch.sender_modifiers, envelope)
            opened = path.opened[branch] = (envelope, checks)
        return opened

    async def open(self, checks: Sequence[Any], envelope: Envelope) -> tuple[OpenCheck, ...]:
        opened: tuple[OpenCheck, ...] = ()
        for check in checks:
            state = OpenCheck(check, envelope)
            self.opened.append(state)
            opened += (state,)
        await ask(opened, "sender", envelope)
        return opened

    async def rewrite_sender(self, modifiers: Sequence[Any], envelope: Envelope) -> Envelope:
        for modifier in modifiers:
            sender = modifier.sender(envelope)
            if not isinstance(sender, Address):
                sender = await sender
            if sender != envelope.sender:
                envelope = self.from_sender(envelope, sender)
        return envelope

    async def choose(self, rules: Rules, address: Address) -> Branch:
        key, domain = rule_keys(address)
        for table, branch in rules.tables:
            if await look_up(table, key):
                return branch
        found = rules.find(key, domain)
        if rules.postmaster is not None and key == f"{POSTMASTER}@{domain}" and key not in rules.exact:
            return rules.postmaster if await look_up(rules.local.table, domain) else found
        return found

    async def decide(self, conditions: Sequence[Condition], envelope: Envelope, rcpt: Address = NULL_ADDRESS) -> Branch | None:
        """The branch of the first `when` that is true, or None. :raises MailError: one of them has no value."""
        view = self.view(envelope, rcpt)
        for condition in conditions:
            if await holds(condition, view):
                return condition.branch
        return None

    def view(self, envelope: Envelope, rcpt: Address) -> View:
        """What conditions see by now."""
        return View(envelope, rcpt) if self.content is None else ContentView(envelope, rcpt, self.content)

    async def refuse_relaying(self, relay: RelayRule, recipient: Recipient) -> None:
        """:raises MailError: the domain is not ours, and this client may send to ours only."""
        domain = rule_keys(recipient.address)[1]
        if not domain or domain in relay.local.domains:
            return
        if relay.local.waits and await look_up(relay.local.table, domain):
            return
        raise MailError(RELAY_DENIED, "relay_from", place(relay.span))

    async def expand(self, modifiers: Sequence[Any], recipient: Recipient) -> Sequence[Recipient]:
        """The recipients that take this one's place, each modifier applied to the results of the one before."""
        recipients: list[Recipient] = [recipient]
        for modifier in modifiers:
            rewritten: list[Recipient] = []
            for one in recipients:
                addresses = modifier.rcpt(one)
                if not isinstance(addresses, tuple):
                    addresses = await addresses
                if not addresses:
                    raise TypeError(f"{modifier!r} left no recipient in place of {one.address}")
                original = one.original or one.address
                rewritten += [
                    one if address == one.address else Recipient(address, one.parameters, original) for address in addresses
                ]
                if len(rewritten) > MAX_EXPANSION:
                    raise TemporaryError("Too many addresses behind this one", enhanced="4.3.5", reason="expansion limit")
            recipients = rewritten
        return recipients

    def from_sender(self, envelope: Envelope, sender: Address, parameters: MailParameters | None = None) -> Envelope:
        """One envelope object for each sender (and its parameters), so that whoever has the same sender shares a transaction."""
        self._envelopes.setdefault((envelope.sender, envelope.parameters), envelope)
        key = (sender, envelope.parameters if parameters is None else parameters)
        other = self._envelopes.get(key)
        if other is None:
            other = self._envelopes[key] = replace(envelope, sender=sender, parameters=key[1])
        return other


def may_relay(relay: RelayRule, session: Session) -> bool:
    """Whether a client may send to any domain."""
    if session.auth_user:
        return True
    address = client_address(session.client_ip)
    return address is None or any(address in network for network in relay.networks)


def _rejected(rule: Reject) -> MailError:
    return MailError(rule.reply, "rejected by rule", place(rule.span))


def _without_repetition(plans: list[Plan]) -> list[Plan]:
    """Two aliases that meet again are one delivery to that address."""
    different: dict[tuple[Any, ...], Plan] = {}
    for plan in plans:
        # Whatever checks it has met on the way, by one of them it is the same delivery.
        different.setdefault((plan.key[:3], rule_keys(plan.recipient.address)[0]), plan)
    return list(different.values())
