"""A listener's `limits { … }`: what is judged when, and what a client hears (docs/behaviour.md, "Limits").

Everything that is counted is a message: from MAIL to its end, however it ends. A limit on all, an address or a network that lets
nothing in at the moment, and is not one to wait for, also refuses new connections before the greeting, which costs
us and the client less; a connection as such takes nothing of any limit. The scope `destination` is judged at the first RCPT to
each domain, all others at MAIL.

A listener without limits has its transactions as they are; `LimitedTransaction` stands around those of one that has some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mailgate.inbound.sessions import TransactionLike
from mailgate.limits.limits import Exceeded, Gate, Lease, Limits, Scope, Subject
from mailgate.message.envelope import Session
from mailgate.net.waiting import Wait, start
from mailgate.smtp.address import rule_keys
from mailgate.smtp.reply import Reply

AT_GREETING = (Scope.ALL, Scope.IP, Scope.NETWORK)
AT_MAIL = (Scope.ALL, Scope.IP, Scope.NETWORK, Scope.USER, Scope.SOURCE, Scope.HELO)
AT_RCPT = (Scope.DESTINATION,)

_BUSY = "Too much mail at present, try again later"
_FROM_YOU = "Too much mail from your address, try again later"
REFUSALS: dict[Scope, Reply] = {
    Scope.ALL: Reply(451, "4.3.2", _BUSY),
    Scope.IP: Reply(421, "4.7.0", _FROM_YOU),
    Scope.NETWORK: Reply(421, "4.7.0", "Too much mail from your network, try again later"),
    Scope.USER: Reply(450, "4.7.0", "Too much mail from you, try again later"),
    Scope.SOURCE: Reply(450, "4.7.0", "Too much mail from this domain, try again later"),
    Scope.HELO: Reply(450, "4.7.0", "Too much mail from a client of this name, try again later"),
    Scope.DESTINATION: Reply(450, "4.7.0", "Too much mail to this domain, try again later"),
}
"""What a message hears. Who sends from one address too often is asked to close, since its next message would hear the same."""
GREETING_REFUSALS = {scope: Reply(421, REFUSALS[scope].enhanced, REFUSALS[scope].text) for scope in AT_GREETING}


@dataclass(frozen=True, slots=True)
class Gates:
    """Where a listener asks its limits; None where no line is about what is judged there."""

    greeting: Gate | None
    mail: Gate | None
    rcpt: Gate | None


def gates(limits: Limits, label: str) -> Gates:
    return Gates(limits.gate(AT_GREETING, label), limits.gate(AT_MAIL, label), limits.gate(AT_RCPT, label))


def greeting_step(gate: Gate) -> Callable[[Session], Reply | None]:
    """What is asked about a client before its greeting; see `inbound.welcome`."""

    def refuse_if_exceeded(session: Session) -> Reply | None:
        exceeded = gate.exceeded(Subject(ip=session.client_ip))
        return GREETING_REFUSALS[exceeded.scope] if exceeded is not None else None

    return refuse_if_exceeded


class LimitedTransaction:
    """One transaction under limits. What it is about is opened by ``begin`` once it is let in."""

    __slots__ = ("_begin", "_domains", "_gates", "_inner", "_leases", "_session", "_waiting")

    def __init__(self, gates: Gates, session: Session, begin: Callable[[], TransactionLike]) -> None:
        self._gates = gates
        self._session = session
        self._begin = begin
        self._inner: Any = None
        self._leases: list[Lease] = []
        self._domains: set[str] = set()
        """Of recipients that were let in."""
        self._waiting: Any = None
        """The answer to the last step, if it waits in here."""

    def mail(self, sender: Any, parameters: Any) -> Any:
        gate = self._gates.mail
        if gate is None:
            return self._mail(sender, parameters)
        session = self._session
        subject = Subject(
            ip=session.client_ip,
            user=session.auth_user.casefold(),
            source=rule_keys(sender)[1],
            helo=session.helo.lower(),
        )
        return self._pass(gate, subject, self._mail, sender, parameters)

    def rcpt(self, address: Any, parameters: Any) -> Any:
        gate = self._gates.rcpt
        domain = rule_keys(address)[1]
        if gate is None or domain in self._domains:
            return self._inner.rcpt(address, parameters)
        return self._pass(gate, Subject(destination=domain), self._rcpt, address, parameters, domain)

    def data(self) -> Any:
        return self._inner.data()

    def append(self, content: bytes) -> Any:
        return self._inner.append(content)

    def end(self) -> Any:
        try:
            answer = self._inner.end()
        except BaseException:
            self._release()
            raise
        if isinstance(answer, (list, Reply)):
            self._release()
            return answer
        self._waiting = start(self._ended(answer))
        return self._waiting

    def abort(self, reason: str = "") -> None:
        if isinstance(self._waiting, Wait):
            self._waiting.cancel()
        try:
            if self._inner is not None:
                self._inner.abort(reason)
        finally:
            self._release()

    def _pass(self, gate: Gate, subject: Subject, step: Callable[..., Any], *arguments: Any) -> Any:
        """Take the step if the limits let it; else say which does not."""
        answer = gate.acquire(subject)
        if isinstance(answer, Exceeded):
            return REFUSALS[answer.scope]
        if isinstance(answer, Lease):
            self._leases.append(answer)
            return step(*arguments)
        self._waiting = start(self._passed(answer, step, arguments))
        return self._waiting

    async def _passed(self, waiting: Wait[Lease | Exceeded], step: Callable[..., Any], arguments: tuple[Any, ...]) -> Reply:
        answer = await waiting
        if isinstance(answer, Exceeded):
            return REFUSALS[answer.scope]
        self._leases.append(answer)
        reply = step(*arguments)
        return reply if isinstance(reply, Reply) else await reply

    def _mail(self, sender: Any, parameters: Any) -> Any:
        self._inner = self._begin()
        return self._inner.mail(sender, parameters)

    def _rcpt(self, address: Any, parameters: Any, domain: str) -> Any:
        self._domains.add(domain)
        return self._inner.rcpt(address, parameters)

    async def _ended(self, answer: Any) -> Any:
        try:
            return await answer
        finally:
            self._release()

    def _release(self) -> None:
        leases, self._leases = self._leases, []
        for lease in leases:
            lease.release()
