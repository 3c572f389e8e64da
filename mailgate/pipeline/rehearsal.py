"""A transaction that everybody takes for real, and that leaves no mark: what `explain`, `try` and `test` blocks run.

The router, the checks, the modifiers and the `Transaction` are those of live mail. What is replaced is the edge: a target by one
that accepts everything and delivers nothing, a check that asks the network by one that passes and says so (unless it may be
asked), a table by `Lookups`. A rehearsal logs nothing; it keeps the refusals, each with the place of its rule.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.adapters import Adapters
from mailgate.events import Event
from mailgate.interfaces import ITarget, ITwoPhaseDelivery
from mailgate.message.body import Spool
from mailgate.message.envelope import Envelope, Recipient, Session
from mailgate.pipeline.answers import RCPT_OK
from mailgate.pipeline.check import stages_of
from mailgate.pipeline.lookup import Kept, Lookups, kept
from mailgate.pipeline.router import Router
from mailgate.pipeline.routing import Plan
from mailgate.pipeline.settings import TransactionSettings
from mailgate.pipeline.trace import TracedRouting
from mailgate.pipeline.trace_tree import Node
from mailgate.pipeline.transaction import Transaction
from mailgate.smtp.address import rule_keys
from mailgate.smtp.reply import MailError, Reply, TemporaryError

SPOOL_LIMIT = 1 << 30
"""Octets of a message on disk: one message at a time is rehearsed."""


def adapters() -> Adapters:
    """A world in which nothing waits: files are read at once, timers never fire."""
    return Adapters(Clock(), time.time, maybeDeferred, random.Random())


def spool(outside: Adapters) -> Spool:
    return Spool(SPOOL_LIMIT, outside)


@implementer(ITarget)
class Understudy:
    """Stands in for a target: accepts everything, delivers nothing. ``received`` is what it was given."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self.finality = target.finality
        self.label: str = target.label

    def open(self, envelope: Envelope) -> _Accepting:
        return _Accepting(self.label)

    def group(self, envelope: Envelope, recipient: Recipient) -> str:
        """As far as can be said without asking anybody."""
        return rule_keys(recipient.address)[1]


@implementer(ITwoPhaseDelivery)
class _Accepting:
    def __init__(self, label: str) -> None:
        self._reply = Reply(250, "2.0.0", f"taken for {label}")
        self._accepted = 0

    def rcpt(self, recipient: Recipient) -> Reply:
        self._accepted += 1
        return RCPT_OK

    def withdraw(self, recipients: Sequence[Recipient]) -> None:
        self._accepted -= len(recipients)

    def send(self, message: Any) -> list[Reply]:
        return [self._reply] * self._accepted

    def prepare(self, message: Any) -> list[Reply]:
        return self.send(message)

    async def commit(self, recipients: Sequence[Recipient]) -> None: ...

    def abort(self) -> None: ...


class _Silent:
    """Stands in for a check that may not ask anybody."""

    passes = "not asked, taken to pass"

    def __init__(self, check: Any) -> None:
        self.span = getattr(check, "span", None)
        self.label = getattr(check, "label", "check")
        self.stages = stages_of(check)

    def open_session(self, session: Session) -> _Silent:
        return self

    def connection(self) -> None: ...

    def tls(self) -> None: ...

    def auth(self) -> None: ...

    def open(self, envelope: Envelope) -> _Silent:
        return self

    def sender(self, envelope: Envelope) -> None: ...

    def rcpt(self, recipient: Recipient) -> None: ...

    def body(self, message: Any) -> None: ...

    def close(self) -> None: ...


def double_of(check: Any, may_ask: frozenset[Kept]) -> Any:
    """The check itself, or one that stands in for it because it may not be asked."""
    return check if kept(check) in may_ask else _Silent(check)


class Rehearsal(Transaction):
    """One transaction, dry. ``refusal`` is why the last step was refused; `next_root` gives the next step a tree of its own."""

    __slots__ = ("_routed", "refusal")

    def __init__(
        self,
        router: Router,
        session: Session,
        settings: TransactionSettings,
        message_id: str,
        lookups: Lookups,
        root: Node,
        may_ask: frozenset[Kept],
    ) -> None:
        self.refusal: MailError | None = None
        understudies: dict[Any, Understudy] = {}

        def replace_target(target: Any) -> Understudy:
            return understudies.setdefault(target, Understudy(target))

        self._routed = TracedRouting(root, lookups, replace_target, lambda check: double_of(check, may_ask))
        super().__init__(router, session, replace(settings, keeper=None, reports=None), message_id, self._routed)

    def next_root(self, root: Node) -> None:
        self.refusal = self._sender_refusal  # said at RCPT
        self._routed.next_root(root)

    @property
    def plans(self) -> list[Plan]:
        """What the recipient that was accepted last became."""
        accepted = self._offers.accepted
        return accepted[-1].plans if accepted else []

    @property
    def all_plans(self) -> list[list[Plan]]:
        """The same of everybody who was accepted; once the content is here nothing of it is open any more."""
        return [one.plans for one in self._offers.accepted]

    def _refusal(self, error: BaseException) -> MailError:
        if not isinstance(error, MailError):
            error = TemporaryError("Internal error", reason=f"{type(error).__name__}: {error}")
        self.refusal = error
        return error

    def _log_refusal(self, event: Event, refusal: MailError, to: str | None = None) -> None: ...

    def _log_outcome(self, answers: list[Reply]) -> None: ...
