"""What a scripted next hop may do at each step, and what it keeps. Used through `mailgate.testing.nexthop`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias


class Step(Enum):
    """Where in the dialogue a script may act."""

    CONNECT = "connect"
    BANNER = "banner"
    HELLO = "hello"
    STARTTLS = "starttls"
    HANDSHAKE = "handshake"
    """The first octets behind a STARTTLS that was answered 220 where there is no TLS: nothing else happens any more."""
    XCLIENT = "xclient"
    XFORWARD = "xforward"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    """The first octets of a content have come (DATA), or the first chunk's (BDAT). What is said here is the answer to the
    content; nothing more is said at its end."""
    DOT = "dot"
    """The content is complete: CRLF.CRLF, or BDAT LAST."""
    RSET = "rset"
    NOOP = "noop"
    QUIT = "quit"
    IDLE = "idle"
    """After a transaction, `NextHop.idle_delay` seconds later (or at once), unasked."""


@dataclass(frozen=True, slots=True)
class Say:
    """Exactly these bytes, line ends included, then go on, or close if ``then_drop``. The step takes effect only
    if the bytes begin with 2 (or 3 for DATA)."""

    data: bytes
    then_drop: bool = False


@dataclass(frozen=True, slots=True)
class Hang:
    """Never answer again, but keep the connection and go on reading."""


@dataclass(frozen=True, slots=True)
class Deaf:
    """Never answer again and stop reading: the sender's buffers fill up."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Close; with ``reset`` by RST."""

    reset: bool = False


@dataclass(frozen=True, slots=True)
class Endless:
    """This line again and again, as fast as the peer reads."""

    line: bytes = b"250-and another thing\r\n"


Action: TypeAlias = Say | Hang | Deaf | Drop | Endless
HANG, DEAF, DROP, RESET, ENDLESS = Hang(), Deaf(), Drop(), Drop(reset=True), Endless()
GARBAGE = Say(b"\x16\x03\x01 what? \xff\r\n")


def say(*lines: bytes, then_drop: bool = False) -> Say:
    """Reply lines without their CRLF."""
    return Say(b"".join(line + b"\r\n" for line in lines), then_drop)


@dataclass(slots=True, eq=False)
class Transaction:
    """One mail transaction as the next hop saw it."""

    mail: bytes
    """What stood behind ``MAIL FROM:``, parameters included."""
    secure: bool
    recipients: list[bytes] = field(default_factory=list)
    """What stood behind ``RCPT TO:``, of those that were accepted."""
    refused: list[bytes] = field(default_factory=list)
    via: str = ""
    """``DATA`` or ``BDAT``."""
    wire: bytes = b""
    """The content as it came, dots stuffed, without the final ``.CRLF``."""
    complete: bool = False
    """The end of the content was seen."""
    answer: bytes = b""
    """All that was said to it; empty if the answer was withheld or lost."""

    @property
    def sender(self) -> bytes:
        return path_of(self.mail)

    @property
    def paths(self) -> list[bytes]:
        """Accepted recipients, the addresses alone."""
        return [path_of(recipient) for recipient in self.recipients]

    @property
    def content(self) -> bytes:
        """The content with its dots unstuffed."""
        if self.via == "BDAT":
            return self.wire
        return (b"\r\n" + self.wire).replace(b"\r\n.", b"\r\n")[2:]

    def outcome(self, *, lmtp: bool) -> list[tuple[bytes, bytes]]:
        """Each accepted recipient with the reply it got: ``b""`` where none was given."""
        replies = split_replies(self.answer) if self.complete else []
        if not lmtp:
            replies = replies[:1] * len(self.recipients)
        replies += [b""] * (len(self.recipients) - len(replies))
        return list(zip(self.paths, replies, strict=False))


@dataclass(slots=True, eq=False)
class Connection:
    """Everything that one connection brought."""

    number: int
    clear: bytearray = field(default_factory=bytearray)
    """Received before TLS, or in all if there was none."""
    secured: bytearray = field(default_factory=bytearray)
    """Received within TLS, decrypted."""
    commands: list[bytes] = field(default_factory=list)
    """Command lines in order, without CRLF."""
    transactions: list[Transaction] = field(default_factory=list)
    behind_starttls: bytes = b""
    """What came in one piece with STARTTLS."""
    tls: bool = False
    closed: bool = False

    @property
    def verbs(self) -> list[bytes]:
        return [command.split(b" ")[0].upper() for command in self.commands]


Script: TypeAlias = Mapping[Step, Action | Sequence[Action]] | Callable[[Step, Connection, bytes], Action | None]


def path_of(argument: bytes) -> bytes:
    """``<a@b> SIZE=3`` → ``a@b``."""
    return argument[1 : argument.index(b">")] if argument[:1] == b"<" and b">" in argument else argument


def split_replies(data: bytes) -> list[bytes]:
    """Replies, multi-line ones in one piece, without the last CRLF."""
    replies: list[bytes] = []
    begun = b""
    for line in data.split(b"\r\n")[:-1]:
        begun += line
        if line[3:4] == b"-":
            begun += b"\r\n"
        else:
            replies.append(begun)
            begun = b""
    return replies
