"""`--where`: which recipients of a queue an operator means, in the expression language of the configuration.

    sender_domain == "example.org" and age > 1d and last_code == 450

An expression is judged for each recipient: what is chosen are recipients, never whole messages. `compile_where` types it, so a
misspelt name or a comparison that can't be is an error with its place, before anything is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from mailgate.config.closures import EvaluationError
from mailgate.config.dynamic_variables import LAST_ERRORS
from mailgate.config.evaluation import compile_expression
from mailgate.config.expression import ExpressionError
from mailgate.config.expression_types import BOOLEAN, DURATION, INTEGER, STRING, Kind, Scope, Type, Variable
from mailgate.config.text_forms import address, domain, folded, one_of, table_key, text_type
from mailgate.queue.entry import Entry, Standing, Waiting
from mailgate.smtp.address import rule_keys

STATES = ("waiting", "delivering", "held", "owed", "removed")
"""The words for a recipient's standing; ``delivering`` is one that waits and is being tried just now."""
_WORDS = {
    Standing.WAITING: "waiting",
    Standing.HELD: "held",
    Standing.OWED: "owed",
    Standing.REMOVED: "removed",
    Standing.PREPARED: "prepared",
}

_VARIABLES = (
    Variable("id", STRING, "The message id, as in the reply that accepted it."),
    Variable("queue", STRING, "The queue's name."),
    Variable("target", STRING, "The target it is for."),
    Variable("destination", text_type(folded), "What its delivery shares back-off with: a domain, or &TARGET."),
    Variable("sender", text_type(address), 'The sender\'s address, "" for <>.'),
    Variable("sender_domain", text_type(domain), 'Its domain, "" for <>.'),
    Variable("rcpt", text_type(address), "The recipient's address."),
    Variable("rcpt_domain", text_type(domain), "Its domain."),
    Variable("state", text_type(one_of(*STATES)), f"One of {', '.join(STATES)}."),
    Variable("held", BOOLEAN, "Whether it is held."),
    Variable("age", DURATION, "Since it was accepted."),
    Variable("due_in", DURATION, "Until it is tried again; 0 if it is due."),
    Variable("retries", INTEGER, "Attempts so far."),
    Variable("size", INTEGER, "Octets of the message."),
    Variable("last_code", Type(Kind.INTEGER, optional=True), "The reply code of the last attempt; unset if there was none."),
    Variable("last_error", text_type(one_of(*LAST_ERRORS), optional=True), "The class of its failure."),
    Variable("last_text", STRING, 'What was said, or what went wrong; "" if it was not tried.'),
    Variable("last_peer", text_type(folded), 'Who was heard of last; "" if nobody.'),
    Variable("in_doubt", BOOLEAN, "Whether its next delivery may be the second."),
    Variable("reason", STRING, "Why it is held, or was removed."),
    Variable("client_ip", Type(Kind.ADDRESS, optional=True), "Where it came from."),
    Variable("auth_user", text_type(optional=True), "Who had logged in; unset if nobody."),
    Variable("source", text_type(one_of("client", "dsn", "report")), 'Where it comes from: "client", "dsn" or "report".'),
    Variable("priority", INTEGER, "Its priority, 0 if none was asked for."),
)
VARIABLES = {variable.name: variable for variable in _VARIABLES}


class WhereError(Exception):
    """The expression is wrong; the text has a caret under the part that is."""


class Candidate:
    """One recipient, as an expression sees it."""

    __slots__ = ("_now", "delivering", "entry", "queue", "row")

    def __init__(self, queue: str, entry: Entry, row: Waiting, now: float, *, delivering: bool = False) -> None:
        self.queue = queue
        self.entry = entry
        self.row = row
        self._now = now
        self.delivering = delivering

    @property
    def state(self) -> str:
        return "delivering" if self.delivering and self.row.standing is Standing.WAITING else _WORDS[self.row.standing]

    @property
    def age(self) -> float:
        return max(self._now - self.entry.arrived, 0.0)

    @property
    def due_in(self) -> float:
        return max(self.row.due - self._now, 0.0)

    def __getattr__(self, name: str) -> Any:
        """The others; `_VALUES` has one for each variable."""
        return _VALUES[name](self.entry, self.row)


def _ip(entry: Entry) -> Any:
    try:
        return ip_address(entry.origin.client_ip)
    except ValueError:
        return None


_VALUES: dict[str, Callable[[Entry, Waiting], Any]] = {
    "id": lambda entry, row: entry.message_id,
    "target": lambda entry, row: entry.target,
    "destination": lambda entry, row: folded(row.destination),
    "sender": lambda entry, row: rule_keys(entry.sender)[0],
    "sender_domain": lambda entry, row: rule_keys(entry.sender)[1],
    "rcpt": lambda entry, row: rule_keys(row.address)[0],
    "rcpt_domain": lambda entry, row: rule_keys(row.address)[1],
    "held": lambda entry, row: row.standing is Standing.HELD,
    "retries": lambda entry, row: row.retries,
    "size": lambda entry, row: entry.size,
    "last_code": lambda entry, row: (row.last.code or None) if row.last is not None else None,
    "last_error": lambda entry, row: (row.last.kind or None) if row.last is not None else None,
    "last_text": lambda entry, row: row.last.text if row.last is not None else "",
    "last_peer": lambda entry, row: folded(row.last.way.peer) if row.last is not None else "",
    "in_doubt": lambda entry, row: row.in_doubt,
    "reason": lambda entry, row: row.reason,
    "client_ip": lambda entry, row: _ip(entry),
    "auth_user": lambda entry, row: entry.origin.auth_user or None,
    "source": lambda entry, row: entry.origin.source,
    "priority": lambda entry, row: entry.priority,
}


def compile_where(text: str) -> Callable[[Candidate], bool]:
    """The question of an expression. It raises `WhereError` where it has no value.

    :raises WhereError: the expression is wrong."""
    scope = Scope(VARIABLES, table_key=table_key)
    try:
        expression = compile_expression(text, scope, BOOLEAN)
    except ExpressionError as error:
        raise WhereError(_with_caret(text, error)) from error

    def ask(candidate: Candidate) -> bool:
        try:
            return bool(expression.call(candidate))
        except EvaluationError as error:
            raise WhereError(f"{text}: {error}") from error

    return ask


def _with_caret(text: str, error: ExpressionError) -> str:
    width = max(error.end - error.start, 1)
    hint = f" {error.hint}" if error.hint else ""
    line = " ".join(text.split("\n"))
    return f"{error.message}\n  {line}\n  {' ' * error.start}{'^' * width}{hint}"
