"""check.milter: a filter that speaks the milter protocol, with us in the place of the MTA.

The filter hears all of a message: connection, hello, sender and each recipient as they come, then the content. What it answers is
done: it may refuse at any step with words of its own, take the message as it is, throw it away, mark it for quarantine, change
fields, the body, the sender and the recipients (`pipeline.content` does that).

- The filter has a connection for each client, over which all its messages go (`clients.milter`), from the first one's MAIL on.
  What it refuses of the client's connection or hello refuses the message; what it accepts there passes all of the client's.
- A recipient that a filter refuses is refused alone. One that comes behind the filter and is refused by others stays in the
  filter's list, as it does with Sendmail.
- The filter does not see our own Received. It counts fields without it, but 0 is a place above it.
- A new body is kept in memory or the spool as any other is, up to `max_replacement`, with lines that end in CRLF.
- No answer in time, no connection, or nonsense: `on_error`, 451 unless it says otherwise.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.defer import CancelledError

import mailgate
from mailgate.clients import milter_wire as wire
from mailgate.clients.milter import Client, Link, Milter, MilterFailure, Times
from mailgate.clients.milter_wire import Command, MilterError, Response, Steps
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Argument, Directive
from mailgate.events import Event, EventLog
from mailgate.message.body import Body, SpoolFull
from mailgate.message.edits import Add, BadField, Change, Insert, field
from mailgate.message.envelope import Envelope, Recipient, Session
from mailgate.message.header import Header
from mailgate.message.message import Message
from mailgate.modules.check._action import AskingCheck
from mailgate.net.waiting import DeadlineExceeded, within
from mailgate.pipeline.check import MessageCheck
from mailgate.registry import ModuleContext
from mailgate.smtp.address import NULL_ADDRESS, Address, AddressError, parse_address
from mailgate.smtp.parameters import MailParameters
from mailgate.smtp.reply import Reply

REJECTED = Reply(550, "5.7.1", "Rejected by a filter")
LATER = Reply(451, "4.7.1", "A filter asks to try again later")
CLOSING = Reply(421, "4.7.0", "A filter closes the connection")
_LINE_END = re.compile(rb"\r\n|\r|\n")

_log = EventLog("mailgate.checks")

_REPLIES = {Response.REJECT: REJECTED, Response.TEMPFAIL: LATER, Response.SHUTDOWN: CLOSING}


class State(MessageCheck):
    """One message's conversation."""

    def __init__(self, check: Any, envelope: Envelope) -> None:
        super().__init__(check, envelope)
        self._link: Link | None = None
        self._is_in_message = False
        self._is_greeted = False
        """Connection and hello have passed: the filter will hear of the client's next message, too."""
        self._was_accepted = False
        self._is_decided = False
        """The filter wants to hear no more of this message."""
        self._body: Body | None = None
        self._last_was_cr = False

    # The stages

    async def sender(self, envelope: Envelope) -> None:
        await self._guarded(self._begin(envelope))

    async def rcpt(self, recipient: Recipient) -> None:
        if self._link is not None and not self._is_decided:
            await self._guarded(self._recipient(recipient))

    async def body(self, message: Message) -> None:
        if self._link is not None and not self._is_decided:
            await self._guarded(within(self._content(message), self.check.times.whole_end, self.check.context.adapters.reactor))

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self.check.filter.give_back(link, in_message=self._is_in_message, goes_on=self._is_greeted)
        if self._body is not None:
            self._body.release()

    async def _guarded(self, talk: Any) -> None:
        """A step of the conversation. Whatever goes wrong in it ends it."""
        try:
            await talk
        except (MilterFailure, MilterError, BadField, DeadlineExceeded) as error:
            self._drop(failed=True)
            self._is_decided = True
            self.check.unable(self.envelope, str(error))
        except CancelledError:
            self._drop(failed=False)
            raise

    def _drop(self, *, failed: bool) -> None:
        link, self._link = self._link, None
        if link is not None:
            self.check.filter.give_up(link, failed=failed)

    async def _begin(self, envelope: Envelope) -> None:
        client = self.check.client_of(envelope.session)
        if client.is_accepted:
            self._is_decided = True
            return
        self._link = await self.check.filter.lease(client)
        try:
            await self._greet(client)
        except MilterFailure:
            if not self._link.is_used:
                raise
            # The filter has closed a connection that lay idle: that says nothing of it.
            self._drop(failed=False)
            client.hello = None
            self._link = await self.check.filter.lease(client)
            await self._greet(client)

    async def _greet(self, client: Client) -> None:
        envelope, session = self.envelope, self.envelope.session
        assert self._link is not None
        hello = (session.helo, session.tls, session.auth_user)
        if client.hello is None:
            self._macros(Command.CONNECT)
            packet = wire.connect(session.client_name, session.client_ip, session.client_port)
            if await self._ask(Command.CONNECT, packet):
                client.is_accepted = self._was_accepted
                return
        if client.hello != hello:
            self._macros(Command.HELO)
            if await self._ask(Command.HELO, wire.helo(session.helo)):
                client.is_accepted = self._was_accepted
                return
            client.hello = hello
        self._is_greeted = True
        self._macros(Command.MAIL)
        self._is_in_message = True
        await self._ask(Command.MAIL, wire.mail(str(envelope.sender), parameters_of(envelope.parameters)))

    async def _recipient(self, recipient: Recipient) -> None:
        self._macros(Command.RCPT, recipient)
        await self._ask(Command.RCPT, wire.rcpt(str(recipient.address)))

    # One question

    async def _ask(self, command: Command, packet: bytes) -> bool:
        """Say it, and do what the filter answers. True if it has decided.

        :raises MailError: a refusal.
        """
        link = self._link
        assert link is not None
        if not link.agreement.wants(command):
            return False
        link.write(packet)
        if not link.agreement.answers(command):
            await link.drained()
            return False
        said = await link.answer(self.check.times.command)
        return self._decided(said, command)

    def _decided(self, said: wire.Said, command: Command) -> bool:
        if said is Response.CONTINUE or (said is Response.SKIP and command is Command.BODY):
            return False
        if said is Response.ACCEPT:
            self._is_decided = self._was_accepted = True
        elif said is Response.DISCARD:
            self._is_decided = True
            self.envelope.findings_of(self.check).discarded = True
        elif isinstance(said, wire.Refusal) or said in _REPLIES:
            reply = said.reply if isinstance(said, wire.Refusal) else _REPLIES[said]
            self._is_decided = command is not Command.RCPT
            self._note("refuse", str(reply))
            self.check.failed(self.envelope, f"{reply} to {command.name}", reply)
        else:
            raise MilterError(f"{said} to {command.name}")
        return self._is_decided

    def _macros(self, stage: Command, recipient: Recipient | None = None, header: Header | None = None) -> None:
        link = self._link
        assert link is not None
        wanted = link.agreement.macros.get(stage, ())
        known = self._known_macros(recipient, header)
        found = [(name, value) for name in wanted if (value := known.get(name.strip("{}"), ""))]
        if found and link.agreement.wants(stage):
            link.write(wire.macros(stage, found))

    def _known_macros(self, recipient: Recipient | None, header: Header | None) -> dict[str, str]:
        envelope, session = self.envelope, self.envelope.session
        tls = session.tls
        ids = header.values("message-id") if header is not None else []
        return {
            "j": session.hostname,
            "_": f"{session.client_name or 'unknown'} [{session.client_ip}]" if session.client_ip else "localhost",
            "v": f"mailgate {mailgate.__version__}",
            "i": envelope.id,
            "daemon_name": session.listener,
            "daemon_addr": session.local_ip,
            "daemon_port": str(session.local_port or ""),
            "client_addr": session.client_ip,
            "client_name": session.client_name or "unknown",
            "client_port": str(session.client_port or ""),
            "client_ptr": session.client_name or "unknown",
            "tls_version": tls.version if tls is not None else "",
            "cipher": tls.cipher if tls is not None else "",
            "cert_subject": tls.peer_subject if tls is not None else "",
            "auth_type": session.auth_mechanism,
            "auth_authen": session.auth_user,
            "mail_addr": str(envelope.sender),
            "mail_host": envelope.sender.domain,
            "mail_mailer": "smtp",
            "rcpt_addr": str(recipient.address) if recipient is not None else "",
            "rcpt_host": recipient.address.domain if recipient is not None else "",
            "rcpt_mailer": "smtp" if recipient is not None else "",
            "msg_id": ids[0].decode("utf-8", "replace") if ids else "",
        }

    # The content

    async def _content(self, message: Message) -> None:
        link = self._link
        assert link is not None
        self._macros(Command.DATA)
        if await self._ask(Command.DATA, wire.packet(Command.DATA)):
            return
        header = Header(message.header)
        if await self._header(header):
            return
        self._macros(Command.END_OF_HEADER)
        if await self._ask(Command.END_OF_HEADER, wire.packet(Command.END_OF_HEADER)):
            return
        if link.agreement.wants(Command.BODY) and await self._pieces(message):
            return
        self._macros(Command.END_OF_BODY, header=header)
        link.write(wire.packet(Command.END_OF_BODY))
        await self._end(message)

    async def _header(self, header: Header) -> bool:
        assert self._link is not None
        keeps_space = bool(self._link.agreement.steps & Steps.LEADING_SPACE)
        for one in header.fields[1:]:  # the first is our own Received
            if not one.name:
                continue
            name = header.section[one.start : one.value_start].rstrip(b" \t:")
            value = header.section[one.value_start : one.end].rstrip(b"\r\n").replace(b"\r\n", b"\n")
            if await self._ask(Command.HEADER, wire.header(name, value if keeps_space else value.removeprefix(b" "))):
                return True
        return False

    async def _pieces(self, message: Message) -> bool:
        assert self._link is not None
        offset = len(message.header) + 2  # the empty line is nobody's
        while offset < message.size:
            piece = message.read(offset, wire.CHUNK)
            piece = piece if isinstance(piece, bytes) else await piece
            offset += len(piece)
            self._link.write(wire.packet(Command.BODY, piece))
            if not self._link.agreement.answers(Command.BODY):
                await self._link.drained()
                continue
            said = await self._link.answer(self.check.times.command)
            if said is Response.SKIP:
                return False
            if self._decided(said, Command.BODY):
                return True
        return False

    async def _end(self, message: Message) -> None:
        """What the filter wants changed, and its last word."""
        link = self._link
        assert link is not None
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

    async def _change(self, said: wire.Said, findings: Any, message: Message) -> None:
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
            case wire.AddRecipient(address):
                findings.added.append(_address(address))
            case wire.DeleteRecipient(address):
                findings.removed.append(_address(address))
            case wire.ChangeSender(address):
                findings.sender = _address(address) if address else NULL_ADDRESS
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


