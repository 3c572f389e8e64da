"""What happens to mail from A to B: one envelope through a listener's pipeline, dry, and why.

`explain` runs a `Rehearsal` of the message: MAIL, each RCPT, the content. For each step it keeps the reply that the client would
hear, the place of what decided it, and the tree of everything that was met on the way (trace.py). Next hops are taken to
accept. Tables and checks that need the network are asked only if ``may_ask`` says so; without, a recipient whose way depends
on one has ``unknown`` set, for then its reply is not the one of live mail.

`changes` compares two explanations of one envelope by what a client and a next hop would notice, not by line numbers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mailgate.adapters import Adapters
from mailgate.message.envelope import Session, TlsFacts
from mailgate.pipeline.lookup import WITHOUT_IO, Kept, Lookups, not_asked
from mailgate.pipeline.reception import receive
from mailgate.pipeline.rehearsal import Rehearsal, adapters, spool
from mailgate.pipeline.router import place
from mailgate.pipeline.routing import Plan
from mailgate.pipeline.session_checks import close
from mailgate.pipeline.trace_tree import Kind, Node, first_endpoint, heading
from mailgate.smtp.address import NULL_ADDRESS, Address, parse_address
from mailgate.smtp.reply import MailError, Reply

JSON_VERSION = 1
MESSAGE_ID = "dry"
T = TypeVar("T")

DEFAULT_IP = "192.0.2.1"
"""Nobody's address (RFC 5737): an outsider."""
DEFAULT_HELO = "client.example"
DEFAULT_CONTENT = b"From: <somebody@client.example>\r\nSubject: a question\r\n\r\nWhat would become of this?\r\n"


def tls_facts() -> TlsFacts:
    """A handshake as most clients make it."""
    return TlsFacts("TLS1.3", "TLS_AES_256_GCM_SHA384")


