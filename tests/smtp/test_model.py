"""A model of a session beside the engine: whatever a client says in whatever order, both agree on the reply, on where the session
stands, on who is logged in, and on what the driver is asked."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp.events import Aborted, Auth, Closed, ContentEnd, Data, Event, Hello, Mail, Rcpt, StartTls, XClient, XForward
from mailgate.smtp.reply import Reply
from mailgate.smtp.server import ServerSession
from mailgate.smtp.settings import ServerSettings
from mailgate.smtp.xclient import NOTHING

MANY = 10**6
CONTENT = b"Subject: x\r\n\r\nhello\r\n"
QUESTIONS = (Mail, Rcpt, Data, ContentEnd, Auth, XClient)


class Where(IntEnum):
    """Where a session stands, by the engine's own numbers."""

    CONNECTED = 0
    GREETED = 1
    SENDER = 2
    RECIPIENTS = 3
    CHUNKS = 4


class SessionModel(RuleBasedStateMachine):
    """One connection. Rules say a command; the model says what must come of it."""

    def __init__(self) -> None:
        super().__init__()
        self.where = Where.CONNECTED
        self.tls = self.authenticated = self.unwanted = self.closed = self.forwarded = False
        self.recipients = 0
        self.login_said = False
        """By an XCLIENT to which a later one adds."""

    @initialize(lmtp=st.booleans(), login=st.booleans(), trusted=st.booleans(), starttls=st.booleans(), clear=st.booleans())
    def begin(self, lmtp: bool, login: bool, trusted: bool, starttls: bool, clear: bool) -> None:
        self.settings = ServerSettings(
            "mx.test",
            lmtp=lmtp,
            starttls=starttls,
            auth_mechanisms=("PLAIN",),
            auth_required=login,
            insecure_auth=clear,
            xclient=trusted,
            xforward=trusted,
            max_errors=MANY,
            max_idle_commands=MANY,
            max_rejected_recipients=MANY,
            max_auth_failures=MANY,
            max_unauthenticated_commands=0,
        )
        self.engine = ServerSession(self.settings, greeted=True)

    # what is said

    def say(self, data: bytes, *answers: Reply | None) -> tuple[list[Event], list[int]]:
        """Feed it, answer what is asked; the events, and the code of each reply."""
        events = self.engine.receive(data)
        left = list(answers)
        while events and isinstance(events[-1], QUESTIONS) and left:
            events = events + self.engine.reply(left.pop(0))
        assert not left, f"{left} was not asked for"
        lines = self.engine.output().splitlines()
        return events, [int(line[:3]) for line in lines if line[3:4] == b" "]

    def expect(self, data: bytes, code: int, *answers: Reply | None, events: tuple[type, ...] = ()) -> None:
        said, codes = self.say(data, *answers)
        assert codes == [code], f"{data!r}: {codes}, not {code}"
        seen = tuple(type(event) for event in said if not isinstance(event, XForward) and type(event).__name__ != "Content")
        assert seen == events, f"{data!r}: {seen}, not {events}"

    def refused(self, *, login: bool = False, phases: tuple[Where, ...] = tuple(Where)) -> int:
        """The code that refuses a command here, 0 if none does."""
        if self.where is Where.CONNECTED and Where.CONNECTED not in phases:
            return 503
        if login and self.settings.auth_required and not self.authenticated:
            return 530
        return 0 if self.where in phases else 503

    def end_transaction(self) -> tuple[type, ...]:
        """What is reported when an open transaction is dropped."""
        dropped = self.where > Where.GREETED
        if dropped:
            self.where = Where.GREETED
            self.login_said = False
        self.recipients = 0
        self.forwarded = False
        return (Aborted,) if dropped else ()

    def forget(self) -> None:
        self.where = Where.CONNECTED
        self.authenticated = self.unwanted = self.forwarded = False
        self.recipients = 0

    open_ = precondition(lambda self: not self.closed)

    @open_
    @rule(verb=st.sampled_from([b"EHLO", b"HELO", b"LHLO", b"ehlo"]))
    def hello(self, verb: bytes) -> None:
        if (verb.upper() == b"LHLO") is not self.settings.lmtp:
            self.expect(verb + b" client.test\r\n", 500)
            return
        dropped = self.end_transaction()
        self.expect(verb + b" client.test\r\n", 250, events=(*dropped, Hello))
        self.where = Where.GREETED
        self.unwanted = False

    @open_
    @rule(accept=st.booleans())
    def mail(self, accept: bool) -> None:
        line = b"MAIL FROM:<a@client.test>\r\n"
        refused = self.refused(login=True, phases=(Where.GREETED,))
        if refused:
            self.expect(line, refused)
        elif accept:
            self.expect(line, 250, Reply(250, "2.1.0", "Ok"), events=(Mail,))
            self.where, self.unwanted = Where.SENDER, False
        else:
            self.expect(line, 550, Reply(550, "5.7.1", "No"), events=(Mail,))

    @open_
    @rule(accept=st.booleans())
    def rcpt(self, accept: bool) -> None:
        line = b"RCPT TO:<b@mx.test>\r\n"
        refused = self.refused(login=True, phases=(Where.SENDER, Where.RECIPIENTS))
        if refused:
            self.expect(line, refused)
        elif accept:
            self.expect(line, 250, Reply(250, "2.1.5", "Ok"), events=(Rcpt,))
            self.where = Where.RECIPIENTS
            self.recipients += 1
        else:
            self.expect(line, 550, Reply(550, "5.1.1", "Nobody"), events=(Rcpt,))

    @open_
    @rule(accept=st.booleans(), code=st.sampled_from([250, 451, 554]))
    def data(self, accept: bool, code: int) -> None:
        refused = self.refused(login=True, phases=(Where.RECIPIENTS,))
        if refused:
            self.expect(b"DATA\r\n", refused)
            self.unwanted = True
        elif accept:
            self.expect(b"DATA\r\n", 354, None, events=(Data,))
            self.content(CONTENT + b".\r\n", code)
        else:
            self.expect(b"DATA\r\n", 451, Reply(451, "4.3.0", "Later"), events=(Data,))
            self.unwanted = True

    def content(self, data: bytes, code: int) -> None:
        events, codes = self.say(data, Reply(code, f"{code // 100}.0.0", "so it is"))
        assert [type(event) for event in events if type(event) is ContentEnd] == [ContentEnd]
        assert codes == [code] * (self.recipients if self.settings.lmtp else 1), codes
        self.end_transaction()

    @open_
    @rule(accept=st.booleans(), last=st.booleans())
    def bdat(self, accept: bool, last: bool) -> None:
        command = b"BDAT %d%s\r\n" % (len(CONTENT), b" LAST" if last else b"") + CONTENT
        refused = self.refused(login=True, phases=(Where.RECIPIENTS, Where.CHUNKS))
        if refused:
            self.expect(command, refused)
            return
        first = self.where is Where.RECIPIENTS
        if first and not accept:
            events, codes = self.say(command, Reply(451, "4.3.0", "Later"))
            assert codes == [451]
            assert Aborted in [type(event) for event in events]
            self.end_transaction()
        elif last:
            answers: list[Reply | None] = [None] if first else []
            _, codes = self.say(command, *answers, Reply(250, "2.0.0", "Ok"))
            assert codes == [250] * (self.recipients if self.settings.lmtp else 1), codes
            self.end_transaction()
        else:
            _, codes = self.say(command, *([None] if first else []))
            assert codes == [250], codes
            self.where = Where.CHUNKS

    @open_
    @rule()
    def rset(self) -> None:
        self.expect(b"RSET\r\n", 250, events=self.end_transaction())

    @open_
    @rule(line=st.sampled_from([(b"NOOP", 250), (b"NOOP x", 250), (b"HELP", 214), (b"VRFY a", 252), (b"EXPN a", 502)]))
    def harmless(self, line: tuple[bytes, int]) -> None:
        self.expect(line[0] + b"\r\n", line[1])

    @open_
    @rule(line=st.sampled_from([b"", b"WHAT", b"MAIL", b"Subject: x", b"XYZZY a b"]))
    def nonsense(self, line: bytes) -> None:
        if line == b"MAIL":
            code = self.refused(login=True, phases=(Where.GREETED,)) or 501
            self.expect(b"MAIL\r\n", code)
        elif self.unwanted:
            self.expect(line + b"\r\n", 421, events=(Closed,))
            self.closed = True
        else:
            self.expect(line + b"\r\n", 500)

    @open_
    @rule()
    def starttls(self) -> None:
        refused = self.refused(phases=(Where.GREETED,))
        if refused or self.tls:
            self.expect(b"STARTTLS\r\n", 503)
        elif not self.settings.starttls:
            self.expect(b"STARTTLS\r\n", 502)
        else:
            self.expect(b"STARTTLS\r\n", 220, events=(StartTls,))
            self.engine.tls_started()
            self.tls = True
            self.login_said = False
            self.forget()

    @open_
    @rule(right=st.booleans())
    def auth(self, right: bool) -> None:
        line = b"AUTH PLAIN AGEAYg==\r\n"
        refused = self.refused(phases=(Where.GREETED,))
        if refused or self.authenticated:
            self.expect(line, 503)
        elif not (self.tls or self.settings.insecure_auth):
            self.expect(line, 538)
        else:
            reply = Reply(235, "2.7.0", "Ok") if right else Reply(535, "5.7.8", "No")
            self.expect(line, reply.code, reply, events=(Auth,))
            self.authenticated = right

    @open_
    @rule(login=st.sampled_from([b"", b" LOGIN=alice", b" LOGIN=[UNAVAILABLE]"]), refuse=st.booleans())
    def xclient(self, login: bytes, refuse: bool) -> None:
        line = b"XCLIENT ADDR=192.0.2.7" + login + b"\r\n"
        if not self.settings.xclient:
            self.expect(line, 550)
        elif self.where > Where.GREETED:
            self.expect(line, 503)
        elif refuse:
            self.expect(line, 554, Reply(554, "5.7.1", "Not you"), events=(XClient, Closed))
            self.closed = True
        else:
            self.expect(line, 220, Reply(250, "2.0.0", "Ok"), events=(XClient,))
            self.forget()
            self.login_said = login == b" LOGIN=alice" if login else self.login_said
            self.authenticated = self.login_said

    @open_
    @rule(value=st.sampled_from([b"ADDR=192.0.2.7", b"NAME=client.test", b"ADDR=bad", b""]))
    def xforward(self, value: bytes) -> None:
        code = 550 if not self.settings.xforward else 503 if self.where > Where.GREETED else 250
        if code == 250 and value in (b"ADDR=bad", b""):
            code = 501
        self.expect(b"XFORWARD " + value + b"\r\n", code)
        self.forwarded = self.forwarded or code == 250

    @open_
    @rule()
    def quit(self) -> None:
        self.expect(b"QUIT\r\n", 221, events=(Closed,))
        self.closed = True

    @precondition(lambda self: self.closed)
    @rule(data=st.binary(max_size=20))
    def after_the_end(self, data: bytes) -> None:
        assert self.engine.receive(data) == []
        assert self.engine.output() == b""

    # what must always hold

    @invariant()
    def they_agree(self) -> None:
        engine: Any = getattr(self, "engine", None)
        if engine is None:
            return
        assert engine.is_closed is self.closed
        if self.closed:
            return
        assert engine.phase == self.where, f"{engine.phase!r}, not {self.where!r}"
        assert engine.in_transaction is (self.where > Where.GREETED)
        assert (engine.tls, engine.authenticated) == (self.tls, self.authenticated)
        assert (engine._forwarded is not NOTHING) is self.forwarded
        assert not engine.is_waiting
        assert not engine.in_data


class ModelTests(SynchronousTestCase):
    def test_the_engine_does_as_the_model_says(self) -> None:
        case = SessionModel.TestCase
        case.settings = hypothesis_settings(max_examples=120, stateful_step_count=40, deadline=None)
        case("runTest").runTest()
