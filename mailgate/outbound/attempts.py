"""Which endpoint a delivery is with, and what became of the others: the bookkeeping of one message's attempts.

One client command tries each endpoint once, in the order of the target's balance, within ``total``. What is kept over its
failures is the most informative answer: what a next hop said about the message counts for more than trouble with connecting. A
message that an endpoint can't take (too small a SIZE, no REQUIRETLS, and the like) is refused for good only when every endpoint
was asked and none can: while one of them is down, or answers 4yz, trying again may help. Each failure is one line of the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from mailgate.events import Event, EventLog
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.outbound.balance import Balance, Selection
from mailgate.outbound.connection import Connection
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.failure import AttemptFailed, Kind, Trouble
from mailgate.outbound.outcome import handed_up
from mailgate.outbound.parameters import is_relayed
from mailgate.outbound.pool import Pool
from mailgate.outbound.race import Race, half_of
from mailgate.outbound.record import AttemptRecord, ConnectionFacts, log_attempt, worst
from mailgate.outbound.session_watch import SessionWatch
from mailgate.outbound.variables import DeliveryVariables
from mailgate.smtp.client import Step
from mailgate.smtp.reply import Reply

_NOT_AUTHENTICATED = frozenset({Kind.TLS, Kind.NO_TLS, Kind.DANE, Kind.STS, Kind.STS_NO_TLS})
"""What makes an endpoint impossible for a message with REQUIRETLS: where all are, it is refused for good (RFC 8689 4.2.1)."""


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    label: str = ""
    tempfail: bool = True
    total: float = 240.0
    """What one command of a client may wait; ``queue_total``: an attempt of a queue."""
    queue_total: float = 1800.0
    hold_timeout: float = 30.0
    fallback_delay: float = 3.0
    chunking: bool = False
    max_line_length: int = 0
    """0: no limit."""
    quotes_failures: bool = False
    """Clients hear what a host said before the envelope; of next hops that are ours they only hear that there was trouble."""


@dataclass(frozen=True, slots=True, eq=False)
class NextHops:
    """What all deliveries of one target share."""

    settings: DeliverySettings
    endpoints: Sequence[Endpoint]
    pool: Pool
    clock: Any
    log: EventLog
    balance: Balance
    watch: SessionWatch | None = None
    """Counts how TLS fared, where somebody reports it."""


class Attempts:
    """Of one delivery; `begin` starts anew with each client command."""

    __slots__ = (
        "_about_one",
        "_answer",
        "_envelope",
        "_failure",
        "_hops",
        "_impossible",
        "_patience",
        "_recipients",
        "_selection",
        "_started",
        "_telling",
        "_total",
        "deadline",
        "endpoint",
        "message",
        "patience",
        "refused",
    )

    def __init__(self, hops: NextHops, envelope: Envelope) -> None:
        self._hops = hops
        self._envelope = envelope
        settings = hops.settings
        self._total = total = settings.queue_total if envelope.attempt.queued else settings.total
        self._patience = total / 2 if hops.balance.is_plural else total
        self._recipients: Sequence[Recipient] = ()
        self._started = 0.0
        self.deadline = 0.0
        self.patience = 0.0
        """Until when the endpoint at hand is waited for: while there are others, half of the time that is left."""
        self.message: Message | None = None
        self._selection: Selection | None = None
        self._answer: Reply | None = None
        self._failure: Reply | None = None
        self._impossible: Reply | None = None
        """Why an endpoint can't take this message, whatever its state."""
        self._about_one = False
        """The answer that is kept was one to RCPT."""
        self._telling = 0
        """How much that says: 5 or 4 for a host's answer of that class, 0 for trouble with the network."""
        self.endpoint = ""
        """Label of the endpoint that was heard of last."""
        self.refused: list[tuple[Recipient, Reply]] = []
        """Recipients it did not take, of the transaction that is open."""

    def begin(self, now: float) -> None:
        self._started = now
        self.deadline = now + self._total
        self.patience = now + self._patience
        self._selection = self._answer = self._failure = self._impossible = None
        self._about_one = False

    def take(self, recipients: Sequence[Recipient]) -> Connection | None:
        """An idle connection of the first endpoint, when nothing went wrong yet: no search, no waiting."""
        if self._selection is not None:
            return None
        self._recipients = recipients
        hops = self._hops
        first = hops.endpoints[0]
        if not (hops.balance.is_ordered and first.circuit.steady):
            selected = self._select().peek()
            if selected is None or not selected.circuit.closed:
                return None
            first = selected
        if not first.constant:
            return None
        return hops.pool.take(first.requiretls_link if self._envelope.parameters.requiretls else first.link)

    def search(self, *, again: Endpoint | None = None) -> Deferred[Connection]:
        """A ready connection of the first endpoint that gives one; fails as `Race` does. ``again``: a new one to this endpoint
        before all others, since the one it had was gone."""
        hops = self._hops
        selection = self._select()
        if again is not None:
            selection.first(again)
        race = Race(
            hops.pool,
            selection,
            hops.clock,
            self._link_for,
            self.record_failure,
            fallback_delay=hops.settings.fallback_delay,
            fresh=again,
        )
        return race.run(self.deadline - hops.clock.seconds())

    @property
    def stall(self) -> float:
        """Seconds that a next hop may take no content at all: the time of a command is not for one endpoint."""
        return self._patience

    def found(self, connection: Connection, now: float) -> None:
        """Another endpoint is at hand: it has its part of the time that is left."""
        if self._hops.watch is not None and not connection.reused:
            self._hops.watch.made(connection)
        left = self.deadline - now
        self.patience = now + (half_of(left) if self.has_next(connection.link.endpoint) else left)

    def _link_for(self, endpoint: Endpoint) -> Any:
        requiretls = self._envelope.parameters.requiretls
        if endpoint.constant:
            return endpoint.requiretls_link if requiretls else endpoint.link
        settings = endpoint.settings
        return endpoint.link_for(self._variables.to(settings.host, settings.mx), requiretls=requiretls)

    @property
    def _variables(self) -> DeliveryVariables:
        size = self.message.size if self.message is not None else None
        return DeliveryVariables(self._envelope, self._recipients, size)

    def has_next(self, endpoint: Endpoint) -> bool:
        """Whether there is another to go to from this one."""
        selection = self._select()
        selection.tried.add(endpoint)
        return selection.peek() is not None

    def failed(self, connection: Connection, failure: AttemptFailed) -> None:
        """The dialogue failed: for the endpoint's health, for the log, and not again within this command."""
        endpoint = connection.link.endpoint
        endpoint.circuit.failed(failure.kind, failure.reason, self)
        if failure.kind is Kind.TIMEOUT:  # a host that vanished says so on no connection: what is idle is as old as this one
            self._hops.pool.drain(endpoint)
        failure.facts = connection.facts()
        self.record_failure(endpoint, failure)
        self._select().tried.add(endpoint)

    def answered(self, connection: Connection, step: Step, reply: Reply) -> None:
        """It answered 4yz, and another one is asked."""
        endpoint = connection.link.endpoint
        self._answer = handed_up(reply)
        self._about_one = step is Step.RCPT
        self.record(endpoint, step, connection.facts(), reply=reply)
        selection = self._select()
        selection.tried.add(endpoint)
        selection.failed(endpoint, None)

    def unsuitable(self, connection: Connection, reply: Reply) -> None:
        """It does not offer what the message needs, which says nothing against its health; another one is asked (RFC 8689 4.2.1
        wants that for REQUIRETLS)."""
        endpoint = connection.link.endpoint
        self._impossible = reply
        self.record(endpoint, Step.MAIL, connection.facts(), error=str(reply))
        selection = self._select()
        selection.tried.add(endpoint)
        selection.failed(endpoint, None)

    def is_about_one(self, reply: Reply) -> bool:
        """Whether this refusal is an endpoint's answer to one recipient: others may fare better, there or anywhere."""
        return self._about_one and reply is self._answer

    @property
    def expired(self) -> bool:
        return bool(self._hops.clock.seconds() >= self.deadline)

    def refusal(self, failure: Reply | None = None) -> Reply:
        """What the client hears when nobody is left: the best answer, else the failure that says most, the last of several; that
        it is impossible, if that holds everywhere."""
        if self._answer is not None:
            return self._answer
        temporary = self._failure or failure
        if temporary is None and self._impossible is not None and self._select().is_exhausted:
            return self._impossible
        return temporary or Kind.CONNECT.reply

    def _select(self) -> Selection:
        if self._selection is None:
            balance = self._hops.balance
            self._selection = balance.select(None if balance.is_ordered else self._variables, self)
        return self._selection

    def record_failure(self, endpoint: Endpoint, failure: AttemptFailed) -> None:
        answer = failure.answer
        telling = 0 if answer is None else answer.code // 100
        if self._envelope.parameters.requiretls and failure.kind in _NOT_AUTHENTICATED:
            self._impossible = Kind.UNPROTECTED.reply
            if endpoint.link is not endpoint.requiretls_link:
                failure.kind = Kind.UNPROTECTED  # it is well for messages that ask for less
        elif self._failure is None or telling >= self._telling:
            self._telling = telling
            self._failure = reply = failure.kind.reply
            if answer is not None:
                text = reply.text
                if failure.kind not in _NOT_AUTHENTICATED and self._hops.settings.quotes_failures:
                    text = f"{endpoint.settings.mx or endpoint.settings.label} said: {answer}".replace("\n", " ")
                self._failure = Trouble(reply.code, reply.enhanced, text, failure.kind, answer)
        if self._hops.watch is not None:
            self._hops.watch.failed(endpoint, failure)
        self._select().failed(endpoint, failure.kind)
        self.record(endpoint, failure.stage, failure.facts, answer, failure.reason)

    def concluded(
        self, connection: Connection, results: Sequence[tuple[Recipient, Reply]], unknown: Sequence[Recipient] = ()
    ) -> None:
        """The final dot went out: what was said to it, and of whom nothing."""
        reply = worst([reply for _, reply in results])
        error = "" if reply is not None else connection.reason or "no reply that says whether it was taken"
        taken = [recipient for recipient, answer in results if answer.code // 100 == 2]
        offered, lmtp = connection.session.capabilities, connection.settings.lmtp
        self.record(
            connection.link.endpoint,
            Step.DOT,
            connection.facts(),
            reply,
            error,
            (*self.refused, *results),
            unknown,
            passed_on=offered.dsn and not lmtp and bool(taken),
            relayed=is_relayed(self._envelope.parameters, taken, offered, lmtp=lmtp),
        )

    def ended(self, connection: Connection, step: Step, reply: Reply) -> None:
        """It refused the message before the final dot."""
        self.record(connection.link.endpoint, step, connection.facts(), reply, results=self.refused)

    def left(self, connection: Connection) -> None:
        """The connection was of no use, and that says nothing about its endpoint."""
        connection.link.endpoint.circuit.abandoned(self)

    def given_up(self, connection: Connection) -> None:
        """The transaction goes no further; worth a line if that is because of what the next hop said."""
        if self.refused:
            reply = worst([reply for _, reply in self.refused])
            self.record(connection.link.endpoint, Step.RCPT, connection.facts(), reply, results=self.refused)

    def unknown(self, endpoint: Endpoint, recipients: Sequence[Recipient], reason: str) -> None:
        """The final dot went out and nobody knows what became of it."""
        hops = self._hops
        hops.log.warn(
            Event.POSSIBLE_DUPLICATE,
            message=self._envelope.id,
            target=hops.settings.label,
            endpoint=endpoint.settings.label,
            recipients=", ".join(f"<{recipient.address}>" for recipient in recipients),
            reason=reason,
        )

    def late(self, endpoint: Endpoint, replies: Sequence[Reply]) -> None:
        """What became of it was heard when the client had gone."""
        hops = self._hops
        for reply in dict.fromkeys(replies):
            hops.log.warn(
                Event.DELIVERY_LATE,
                message=self._envelope.id,
                target=hops.settings.label,
                endpoint=endpoint.settings.label,
                reply=reply,
                reason="client gone",
            )

    def record(
        self,
        endpoint: Endpoint,
        stage: str,
        connection: ConnectionFacts,
        reply: Reply | None = None,
        error: str = "",
        results: Sequence[tuple[Recipient, Reply]] = (),
        unknown: Sequence[Recipient] = (),
        *,
        passed_on: bool = False,
        relayed: bool = False,
    ) -> None:
        """One try is over."""
        hops = self._hops
        self.endpoint = endpoint.settings.label
        listener = self._envelope.on_attempt  # the log does not name the recipients: without a listener nobody does
        record = AttemptRecord(
            message=self._envelope.id,
            target=hops.settings.label,
            endpoint=self.endpoint,
            stage=str(stage),
            reply=reply,
            error=error,
            seconds=hops.clock.seconds() - self._started,
            connection=connection,
            results=() if listener is None else tuple([(str(recipient.address), answer) for recipient, answer in results]),
            unknown=() if listener is None else tuple([str(recipient.address) for recipient in unknown]),
            mx=endpoint.settings.mx,
            passed_on=passed_on,
            relayed=relayed,
        )
        self.refused = []
        log_attempt(hops.log, record)
        if listener is not None:
            listener(record)
