"""The client side of SMTP (RFC 5321) and LMTP (RFC 2033), sans-IO.

`ClientSession` turns calls into commands and bytes into answers. It knows the rules of the dialogue; what to do about an
answer is the caller's affair (outbound/). The contract:

- A method (``mail``, ``rcpt``, …) says a command; ``output`` gives the bytes to write now. With PIPELINING (RFC 2920) they
  go out together as far as the RFC allows; what has to wait is held and comes out of ``output`` after ``receive``. RCPT and
  DATA that were held behind a refused MAIL are dropped.
- ``receive`` gives an `Answer` for each command, in the order of the commands. It is the same for every cut of the input.
- ``fault`` says why the dialogue can't go on: a reply that is none, is too long, or answers nothing. Answers before it hold.
- After ``end_content`` nothing may be said until its answers are here: one, or in LMTP one for each accepted recipient.

What it refuses. From the caller: `CommandError` for a value that would not stay inside its place in a command (CR, LF, NUL,
a space or bracket in an address): whoever wrote it, no command leaves with it. From the peer: what is no reply (see
reply_parser.py), a reply that nothing was asked for, anything behind the 220 to STARTTLS (RFC 3207 and CVE-2011-0411: it
could be an attacker's, read as if it were protected).

RFC 1870, 2033, 2034, 2920, 3030, 3207, 3461, 4954, 5321, 6152, 6531, 8689.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from mailgate.smtp.address import Address
from mailgate.smtp.reply import Reply
from mailgate.smtp.reply_parser import Fault, ReplyParser
from mailgate.smtp.sasl import SaslClient, SaslError
from mailgate.smtp.xclient import Identity, encode

MAX_AUTH_LINE = 512
"""An initial response that makes the command longer than this waits for the server's challenge (RFC 4954 4)."""

_is_plain_path = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9._-]+").fullmatch
"""Nearly every path: what follows allows all of it, and more."""
_LOCAL_PART = re.compile(r'(?:[^\x00-\x20\x7f<>@"\\]+|"(?:[^\x00-\x1f\x7f"\\]|\\[^\x00-\x1f\x7f])*")\Z')
_DOMAIN = re.compile(r'[^\x00-\x20\x7f<>@"\\]+\Z')
_ARGUMENT = re.compile(r"[!-~]+\Z")


class Step(StrEnum):
    """What an answer belongs to; the values stand in logs. (A StrEnum hashes as fast as its string.)"""

    GREETING = "greeting"
    HELLO = "hello"
    STARTTLS = "starttls"
    XCLIENT = "xclient"
    AUTH = "auth"
    XFORWARD = "xforward"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    """A reply that came while the content was still being sent."""
    DOT = "dot"
    """The end of the content: the final dot, or BDAT LAST."""
    CHUNK = "bdat"
    RSET = "rset"
    NOOP = "noop"
    QUIT = "quit"
    IDLE = "idle"
    """A 421 that came while nothing was asked (RFC 5321 3.8)."""


_MAY_PRECEDE = frozenset({Step.RSET, Step.XFORWARD, Step.MAIL, Step.RCPT})
"""Commands that another may follow in the same group (RFC 2920 3.1, XFORWARD_README); all others are the last of theirs."""


class Answer(NamedTuple):
    step: Step
    reply: Reply


_answer: Callable[[tuple[Step, Reply]], Answer] = partial(tuple.__new__, Answer)
"""An Answer without the Python call that a named tuple's own constructor is: there are four in every message."""


class CommandError(ValueError):
    """A value that can't stand in a command. Nothing was said."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the peer's last EHLO or LHLO announced."""

    pipelining: bool = False
    size: int | None = None
    """None: not announced; 0: announced without a limit."""
    eight_bit: bool = False
    smtputf8: bool = False
    chunking: bool = False
    binary: bool = False
    dsn: bool = False
    requiretls: bool = False
    starttls: bool = False
    priority: bool = False
    deliver_by: bool = False
    mechanisms: frozenset[str] = frozenset()
    xclient: frozenset[str] = frozenset()
    """The attributes that XCLIENT takes; empty where it is not offered."""
    xforward: frozenset[str] = frozenset()


