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

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import CancelledError

from mailgate.events import Event as Log
from mailgate.inbound.identity import become, client_address, log_fields, own_facts
from mailgate.inbound.sessions import Sessions
from mailgate.inbound.welcome import Step, Welcome, give_back
from mailgate.logs.detail import detail
from mailgate.message.envelope import Session
from mailgate.net.waiting import Wait, start
from mailgate.smtp import replies
from mailgate.smtp.events import (
    Aborted,
    Auth,
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
    XClient,
    XForward,
)
from mailgate.smtp.extensions import NEEDS_BINDING, NEEDS_CERTIFICATE, NEEDS_TLS
from mailgate.smtp.reply import MailError, Reply, reply_for
from mailgate.smtp.server import ServerSession
from mailgate.smtp.traced import TracedSession

_PENDING: Any = object()
_AT_ONCE = (type(None), Reply, list)
"""What an answer is that needs no wait."""
_PROTOCOLS = {"HELO": "SMTP", "EHLO": "ESMTP", "LHLO": "LMTP"}


class Wire(Protocol):
    """What a dialogue needs of its connection."""

    def write(self, data: bytes) -> None:
        """Send what the engine has to say."""

    def readdress(self, client: str) -> Reply | None:
        """The connection is this address's from here on; a reply if it has too many already."""

    def start_tls(self) -> None:
        """Begin the handshake behind what was written; `Dialogue.tls_started` follows."""

    def channel_bindings(self) -> Mapping[str, bytes]:
        """Data of the channel bindings of our TLS on it by their names; none without."""

    def finish(self, reason: str, *, at_once: bool = False) -> None:
        """Everything is said. ``at_once``: the client has nothing more to say either."""

    def wait(self) -> None:
        """It is our turn: the client's clock stands still."""

    def hold(self) -> None:
        """Read nothing for now."""

    def settled(self, output: bytes, progressed: bool) -> None:
        """Everything that came is handled, and ``output`` is to be sent. It was a whole command or some content
        (``progressed``), or a part of a line."""


class WrongAnswers(Exception):
    """A transaction answered for another number of recipients than there are: our own fault."""