@dataclass(frozen=True, slots=True)
class Question:
    """The envelope, and the session it comes by. ``listener`` is one of the listener's addresses, "" for its first."""

    sender: Address
    recipients: tuple[Address, ...]
    ip: str = DEFAULT_IP
    helo: str = DEFAULT_HELO
    auth_user: str = ""
    tls: bool = False
    listener: str = ""
    content: bytes = DEFAULT_CONTENT

    def session(self, listener: Any) -> Session:
        return Session(
            id=MESSAGE_ID,
            listener=self.listener or listener.addresses[0],
            hostname=listener.hostname,
            client_ip=self.ip,
            helo=self.helo,
            protocol="LMTP" if listener.lmtp else "ESMTP",
            tls=tls_facts() if self.tls else None,
            auth_user=self.auth_user,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """One delivery of one recipient. ``target`` is "" for `discard`."""

    target: str
    endpoint: str
    sender: str
    address: str
    where: str
    module: Any = field(default=None, compare=False, repr=False)
    """The target itself; None for `discard`."""


@dataclass(frozen=True, slots=True)
class Step:
    """MAIL, RCPT or the dot: what the client hears, and why. ``tree`` is everything that was met."""

    reply: Reply
    tree: Node
    refusal: MailError | None = None

    @property
    def where(self) -> str:
        """``file:line`` of what refused."""
        return self.refusal.where if self.refusal is not None else ""

    @property
    def reason(self) -> str:
        return self.refusal.reason if self.refusal is not None else ""

    @property
    def unknown(self) -> str:
        """Why the reply is not known: a table that this run may not ask."""
        question = not_asked(self.refusal)
        return question.reason if question is not None else ""


@dataclass(frozen=True, slots=True)
class RecipientStep:
    """One RCPT, and where the message goes for it. ``final`` is the reply to the dot that is for it; None if it was refused."""

    address: Address
    step: Step
    outcomes: tuple[Outcome, ...] = ()
    final: Reply | None = None


@dataclass(slots=True)
class Explanation:
    """Everything that becomes of one envelope at one listener. ``content`` is None if no recipient is left."""

    listener: str
    where: str
    session: Session
    question: Question
    sender: Step
    recipients: list[RecipientStep] = field(default_factory=list)
    content: Step | None = None
    unanswered: tuple[str, ...] = ()
    """Tables that could not answer, or were not asked."""

    @property
    def unknown(self) -> str:
        return next((step.unknown for step in self.steps() if step.unknown), "")

    def steps(self) -> Iterable[Step]:
        yield self.sender
        yield from (one.step for one in self.recipients)
        if self.content is not None:
            yield self.content


def find_listener(listeners: Iterable[Any], address: str) -> Any:
    """The listener at an address as it is written in the file; the first one if ``address`` is "". None: there is none."""
    for listener in listeners:
        if not address or address in listener.addresses:
            return listener
    return None


async def explain(
    listener: Any,
    question: Question,
    lookups: Lookups,
    may_ask: frozenset[Kept] = WITHOUT_IO,
    outside: Adapters | None = None,
) -> Explanation:
    """Explain one envelope. ``lookups`` is open around the call."""
    outside = outside or adapters()
    before = len(lookups)
    session = question.session(listener)
    root = Node(Kind.PIPELINE, heading(listener.span) or listener.label, place_of(listener))
    settings = listener.transaction_settings(outside, spool(outside))
    refusal = await receive(listener, session, root, may_ask)
    if refusal is not None:
        close(session)
        return Explanation(listener.label, place_of(listener), session, question, Step(refusal.reply, root, refusal))
    rehearsal = Rehearsal(listener.router, session, settings, MESSAGE_ID, lookups, root, may_ask)
    reply = await _now(rehearsal.mail(question.sender))
    explanation = Explanation(listener.label, place_of(listener), session, question, _step(rehearsal, reply, root))
    accepted: list[int] = []
    if reply.is_success:
        for address in question.recipients:
            if await _recipient(rehearsal, address, explanation):
                accepted.append(len(explanation.recipients) - 1)
        if accepted:
            await _content(rehearsal, question.content, explanation, accepted, per_recipient=settings.per_recipient)
    rehearsal.abort()
    close(session)
    silent = [lookup.table for lookup in lookups.since(before) if lookup.values is None]
    explanation.unanswered = tuple(dict.fromkeys(str(getattr(table, "label", "")) for table in silent))
    return explanation


async def _recipient(rehearsal: Rehearsal, address: Address, explanation: Explanation) -> bool:
    root = Node(Kind.PIPELINE, explanation.sender.tree.text, explanation.where)
    rehearsal.next_root(root)
    reply = await _now(rehearsal.rcpt(address))
    step = _step(rehearsal, reply, root)
    outcomes = outcomes_of(rehearsal.plans) if reply.is_success else ()
    explanation.recipients.append(RecipientStep(address, step, outcomes))
    return reply.is_success


async def _content(
    rehearsal: Rehearsal, content: bytes, explanation: Explanation, accepted: list[int], *, per_recipient: bool
) -> None:
    root = Node(Kind.PIPELINE, "the content", explanation.where)
    rehearsal.next_root(root)
    refused = rehearsal.data()
    if refused is not None:
        replies = [refused]
    else:
        await _now(rehearsal.append(content))
        replies = await _now(rehearsal.end())
    if not per_recipient:
        replies = replies * len(accepted)
    for number, reply, plans in zip(accepted, replies, rehearsal.all_plans, strict=True):
        one = explanation.recipients[number]
        explanation.recipients[number] = RecipientStep(one.address, one.step, outcomes_of(plans), reply)
    explanation.content = _step(rehearsal, replies[0], root)


async def _now(answer: T | Awaitable[T]) -> T:
    return await answer if isinstance(answer, Awaitable) else answer


def _step(rehearsal: Rehearsal, reply: Reply, tree: Node) -> Step:
    return Step(reply, tree, rehearsal.refusal)


def outcomes_of(plans: Iterable[Plan]) -> tuple[Outcome, ...]:
    """Where the message goes for a recipient, as far as that is decided."""
    return tuple(_outcome(plan) for plan in plans if plan.after is None)


def _outcome(plan: Plan) -> Outcome:
    sender, address = str(plan.envelope.sender), str(plan.recipient.address)
    if plan.target is None:
        return Outcome("", "", sender, address, plan.where)
    return Outcome(plan.target.label, first_endpoint(plan.target.target), sender, address, plan.where, plan.target.target)


def place_of(module: Any) -> str:
    return place(module.span)


def read_address(text: str) -> Address:
    """An address as people write it, with or without brackets; ``<>`` and "" are null. :raises AddressError: it is none."""
    bare = text.removeprefix("<").removesuffix(">")
    return parse_address(bare) if bare else NULL_ADDRESS


# Two explanations of one envelope


@dataclass(frozen=True, slots=True)
class Change:
    """What differs for one party (`sender`, or a recipient's address): before, and after."""

    party: str
    what: str
    before: str
    after: str


def changes(old: Explanation, new: Explanation) -> list[Change]:
    """What a client and the next hops would notice of the change from one to the other."""
    found = [Change("sender", "MAIL", str(old.sender.reply), str(new.sender.reply))]
    for address in old.question.recipients:
        before, after = (next((one for one in side.recipients if one.address == address), None) for side in (old, new))
        for what, read in _NOTICED.items():
            found.append(Change(str(address), what, read(before) if before else "", read(after) if after else ""))
    return [change for change in found if change.before != change.after]


def _ways(one: RecipientStep) -> str:
    return "; ".join(sorted(map(describe, one.outcomes)))


def describe(outcome: Outcome) -> str:
    """``<a@b> to store (tcp://…) as from <c@d>``"""
    if not outcome.target:
        return f"<{outcome.address}> is discarded"
    endpoint = f" ({outcome.endpoint})" if outcome.endpoint else ""
    return f"<{outcome.address}> to {outcome.target}{endpoint}, from <{outcome.sender}>"


_NOTICED: dict[str, Callable[[RecipientStep], str]] = {
    "RCPT": lambda one: "unknown" if one.step.unknown else str(one.step.reply),
    "delivery": _ways,
    "the dot": lambda one: str(one.final) if one.final is not None else "",
}


# As data


def as_dict(explanation: Explanation) -> dict[str, Any]:
    """For ``--json``; `JSON_VERSION` counts its incompatible changes."""
    session = explanation.session
    return {
        "listener": explanation.listener,
        "where": explanation.where,
        "session": {
            "ip": session.client_ip,
            "helo": session.helo,
            "tls": session.tls is not None,
            "auth": session.auth_user or None,
            "address": session.listener,
        },
        "sender": {"address": str(explanation.question.sender), **_step_dict(explanation.sender)},
        "recipients": [
            {
                "address": str(one.address),
                **_step_dict(one.step),
                "deliveries": [_outcome_dict(outcome) for outcome in one.outcomes],
                "after_dot": _reply_dict(one.final) if one.final is not None else None,
            }
            for one in explanation.recipients
        ],
        "content": _step_dict(explanation.content) if explanation.content is not None else None,
        "unknown": explanation.unknown or None,
    }


def _step_dict(step: Step) -> dict[str, Any]:
    return {
        "reply": _reply_dict(step.reply),
        "where": step.where or None,
        "reason": step.reason or None,
        "unknown": step.unknown or None,
        "tree": _node_dict(step.tree),
    }


def _reply_dict(reply: Reply) -> dict[str, Any]:
    return {"code": reply.code, "enhanced": reply.enhanced, "text": reply.text}


def _outcome_dict(outcome: Outcome) -> dict[str, Any]:
    return {
        "target": outcome.target or None,
        "endpoint": outcome.endpoint or None,
        "sender": outcome.sender,
        "address": outcome.address,
        "where": outcome.where or None,
    }


def _node_dict(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": node.kind.value, "text": node.text, "where": node.where or None, "taken": node.taken}
    for name in ("reason", "entry", "target", "endpoint"):
        if getattr(node, name):
            found[name] = getattr(node, name)
    if node.children:
        found["children"] = [_node_dict(child) for child in node.children]
    return found