NO_CAPABILITIES = Capabilities()
_NO_COMMAND = "a command inside the content, or before the answer to it"

_FLAGS = {
    "PIPELINING": "pipelining",
    "8BITMIME": "eight_bit",
    "SMTPUTF8": "smtputf8",
    "CHUNKING": "chunking",
    "BINARYMIME": "binary",
    "DSN": "dsn",
    "REQUIRETLS": "requiretls",
    "STARTTLS": "starttls",
    "MT-PRIORITY": "priority",
    "DELIVERBY": "deliver_by",
}


def parse_capabilities(text: str) -> Capabilities:
    """From the text of the reply to EHLO or LHLO; its first line is the greeting."""
    flags: dict[str, bool] = {}
    size: int | None = None
    lists: dict[str, set[str]] = {"AUTH": set(), "XCLIENT": set(), "XFORWARD": set()}
    for line in text.split("\n")[1:]:
        keyword, *arguments = line.upper().replace("AUTH=", "AUTH ", 1).split() or [""]
        if keyword in _FLAGS:
            flags[_FLAGS[keyword]] = True
        elif keyword == "SIZE":
            value = arguments[0] if arguments else "0"
            size = int(value) if value.isdecimal() and len(value) <= 20 else 0
        elif keyword in lists:
            lists[keyword].update(arguments)
    mechanisms, xclient, xforward = (frozenset(words) for words in lists.values())
    return Capabilities(**flags, size=size, mechanisms=mechanisms, xclient=xclient, xforward=xforward)


