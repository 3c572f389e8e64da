"""A model of the order of commands (RFC 5321 4.1.4, 2033, 3030), run against the engine with random commands and cuts."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mailgate.smtp.events import Aborted, ContentEnd, Data, Mail, Rcpt
from mailgate.smtp.reply import Reply
from mailgate.smtp.server import Phase
from mailgate.smtp.settings import ServerSettings

from .conversation import DELIVERED, RECIPIENT_OK, SENDER_OK, Conversation

NO = Reply(550, "5.7.1", "no")
VERDICT = st.booleans()


class CommandOrder(RuleBasedStateMachine):
    """The model: whether hello was said, the sender, how many recipients, whether chunks have begun."""

    @initialize(lmtp=st.booleans(), cut=st.integers(1, 7))
    def connect(self, lmtp: bool, cut: int) -> None:
        limits = dict.fromkeys(("max_errors", "max_idle_commands", "max_rejected_recipients"), 10**6)
        self.lmtp = lmtp
        self.cut = cut
        self.welcome = True
        self.conversation = Conversation(
            ServerSettings("mx.example", lmtp=lmtp, **limits),  # type: ignore[arg-type]
            {
                Mail: lambda event: SENDER_OK if self.welcome else NO,
                Rcpt: lambda event: RECIPIENT_OK if self.welcome else NO,
                Data: lambda event: None if self.welcome else NO,
                ContentEnd: lambda event: DELIVERED if self.welcome else NO,
            },
        ).greet()
        self.greeted = self.sender = self.chunks = self.unwanted = False
        self.recipients = 0
        self.content = b""
        self.aborts = 0
        self.messages = 0
        self.contents: list[bytes] = []

    def send(self, data: bytes) -> list[int]:
        """The codes of what comes back; sent in pieces."""
        written = b"".join(self.conversation.say(data[at : at + self.cut]) for at in range(0, len(data), self.cut))
        return [int(line[:3]) for line in written.split(b"\r\n") if line and line[3:4] != b"-"]

    def forget(self, *, aborted: bool) -> None:
        self.aborts += aborted and self.sender
        if self.content:
            self.contents.append(self.content)
        self.sender = self.chunks = False
        self.recipients = 0
        self.content = b""

    def final(self, code: int) -> list[int]:
        return [code] * (self.recipients if self.lmtp else 1)

    @rule()
    def hello(self) -> None:
        assert self.send(b"LHLO c\r\n" if self.lmtp else b"EHLO c\r\n") == [250]
        self.forget(aborted=True)
        self.greeted = True
        self.unwanted = False

    @rule(verb=st.sampled_from([b"EHLO", b"HELO", b"LHLO"]))
    def wrong_hello(self, verb: bytes) -> None:
        if (verb == b"LHLO") != self.lmtp:
            assert self.send(verb + b" c\r\n") == [500]
        else:
            assert self.send(verb + b"\r\n") == [501]

    @rule(welcome=VERDICT, parameters=st.sampled_from([b"", b" SIZE=5"]))
    def mail(self, welcome: bool, parameters: bytes) -> None:
        self.welcome = welcome
        codes = self.send(b"MAIL FROM:<a@a.example>" + parameters + b"\r\n")
        if not self.greeted or self.sender:
            assert codes == [503]
        else:
            assert codes == [250 if welcome else 550]
            self.sender = welcome
            self.unwanted = self.unwanted and not welcome

    @rule(welcome=VERDICT)
    def rcpt(self, welcome: bool) -> None:
        self.welcome = welcome
        codes = self.send(b"RCPT TO:<b@b.example>\r\n")
        if not self.sender or self.chunks:
            assert codes == [503]
        else:
            assert codes == [250 if welcome else 550]
            self.recipients += welcome

    @precondition(lambda self: self.recipients and not self.chunks)
    @rule(welcome=VERDICT, body=st.sampled_from([b"", b"x\r\n", b"..\r\nQUIT\r\n", b"\r\n\r\n", b"bare\n.\r\nx\r\n"]))
    def data(self, welcome: bool, body: bytes) -> None:
        self.welcome = True
        assert self.send(b"DATA\r\n") == [354]
        self.welcome = welcome
        codes = self.send(body + b".\r\n")
        if b"bare" in body:
            assert codes == self.final(550)
        else:
            assert codes == self.final(250 if welcome else 550)
            self.messages += 1
            self.content = body.replace(b"..", b".")
        self.forget(aborted=False)

    @precondition(lambda self: not self.recipients or self.chunks)
    @rule()
    def data_out_of_order(self) -> None:
        assert self.send(b"DATA\r\n") == [503]
        self.unwanted = True

    @rule()
    def data_refused(self) -> None:
        self.welcome = False
        assert self.send(b"DATA\r\n") == [550 if self.recipients and not self.chunks else 503]
        self.unwanted = True

    @rule(welcome=VERDICT, last=st.booleans(), chunk=st.sampled_from([b"", b"x", b"\r\n.\r\n", b"QUIT\r\n"]))
    def bdat(self, welcome: bool, last: bool, chunk: bytes) -> None:
        self.welcome = welcome
        codes = self.send(b"BDAT %d%s\r\n" % (len(chunk), b" LAST" if last else b"") + chunk)
        if not self.recipients:
            assert codes == [503]
        elif not self.chunks and not welcome:
            assert codes == [550]
            self.forget(aborted=True)
        elif last:
            self.messages += 1
            self.content += chunk
            assert codes == self.final(250 if welcome else 550)
            self.forget(aborted=False)
        else:
            assert codes == [250]
            self.chunks = True
            self.content += chunk

    @rule()
    def rset(self) -> None:
        assert self.send(b"RSET\r\n") == [250]
        self.forget(aborted=True)

    @rule(line=st.sampled_from([(b"NOOP", 250), (b"HELP", 214), (b"VRFY x", 252), (b"STARTTLS x", 501), (b"MAILX", 500)]))
    def anything_else(self, line: tuple[bytes, int]) -> None:
        command, code = line
        if command == b"STARTTLS x" and (self.sender or not self.greeted):
            code = 503
        codes = self.send(command + b"\r\n")
        if command == b"MAILX" and self.unwanted:
            assert codes == [421]
            self.connect(self.lmtp, self.cut)
        else:
            assert codes == [code]

    @invariant()
    def the_phase_is_the_models(self) -> None:
        expected = (
            Phase.CHUNKS if self.chunks
            else Phase.RECIPIENTS if self.recipients
            else Phase.SENDER if self.sender
            else Phase.GREETED if self.greeted
            else Phase.CONNECTED
        )  # fmt: skip
        assert self.conversation.session.phase is expected
        assert self.conversation.session.in_transaction is self.sender

    @invariant()
    def the_events_are_the_models(self) -> None:
        events = self.conversation.transcript.events
        assert sum(isinstance(event, Aborted) for event in events) == self.aborts
        assert sum(isinstance(event, ContentEnd) for event in events) == self.messages
        assert self.conversation.transcript.content == self.contents + [self.content] * bool(self.content)


TestCommandOrder = CommandOrder.TestCase
TestCommandOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
