"""The inbound protocol engine: bytes in, events and bytes out; no socket, no clock, no policy.

A driver feeds `ServerSession.receive` with what it read, handles the events it gets, answers questions with `reply`,
and writes `output` after each of these calls. The engine owns what every server must decide alike: the order of commands,
what resets what, extensions and parameters, line and content framing (`framing`), and the limits on what a peer may do
without a message coming of it. Whether a sender, a recipient or a message is welcome is the driver's answer.

The contract:

- Every cut of the input gives the same events and the same bytes (two `Content` in place of one count as the same). The
  one exception is in RFC 3207 itself: bytes behind STARTTLS can be seen only if they have come already.
- At most the last event of a list is a question. While one is open, input is buffered and no command is looked at, so
  replies go out in order and those of one read in one write (RFC 2920). `wants_pause` bounds the buffer.
- A reply from outside is made safe: an unusable code becomes 451, an enhanced code of another class is replaced.
- Closing is final: after `Closed` nothing is written or reported.

Refused here: bare LF or CR and NUL in commands; anything but CRLF.CRLF as the end of data; bytes behind STARTTLS
(CVE-2011-0411); content sent in spite of a refused DATA, which would be obeyed as commands; HTTP; floods of junk, of idle
commands, of recipients; endless lines.

RFC 5321, 2033 (LMTP), 2034, 2920, 3030, 3207, 4954, 1870, 6152, 6531, 3461, 8689, 9422.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mailgate.smtp import command as grammar
from mailgate.smtp import extensions, replies
from mailgate.smtp.address import Address
from mailgate.smtp.command import Command, Phase
from mailgate.smtp.dialogue import ENHANCED_CLASSES, Transfer, checked
from mailgate.smtp.events import (
    Aborted,
    Auth,
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
)
from mailgate.smtp.framing import ChunkFraming, ContentFilter, DataFraming
from mailgate.smtp.mail_rules import granted, refusal_of_mail
from mailgate.smtp.parameters import (
    NO_MAIL_PARAMETERS,
    NO_RCPT_PARAMETERS,
    BodyType,
    parse_mail_parameters,
    parse_rcpt_parameters,
)
from mailgate.smtp.reply import MailError, Reply
from mailgate.smtp.settings import ServerSettings
from mailgate.smtp.trusted import TrustedDialogue
from mailgate.smtp.xclient import NOTHING

__all__ = ["Phase", "ServerSession", "ServerSettings"]

DATA_QUESTION = Data(chunked=False)
CHUNK_QUESTION = Data(chunked=True)
CONTENT_END = ContentEnd()
GO_AHEAD = replies.GO_AHEAD.encode()

_BEFORE_MAIL = (Phase.GREETED,)
_TAKING_RECIPIENTS = (Phase.SENDER, Phase.RECIPIENTS)
_READY = (Phase.RECIPIENTS,)
_TAKING_CHUNKS = (Phase.RECIPIENTS, Phase.CHUNKS)


class ServerSession(TrustedDialogue):
    """One inbound SMTP or LMTP connection."""

    __slots__ = (
        "_accepted",
        "_chunk",
        "_extended",
        "_filter",
        "_parameters",
        "_recipients",
    )

    def __init__(
        self,
        settings: ServerSettings,
        *,
        tls: bool = False,
        lacking: frozenset[str] = extensions.NEEDS_TLS,
        greeted: bool = False,
    ) -> None:
        super().__init__(settings, tls=tls, lacking=lacking, greeted=greeted)
        self._forget()

    def _forget(self) -> None:
        """As after the greeting (RFC 3207 4.2). The counts are not the client's to clear."""
        self._phase = Phase.CONNECTED
        self._extended = False
        self._accepted: frozenset[str] = frozenset()
        """The extensions whose parameters may be used."""
        self._forget_login()
        self._content_unwanted = False
        self._end_transaction()

    def _end_transaction(self) -> None:
        if self._phase > Phase.GREETED:
            self._phase = Phase.GREETED
            self._served = True
        self._parameters = NO_MAIL_PARAMETERS
        self._utf8 = False
        self._recipients = 0
        if self._forwarded is not NOTHING:
            self._forget_forwarded()
        self._filter: ContentFilter | None = None
        self._chunk: grammar.Chunk | None = None

    # What the driver calls, besides `Dialogue`

    def reply_each(self, answers: Sequence[Reply]) -> list[Event]:
        """Answer `ContentEnd` with a reply for each accepted recipient in LMTP, or with the one reply of SMTP."""
        if self._question is not CONTENT_END:
            if self._closed:
                return []
            raise RuntimeError("the content is not complete")
        if len(answers) != (self._recipients if self._settings.lmtp else 1):
            raise ValueError(f"{len(answers)} replies for {self._recipients} recipients")
        self._question = None
        self._answer_content(answers)
        return self._run() if self._buffer or self._events else []

    def tls_started(self, *, lacking: frozenset[str] = extensions.NEEDS_TLS) -> None:
        """The handshake that `StartTls` asked for is done: all that was said in clear is forgotten. ``lacking``: the SASL
        mechanisms that need something which it has not brought (a certificate, a channel binding)."""
        self._handshaking = False
        self._tls = True
        self._lacking = lacking
        self._forget()

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def in_transaction(self) -> bool:
        """A sender was accepted, and the content not yet answered."""
        return self._phase > Phase.GREETED

    @property
    def tls(self) -> bool:
        return self._tls

    # Input

    def _take_line(self) -> bool:
        plain = grammar.PLAIN_ENVELOPE.match(self._buffer, self._position) if self._plain_lines else None
        if plain is None:
            return super()._take_line()
        verb, local_part, domain = plain.groups()
        phase = self._phase
        question: Mail | Rcpt | Data
        if verb is None and phase is Phase.RECIPIENTS and self._parameters.body is not BodyType.BINARY:
            question = DATA_QUESTION
        elif verb == b"MAIL FROM" and phase is Phase.GREETED:
            question = Mail(Address(local_part.decode(), domain.decode()), NO_MAIL_PARAMETERS)
        elif verb == b"RCPT TO" and phase in _TAKING_RECIPIENTS and self._recipients < self._settings.max_recipients:
            question = Rcpt(Address(local_part.decode(), domain.decode()), NO_RCPT_PARAMETERS)
        else:
            return super()._take_line()
        self._position = plain.end()
        self._question = question
        self._events.append(question)
        return True

    def _obey(self, line: bytes) -> None:
        if self._exchange:
            self._continue_auth(line)
            return
        verb, _, argument = line.partition(b" ")
        if self._locked and not self._count_unauthenticated(verb):
            return
        command = COMMANDS.get(verb) or COMMANDS.get(verb.upper())
        if command is None:
            if grammar.is_http_request(line):
                self._close(CloseReason.HTTP)
            else:
                self._no_command(replies.UNKNOWN)
            return
        refusal = self._judge(command, argument)
        if refusal is not None:
            self._refuse_command(command, argument, refusal)
        elif not command.idle or self._count_idle():
            command.handler(self, argument)

    def _judge(self, command: Command, argument: bytes) -> Reply | None:
        """Why ``command`` is not obeyed here and now."""
        settings = self._settings
        if command.verb in settings.disable_commands:
            return replies.NOT_IMPLEMENTED
        if command.dialect and (command.dialect == "LMTP") is not settings.lmtp:
            return Reply(500, "5.5.1", f"Say {'LHLO' if settings.lmtp else 'EHLO'} here")
        if self._phase is Phase.CONNECTED and Phase.CONNECTED not in command.phases:
            return Reply(503, "5.5.1", f"Say {'LHLO' if settings.lmtp else 'EHLO'} first")
        if self._locked and command.login:
            return Reply(530, "5.7.0", settings.auth_required_message)
        if self._phase not in command.phases:
            return Reply(503, "5.5.1", command.out_of_order)
        if command.bare and argument.strip(b" "):
            return replies.NO_ARGUMENT
        return None

    def _refuse_command(self, command: Command, argument: bytes, reply: Reply) -> None:
        if command.verb == "BDAT":
            self._discard_chunk(argument, reply)
            return
        self._content_unwanted = self._content_unwanted or command.verb == "DATA"
        if reply.code == 530:  # no mistake of those that are counted, and nothing comes of a hundred
            self._refuse(reply)
        else:
            self._say(reply)

    def _take_content(self, transfer: Transfer) -> bool:
        content, self._position, complete = transfer.take(self._buffer, self._position)
        if complete:
            self._transfer = None
        if transfer.refusal is not None:
            if complete:
                self._refuse(transfer.refusal)
        elif self._filter is not None:
            clean = self._filter.feed(content, last=complete and transfer.last)
            if clean:
                self._events.append(Content(clean))
            if complete:
                self._transfer_done(transfer, self._filter)
        return complete

    def _transfer_done(self, transfer: Transfer, content: ContentFilter) -> None:
        refusal = content.refusal if content.faults else None
        if refusal is not None:
            self._events.append(ContentRefused(refusal))
            for _ in range(self._recipients if self._settings.lmtp and transfer.last else 1):
                self._write(refusal)
            self._end_transaction()
        elif transfer.last:
            self._ask(CONTENT_END)
        else:
            self._write(Reply(250, "2.0.0", f"{transfer.size} octets received"))

    # Commands of the session

    def _hello(self, verb: str, argument: bytes) -> None:
        name = grammar.hello_name(argument)
        if name is None:
            self._say(replies.BAD_HELLO)
            return
        self._abort()
        self._phase = Phase.GREETED
        self._extended = verb != "HELO"
        self._content_unwanted = False
        self._accepted = extensions.accepted(self._settings, self._tls) if self._extended else frozenset()
        settings, tls, lacking = self._settings, self._tls, self._lacking
        self._write(extensions.hello_reply(settings, tls, name, extended=self._extended, lacking=lacking))
        self._events.append(Hello(verb, name, self._extended))

    def _ehlo(self, argument: bytes) -> None:
        self._hello("EHLO", argument)

    def _helo(self, argument: bytes) -> None:
        self._hello("HELO", argument)

    def _lhlo(self, argument: bytes) -> None:
        self._hello("LHLO", argument)

    def _abort(self) -> None:
        if self._phase > Phase.GREETED:
            self._events.append(Aborted())
            self._end_transaction()
        else:
            self._forget_forwarded()

    def _rset(self, argument: bytes) -> None:
        self._abort()
        self._say(replies.OK)

    def _noop(self, argument: bytes) -> None:
        self._say(replies.OK)

    def _help(self, argument: bytes) -> None:
        self._say(replies.HELP)

    def _vrfy(self, argument: bytes) -> None:
        self._say(replies.CANNOT_VRFY)

    def _not_implemented(self, argument: bytes) -> None:
        self._say(replies.NOT_IMPLEMENTED)

    def _quit(self, argument: bytes) -> None:
        self._close(CloseReason.QUIT)

    def _starttls(self, argument: bytes) -> None:
        if self._tls:
            self._say(replies.TLS_ACTIVE)
        elif not self._settings.starttls:
            self._say(replies.NOT_IMPLEMENTED)
        elif self._position < len(self._buffer):
            self._close(CloseReason.INJECTION)
        else:
            self._write(replies.READY_FOR_TLS)
            self._handshaking = True
            self._events.append(StartTls())

    # Commands of a transaction

    def _mail(self, argument: bytes) -> None:
        try:
            address, rest = grammar.path_argument(
                argument, b"FROM:", strict=self._settings.strict_addresses, bad=replies.BAD_SENDER
            )
            parameters = parse_mail_parameters(rest, self._accepted)
            if parameters.priority is not None:
                parameters = granted(parameters, parameters.priority, self._settings)
        except MailError as error:
            self._refuse(error.reply)
            return
        refusal = refusal_of_mail(address, parameters, self._settings, self._accepted, tls=self._tls)
        if refusal is not None:
            self._refuse(refusal)
        else:
            self._ask(Mail(address, parameters))

    def _mail_answered(self, question: Mail, reply: Reply) -> None:
        if reply.code >= 300:
            self._refuse(reply)
            return
        if question.parameters.priority_lowered:
            reply = replies.LOWER_PRIORITY
        self._phase = Phase.SENDER
        self._parameters = question.parameters
        self._utf8 = question.parameters.smtputf8
        self._content_unwanted = False
        self._settings.replies[2] += 1
        self._output.append(reply.encode(enhanced=self._enhanced, utf8=self._utf8))

    def _rcpt(self, argument: bytes) -> None:
        try:
            address, rest = grammar.path_argument(
                argument, b"TO:", strict=self._settings.strict_addresses, bad=replies.BAD_RECIPIENT
            )
            parameters = parse_rcpt_parameters(rest, self._accepted)
        except MailError as error:
            self._refuse_recipient(error.reply)
            return
        if address.is_null:
            self._refuse_recipient(replies.BAD_RECIPIENT)
        elif not (self._parameters.smtputf8 or address.is_ascii):
            self._refuse_recipient(replies.NEEDS_SMTPUTF8)
        elif self._recipients >= self._settings.max_recipients:
            self._refuse_recipient(replies.TOO_MANY_RECIPIENTS)
        else:
            self._ask(Rcpt(address, parameters))

    def _rcpt_answered(self, question: Rcpt, reply: Reply) -> None:
        if reply.code >= 300:
            self._refuse_recipient(reply)
            return
        self._phase = Phase.RECIPIENTS
        self._recipients += 1
        self._settings.replies[2] += 1
        self._output.append(reply.encode(enhanced=self._enhanced, utf8=self._utf8))

    def _data(self, argument: bytes) -> None:
        if self._parameters.body is BodyType.BINARY:  # RFC 3030 3
            self._content_unwanted = True
            self._say(replies.BINARY_NEEDS_BDAT)
        else:
            self._ask(DATA_QUESTION)

    def _data_answered(self, question: Data, reply: Reply) -> None:
        accepted = reply.code < 400
        if question.chunked:
            self._first_chunk_answered(reply, accepted)
        elif accepted:
            self._settings.replies[3] += 1
            self._output.append(GO_AHEAD)
            self._filter = ContentFilter(self._settings.content_rules)
            self._transfer = DataFraming()
        else:
            self._content_unwanted = True
            self._refuse(reply)

    def _bdat(self, argument: bytes) -> None:
        chunk = grammar.chunk_argument(argument)
        if chunk is None:
            self._close(CloseReason.BAD_CHUNK_SIZE)
        elif not chunk.valid:  # the message would lack a piece
            self._abort()
            self._discard_chunk(argument, replies.BAD_CHUNK)
        elif self._phase is Phase.CHUNKS:
            if chunk.size or chunk.last or self._count_idle():
                self._transfer = ChunkFraming(chunk.size, last=chunk.last)
        else:
            self._chunk = chunk
            self._ask(CHUNK_QUESTION)

    def _first_chunk_answered(self, reply: Reply, accepted: bool) -> None:
        chunk, self._chunk = self._chunk, None
        if chunk is None:
            raise RuntimeError("no chunk was announced")
        if accepted:
            self._phase = Phase.CHUNKS
            self._filter = ContentFilter(self._settings.content_rules, binary=self._parameters.body is BodyType.BINARY)
            self._transfer = ChunkFraming(chunk.size, last=chunk.last)
        else:
            self._abort()
            self._transfer = ChunkFraming(chunk.size, refusal=reply)

    def _discard_chunk(self, argument: bytes, reply: Reply) -> None:
        """RFC 3030 2: the octets of a refused chunk come all the same, and must not be taken for commands."""
        chunk = grammar.chunk_argument(argument)
        if chunk is None:
            self._close(CloseReason.BAD_CHUNK_SIZE)
        else:
            self._transfer = ChunkFraming(chunk.size, refusal=reply)

    def _content_answered(self, question: ContentEnd, reply: Reply) -> None:
        self._answer_content([reply] * (self._recipients if self._settings.lmtp else 1))

    def _answer_content(self, answers: Sequence[Reply]) -> None:
        delivered = closing = False
        for reply in answers:
            if ENHANCED_CLASSES.get(reply.code // 100) != reply.enhanced[:1]:
                reply = checked(reply, CONTENT_END)
            self._settings.replies[reply.code // 100] += 1
            self._output.append(reply.encode(enhanced=self._enhanced, utf8=self._utf8))
            if reply.code < 300:
                delivered = True
            elif reply.code == 421:
                closing = True
        self._end_transaction()
        if delivered:
            self._forgive()
        if closing:
            self._end(CloseReason.REPLIED)


COMMANDS: Mapping[bytes, Command] = {
    command.verb.encode(): command
    for command in (
        Command("EHLO", ServerSession._ehlo, dialect="SMTP", idle=True),
        Command("HELO", ServerSession._helo, dialect="SMTP", idle=True),
        Command("LHLO", ServerSession._lhlo, dialect="LMTP", idle=True),
        Command("MAIL", ServerSession._mail, _BEFORE_MAIL, "A transaction is open already", login=True),
        Command("RCPT", ServerSession._rcpt, _TAKING_RECIPIENTS, "MAIL comes first, and RCPT before BDAT", login=True),
        Command("DATA", ServerSession._data, _READY, "An accepted RCPT comes first, and no BDAT", bare=True, login=True),
        Command("BDAT", ServerSession._bdat, _TAKING_CHUNKS, "An accepted RCPT comes first", login=True),
        Command("RSET", ServerSession._rset, bare=True, idle=True),
        Command("NOOP", ServerSession._noop, idle=True),
        Command("HELP", ServerSession._help, idle=True),
        Command("VRFY", ServerSession._vrfy, idle=True),
        Command("EXPN", ServerSession._not_implemented),
        Command("ETRN", ServerSession._not_implemented),
        Command("QUIT", ServerSession._quit, bare=True),
        Command("STARTTLS", ServerSession._starttls, (Phase.GREETED,), "A transaction is open", bare=True),
        Command("AUTH", ServerSession._auth, (Phase.GREETED,), "A transaction is open"),
        Command("XCLIENT", ServerSession._xclient, idle=True),
        Command("XFORWARD", ServerSession._xforward, idle=True),
    )
}

ServerSession._answers = {
    Mail: ServerSession._mail_answered,
    Rcpt: ServerSession._rcpt_answered,
    Data: ServerSession._data_answered,
    ContentEnd: ServerSession._content_answered,
    Auth: ServerSession._auth_answered,
    XClient: ServerSession._xclient_answered,
}