class ClientSession:
    """See the module's docstring. ``trace(direction, text)`` is shown the dialogue without secrets and content."""

    __slots__ = (
        "_accepted",
        "_held",
        "_out",
        "_parser",
        "_sasl",
        "capabilities",
        "content_open",
        "fault",
        "hostname",
        "in_transaction",
        "lmtp",
        "pending",
        "trace",
    )

    def __init__(self, hostname: str, *, lmtp: bool = False, trace: Callable[[str, str], None] | None = None) -> None:
        self.capabilities = NO_CAPABILITIES
        self.fault: Fault | None = None
        self.in_transaction = False
        """MAIL was accepted and neither RSET nor an end of content has followed."""
        self.hostname = _argument(hostname)
        """What we say behind EHLO, LHLO or HELO."""
        self.lmtp = lmtp
        self.trace = trace
        self._parser = ReplyParser()
        self.pending: deque[Step] = deque((Step.GREETING,))
        """What was said and has no answer yet."""
        self._held: deque[tuple[Step, bytes]] = deque()
        self._out: list[bytes] = []
        self._accepted = 0
        self.content_open = False
        """The peer takes content: all it gets is read as such until the end of the content."""
        self._sasl: SaslClient | None = None

    def output(self) -> bytes:
        """Everything to write now, in order; emptied."""
        out = self._out
        if not out:
            return b""
        self._out = []
        return b"".join(out)

    # What the caller says

    def hello(self) -> None:
        """EHLO or LHLO."""
        self._say(Step.HELLO, f"{'LHLO' if self.lmtp else 'EHLO'} {self.hostname}")

    def helo(self) -> None:
        self._say(Step.HELLO, f"HELO {self.hostname}")

    def starttls(self) -> None:
        self._say(Step.STARTTLS, "STARTTLS")

    def tls_started(self) -> None:
        """What was announced before is forgotten (RFC 3207 4.2)."""
        self.capabilities = NO_CAPABILITIES

    def auth(self, mechanism: SaslClient) -> None:
        initial = mechanism.initial()
        line = f"AUTH {mechanism.name}"
        self._sasl = mechanism
        if initial is not None:
            encoded = b64encode(initial).decode() or "="
            if len(line) + len(encoded) + 3 <= MAX_AUTH_LINE:
                self._say(Step.AUTH, f"{line} {encoded}", f"{line} ***")
                return
            self._sasl = _Delayed(mechanism, initial)
        self._say(Step.AUTH, line)

    def xclient(self, identity: Identity) -> int:
        """Say who the client is, as far as the peer takes it; how many answers there will be. `hello` follows them."""
        lines = encode("XCLIENT", identity, self.capabilities.xclient)
        for line in lines:
            self._say(Step.XCLIENT, line.decode())
        return len(lines)

    def xforward(self, identity: Identity) -> None:
        """Say where the next message comes from, as far as the peer takes it."""
        for line in encode("XFORWARD", identity, self.capabilities.xforward):
            self._say(Step.XFORWARD, line.decode())

    def mail(self, sender: Address, parameters: Sequence[str] = ()) -> None:
        """``parameters`` as they stand in the command: ``SIZE=1000``."""
        self._say(Step.MAIL, f"MAIL FROM:<{_path(sender)}>{_parameters(parameters) if parameters else ''}")

    def rcpt(self, recipient: Address, parameters: Sequence[str] = ()) -> None:
        self._say(Step.RCPT, f"RCPT TO:<{_path(recipient)}>{_parameters(parameters) if parameters else ''}")

    def data(self) -> None:
        self._say(Step.DATA, "DATA")

    def content(self, data: bytes) -> None:
        """A piece of content behind the 354, dots stuffed."""
        if not self.content_open:
            raise RuntimeError("content outside of DATA")
        self._out.append(data)

    def end_content(self, ending: bytes, content: bytes = b"") -> None:
        """``ending`` is ``.CRLF``, with a CRLF in front where the content does not end in one; ``content`` goes before it."""
        if not self.content_open:
            raise RuntimeError("content outside of DATA")
        self._out += (content, ending)
        self._expect_result()
        if self.trace:
            self.trace(">", "(content and final dot)")

    def chunk(self, data: bytes, *, last: bool) -> None:
        """BDAT (RFC 3030). The LAST one ends the content as `end_content` does."""
        line = f"BDAT {len(data)}{' LAST' if last else ''}"
        if self.content_open or (self.pending and self.pending[0] is Step.DOT):
            raise RuntimeError(_NO_COMMAND)
        if self._held or (self.pending and not self._may_follow()):
            raise RuntimeError("a chunk can't wait")
        self._out.append(line.encode() + b"\r\n")
        self._out.append(data)
        if last:
            self._expect_result()
        else:
            self.pending.append(Step.CHUNK)
        if self.trace:
            self.trace(">", f"{line} (content)")

    def rset(self) -> None:
        self._say(Step.RSET, "RSET")

    def noop(self) -> None:
        self._say(Step.NOOP, "NOOP")

    def quit(self) -> None:
        self._say(Step.QUIT, "QUIT")

    def unsay(self) -> None:
        """Take back what `output` has not given yet. For the caller who finds that half a group can't be said."""
        for _ in range(len(self._out)):
            self.pending.pop()
        self._out.clear()
        self._held.clear()

    def _say(self, step: Step, text: str, shown: str = "") -> None:
        pending = self.pending
        if self.content_open or (pending and pending[0] is Step.DOT):
            raise RuntimeError(_NO_COMMAND)
        try:
            line = text.encode() + b"\r\n"
        except UnicodeEncodeError as error:  # a lone surrogate
            raise CommandError("a command can't be encoded") from error
        if self.trace:
            self.trace(">", shown or text)
        if self._held or (pending and not self._may_follow()):
            self._held.append((step, line))
        else:
            self._out.append(line)
            pending.append(step)

    def _may_follow(self) -> bool:
        return self.capabilities.pipelining and self.pending[-1] in _MAY_PRECEDE

    def _expect_result(self) -> None:
        self.content_open = self.in_transaction = False
        self.pending.extend([Step.DOT] * (self._accepted if self.lmtp else 1))

    # What the peer says

    def receive(self, data: bytes) -> list[Answer]:
        """The answers that ``data`` completes. Afterwards ``output`` may have what was held, and ``fault`` may be set."""
        answers: list[Answer] = []
        if self.fault:
            return answers
        pending = self.pending
        parser = self._parser
        replies = parser.feed(data)
        for reply in replies:
            if self.trace:
                self.trace("<", str(reply))
            if not pending:
                if self.content_open:
                    answers.append(Answer(Step.BODY, reply))
                elif reply.code == 421:
                    answers.append(Answer(Step.IDLE, reply))
                else:
                    self.fault = Fault.UNASKED
                    return answers
                continue
            step = pending.popleft()
            if step in _RULES and not _RULES[step](self, reply):
                continue
            answers.append(_answer((step, reply)))
            if step is Step.STARTTLS and reply.code == 220 and not (len(replies) == 1 and parser.is_empty):
                self.fault = Fault.INJECTION  # nothing else is ever asked for beside it
                return answers
            if self._held and not pending:
                self._release()
        self.fault = parser.fault
        return answers

    def _release(self) -> None:
        while self._held and (not self.pending or self._may_follow()):
            step, line = self._held.popleft()
            self._out.append(line)
            self.pending.append(step)

    def _hello_answered(self, reply: Reply) -> bool:
        self.capabilities = parse_capabilities(reply.text) if reply.is_success else NO_CAPABILITIES
        return True

    def _mail_answered(self, reply: Reply) -> bool:
        self._accepted = 0
        self.in_transaction = reply.code // 100 == 2  # a property is a call
        if not self.in_transaction:
            while self._held and self._held[0][0] in (Step.RCPT, Step.DATA):
                self._held.popleft()
        return True

    def _rcpt_answered(self, reply: Reply) -> bool:
        self._accepted += reply.code // 100 == 2
        return True

    def _data_answered(self, reply: Reply) -> bool:
        self.content_open = reply.code == 354
        return True

    def _rset_answered(self, reply: Reply) -> bool:
        self.in_transaction = self.in_transaction and not reply.is_success
        return True

    def _auth_answered(self, reply: Reply) -> bool:
        if reply.code != 334 or self._sasl is None:
            return True
        try:
            response = b64encode(self._sasl.respond(b64decode(reply.text, validate=True))).decode()
            shown = "***"
        except (Base64Error, SaslError):
            response = shown = "*"
            self._sasl = None
        self._say(Step.AUTH, response, shown)
        return False


