"""The conversation on one connection: between the protocol engine, the pipeline, and a connection that reads and writes.

`ServerSession` turns bytes into events; `Transaction` answers the questions among them; `Dialogue` carries one to the other and
decides nothing about mail. The contract:

- A question is answered before the next event is looked at, and content is handed on before its end is asked about, so
  whatever must be waited for holds back all that comes behind it. An answer that is there at once costs no turn of the
  event loop, and a coroutine that had nothing to wait for neither.
- All replies to one read leave in one write.
- Whatever is raised here or below becomes 451 or 421 with an incident id and a traceback in the log. The process lives, and so
  does the session if order can be kept: an exception while a question is open answers it, one between questions spoils
  the transaction, one of the engine ends the session.
- A transaction that will not be finished is aborted, once, whoever ends it: the client, the engine, the clock.

It is made with the first byte from the client, so a connection that says nothing does without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from mailgate.events import Event as Log
from mailgate.inbound.sessions import Sessions, TransactionLike
from mailgate.message.envelope import Session
from mailgate.net.waiting import as_deferred
from mailgate.smtp.events import (
    Aborted,
    Closed,
    CloseReason,
    Content,
    ContentEnd,
    ContentRefused,
    Data,
    Event,
    Hello,
    Mail,
    Rcpt,
    StartTls,
)
from mailgate.smtp.reply import MailError, Reply, reply_for
from mailgate.smtp.server import ServerSession

_PENDING: Any = object()
_PROTOCOLS = {"HELO": "SMTP", "EHLO": "ESMTP", "LHLO": "LMTP"}


class Wire(Protocol):
    """What a dialogue needs of its connection."""

    def write(self, data: bytes) -> None:
        """Send what the engine has to say."""

    def start_tls(self) -> None:
        """Begin the handshake behind what was written; `Dialogue.tls_started` follows."""

    def finish(self, reason: str, *, at_once: bool = False) -> None:
        """Everything is said. ``at_once``: the client has nothing more to say either."""

    def wait(self) -> None:
        """It is our turn: the client's clock stands still."""

    def hold(self) -> None:
        """Read nothing for now."""

    def settled(self, progressed: bool) -> None:
        """Everything that came is handled; it was a whole command or some content (``progressed``), or a part of a line."""


class WrongAnswers(Exception):
    """A transaction answered for another number of recipients than there are: our own fault."""


