"""check.rate: how much mail may come with the same key, whatever the key is made of.

A key is one or several of the words below, together: `key auth_user rcpt_domain` counts each user's mail to each domain. With a
part that speaks of the recipient every RCPT counts, else every MAIL. A part that is not known (no login, the null sender) makes
no key, and nothing counts. What is counted is in memory, survives a reload that leaves the numbers as they are, and is divided
among workers as the lines of `limits` blocks are, which wait and share where this check only judges.

A dry run (`explain`, `test` blocks) counts nothing. A refused message has taken no token. One that passes here and is refused
later has.
"""

from __future__ import annotations

from collections.abc import Callable

from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.limits.addresses import CLIENT_PREFIX, counted_as, network_of
from mailgate.limits.buckets import Buckets
from mailgate.limits.limits import Kind, Line, Scope
from mailgate.message.envelope import Envelope, Recipient
from mailgate.modules.check._action import ActingCheck
from mailgate.pipeline.check import MessageCheck
from mailgate.registry import Argument, Module, ModuleContext
from mailgate.smtp.address import Address, domain_key, rule_keys
from mailgate.smtp.reply import Reply

_OF_SENDER: dict[str, Callable[[Envelope], str]] = {
    "client_ip": lambda envelope: counted_as(envelope.session.client_ip),
    "client_network": lambda envelope: network_of(envelope.session.client_ip, 24, CLIENT_PREFIX),
    "client_name": lambda envelope: envelope.session.client_name.lower(),
    "helo": lambda envelope: envelope.session.helo.lower(),
    "auth_user": lambda envelope: envelope.session.auth_user.casefold(),
    "sender": lambda envelope: _address(envelope.sender),
    "sender_domain": lambda envelope: domain_key(envelope.sender.domain),
}
_OF_RECIPIENT: dict[str, Callable[[Address], str]] = {
    "rcpt": lambda address: _address(address),
    "rcpt_domain": lambda address: domain_key(address.domain),
}


def _address(address: Address) -> str:
    return "" if address.is_null else rule_keys(address)[0]


class Counting(MessageCheck):
    def sender(self, envelope: Envelope) -> None:
        if not self.check.counts_recipients:
            self.check.count(envelope, [_OF_SENDER[part](envelope) for part in self.check.parts])

    def rcpt(self, recipient: Recipient) -> None:
        if self.check.counts_recipients:
            envelope, address = self.envelope, recipient.address
            parts = self.check.parts
            key = [_OF_SENDER[part](envelope) if part in _OF_SENDER else _OF_RECIPIENT[part](address) for part in parts]
            self.check.count(envelope, key)


class Rate(ActingCheck):
    """More than so many messages, or recipients, in a time with the same key hear 450 4.7.1."""

    name = "check.rate"
    message_state = Counting
    refusal = Reply(450, "4.7.1", "Too much mail at once, try again later")
    most = Argument("NUMBER", v.Integer(minimum=1), doc="How many may come at once.")
    period = Argument("DURATION", v.Duration(minimum=0.001), doc="The time in which as many may come again, evenly.")
    parts = Directive(
        "key",
        v.List(v.Choice(*_OF_SENDER, *_OF_RECIPIENT), minimum=1),
        default=("client_ip",),
        doc="What is counted apart: one or several of these together; `client_ip` is the address of an"
        " IPv6 client's network (/64), which is one client; `client_network` is the /24, or the /64.",
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self.counts_recipients = any(part in _OF_RECIPIENT for part in self.parts)
        self._buckets: Buckets | None = None
        self._before: Buckets | None = None

    def count(self, envelope: Envelope, key: list[str]) -> None:
        """:raises MailError: it is too much."""
        if not all(key):
            return
        assert self.context.adapters is not None
        now = self.context.adapters.reactor.seconds()
        buckets = self._buckets
        if buckets is None:
            line = Line(Scope.ALL, Kind.RATE, self.most, self.period).divided(self.context.workers)
            known = self._before
            is_same = known is not None and (known.count, known.period) == (line.count, line.period)
            buckets = self._buckets = known if known is not None and is_same else Buckets(line.count, line.period, now)
        if buckets.take("\0".join(key), now) < 0:
            self.failed(envelope, f"more than {self.most} for {' '.join(key)}")

    def inherit_state(self, old: Module) -> None:
        if isinstance(old, Rate) and old.parts == self.parts:
            self._before = old._buckets or old._before