_RULES: dict[Step, Callable[[ClientSession, Reply], bool]] = {
    Step.HELLO: ClientSession._hello_answered,
    Step.AUTH: ClientSession._auth_answered,
    Step.MAIL: ClientSession._mail_answered,
    Step.RCPT: ClientSession._rcpt_answered,
    Step.DATA: ClientSession._data_answered,
    Step.RSET: ClientSession._rset_answered,
}
"""What an answer changes here. False: the dialogue of this step goes on and the caller hears nothing yet."""


class _Delayed:
    """An initial response that is too long for the command line, given as the answer to an empty challenge."""

    def __init__(self, mechanism: SaslClient, response: bytes) -> None:
        self.name = mechanism.name
        self._mechanism = mechanism
        self._response: bytes | None = response

    def initial(self) -> None:
        return None

    def respond(self, challenge: bytes) -> bytes:
        response, self._response = self._response, None
        return self._mechanism.respond(challenge) if response is None else response

    def accepted(self) -> None:
        self._mechanism.accepted()


def _path(address: Address) -> str:
    path = f"{address.local_part}@{address.domain}"
    if _is_plain_path(path):
        return path
    if address.is_null:
        return ""
    if not _LOCAL_PART.match(address.local_part) or (address.domain and not _DOMAIN.match(address.domain)):
        raise CommandError("an address that can't stand between angle brackets")
    return str(address)


def _parameters(parameters: Sequence[str]) -> str:
    return " " + " ".join([_argument(parameter) for parameter in parameters])


def _argument(text: str) -> str:
    if not _ARGUMENT.match(text):
        raise CommandError("an argument that is not one word of printable ASCII")
    return text
