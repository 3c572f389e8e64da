"""Whom a listener serves, and how much of it: the directives `refuse_clients` and `limits`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive, Span
from mailgate.inbound.limiting import AT_MAIL, AT_RCPT, Gates, LimitedTransaction, gates, greeting_step
from mailgate.inbound.refused_clients import ClientsValue, refusal_step
from mailgate.inbound.sessions import TransactionLike
from mailgate.inbound.welcome import Step
from mailgate.limits.limits import Scope
from mailgate.message.envelope import Session
from mailgate.registry import Report

_LOGINS = ("auth", "xclient")
"""Directives by which a client gets a user's name."""


class AdmissionBlock(Block):
    """A part of every listener."""

    refuse_clients = Directive(
        "refuse_clients",
        ClientsValue(),
        repeatable=True,
        doc="Clients that hear a refusal in place of the greeting: networks, or a table with their addresses as keys; and the"
        " reply, 554 5.7.1 without one.",
    )
    limits = Directive(
        "limits",
        v.BlockOrReference("limits"),
        doc="How many messages may come in: from a client, a network, a user, a domain, to a domain, in all.",
        origin="maddy",
    )

    def check_admission(self, report: Report) -> None:
        if self.limits is None:
            return
        can_log_in = any(self.span_of(name) for name in _LOGINS)
        effective = {*AT_MAIL, *AT_RCPT} - (set() if can_log_in else {Scope.USER})
        place = "listener" if can_log_in else "listener without `auth`"
        self.limits.check_place(place, effective, self.span_of("limits"), report)

    def inherit_admission(self, old: AdmissionBlock) -> None:
        if self.limits is not None:
            self.limits.inherit_inline(old.limits)

    def gates(self, label: str) -> Gates | None:
        """None without limits."""
        return gates(self.limits.limits, label) if self.limits is not None else None

    def client_rules(self) -> list[tuple[Span | None, Step]]:
        """Each `refuse_clients` by itself, for who wants to know which it is."""
        return [(item.span, refusal_step([item.value])) for item in self.items if item.name == "refuse_clients"]

    def admission_steps(self, label: str) -> list[Step]:
        """What is asked of a client before its greeting, its checks apart; see `inbound.welcome`."""
        steps: list[Step] = []
        if self.refuse_clients:
            steps.append(refusal_step(self.refuse_clients))
        limits = self.gates(label)
        if limits is not None and limits.greeting is not None:
            steps.append(greeting_step(limits.greeting))
        return steps

    def under_limits(
        self, open_transaction: Callable[[Session, str], Any], label: str
    ) -> Callable[[Session, str], TransactionLike]:
        """The same, within the limits."""
        limits = self.gates(label)
        if limits is None or (limits.mail is None and limits.rcpt is None):
            return open_transaction
        asked = limits

        def open_limited(session: Session, message_id: str) -> LimitedTransaction:
            return LimitedTransaction(asked, session, lambda: open_transaction(session, message_id))

        return open_limited