class Dialogue:
    """See the module's docstring. ``session`` is kept up to date for logs and the pipeline."""

    __slots__ = (
        "_accepted",
        "_engine",
        "_failed",
        "_rest",
        "_sessions",
        "_transaction",
        "_transactions",
        "_waiting",
        "_wire",
        "content_since",
        "content_size",
        "delivered",
        "ended",
        "session",
    )

    def __init__(self, sessions: Sessions, session: Session, wire: Wire) -> None:
        self.session = session
        self.delivered = 0
        """Messages that somebody was told 2yz for."""
        self.content_since = -1.0
        """When content began to come, less the time that we made the client wait; negative while none comes."""
        self.content_size = 0
        self.ended = False
        self._sessions = sessions
        self._wire = wire
        self._transaction: TransactionLike | None = None
        self._transactions = 0
        self._accepted = 0
        self._failed: Reply | None = None
        """What the end of the content will be answered, come what may: something failed while it came."""
        self._waiting: Any = None
        self._rest: list[Event] = []
        self._engine = ServerSession(sessions.server, tls=session.tls is not None)
        self._engine.greet()
        self._engine.output()  # `Sessions.greeting` has said it

    # called by the connection

    def receive(self, data: bytes) -> None:
        if self.content_since >= 0:
            self.content_size += len(data)
        try:
            events = self._engine.receive(data)
        except Exception as error:
            self._crash(error, "receive")
            return
        if self._waiting is None:
            self._run(events, self.content_since >= 0)
        else:
            self._rest += events
            if self._engine.wants_pause:
                self._wire.hold()

    @property
    def is_idle(self) -> bool:
        """No transaction is open."""
        return self._transaction is None

    @property
    def is_waiting(self) -> bool:
        return self._waiting is not None

    @property
    def wants_pause(self) -> bool:
        return self._waiting is not None or self._engine.wants_pause

    def tls_started(self, facts: Any) -> None:
        self._engine.tls_started()
        self.session.tls = facts
        self.session.helo = ""

    def close(self, reply: Reply, reason: str) -> None:
        """Say one last thing, out of turn."""
        self.drop(reason)
        self._engine.close(reply)
        self._flush()
        self.ended = True

    def lost(self, reason: str) -> None:
        """The client is gone."""
        self.ended = True
        self.drop(reason)

    def drop(self, reason: str) -> None:
        """The transaction, if there is one, will not be finished."""
        self.content_since = -1.0
        self._waiting = None
        self._rest = []
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            try:
                transaction.abort(reason)
            except Exception as error:
                self._incident(error, "abort")

    # events

    def _run(self, events: Sequence[Event], progressed: bool) -> None:
        """Handle events until none is left or one must be waited for; then write what there is to say."""
        progressed = progressed or bool(events)
        try:
            while events:
                events = self._handle(events)
            if not self.ended and self._waiting is None:
                self._wire.settled(self._flush() or progressed)
        except Exception as error:
            self._crash(error, "events")

    def _handle(self, events: Sequence[Event]) -> Sequence[Event]:
        """Handle events up to the first that is answered; what follows from the answer is the result."""
        for number, event in enumerate(events):
            try:
                answer = _HANDLERS[event.__class__](self, event)
            except Exception as error:
                answer = self._incident(error, event)
            if answer is not None and answer.__class__ is not Reply and answer.__class__ is not list:
                answer = self._wait(answer, event, events[number + 1 :])
                if answer is _PENDING:
                    return ()
            if self.ended:
                return ()
            settle = _SETTLERS.get(event.__class__)
            if settle is not None:
                return settle(self, answer)
            if answer is not None:
                self._spoil(answer)
        return ()

    def _wait(self, awaitable: Any, event: Event, rest: Sequence[Event]) -> Any:
        """The outcome if it is there already, else `_PENDING`."""
        outcome: list[Any] = []
        waiting = as_deferred(awaitable)
        waiting.addBoth(outcome.append)
        if outcome:
            return self._outcome(outcome[0], event)
        self._waiting = waiting
        self._rest = list(rest)
        since = self._sessions.reactor.seconds()
        waiting.addCallback(lambda _: self._resume(waiting, outcome[0], event, since))
        self._flush()
        self._wire.wait()
        if event.__class__ is Content:
            self._wire.hold()
        return _PENDING

    def _resume(self, waiting: Any, result: Any, event: Event, since: float) -> None:
        if self._waiting is not waiting:  # the transaction was dropped meanwhile: nobody is left to hear of it but the log
            if isinstance(result, Failure) and not result.check(CancelledError):
                self._outcome(result, event)
            return
        self._waiting = None
        if self.content_since >= 0:
            self.content_since += self._sessions.reactor.seconds() - since
        rest, self._rest = self._rest, []
        try:
            answer = self._outcome(result, event)
            settle = _SETTLERS.get(event.__class__)
            if settle is not None:
                rest = [*settle(self, answer), *rest]
            elif answer is not None:
                self._spoil(answer)
        except Exception as error:
            self._crash(error, "answer")
            return
        self._run(rest, True)

    def _outcome(self, result: Any, event: Event) -> Any:
        if not isinstance(result, Failure):
            return result
        return self._incident(result.value or RuntimeError("failed without an exception"), event)

    def _flush(self) -> bool:
        output = self._engine.output()
        if output:
            self._wire.write(output)
        return bool(output)

    # faults

    def _spoil(self, reply: Reply) -> None:
        """Something failed while content came: the rest is thrown away, and the end of it hears why."""
        since = self.content_since
        self.drop("internal error")
        self.content_since = since
        self._failed = reply

    def _incident(self, error: BaseException, where: Event | str) -> Reply:
        """What an exception means to the client; one that carries no reply is our own fault and goes to the log."""
        if isinstance(error, MailError):
            return error.reply
        incident = self._sessions.new_id()
        place = where if isinstance(where, str) else where.__class__.__name__
        self._sessions.events.incident(incident, error, session=self.session.id, where=place)
        return reply_for(error, incident)

    def _crash(self, error: Exception, where: str) -> None:
        """The engine or this class failed: no answer would keep the order, so the session ends."""
        if self.ended:
            self._incident(error, where)
            return
        reply = self._incident(error, where)
        self.drop("internal error")
        self._flush()
        self._wire.write(self._sessions.encode(Reply(421, "4.3.0", reply.text)))
        self.ended = True
        self._wire.finish("internal error")

    # handlers: one for each event, answering None, a reply, or something to wait for

    def _hello(self, event: Hello) -> None:
        self.session.helo = event.name
        self.session.protocol = _PROTOCOLS[event.verb]

    def _mail(self, event: Mail) -> Any:
        self._transactions += 1
        self._accepted = 0
        self._failed = None
        self._transaction = self._sessions.open_transaction(self.session, f"{self.session.id}.{self._transactions}")
        return self._transaction.mail(event.address, event.parameters)

    def _mail_answered(self, reply: Reply) -> Sequence[Event]:
        if not reply.is_success:
            self.drop("sender refused")
        return self._engine.reply(reply)

    def _rcpt(self, event: Rcpt) -> Any:
        return self._current.rcpt(event.address, event.parameters)

    def _rcpt_answered(self, reply: Reply) -> Sequence[Event]:
        if reply.is_success:
            self._accepted += 1
        return self._engine.reply(reply)

    def _data(self, event: Data) -> Any:
        return self._current.data()

    def _data_answered(self, reply: Reply | None) -> Sequence[Event]:
        if reply is None:
            self.content_since = self._sessions.reactor.seconds()
            self.content_size = 0
        return self._engine.reply(reply)

    def _content(self, event: Content) -> Any:
        return self._current.append(event.data) if self._failed is None else None

    def _content_end(self, event: ContentEnd) -> Any:
        self.content_since = -1.0
        return self._current.end() if self._failed is None else self._failed

    def _content_answered(self, answer: Reply | list[Reply]) -> Sequence[Event]:
        expected = self._accepted if self._sessions.server.lmtp else 1
        replies = answer if isinstance(answer, list) else [answer] * expected
        if len(replies) != expected:
            replies = [self._incident(WrongAnswers(f"{len(replies)} for {expected}"), "end of content")] * expected
        self._transaction = None
        if any(reply.is_success for reply in replies):
            self.delivered += 1
        return self._engine.reply_each(replies)

    def _content_refused(self, event: ContentRefused) -> None:
        self.drop(str(event.reply))

    def _aborted(self, event: Aborted) -> None:
        self.drop("reset")

    def _starttls(self, event: StartTls) -> None:
        self._flush()
        self._wire.start_tls()

    def _closed(self, event: Closed) -> None:
        if event.reason is CloseReason.INJECTION:
            self._sessions.events.warn(Log.PROTOCOL_INJECTION, session=self.session.id, client=self.session.client_ip)
        self.drop(event.reason.value)
        self._flush()
        self.ended = True
        self._wire.finish(event.reason.value, at_once=event.reason is CloseReason.QUIT)

    @property
    def _current(self) -> TransactionLike:
        if self._transaction is None:
            raise RuntimeError("the engine asked outside a transaction")
        return self._transaction


_HANDLERS: dict[type, Callable[[Dialogue, Any], Any]] = {
    Hello: Dialogue._hello,
    Mail: Dialogue._mail,
    Rcpt: Dialogue._rcpt,
    Data: Dialogue._data,
    Content: Dialogue._content,
    ContentEnd: Dialogue._content_end,
    ContentRefused: Dialogue._content_refused,
    Aborted: Dialogue._aborted,
    StartTls: Dialogue._starttls,
    Closed: Dialogue._closed,
}

_SETTLERS: dict[type, Callable[[Dialogue, Any], Sequence[Event]]] = {
    Mail: Dialogue._mail_answered,
    Rcpt: Dialogue._rcpt_answered,
    Data: Dialogue._data_answered,
    ContentEnd: Dialogue._content_answered,
}
"""The questions: what is done with their answer."""
