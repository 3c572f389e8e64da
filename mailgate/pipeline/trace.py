"""What the walk of one message meets, as a tree: blocks, branches taken and not taken, rewrites, checks, decisions.

`TracedRouting` is the walk of live mail (routing.py) with an ear at each decision. It calls the method it overrides, notes what
that was given and gave, and decides nothing itself, so what it shows is what mail does. Live mail runs on `Routing` and pays
nothing.

The tree itself is trace_tree.py. A level of rules shows the tables that were asked, then the rules in the order
in which they are written, the one that was taken among them; long lists of rules that did not match are cut at `MAX_SHOWN`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.config.evaluation import Part
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.pipeline.check import stages_of
from mailgate.pipeline.checks import OpenCheck
from mailgate.pipeline.conditions import ContentFacts, View
from mailgate.pipeline.lookup import Lookups
from mailgate.pipeline.router import (
    AfterBody,
    Branch,
    Condition,
    Deliver,
    DeliverTo,
    Discard,
    Handling,
    Reject,
    RelayRule,
    Router,
    Rules,
    Through,
    place,
)
from mailgate.pipeline.routing import Path, Plan, Routing
from mailgate.pipeline.trace_tree import Kind, Node, Trace, check_node, delivery_node, heading, heading_of, word_of
from mailgate.smtp.address import NULL_ADDRESS, Address, rule_keys
from mailgate.smtp.reply import MailError, Reply

MAX_SHOWN = 12
"""Rules of one level that are shown although they did not match."""


class TracedRouting(Routing):
    """See the module's docstring. ``replace`` gives what stands in for a target and for a check: they themselves, or doubles."""

    __slots__ = ("_blocks", "_chosen", "_entered", "_heard", "_lookups", "_replace_check", "_replace_target", "trace")

    def __init__(
        self,
        root: Node,
        lookups: Lookups,
        replace_target: Callable[[Any], Any],
        replace_check: Callable[[Any], Any],
    ) -> None:
        super().__init__()
        self.trace = Trace(root)
        self._lookups = lookups
        self._replace_target = replace_target
        self._replace_check = replace_check
        self._chosen = root
        """The block that was chosen last."""
        self._entered: list[Node] | None = None
        """While the sender passes a pipeline: the blocks that it is in."""
        self._blocks: dict[Path, list[Node]] = {}
        self._heard: dict[Any, _ContentModifier] = {}
        """One for each modifier: recipients share a transaction if theirs are the same."""

    def next_root(self, root: Node) -> None:
        """The next stage of the message gets a tree of its own."""
        self.trace = Trace(root)

    # The walk

    async def enter(self, router: Router, envelope: Envelope) -> Path:
        before = self._chosen, self._entered
        self._entered = []
        try:
            with self.trace.level():
                path = await super().enter(router, envelope)
                path.is_straight = False  # no short way past what is listened to
            self._blocks[path] = self._entered
            return path
        finally:
            self._chosen, self._entered = before

    async def plan(self, path: Path, recipient: Recipient) -> list[Plan]:
        with self.trace.level():
            for block in self._blocks[path]:
                self.trace.enter(self.trace.add(Node(block.kind, block.text, block.where, "as decided at MAIL")))
            plans = await super().plan(path, recipient)
            if path.only is not None:
                self._note_handling(path.route)
        return self._replaced(plans)

    async def finish(self, waiting: Plan, content: Callable[[Sequence[Any]], ContentFacts]) -> list[Plan]:
        return self._replaced(await super().finish(waiting, content))

    def _replaced(self, plans: list[Plan]) -> list[Plan]:
        for plan in plans:
            if plan.target is not None:
                plan.target = self._replace_target(plan.target)
                plan.body_modifiers = tuple(
                    self._heard.setdefault(modifier, _ContentModifier(modifier, self)) for modifier in plan.body_modifiers
                )
                plan.__post_init__()
        return plans

    async def take(self, path: Path, branch: Branch, *rest: Any) -> None:
        with self.trace.level(self._chosen):
            await super().take(path, branch, *rest)

    async def handle(self, handling: Handling, *rest: Any) -> None:
        self._note_handling(handling)
        await super().handle(handling, *rest)

    async def through(self, step: Through, *rest: Any) -> None:
        node = self.trace.add(Node(Kind.PIPELINE, heading(step.span), place(step.span)))
        with self.trace.level(node):
            await super().through(step, *rest)

    async def choose(self, rules: Rules, address: Address) -> Branch:
        before = len(self._lookups)
        branch = None
        try:
            branch = await super().choose(rules, address)
        finally:
            node = self._note_level(rules, address, branch, before)
        self._choose(node)
        return branch

    async def decide(self, conditions: Sequence[Condition], envelope: Envelope, rcpt: Address = NULL_ADDRESS) -> Branch | None:
        view = self.view(envelope, rcpt)
        branch = None
        failed = True
        try:
            branch = await super().decide(conditions, envelope, rcpt)
            failed = False
        finally:
            for condition in conditions:
                node = await self._note_condition(condition, view, is_true=condition.branch is branch, failed=failed)
                if condition.branch is branch:
                    self._choose(node)
                    break
        return branch

    async def refuse_relaying(self, relay: RelayRule, recipient: Recipient) -> None:
        domain = rule_keys(recipient.address)[1]
        is_local = False
        try:
            await super().refuse_relaying(relay, recipient)
            is_local = True
        finally:
            reason = "for ourselves" if not domain else f"{domain} is local" if is_local else f"{domain} is not local"
            self.trace.add(Node(Kind.CHECK, word_of("relay_from", relay.span), place(relay.span), reason, is_local))

    # What is asked on the way

    async def open(self, checks: Sequence[Any], envelope: Envelope) -> tuple[OpenCheck, ...]:
        return await super().open([_Check(self._replace_check(check), self) for check in checks], envelope)

    async def rewrite_sender(self, modifiers: Sequence[Any], envelope: Envelope) -> Envelope:
        return await super().rewrite_sender([_Modifier(modifier, self) for modifier in modifiers], envelope)

    async def expand(self, modifiers: Sequence[Any], recipient: Recipient) -> Sequence[Recipient]:
        return await super().expand([_Modifier(modifier, self) for modifier in modifiers], recipient)

    # Notes

    def note_rewrite(self, modifier: Any, before: Address, after: Sequence[Address] | None, asked: int) -> None:
        """``after`` is None if the modifier failed; ``asked`` is how many lookups there were before it."""
        hits = [lookup for lookup in self._lookups.since(asked) if lookup.values]
        changed = after is not None and tuple(after) != (before,)
        if after is None:
            reason = "could not answer"
        elif changed:
            reason = f"{_shown(before)} becomes {', '.join(map(_shown, after))}"
        else:
            reason = f"{_shown(before)} stays"
        entry = ", ".join(dict.fromkeys(lookup.where for lookup in hits if lookup.where)) if changed else ""
        span = getattr(modifier, "span", None)
        self.trace.add(Node(Kind.REWRITE, heading_of(modifier), place(span), reason, changed, entry))

    def note_content(self, modifier: Any, *, changed: bool | None) -> None:
        """``changed`` is None if the modifier failed."""
        reason = "could not answer" if changed is None else "the message is changed" if changed else "this message stays"
        self.trace.add(Node(Kind.REWRITE, heading_of(modifier), place(getattr(modifier, "span", None)), reason, bool(changed)))

    def note_check(self, check: Any, stage: str, verdict: object) -> None:
        self.trace.add(check_node(check, stage, verdict))

    @property
    def asked(self) -> int:
        return len(self._lookups)

    def _choose(self, node: Node) -> None:
        self._chosen = node
        if self._entered is not None:
            self._entered.append(node)
            self.trace.enter(node)

    async def _note_condition(self, condition: Condition, view: View, *, is_true: bool, failed: bool) -> Node:
        """A `when` and how each of its parts comes out; ``failed``: it or one behind it had no value."""
        expression = condition.test.expression
        parts = {expression.text[part.node.start : part.node.end]: await _came_out(part, view) for part in expression.parts}
        if len(parts) == 1:
            (reason,) = parts.values()
        else:
            reason = ", ".join(f"{text}: {value}" for text, value in parts.items())
        node = Node(Kind.CONDITION, heading(condition.span), place(condition.span), reason, is_true and not failed)
        return self.trace.add(node)

    def _note_handling(self, handling: object) -> None:
        if isinstance(handling, Reject):
            self.trace.add(Node(Kind.REJECT, word_of("reject", handling.span), place(handling.span), str(handling.reply)))
        elif isinstance(handling, Discard):
            self.trace.add(Node(Kind.DISCARD, "discard", place(handling.span), "accepted and thrown away"))
        elif isinstance(handling, AfterBody):
            reason = "decided when the content has come"
            self.trace.add(Node(Kind.PIPELINE, word_of("after_body", handling.span), place(handling.span), reason))
        elif isinstance(handling, Deliver):
            for step in handling.steps:
                if isinstance(step, DeliverTo):
                    self.trace.add(delivery_node(step))

    def _note_level(self, rules: Rules, address: Address, branch: Branch | None, before: int) -> Node:
        """Add the rules of one level; the node of ``branch`` is the result. None: a table could not answer."""
        key, domain = rule_keys(address)
        asked = {id(lookup.table): lookup for lookup in self._lookups.since(before) if lookup.key == key}
        chosen = _NOTHING
        for table, rule in rules.tables:
            lookup = asked.get(id(table))
            if lookup is None:
                break
            reason = "could not answer" if lookup.values is None else f"has {key!r}" if lookup.values else f"no entry {key!r}"
            entry = lookup.where if lookup.values else ""
            node = self.trace.add(Node(Kind.RULE, heading(rule.span), place(rule.span), reason, rule is branch, entry))
            chosen = node if rule is branch else chosen
        if branch is None or chosen is not _NOTHING:
            return chosen
        words = {rule: None for kind in (rules.exact, rules.domains, rules.suffixes) for rule in kind.values()}
        if rules.postmaster is not None:
            words[rules.postmaster] = None
        others = sorted((rule for rule in words if rule is not branch), key=_written)
        shown = sorted([*others[:MAX_SHOWN], *([branch] if branch is not rules.default else [])], key=_written)
        for rule in shown:
            reason = _match(rules, rule, key, domain) if rule is branch else f"not {key or '<>'}"
            node = self.trace.add(Node(Kind.RULE, heading(rule.span), place(rule.span), reason, rule is branch))
            chosen = node if rule is branch else chosen
        if len(others) > MAX_SHOWN:
            text = f"{len(others) - MAX_SHOWN} more rules"
            self.trace.add(Node(Kind.RULE, text, "", f"not {key or '<>'}", False))
        if branch is rules.default:
            chosen = self.trace.add(Node(Kind.RULE, heading(branch.span), place(branch.span), "nothing else matches"))
        return chosen


