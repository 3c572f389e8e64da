"""check.command: a program of the operator's judges the message by its exit code.

The program is started without a shell, with the arguments as they are written, `{name}` in them replaced (each argument stays
one), and the same values in its environment: MAILGATE_SENDER and so on. With `run_on body` it reads the message on its standard
input, without our own Received and with CRLF; what it writes on its standard output are fields that are put in front of the
header. Exit code 0 passes, 1 fails (`on_fail`), 2 is quarantine, unless `code` lines say otherwise. Any other code is `on_error`,
as is a program that is not done in time, dies of a signal or writes too much: it is killed. Whatever it has started and left in
its process group is killed with it, and when it ends.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator

from mailgate.clients.program import Ended, ProgramFailure, Programs, setsid_path
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Argument, Directive
from mailgate.message.edits import BadField, Edit, Insert, field
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.modules.check._action import ACTION, AskingCheck, take
from mailgate.modules.check.rspamd import end_of_trace
from mailgate.pipeline.check import MessageCheck
from mailgate.registry import ModuleContext
from mailgate.smtp.reply import Reply

PIECE = 1 << 16
MAX_OUTPUT = 1 << 16
NAMES = ("source_ip", "source_host", "helo", "msg_id", "auth_user", "sender", "address", "rcpts")
"""What arguments may name; ``address`` is the recipient's at stage rcpt."""
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


class State(MessageCheck):
    async def sender(self, envelope: Envelope) -> None:
        if self.check.run_on == "sender":
            await self.check.ask(envelope, "", None)

    async def rcpt(self, recipient: Recipient) -> None:
        if self.check.run_on == "rcpt":
            await self.check.ask(self.envelope, str(recipient.address), None)

    async def body(self, message: Message) -> None:
        if self.check.run_on == "body":
            await self.check.ask(self.envelope, "", message)


class Command(AskingCheck):
    """A program judges: exit code 0 passes, 1 is refused with 550 5.7.1, 2 is quarantine, everything else 451."""

    name = "check.command"
    message_state = State
    refusal = Reply(550, "5.7.1", "Rejected by policy")

    command = Argument(
        "COMMAND", v.String("WORD"), rest=True, minimum=1, doc="The program, by its full path, and its arguments.", origin="maddy"
    )
    run_on = Directive(
        "run_on", v.Choice("sender", "rcpt", "body"), default="body", doc="At which stage it runs.", origin="maddy"
    )
    codes = Directive(
        "code",
        v.Args(v.Integer(minimum=0, maximum=255), ACTION),
        repeatable=True,
        doc="What an exit code means, in the words of `on_fail`.",
        origin="maddy",
    )
    timeout = Directive("timeout", v.Duration(minimum=0.1, maximum=600), default=30.0, doc="Then it is killed.")
    processes = Directive("processes", v.Integer(minimum=1, maximum=1000), default=10, doc="How many run at the same time.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._programs: Programs | None = None

    @property
    def marks(self) -> bool:
        """What its exit codes mean, and what it writes, may change the message."""
        return True

    def configure(self, report: Report) -> None:
        program = self.command[0]
        if not os.path.isabs(program) or _PLACEHOLDER.search(program):
            report.error(self.span, f"`{program}` is no full path of a program", code="E0786", hint="`/usr/local/bin/judge`")
        elif not os.access(program, os.X_OK) or os.path.isdir(program):
            report.error(self.span, f"`{program}` is not there, or can't be run", code="E0786")
        elif setsid_path() is None:
            report.error(self.span, "`setsid` of util-linux is not there, by which a program gets a process group", code="E0786")
        for word in self.command[1:]:
            for name in _PLACEHOLDER.findall(word):
                if name not in NAMES:
                    hint = "possible: " + ", ".join(f"{{{known}}}" for known in NAMES)
                    report.error(self.span, f"`{{{name}}}` stands for nothing here", code="E0786", hint=hint)

    async def start(self) -> None:
        assert self.context.adapters is not None
        reactor = self.context.adapters.reactor
        self._programs = Programs(reactor, seconds=self.timeout, most=self.processes, max_output=MAX_OUTPUT)

    async def ask(self, envelope: Envelope, address: str, message: Message | None) -> None:
        """:raises MailError: the message is refused."""
        values = _values(envelope, address)
        words = [_PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in self.command]
        environment = {f"MAILGATE_{name.upper()}": value for name, value in values.items()}
        assert self._programs is not None
        try:
            ended = await self._programs.run(words, {"PATH": os.defpath, "LC_ALL": "C.UTF-8", **environment}, _content(message))
            edits = _fields(ended.output) if message is not None else []
        except (ProgramFailure, BadField) as error:
            self.unable(envelope, str(error))
            return
        self._act(envelope, ended)
        envelope.findings_of(self).edits += edits

    def _act(self, envelope: Envelope, ended: Ended) -> None:
        reason = f"{self.command[0]} ended with {ended.code}"
        chosen = dict(self.codes)
        if ended.code in chosen:
            take(self, chosen[ended.code], self.refusal, envelope, reason)
        elif ended.code == 1:
            self.failed(envelope, reason)
        elif ended.code == 2:
            take(self, v.Chosen("quarantine"), self.refusal, envelope, reason)
        elif ended.code != 0:
            self.unable(envelope, reason)


def _values(envelope: Envelope, address: str) -> dict[str, str]:
    session = envelope.session
    return {
        "source_ip": session.client_ip,
        "source_host": session.client_name,
        "helo": session.helo,
        "msg_id": envelope.id,
        "auth_user": session.auth_user,
        "sender": str(envelope.sender),
        "address": address,
        "rcpts": "\n".join(str(recipient.address) for recipient in envelope.recipients),
    }


async def _content(message: Message | None) -> AsyncIterator[bytes]:
    if message is None:
        return
    offset = end_of_trace(message.header)
    while offset < message.size:
        piece = message.read(offset, PIECE)
        piece = piece if isinstance(piece, bytes) else await piece
        offset += len(piece)
        yield piece


def _fields(output: bytes) -> list[Edit]:
    """What a program has written, as fields below our own Received. :raises BadField: it is something else."""
    edits: list[Edit] = []
    for text in re.split(rb"\r?\n(?![ \t])", output.strip(b"\r\n")) if output.strip() else []:
        name, colon, value = text.partition(b":")
        if not colon:
            raise BadField(f"{text[:40]!r} is no field")
        field(name, value)
        edits.append(Insert(1, name, value))
    return edits[::-1]
