"""Targets, checks, modifiers and tables that write down what happens to them, and answer as told."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.adapters import Adapters
from mailgate.interfaces import Finality, IDelivery, ITable, ITarget
from mailgate.message.body import Spool
from mailgate.message.envelope import Session
from mailgate.pipeline.router import Branch, Deliver, DeliverTo, Handling, Router, Rules
from mailgate.pipeline.settings import TransactionSettings
from mailgate.pipeline.transaction import Transaction
from mailgate.smtp.address import NULL_ADDRESS, Address, parse_address
from mailgate.smtp.reply import Reply

OK = Reply(250, "2.1.5", "Ok")
DONE = Reply(250, "2.0.0", "queued as X1")


def address(text: str) -> Address:
    return parse_address(text) if text else NULL_ADDRESS


@implementer(ITarget)
class FakeTarget:
    """Answers by address: ``refuse["a@b"] = Reply``; to the dot by ``final`` (a reply, or by address). With ``wait`` the
    answers are Deferreds that the test fires (``pending``)."""

    def __init__(self, events: list[Any], label: str = "store", finality: Finality = Finality.TRANSACTION) -> None:
        self.events = events
        self.label = label
        self.finality = finality
        self.refuse: dict[str, Any] = {}
        self.final: Any = DONE
        self.wait = False
        self.pending: list[Deferred[Any]] = []
        self.sent: list[bytes] = []
        self.envelopes: list[Any] = []

    def open(self, envelope: Any) -> FakeDelivery:
        self.events.append((self.label, "open", str(envelope.sender)))
        self.envelopes.append(envelope)
        return FakeDelivery(self)

    def answer(self, value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        if not self.wait:
            return value
        pending: Deferred[Any] = Deferred(lambda _: self.events.append((self.label, "cancelled")))
        pending.answer = lambda: pending.callback(value)  # type: ignore[attr-defined]
        self.pending.append(pending)
        return pending


@implementer(IDelivery)
class FakeDelivery:
    def __init__(self, target: FakeTarget) -> None:
        self.target = target
        self.accepted: list[Any] = []

    def rcpt(self, recipient: Any) -> Any:
        self.target.events.append((self.target.label, "rcpt", str(recipient.address)))
        reply = self.target.refuse.get(str(recipient.address), OK)
        if isinstance(reply, Reply) and reply.is_success:
            self.accepted.append(recipient)
        return self.target.answer(reply)

    def withdraw(self, recipients: Any) -> None:
        self.target.events.append((self.target.label, "withdraw", *(str(one.address) for one in recipients)))
        self.accepted = [one for one in self.accepted if one not in recipients]

    def send(self, message: Any) -> Any:
        self.target.events.append((self.target.label, "send", *(str(one.address) for one in self.accepted)))
        self.target.sent.append(message.data())
        final = self.target.final
        if isinstance(final, dict):
            final = [final.get(str(one.address), DONE) for one in self.accepted]
        elif isinstance(final, Reply):
            final = [final] * len(self.accepted)
        return self.target.answer(final)

    def abort(self) -> None:
        self.target.events.append((self.target.label, "abort"))


@implementer(ITable)
class FakeTable:
    label = "people"

    def __init__(self, entries: dict[str, tuple[str, ...]] | Exception, wait: bool = False) -> None:
        self.entries = entries
        self.wait = wait
        self.asked: list[str] = []
        self.pending: list[Deferred[Any]] = []

    def lookup(self, key: str) -> Any:
        self.asked.append(key)
        if isinstance(self.entries, Exception):
            raise self.entries
        values = self.entries.get(key, ())
        if not self.wait:
            return values
        pending: Deferred[Any] = Deferred()
        pending.answer = lambda: pending.callback(values)  # type: ignore[attr-defined]
        self.pending.append(pending)
        return pending


class FakeCheck:
    """Answers each stage by ``answers[stage]``: None, a Reply, an exception, or a callable of what is judged."""

    span = None

    def __init__(self, events: list[Any], name: str = "check", **answers: Any) -> None:
        self.events = events
        self.name = name
        self.answers = answers

    def open(self, envelope: Any) -> FakeCheck:
        self.events.append((self.name, "open"))
        return self

    def _answer(self, stage: str, subject: Any) -> Any:
        answer = self.answers.get(stage)
        if isinstance(answer, Exception):
            raise answer
        return answer(subject) if callable(answer) else answer

    def sender(self, envelope: Any) -> Any:
        self.events.append((self.name, "sender", str(envelope.sender)))
        return self._answer("sender", envelope)

    def rcpt(self, recipient: Any) -> Any:
        self.events.append((self.name, "rcpt", str(recipient.address)))
        return self._answer("rcpt", recipient)

    def body(self, message: Any) -> Any:
        self.events.append((self.name, "body"))
        return self._answer("body", message)

    def close(self) -> None:
        self.events.append((self.name, "close"))


class FakeModifier:
    """Rewrites by dictionary; ``header`` is put in front of the message."""

    def __init__(
        self, sender: dict[str, str] | None = None, rcpt: dict[str, list[str]] | None = None, header: bytes = b""
    ) -> None:
        self._sender = sender or {}
        self._rcpt = rcpt or {}
        self._header = header

    def sender(self, envelope: Any) -> Any:
        return address(self._sender.get(str(envelope.sender), str(envelope.sender)))

    def rcpt(self, recipient: Any) -> Any:
        return tuple(address(one) for one in self._rcpt.get(str(recipient.address), [str(recipient.address)]))

    def body(self, message: Any) -> Any:
        return message.with_header(self._header + message.header)


def make_adapters(clock: Clock | None = None, run: Callable[..., Any] = maybeDeferred) -> Adapters:
    return Adapters(clock or Clock(), lambda: 1_000_000_000.0, run, random.Random(7))


def make_session(**fields: Any) -> Session:
    return Session(**{"id": "s1", "listener": "tcp://127.0.0.1:25", "hostname": "mx.test", **fields})


def deliver(*targets: Any) -> Deliver:
    return Deliver(tuple(DeliverTo(target) for target in targets))


def branch(handling: Handling | Rules, **fields: Any) -> Branch:
    return Branch(handling, **fields)


def make_transaction(router: Router, *, session: Session | None = None, spool_limit: int = 1 << 30, **fields: Any) -> Transaction:
    adapters = fields.pop("adapters", None) or make_adapters()
    settings = TransactionSettings(spool=Spool(spool_limit, adapters), adapters=adapters, hostname="mx.test", **fields)
    return Transaction(router, session or make_session(), settings, "s1.1")