class MilterCheck(AskingCheck):
    """A milter hears of each message, and its answers and changes are done. A refusal has the filter's own words, unless
    `on_fail` gives others."""

    name = "check.milter"
    message_state = State
    refusal = REJECTED

    endpoint = Argument("ENDPOINT", v.Endpoint(schemes=("tcp", "unix")), doc="Where the filter listens.", origin="maddy")
    connect_timeout = Directive(
        "connect_timeout",
        v.Duration(minimum=0.1, maximum=300),
        default=10.0,
        doc="For a connection, or a place in the line.",
    )
    command_timeout = Directive(
        "command_timeout",
        v.Duration(minimum=0.1, maximum=600),
        default=30.0,
        doc="For each answer before the message's end.",
    )
    content_timeout = Directive(
        "content_timeout",
        v.Duration(minimum=0.1, maximum=3600),
        default=120.0,
        doc="For each answer at the end of the message; the content as a whole has five times as long.",
    )
    connections = Directive(
        "connections", v.Integer(minimum=1, maximum=10_000), default=100, divided=True, doc="Messages at the same time."
    )
    max_replacement = Directive(
        "max_replacement",
        v.Size(minimum=1024),
        default=64 << 20,
        doc="How large a filter's own body may be.",
    )

    reuse = Directive(
        "reuse",
        v.Boolean(),
        default=False,
        doc="Whether a connection serves one client after the other (version 6, QUIT_NC); most filters can't.",
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self.filter: Any = None
        self._clients: dict[str, Client] = {}
        self.times = Times(self.connect_timeout, self.command_timeout, self.content_timeout, self.content_timeout * 5)

    @property
    def marks(self) -> bool:
        """What a filter wants changed is known only when it says so."""
        return True

    def configure(self, report: Report) -> None:
        if self.endpoint.scheme == "tcp" and not self.endpoint.port:
            report.error(self.span, "milters have no port of their own: which one?", code="E0797", hint="tcp://127.0.0.1:8891")

    async def start(self) -> None:
        assert self.context.adapters is not None
        place = self.endpoint
        self.filter = Milter(
            f"milter {place}",
            place.path,
            place.host,
            place.port,
            self.context.adapters,
            self.times,
            self.connections,
            reuse=self.reuse,
        )

    async def stop(self) -> None:
        if self.filter is not None:
            self.filter.stop()

    def client_of(self, session: Session) -> Client:
        """What the filter knows of a client, until it is gone."""
        client = self._clients.get(session.id)
        if client is None:
            client = self._clients[session.id] = Client(self.filter)
            session.at_end = [*(session.at_end or ()), lambda: self._gone(session.id)]
        return client

    def _gone(self, session_id: str) -> None:
        self._clients.pop(session_id).gone()


def parameters_of(parameters: MailParameters) -> list[str]:
    """As they stand in MAIL, those that filters look at."""
    found = []
    if parameters.size is not None:
        found.append(f"SIZE={parameters.size}")
    if parameters.body is not None:
        found.append(f"BODY={parameters.body.value}")
    if parameters.smtputf8:
        found.append("SMTPUTF8")
    return found


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except AddressError as error:
        raise MilterError(f"{text!r} is no address") from error
