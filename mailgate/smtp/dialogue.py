"""The part of the server engine that knows nothing of mail: input, questions, output, patience.

`Dialogue` cuts input into lines and content, keeps it back while a question is open, collects what is to be written, and
counts what a peer does without a message coming of it. `server.ServerSession` obeys the commands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from mailgate.smtp import command as grammar
from mailgate.smtp import replies
from mailgate.smtp.events import Auth, Closed, CloseReason, ContentEnd, Data, Event, Mail, Rcpt, XClient
from mailgate.smtp.framing import ChunkFraming, DataFraming
from mailgate.smtp.reply import Reply, default_enhanced
from mailgate.smtp.settings import ServerSettings

READ_AHEAD = 1 << 16
"""Octets buffered behind an open question before the driver should stop reading: pipelined commands fit, floods wait."""
RECIPIENT_OVERSHOOT = 1000
"""RCPTs answered 452 since the last delivered message before we close: a client that has more sends another transaction."""

Question: TypeAlias = Mail | Rcpt | Data | ContentEnd | Auth | XClient

Transfer: TypeAlias = DataFraming | ChunkFraming
"""Content that is on its way: one DATA, or one BDAT."""

ENHANCED_CLASSES = {2: "2", 4: "4", 5: "5"}
"""What the enhanced code of a reply begins with, by the first digit of its code."""


class Dialogue(ABC):
    """One connection's input and output."""

    __slots__ = (
        "_buffer",
        "_closed",
        "_content_unwanted",
        "_enhanced",
        "_errors",
        "_events",
        "_greeted",
        "_handshaking",
        "_idle",
        "_output",
        "_overshoot",
        "_position",
        "_question",
        "_rejected",
        "_settings",
        "_transfer",
        "_utf8",
    )

    _answers: Mapping[type[Event], Callable[[Any, Any, Reply], None]] = {}
    """What the session does with the answer to each kind of question."""

    def __init__(self, settings: ServerSettings, *, greeted: bool = False) -> None:
        self._settings = settings
        self._enhanced = "ENHANCEDSTATUSCODES" not in settings.hide
        self._utf8 = False
        """The transaction is SMTPUTF8: replies may be too."""
        self._greeted = greeted
        self._handshaking = False
        self._closed = False
        self._buffer = b""
        self._position = 0
        self._transfer: Transfer | None = None
        self._output: list[bytes] = []
        self._events: list[Event] = []
        self._question: Question | None = None
        self._content_unwanted = False
        """DATA was refused: what comes may be content of a client that did not wait for the answer."""
        self._forgive()

    # What the driver calls

    def greet(self) -> list[Event]:
        """Say 220. Events only where early talkers are not refused and one talked."""
        if self._closed:
            return []
        self._greeted = True
        self._write(self._greeting())
        return self._run()

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes make happen."""
        if self._closed:
            return []
        if self._handshaking:  # in clear after our 220, where TLS should begin
            return self._close_now(CloseReason.INJECTION, None)
        self._buffer = self._buffer + data if self._buffer else data
        if not self._greeted:
            if not self._settings.refuse_early_talkers or not data:
                return []
            return self._close_now(CloseReason.EARLY_TALKER, replies.CLOSING[CloseReason.EARLY_TALKER])
        return self._run() if self._question is None else []

    def reply(self, reply: Reply | None = None) -> list[Event]:
        """Answer the open question; None is "go ahead" to `Data`. Events that follow from input already here."""
        question = self._question
        if question is None:
            if self._closed:
                return []
            raise RuntimeError("no question is open")
        self._question = None
        if reply is None:
            reply = replies.GO_AHEAD if question.__class__ is Data else replies.INTERNAL_ERROR
        elif ENHANCED_CLASSES.get(reply.code // 100) != reply.enhanced[:1]:
            reply = checked(reply, question)
        self._answers[question.__class__](self, question, reply)
        if self._buffer or self._transfer.__class__ is ChunkFraming:  # a chunk of no octets is complete
            return self._run()
        return self._take_events() if self._events else []

    def output(self) -> bytes:
        """Everything to be written now, in order; it is handed out once."""
        output = self._output
        if not output:
            return b""
        self._output = []
        return b"".join(output)

    def close(self, reply: Reply | None = None) -> list[Event]:
        """End the session from outside (drain, timeout), saying ``reply`` if there is one."""
        return [] if self._closed else self._close_now(CloseReason.ENDED, reply)

    @property
    def wants_pause(self) -> bool:
        """Whether enough input waits behind an open question for the driver to stop reading."""
        return len(self._buffer) >= READ_AHEAD and (self._question is not None or not self._greeted)

    @property
    def in_data(self) -> bool:
        """Content is on its way: the data timeout holds, not the one for commands."""
        return self._transfer is not None

    @property
    def is_discarding(self) -> bool:
        """Content is on its way that nobody wants: a chunk that was refused."""
        return self._transfer is not None and self._transfer.refusal is not None

    @property
    def is_waiting(self) -> bool:
        """A question is open: it is our turn, not the client's."""
        return self._question is not None

    @property
    def is_closed(self) -> bool:
        return self._closed

    # What the session brings

    @abstractmethod
    def _obey(self, line: bytes) -> None:
        """One command line, without its CRLF."""

    @abstractmethod
    def _take_content(self, transfer: Transfer) -> bool:
        """Use up content from the buffer; false when more must come first."""

    # Input

    def _run(self) -> list[Event]:
        size = len(self._buffer)  # it only grows in `receive`, and what closes the session empties it
        while self._position < size or self._transfer is not None:
            if not (self._take_line() if self._transfer is None else self._take_content(self._transfer)):
                break
            if self._question is not None or self._closed or self._handshaking:
                break
        if self._position:
            self._buffer = self._buffer[self._position :]
            self._position = 0
        events = self._events
        if not events:
            return []
        self._events = []
        return events

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _take_line(self) -> bool:
        buffer, start = self._buffer, self._position
        limit = self._settings.max_command_length
        end = buffer.find(b"\n", start) + 1
        if not end:
            if len(buffer) - start > limit and grammar.is_runaway(buffer, start, self._line_limits(start).runaway):
                self._close(CloseReason.RUNAWAY_LINE)
            return False
        self._position = end
        line = buffer[start:end]
        refusal = grammar.judge_line(line, limit)
        if refusal is grammar.LINE_TOO_LONG:
            limits = self._line_limits(start)
            if grammar.is_runaway(line[:-1], 0, limits.runaway):
                self._close(CloseReason.RUNAWAY_LINE)
                return True
            refusal = grammar.judge_line(line, limits.length)
            if refusal is grammar.LINE_TOO_LONG:
                refusal = limits.too_long
        if refusal is None:
            self._obey(line[:-2])
        else:
            self._no_command(refusal)
        return True

    def _line_limits(self, start: int) -> grammar.LineLimits:
        """What holds for the line that begins at ``start`` of the buffer and is longer than most."""
        limit = self._settings.max_command_length
        return grammar.LineLimits(limit, grammar.RUNAWAY_FACTOR * limit, grammar.LINE_TOO_LONG)

    def _no_command(self, reply: Reply) -> None:
        if self._content_unwanted:
            self._close(CloseReason.CONTENT_AFTER_REFUSAL)
        else:
            self._say(reply)

    def _ask(self, question: Question) -> None:
        self._question = question
        self._events.append(question)

    # Output

    def _greeting(self) -> Reply:
        protocol = "LMTP" if self._settings.lmtp else "ESMTP"
        return Reply(220, "", f"{self._settings.hostname} {protocol} {self._settings.banner}".rstrip())

    def _write(self, reply: Reply) -> None:
        self._settings.replies[reply.code // 100] += 1
        self._output.append(reply.encode(enhanced=self._enhanced, utf8=self._utf8))

    def _say(self, reply: Reply) -> None:
        """The answer to a command: counts errors, and 421 closes."""
        code = reply.code
        if 500 <= code <= 504:
            self._errors += 1
            if self._errors >= self._settings.max_errors:
                self._close(CloseReason.ERRORS)
                return
        self._settings.replies[code // 100] += 1
        self._output.append(reply.encode(enhanced=self._enhanced, utf8=self._utf8))
        if code == 421:
            self._end(CloseReason.REPLIED)

    def _close(self, reason: CloseReason) -> None:
        self._write(replies.CLOSING[reason])
        self._end(reason)

    def _close_now(self, reason: CloseReason, reply: Reply | None) -> list[Event]:
        if reply is not None:
            self._write(reply)
        self._end(reason)
        return self._take_events()

    def _end(self, reason: CloseReason) -> None:
        self._closed = True
        self._question = None
        self._transfer = None
        self._buffer = b""
        self._position = 0
        self._events.append(Closed(reason))

    # Patience

    def _forgive(self) -> None:
        """A message was delivered."""
        self._errors = self._idle = self._rejected = self._overshoot = 0

    def _count_idle(self) -> bool:
        """One more command of which nothing came; false when it was one too many and the session is closed."""
        self._idle += 1
        if self._idle > self._settings.max_idle_commands:
            self._close(CloseReason.IDLE_COMMANDS)
            return False
        return True

    def _refuse(self, reply: Reply) -> None:
        """A step of a transaction was refused: no harm in one, but nothing comes of a hundred."""
        if self._count_idle():
            self._say(reply)

    def _refuse_recipient(self, reply: Reply) -> None:
        # 452 sends the recipient into the next transaction (too many, or on_split defer): that is no harvesting.
        if reply.code == 452:
            self._overshoot += 1
        else:
            self._rejected += 1
        if self._rejected >= self._settings.max_rejected_recipients or self._overshoot > RECIPIENT_OVERSHOOT:
            self._close(CloseReason.REJECTED_RECIPIENTS)
        else:
            self._say(reply)


def checked(reply: Reply, question: Event) -> Reply:
    """A reply from outside, fit for the wire. What is no answer to the question is our fault, so 451."""
    expected = ENHANCED_CLASSES.get(reply.code // 100)
    if expected is None:
        if (type(question), reply.code) in ((Data, 354), (Auth, 334)):
            return reply
        return replies.INTERNAL_ERROR
    if reply.enhanced[:1] != expected:
        return replace(reply, enhanced=default_enhanced(reply.code))
    return reply
