"""One message, as check.milter tells its filter of it and does what the answers say."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.clients import milter_wire as wire
from mailgate.clients.milter import ConnectionGone, MilterFailure
from mailgate.clients.milter_wire import Command, MilterError, Response, Steps
from mailgate.events import Event, EventLog
from mailgate.message.body import Body, SpoolFull
from mailgate.message.edits import Add, BadField, Change, Insert, field
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.findings import AddedRecipient, Findings, NewSender
from mailgate.message.header import Header
from mailgate.message.message import Message
from mailgate.modules.check._milter_talk import Talk, mail_words, of_recipient, rcpt_words, unexpected
from mailgate.net.waiting import DeadlineExceeded, within
from mailgate.pipeline.check import MessageCheck, Refused
from mailgate.smtp.address import NULL_ADDRESS, Address, AddressError, parse_address
from mailgate.smtp.parameters import MailParameters, RcptParameters, parse_mail_parameters, parse_rcpt_parameters
from mailgate.smtp.reply import MailError, Reply

REJECTED = Reply(550, "5.7.1", "Rejected by a filter")
LATER = Reply(451, "4.7.1", "A filter asks to try again later")
CLOSING = Reply(421, "4.7.0", "A filter closes the connection")
_REPLIES = {
    Response.REJECT: REJECTED,
    Response.TEMPFAIL: LATER,
    Response.SHUTDOWN: CLOSING,
    Response.CONNECTION_FAILED: CLOSING,
}
_SENDER_PARAMETERS = frozenset(("SIZE", "8BITMIME", "SMTPUTF8", "DSN", "AUTH"))
_LINE_END = re.compile(rb"\r\n|\r|\n")

_log = EventLog("mailgate.checks")


def refusal_of(said: wire.Said) -> Reply | None:
    """What the client hears, if that is a refusal."""
    if isinstance(said, wire.Refusal):
        return said.reply
    return _REPLIES.get(said) if isinstance(said, Response) else None


class State(MessageCheck):
    def __init__(self, check: Any, envelope: Envelope) -> None:
        super().__init__(check, envelope)
        self._talk = Talk(check, envelope.session, check.client_of(envelope.session))
        self._is_in_message = False
        self._is_greeted = False
        """Connection and hello have passed: the filter will hear of the client's next message, too."""
        self._is_decided = False
        """The filter wants to hear no more of this message."""
        self._failure = ""
        """Why it can't be asked any more. Then every later step is refused as the first one was (or none of them)."""
        self._refused: Reply | None = None
        """What it has said of the last recipient that it refused."""
        self._body: Body | None = None
        self._last_was_cr = False

    # The stages

    async def sender(self, envelope: Envelope) -> None:
        await self._guarded(self._begin())

    async def rcpt(self, recipient: Recipient) -> None:
        if self._goes_on():
            await self._guarded(self._recipient(recipient))

    async def refused(self, refused: Refused) -> None:
        """Somebody else refuses a recipient: some filters want to hear of it. Nothing that they say changes it."""
        link = self._talk.link
        if self._is_decided or link is None or not link.agreement.steps & Steps.REFUSED_RCPT or refused.reply is self._refused:
            return
        try:
            await self._guarded(self._tell_refused(refused))
        except MailError:
            pass  # what could not be asked is remembered

    async def body(self, message: Message) -> None:
        if self._goes_on():
            await self._guarded(within(self._content(message), self.check.times.whole_end, self.check.context.adapters.reactor))

    def close(self) -> None:
        self._talk.end(in_message=self._is_in_message, goes_on=self._is_greeted)
        if self._body is not None:
            self._body.release()

    def _goes_on(self) -> bool:
        """:raises MailError: the filter could not be asked before, and nobody passes without it."""
        if self._failure:
            self.check.unable(self.envelope, self._failure)
            return False
        return not self._is_decided

    async def _guarded(self, talk: Awaitable[None]) -> None:
        """A step of the conversation. Whatever goes wrong in it ends it."""
        try:
            await talk
        except (MilterFailure, MilterError, BadField, DeadlineExceeded) as error:
            self._failure = str(error) or type(error).__name__
            self._talk.give_up(failed=True)
            self.check.unable(self.envelope, self._failure)
        except CancelledError:
            link = self._talk.link
            if link is None or link.owed is not Command.RCPT:  # that one can be waited for later
                self._failure = "the filter was not asked to the end"
                self._talk.give_up(failed=False)
            raise

    # The envelope

    async def _begin(self) -> None:
        client, session = self._talk.client, self.envelope.session
        hello = (session.helo, session.tls, session.auth_user)
        if client.is_accepted:
            self._is_decided = True
            return
        if client.refusal is not None and client.refused_hello in (None, hello):
            self._is_decided = True
            self._refuse(client.refusal, Command.CONNECT if client.refused_hello is None else Command.HELO)
            return
        await self._talk.begin()
        try:
            await self._greet(hello)
        except ConnectionGone:
            if not self._talk.open_link.is_used:
                raise
            await self._talk.begin_anew()
            await self._greet(hello)

    async def _greet(self, hello: object) -> None:
        talk, envelope = self._talk, self.envelope
        link = talk.open_link
        if not link.is_introduced:
            if self._introduced(await talk.connect(), Command.CONNECT, None):
                return
            link.is_introduced = True
        if link.hello != hello:
            said = await talk.ask(Command.HELO, wire.helo(envelope.session.helo), envelope)
            if self._introduced(said, Command.HELO, hello):
                return
            link.hello = hello
        self._is_greeted = self._is_in_message = True
        packet = wire.mail(str(envelope.sender), mail_words(envelope.parameters))
        self._decided(await talk.ask(Command.MAIL, packet, envelope), Command.MAIL)

    def _introduced(self, said: wire.Said, command: Command, hello: object) -> bool:
        """The answer to connection or hello: it holds for all of the client's messages."""
        client = self._talk.client
        if said is Response.DISCARD:
            raise unexpected(said, command)
        client.is_accepted = said is Response.ACCEPT
        client.refusal, client.refused_hello = refusal_of(said), hello
        return self._decided(said, command)

    async def _recipient(self, recipient: Recipient) -> None:
        if await self._settled():
            return
        packet = wire.rcpt(str(recipient.address), rcpt_words(recipient.parameters))
        said = await self._talk.ask(Command.RCPT, packet, self.envelope, **of_recipient(recipient.address))
        self._refused = refusal_of(said)
        try:
            self._decided(said, Command.RCPT)
        except MailError as error:
            self._refused = error.reply
            raise

    async def _tell_refused(self, refused: Refused) -> None:
        if await self._settled():
            return
        reply, recipient = refused.reply, refused.recipient
        about = {"rcpt_addr": reply.text, "rcpt_host": reply.enhanced, "rcpt_mailer": "error"}
        packet = wire.rcpt(str(recipient.address), rcpt_words(recipient.parameters))
        await self._talk.ask(Command.RCPT, packet, self.envelope, **about)

    async def _settled(self) -> bool:
        """Hear what was asked about a recipient whom another check refused meanwhile. True if the filter wants no more."""
        if self._talk.open_link.owed is None:
            return False
        said = await self._talk.answer(Command.RCPT)
        return refusal_of(said) is None and self._decided(said, Command.RCPT)

    # Answers

    async def _ask(self, command: Command, packet: bytes) -> bool:
        """True if the filter has decided. :raises MailError: a refusal."""
        return self._decided(await self._talk.ask(command, packet, self.envelope), command)

    def _decided(self, said: wire.Said, command: Command) -> bool:
        reply = refusal_of(said)
        if said is Response.CONTINUE:
            return False
        if said is Response.ACCEPT:
            self._is_decided = True
        elif said is Response.DISCARD:
            self._is_decided = True
            self.envelope.findings_of(self.check).discarded = True
        elif reply is not None:
            self._is_decided = command is not Command.RCPT
            self._refuse(reply, command)
        else:
            raise unexpected(said, command)
        return self._is_decided

    def _refuse(self, reply: Reply, command: Command) -> None:
        self._note("refuse", str(reply))
        self.check.failed(self.envelope, f"{reply} to {command.name}", reply)

    # The content

    async def _content(self, message: Message) -> None:
        if await self._settled() or await self._ask(Command.DATA, wire.packet(Command.DATA)):
            return
        header = Header(message.header)
        if await self._header(header):
            return
        if await self._ask(Command.END_OF_HEADER, wire.packet(Command.END_OF_HEADER)):
            return
        link = self._talk.open_link
        if link.agreement.wants(Command.BODY) and await self._pieces(message):
            return
        ids = header.values("message-id")
        self._talk.tell_macros(Command.END_OF_BODY, self.envelope, msg_id=ids[0].decode("utf-8", "replace") if ids else "")
        link.write(wire.packet(Command.END_OF_BODY))
        await self._end(message)

    async def _header(self, header: Header) -> bool:
        keeps_space = bool(self._talk.open_link.agreement.steps & Steps.LEADING_SPACE)
        for one in header.fields[1:]:  # the first is our own Received
            if not one.name:
                continue
            name = header.section[one.start : one.value_start].rstrip(b" \t:")
            value = header.section[one.value_start : one.end].rstrip(b"\r\n").replace(b"\r\n", b"\n")
            if await self._ask(Command.HEADER, wire.header(name, value if keeps_space else value.removeprefix(b" "))):
                return True
        return False

    async def _pieces(self, message: Message) -> bool:
        offset = len(message.header) + 2  # the empty line is nobody's
        while offset < message.size:
            piece = message.read(offset, wire.CHUNK)
            piece = piece if isinstance(piece, bytes) else await piece
            offset += len(piece)
            said = await self._talk.ask(Command.BODY, wire.packet(Command.BODY, piece))
            if said is Response.SKIP:
                return False
            if self._decided(said, Command.BODY):
                return True
        return False

    async def _end(self, message: Message) -> None:
        """What the filter wants changed, and its last word."""
        link = self._talk.open_link
        findings = self.envelope.findings_of(self.check)
        while True:
            said = await link.answer(self.check.times.end)
            needed = wire.NEEDS.get(type(said))
            if needed is None:
                break
            if not link.agreement.actions & needed:
                raise MilterError(f"{type(said).__name__}, which was not agreed on")
            await self._change(said, findings, message)
        if self._body is not None:
            finishing = self._body.finish()
            if finishing is not None:
                await finishing
            findings.body = self._body
        self._is_in_message = False
        self._decided(said, Command.END_OF_BODY)
        self._is_decided = True

    async def _change(self, said: wire.Said, findings: Findings, message: Message) -> None:
        match said:
            case wire.AddHeader(name, value):
                field(name, value)
                findings.edits.append(Add(name, value))
            case wire.InsertHeader(index, name, value):
                field(name, value)
                findings.edits.append(Insert(index, name, value))
            case wire.ChangeHeader(number, name, value):
                field(name, value)
                findings.edits.append(Change(name, max(number, 1), value or None))
            case wire.ReplaceBody(piece):
                await self._replace(piece, message)
            case wire.AddRecipient(address, words):
                findings.added.append(AddedRecipient(_address(address), _rcpt_parameters(words)))
            case wire.DeleteRecipient(address):
                findings.removed.append(_address(address))
            case wire.ChangeSender(address, words):
                given = _mail_parameters(words)
                sender = _address(address) if address else NULL_ADDRESS
                findings.sender = NewSender(sender, given.ret, given.envid, given.auth)
            case wire.Quarantine(reason):
                findings.quarantined = True
                self._note("quarantine", reason)

    async def _replace(self, piece: bytes, message: Message) -> None:
        """One more piece of the new body, with clean line ends wherever it was cut."""
        if self._body is None:
            self._body = message.body.sibling()
            self._body.append(b"\r\n")
        if self._last_was_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        self._last_was_cr = piece.endswith(b"\r")
        if self._body.size + len(piece) > self.check.max_replacement:
            raise MilterError("the new body is larger than max_replacement")
        try:
            waiting = self._body.append(_LINE_END.sub(b"\r\n", piece.replace(b"\0", b"")))
            if waiting is not None:
                await waiting
        except SpoolFull as error:
            raise MilterFailure(f"no room for the new body: {error}") from error

    def _note(self, answer: str, reason: str) -> None:
        fields = {"message": self.envelope.id, "session": self.envelope.session.id, "check": self.check.name}
        _log.info(Event.CHECK_ANSWERED, **fields, answer=answer, reason=reason)


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except AddressError as error:
        raise MilterError(f"{text!r} is no address") from error


def _mail_parameters(words: tuple[str, ...]) -> MailParameters:
    """Of another sender: SIZE, BODY and SMTPUTF8 may stand there, but are a matter of the content."""
    try:
        return parse_mail_parameters(" ".join(words), _SENDER_PARAMETERS)
    except MailError as error:
        raise MilterError(f"{' '.join(words)!r} for a sender: {error}") from error


def _rcpt_parameters(words: tuple[str, ...]) -> RcptParameters:
    try:
        return parse_rcpt_parameters(" ".join(words), frozenset(("DSN",)))
    except MailError as error:
        raise MilterError(f"{' '.join(words)!r} for a recipient: {error}") from error