class Dialogue:
    """See the module's docstring. ``session`` is kept up to date for logs and the pipeline."""

    __slots__ = (
        "_accepted",
        "_discarding",
        "_engine",
        "_failed",
        "_faults",
        "_login",
        "_own",
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
        "refusal",
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
        self._discarding = False
        """A refused chunk comes."""
        self._faults = 0
        self.refusal: Reply | None = None
        """What every MAIL hears: something about the session (its TLS, its login) was found unwelcome."""
        self._sessions = sessions
        self._wire = wire
        self._transaction: Any = None
        """The `TransactionLike` that is open; the engine asks for nothing outside of one."""
        self._transactions = 0
        self._accepted = 0
        self._failed: Reply | None = None
        """What the end of the content will be answered, come what may: something failed while it came."""
        self._login: Any = None
        """The `authentication.Login` that is under way."""
        self._own: Session | None = None
        """The session as it was before XCLIENT."""
        self._waiting: Any = None
        self._rest: list[Event] = []
        settings = sessions.server_for(session.client_ip)
        tls = session.tls is not None
        lacking = self._lacking()
        self._engine = (
            ServerSession(settings, tls=tls, lacking=lacking, greeted=True)  # by `Sessions.greeting`
            if not detail.active or not detail.watches_session(session.listener, session.client_ip)
            else TracedSession(settings, self._trace, tls=tls, lacking=lacking, greeted=True)
        )

    def _trace(self, direction: str, line: str) -> None:
        session = self.session
        self._sessions.events.info(
            Log.WIRE, session=session.id, listener=session.listener, client=session.client_ip, dir=direction, line=line
        )

    # called by the connection

    def receive(self, data: bytes) -> None:
        if self.content_since >= 0:
            self.content_size += len(data)
        try:
            events = self._engine.receive(data)
        except Exception as error:
            self._crash(error, "receive")
            return
        if self._engine.is_discarding is not self._discarding:
            self._time_discarding()
        if self._waiting is None:
            self._run(events, bool(events) or self.content_since >= 0)
        else:
            self._rest += events
            if self._engine.wants_pause:
                self._wire.hold()

    def _time_discarding(self) -> None:
        """A refused chunk comes, or has come: it has the time of content, not that of a command."""
        self._discarding = not self._discarding
        self.content_since = self._sessions.reactor.seconds() if self._discarding else -1.0
        self.content_size = 0

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

    def new_faults(self) -> int:
        """How often the client was in the wrong, if more often than when it was asked before; else 0."""
        before, self._faults = self._faults, self._engine.faults
        return self._faults if self._faults > before else 0

    def tls_started(self, facts: Any) -> None:
        session = self.session
        session.tls = facts
        session.helo = session.auth_user = session.auth_mechanism = ""
        session.credentials = None
        self._login = None
        self._engine.tls_started(lacking=self._lacking())

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
        waiting, self._waiting = self._waiting, None
        self._rest = []
        transaction, self._transaction = self._transaction, None
        if transaction is None:
            if waiting is not None:
                waiting.cancel()  # a login, or the steps of XCLIENT
        else:
            try:
                transaction.abort(reason)
            except Exception as error:
                self._incident(error, "abort")

    # events

    def _run(self, events: Sequence[Event], progressed: bool) -> None:
        """Handle events until none is left or one must be waited for; then write what there is to say."""
        try:
            while events:
                batch, events = events, ()
                for number, event in enumerate(batch):
                    handle, settle = _STEPS[event.__class__]
                    try:
                        answer = handle(self, event)
                    except Exception as error:
                        answer = self._incident(error, event)
                    if answer.__class__ not in _AT_ONCE:
                        answer = self._wait(answer, event, batch[number + 1 :])
                        if answer is _PENDING:
                            return
                    if self.ended:
                        return
                    if settle is not None:
                        events = settle(self, answer)  # what follows: a question is the last of its batch
                    elif answer is not None:
                        self._spoil(answer)
            self._wire.settled(self._engine.output(), progressed)
        except Exception as error:
            self._crash(error, "events")

    def _wait(self, awaitable: Any, event: Event, rest: Sequence[Event]) -> Any:
        """The outcome if it is there already, else `_PENDING`."""
        if isinstance(awaitable, Reply):  # of a class below: outbound's are rare, and this is a call
            return awaitable
        waiting = awaitable
        if not isinstance(awaitable, Wait) or awaitable.done:
            try:
                waiting = start(_outcome_of(awaitable))
            except Exception as error:
                return self._incident(error, event)
            if not isinstance(waiting, Wait):
                return waiting
        self._waiting = waiting
        self._rest = list(rest)
        since = self._sessions.reactor.seconds() if self.content_since >= 0 else 0.0
        waiting.when_done(partial(self._resume, waiting, event, since))
        output = self._engine.output()
        if output:
            self._wire.write(output)
        self._wire.wait()
        if event.__class__ is Content:
            self._wire.hold()
        return _PENDING

    def _resume(self, waiting: Wait[Any], event: Event, since: float) -> None:
        dropped = self._waiting is not waiting
        try:
            answer = waiting.result()
        except CancelledError as error:
            if dropped:
                return
            answer = self._incident(error, event)
        except Exception as error:  # the log hears of it even if the transaction was dropped meanwhile
            answer = self._incident(error, event)
        if dropped:
            return
        self._waiting = None
        if self.content_since >= 0:
            self.content_since += self._sessions.reactor.seconds() - since
        rest, self._rest = self._rest, []
        try:
            settle = _STEPS[event.__class__][1]
            if settle is not None:
                rest = [*settle(self, answer), *rest]
            elif answer is not None:
                self._spoil(answer)
        except Exception as error:
            self._crash(error, "answer")
            return
        self._run(rest, True)

    def _flush(self) -> None:
        output = self._engine.output()
        if output:
            self._wire.write(output)

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
        said = self.session.xclient.get("HELO") if self.session.xclient is not None else None
        self.session.helo = said or event.name
        self.session.protocol = _PROTOCOLS[event.verb]

    def _mail(self, event: Mail) -> Any:
        self._transactions += 1
        self._accepted = 0
        self._failed = None
        if self.refusal is not None:
            return self.refusal
        message_id = f"{self.session.id}.{self._transactions}"
        if self.session.xforward is not None:
            self._sessions.events.info(
                Log.MESSAGE_XFORWARD, message=message_id, session=self.session.id, **log_fields(self.session.xforward)
            )
        self._transaction = self._sessions.open_transaction(self.session, message_id)
        return self._transaction.mail(event.address, event.parameters)

    def _mail_answered(self, reply: Reply) -> Sequence[Event]:
        self._sessions.tally.senders[reply.code // 100] += 1
        if reply.code // 100 != 2:
            self.drop("sender refused")
        return self._engine.reply(reply)

    def _rcpt(self, event: Rcpt) -> Any:
        return self._transaction.rcpt(event.address, event.parameters)

    def _rcpt_answered(self, reply: Reply) -> Sequence[Event]:
        self._sessions.tally.recipients[reply.code // 100] += 1
        if reply.code // 100 == 2:
            self._accepted += 1
        return self._engine.reply(reply)

    def _answered(self, reply: Reply) -> Sequence[Event]:
        return self._engine.reply(reply)

    def _data(self, event: Data) -> Any:
        return self._transaction.data()

    def _data_answered(self, reply: Reply | None) -> Sequence[Event]:
        if reply is None:
            self.content_since = self._sessions.reactor.seconds()
            self.content_size = 0
        return self._engine.reply(reply)

    def _content(self, event: Content) -> Any:
        return self._transaction.append(event.data) if self._failed is None else None

    def _content_end(self, event: ContentEnd) -> Any:
        self.content_since = -1.0
        return self._transaction.end() if self._failed is None else self._failed

    def _content_answered(self, answer: Reply | list[Reply]) -> Sequence[Event]:
        expected = self._accepted if self._sessions.server.lmtp else 1
        replies = answer if isinstance(answer, list) else [answer] * expected
        if len(replies) != expected:
            replies = [self._incident(WrongAnswers(f"{len(replies)} for {expected}"), "end of content")] * expected
        self._transaction = None
        result = replies[0].code // 100
        for reply in replies:
            if reply.code // 100 == 2:
                self.delivered += 1
                result = 2
                break
        self._sessions.tally.messages[result] += 1
        return self._engine.reply_each(replies)

    def _content_refused(self, event: ContentRefused) -> None:
        self.drop(str(event.reply))

    def _aborted(self, event: Aborted) -> None:
        self.drop("reset")

    def _lacking(self) -> frozenset[str]:
        """The mechanisms that this connection can't have."""
        tls = self.session.tls
        if tls is None or self._sessions.logins is None:
            return NEEDS_TLS
        unnamed = frozenset() if tls.peer_fingerprint else NEEDS_CERTIFICATE
        return unnamed | (frozenset() if self._wire.channel_bindings() else NEEDS_BINDING)

    def _auth(self, event: Auth) -> Any:
        if event.initial:
            self._login = self._sessions.logins.begin(self.session, event.mechanism, self._wire.channel_bindings)
        return self._login.step(event.response)

    def _xclient(self, event: XClient) -> Any:
        """The client is judged as the first one was."""
        session, identity = self.session, event.identity
        if self._own is None:
            self._own = own_facts(session)
        refusal = self._wire.readdress(client_address(self._own, identity))
        if refusal is not None:
            return refusal
        give_back(session)
        become(session, self._own, identity)
        self.refusal = None
        self._login = None
        self._sessions.events.info(Log.SESSION_XCLIENT, session=session.id, peer=self._own.client_ip, **log_fields(identity))
        steps = self._sessions.steps_for(session)
        return self._welcome_again(steps) if steps else replies.OK

    async def _welcome_again(self, steps: Sequence[Step]) -> Reply:
        refusal = await Welcome(self._sessions, self.session).take(steps)
        return replies.OK if refusal is None else refusal

    def _xforward(self, event: XForward) -> None:
        self.session.xforward = event.identity if event.identity.values else None

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


async def _outcome_of(awaitable: Any) -> Any:
    return await awaitable


_STEPS: dict[type, tuple[Callable[[Dialogue, Any], Any], Callable[[Dialogue, Any], Sequence[Event]] | None]] = {
    Hello: (Dialogue._hello, None),
    Mail: (Dialogue._mail, Dialogue._mail_answered),
    Rcpt: (Dialogue._rcpt, Dialogue._rcpt_answered),
    Data: (Dialogue._data, Dialogue._data_answered),
    Auth: (Dialogue._auth, Dialogue._answered),
    XClient: (Dialogue._xclient, Dialogue._answered),
    XForward: (Dialogue._xforward, None),
    Content: (Dialogue._content, None),
    ContentEnd: (Dialogue._content_end, Dialogue._content_answered),
    ContentRefused: (Dialogue._content_refused, None),
    Aborted: (Dialogue._aborted, None),
    StartTls: (Dialogue._starttls, None),
    Closed: (Dialogue._closed, None),
}
"""What is done with each event; for the questions also what is done with their answer."""