class _Modifier:
    """A modifier that is listened to; it stands in for it during one call of the walk."""

    __slots__ = ("_modifier", "_routing")

    def __init__(self, modifier: Any, routing: TracedRouting) -> None:
        self._modifier = modifier
        self._routing = routing

    async def sender(self, envelope: Envelope) -> Address:
        asked = self._routing.asked
        sender: Address | None = None
        try:
            answer = self._modifier.sender(envelope)
            sender = answer if isinstance(answer, Address) else await answer
            return sender
        finally:
            self._routing.note_rewrite(self._modifier, envelope.sender, None if sender is None else (sender,), asked)

    async def rcpt(self, recipient: Recipient) -> tuple[Address, ...]:
        asked = self._routing.asked
        addresses: tuple[Address, ...] | None = None
        try:
            answer = self._modifier.rcpt(recipient)
            addresses = answer if isinstance(answer, tuple) else await answer
            return addresses
        finally:
            self._routing.note_rewrite(self._modifier, recipient.address, addresses, asked)


class _ContentModifier:
    """A modifier of the content that is listened to; it stands in for it when the message is sent."""

    __slots__ = ("_modifier", "_routing", "makes_seven_bit")

    def __init__(self, modifier: Any, routing: TracedRouting) -> None:
        self.makes_seven_bit: bool = getattr(modifier, "makes_seven_bit", False)
        self._modifier = modifier
        self._routing = routing

    async def body(self, message: Message) -> Message:
        changed: bool | None = None
        try:
            answer = self._modifier.body(message)
            found: Message = answer if isinstance(answer, Message) else await answer
            changed = found.header != message.header or found.body is not message.body
            return found
        finally:
            self._routing.note_content(self._modifier, changed=changed)


class _Check:
    """A check that is listened to, and its state of this message."""

    __slots__ = ("_check", "_routing", "_state", "passes", "span")

    def __init__(self, check: Any, routing: TracedRouting) -> None:
        self.span = getattr(check, "span", None)
        self.passes: str = getattr(check, "passes", "passes")
        self._check = check
        self._routing = routing
        self._state: Any = None

    @property
    def label(self) -> str:
        return str(getattr(self._check, "label", "check"))

    @property
    def stages(self) -> frozenset[str]:
        return stages_of(self._check)

    def open(self, envelope: Envelope) -> _Check:
        self._state = self._check.open(envelope)
        return self

    async def sender(self, envelope: Envelope) -> Any:
        return await self._asked("sender", envelope)

    async def rcpt(self, recipient: Recipient) -> Any:
        return await self._asked("rcpt", recipient)

    async def body(self, message: Any) -> Any:
        return await self._asked("body", message)

    async def verdict(self, found: Any) -> Any:
        return await self._asked("verdict", found) if hasattr(self._state, "verdict") else None

    def close(self) -> None:
        self._state.close()

    async def _asked(self, stage: str, subject: Any) -> Any:
        return await listened(self, stage, lambda: getattr(self._state, stage)(subject), self._routing.note_check)


async def listened(check: Any, stage: str, ask: Callable[[], Any], note: Callable[[Any, str, object], None]) -> Any:
    """Ask a check, and note what it said; nothing of one that nobody waited for."""
    verdict: object = "failed"
    try:
        verdict = ask()
        if verdict is not None and not isinstance(verdict, Reply):
            verdict = await verdict  # type: ignore[misc]
    except CancelledError:
        raise
    except MailError as refusal:
        note(check, stage, refusal.reply)
        raise
    except Exception:
        note(check, stage, "failed")
        raise
    note(check, stage, verdict)
    return verdict


_NOTHING = Node(Kind.RULE, "")


def _shown(address: Address) -> str:
    return f"<{address}>"


def _written(rule: Branch) -> tuple[str, int]:
    return (rule.span.path, rule.span.line) if rule.span is not None else ("", 0)


def _match(rules: Rules, rule: Branch, key: str, domain: str) -> str:
    """Which of a rule's words it was, in the order of `Rules.find`."""
    if rules.exact.get(key) is rule:
        return f"the address {key or '<>'}"
    if rules.domains.get(domain) is rule:
        return f"the domain {domain}"
    for name, other in rules.suffixes.items():
        if other is rule and domain.endswith("." + name):
            return f"a sub-domain of {name}"
    return f"the postmaster of {domain}, which is local"


async def _came_out(part: Part, view: View) -> str:
    """``yes`` or ``no``; a part that has no value, or whose table may not be asked, has none here either."""
    try:
        value = part.call(view)
        return "yes" if (await value if part.waits else value) else "no"
    except CancelledError:
        raise
    except Exception:
        return "no answer"
