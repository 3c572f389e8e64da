"""The milter protocol, version 6, as an MTA speaks it: packets in and out, without I/O.

There is no RFC: the words are those of Sendmail's libmilter (mfdef.h), which Postfix and every filter follow. A packet is a
length of four octets, a command and its data; text ends with NUL.

- `Packets` cuts a stream into packets, whatever the pieces it comes in. One that is longer than what was agreed on is an error: a
  filter can't fill our memory.
- What we say is made by functions (`connect`, `mail`, `header`, …), of values without NUL: what has one is cut there.
- What a filter says is a `Response`, or an `Action` at the end of the message; `parse` reads both, and raises `MilterError` on
  anything else.
- `Agreement` is what both sides can do. We offer all actions and every shortening of the dialogue; a filter that wants more than
  we have, or speaks a version before 2, is refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntFlag
from typing import TypeAlias

from mailgate.smtp.reply import Reply

VERSION = 6
OLDEST = 2
CHUNK = 65535
"""Octets of a body in one packet: what every version bears."""
MAX_PACKET = 1 << 20
"""What a filter may send in one: a header field or a piece of a body."""


class MilterError(Exception):
    """A filter does not keep to the protocol, or can't be spoken with."""


class Command(Enum):
    """What we say."""

    NEGOTIATE = b"O"
    MACROS = b"D"
    CONNECT = b"C"
    HELO = b"H"
    MAIL = b"M"
    RCPT = b"R"
    DATA = b"T"
    HEADER = b"L"
    END_OF_HEADER = b"N"
    BODY = b"B"
    END_OF_BODY = b"E"
    ABORT = b"A"
    QUIT = b"Q"
    QUIT_NEW_CONNECTION = b"K"


class Steps(IntFlag):
    """SMFIP: what a filter does not want to hear (NO_), and what it does not answer (QUIET_)."""

    NO_CONNECT = 0x01
    NO_HELO = 0x02
    NO_MAIL = 0x04
    NO_RCPT = 0x08
    NO_BODY = 0x10
    NO_HEADERS = 0x20
    NO_END_OF_HEADER = 0x40
    QUIET_HEADER = 0x80
    NO_UNKNOWN = 0x100
    NO_DATA = 0x200
    SKIP = 0x400
    REFUSED_RCPT = 0x800
    """It wants to hear of recipients that others refuse."""
    QUIET_CONNECT = 0x1000
    QUIET_HELO = 0x2000
    QUIET_MAIL = 0x4000
    QUIET_RCPT = 0x8000
    QUIET_DATA = 0x10000
    QUIET_UNKNOWN = 0x20000
    QUIET_END_OF_HEADER = 0x40000
    QUIET_BODY = 0x80000
    LEADING_SPACE = 0x100000


class Can(IntFlag):
    """SMFIF: what a filter may do to a message."""

    ADD_HEADERS = 0x01
    CHANGE_BODY = 0x02
    ADD_RCPT = 0x04
    DELETE_RCPT = 0x08
    CHANGE_HEADERS = 0x10
    QUARANTINE = 0x20
    CHANGE_FROM = 0x40
    ADD_RCPT_WITH_PARAMETERS = 0x80
    CHOOSE_MACROS = 0x100


ALL_STEPS = Steps(0x1FFFFF)
ALL_ACTIONS = Can(0x1FF)
NO_STEPS = Steps(0)

SKIPPED = {
    Command.CONNECT: Steps.NO_CONNECT,
    Command.HELO: Steps.NO_HELO,
    Command.MAIL: Steps.NO_MAIL,
    Command.RCPT: Steps.NO_RCPT,
    Command.DATA: Steps.NO_DATA,
    Command.HEADER: Steps.NO_HEADERS,
    Command.END_OF_HEADER: Steps.NO_END_OF_HEADER,
    Command.BODY: Steps.NO_BODY,
}
QUIET = {
    Command.CONNECT: Steps.QUIET_CONNECT,
    Command.HELO: Steps.QUIET_HELO,
    Command.MAIL: Steps.QUIET_MAIL,
    Command.RCPT: Steps.QUIET_RCPT,
    Command.DATA: Steps.QUIET_DATA,
    Command.HEADER: Steps.QUIET_HEADER,
    Command.END_OF_HEADER: Steps.QUIET_END_OF_HEADER,
    Command.BODY: Steps.QUIET_BODY,
}
SINCE = {Command.DATA: 4, Command.QUIT_NEW_CONNECTION: 6}
"""The version from which on a command is known."""

MACRO_STAGES = (
    Command.CONNECT,
    Command.HELO,
    Command.MAIL,
    Command.RCPT,
    Command.DATA,
    Command.END_OF_BODY,
    Command.END_OF_HEADER,
)
"""In the order of their numbers (SMFIM)."""
MACROS: Mapping[Command, tuple[str, ...]] = {
    Command.CONNECT: (
        *("j", "_", "{daemon_name}", "{daemon_addr}", "{daemon_port}", "v"),
        *("{client_addr}", "{client_name}", "{client_port}", "{client_ptr}"),
    ),
    Command.HELO: ("{tls_version}", "{cipher}", "{cipher_bits}", "{cert_subject}"),
    Command.MAIL: ("i", "{auth_type}", "{auth_authen}", "{auth_author}", "{mail_addr}", "{mail_host}", "{mail_mailer}"),
    Command.RCPT: ("i", "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"),
    Command.DATA: ("i",),
    Command.END_OF_HEADER: ("i",),
    Command.END_OF_BODY: ("i", "{msg_id}"),
}
"""Which a filter is told at a stage if it asks for no others."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both sides can do."""

    version: int = VERSION
    actions: Can = ALL_ACTIONS
    steps: Steps = NO_STEPS
    macros: Mapping[Command, tuple[str, ...]] = field(default_factory=lambda: MACROS)

    def wants(self, command: Command) -> bool:
        return not self.steps & SKIPPED.get(command, 0) and self.version >= SINCE.get(command, 0)

    def answers(self, command: Command) -> bool:
        return not self.steps & QUIET.get(command, 0)


# What we say


def packet(command: Command, data: bytes = b"") -> bytes:
    return (len(data) + 1).to_bytes(4, "big") + command.value + data


def _text(*values: str | bytes) -> bytes:
    return b"".join(
        (one.encode("utf-8", "surrogateescape") if isinstance(one, str) else one).partition(b"\0")[0] + b"\0" for one in values
    )


def negotiate() -> bytes:
    numbers = (VERSION, ALL_ACTIONS, ALL_STEPS)
    return packet(Command.NEGOTIATE, b"".join(int(number).to_bytes(4, "big") for number in numbers))


def macros(stage: Command, values: Iterable[tuple[str, str]]) -> bytes:
    return packet(Command.MACROS, stage.value + b"".join(_text(name, value) for name, value in values))


def connect(name: str, address: str, port: int) -> bytes:
    """``address`` is "" for a client on a unix socket."""
    if not address:
        return packet(Command.CONNECT, _text(name or "localhost") + b"L" + (0).to_bytes(2, "big") + _text("/"))
    address = address.partition("%")[0]
    family = b"6" if ipaddress.ip_address(address).version == 6 else b"4"
    text = f"IPv6:{address}" if family == b"6" else address
    return packet(Command.CONNECT, _text(name or f"[{address}]") + family + port.to_bytes(2, "big") + _text(text))


def helo(name: str) -> bytes:
    return packet(Command.HELO, _text(name))


def mail(address: str, parameters: Sequence[str] = ()) -> bytes:
    return packet(Command.MAIL, _text(f"<{address}>", *parameters))


def rcpt(address: str, parameters: Sequence[str] = ()) -> bytes:
    return packet(Command.RCPT, _text(f"<{address}>", *parameters))


def header(name: bytes, value: bytes) -> bytes:
    return packet(Command.HEADER, _text(name, value))


# What a filter says


class Response(Enum):
    """An answer, by which the dialogue goes on or ends."""

    CONTINUE = b"c"
    ACCEPT = b"a"
    DISCARD = b"d"
    REJECT = b"r"
    TEMPFAIL = b"t"
    SKIP = b"s"
    PROGRESS = b"p"
    SHUTDOWN = b"4"
    CONNECTION_FAILED = b"f"


@dataclass(frozen=True, slots=True)
class Negotiated:
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reply of the filter's own."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class AddHeader:
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class InsertHeader:
    index: int
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class ChangeHeader:
    number: int
    name: bytes
    value: bytes
    """b"" removes it."""


@dataclass(frozen=True, slots=True)
class ReplaceBody:
    """A piece of the new body."""

    piece: bytes


@dataclass(frozen=True, slots=True)
class AddRecipient:
    address: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeleteRecipient:
    address: str


@dataclass(frozen=True, slots=True)
class ChangeSender:
    address: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quarantine:
    reason: str


Action: TypeAlias = (
    AddHeader | InsertHeader | ChangeHeader | ReplaceBody | AddRecipient | DeleteRecipient | ChangeSender | Quarantine
)
Said: TypeAlias = Response | Negotiated | Refusal | Action

NEEDS: Mapping[type, Can] = {
    AddHeader: Can.ADD_HEADERS,
    InsertHeader: Can.ADD_HEADERS,
    ChangeHeader: Can.CHANGE_HEADERS,
    ReplaceBody: Can.CHANGE_BODY,
    AddRecipient: Can.ADD_RCPT | Can.ADD_RCPT_WITH_PARAMETERS,
    DeleteRecipient: Can.DELETE_RCPT,
    ChangeSender: Can.CHANGE_FROM,
    Quarantine: Can.QUARANTINE,
}
"""What must have been agreed on (one of these) for an action."""

_REPLY = re.compile(r"([45]\d\d)(?:[ -]([45]\.\d{1,3}\.\d{1,3}))?(?:[ -](.*))?\Z", re.DOTALL)
_UNPRINTABLE = re.compile(r"[^ -~]+")
MAX_TEXT = 400
"""Characters of a reply's line."""
MAX_LINES = 32


class Packets:
    """A stream of packets, cut: ``receive`` gives those that are whole."""

    def __init__(self, limit: int = MAX_PACKET) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def receive(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """(command, data) of each. :raises MilterError: one is empty, or too long."""
        buffer = self._buffer
        buffer += data
        found = []
        place = 0
        while len(buffer) - place >= 4:
            size = int.from_bytes(buffer[place : place + 4], "big")
            if not 0 < size <= self._limit:
                raise MilterError(f"a packet of {size} octets")
            if len(buffer) - place < 4 + size:
                break
            found.append((bytes(buffer[place + 4 : place + 5]), bytes(buffer[place + 5 : place + 4 + size])))
            place += 4 + size
        del buffer[:place]
        return found


def parse(command: bytes, data: bytes) -> Said:
    """:raises MilterError: it is nothing that a filter may say."""
    try:
        read = _READERS.get(command)
        if read is not None:
            return read(data)
        if data:
            raise ValueError("more than there should be")
        return Response(command)
    except (ValueError, IndexError) as error:
        raise MilterError(f"{command!r} with {data[:40]!r}") from error


def _strings(data: bytes, minimum: int, maximum: int) -> list[bytes]:
    """Texts that end with NUL; the last may do without, as old filters write it."""
    found = data.removesuffix(b"\0").split(b"\0")
    if not minimum <= len(found) <= maximum or not found[0]:
        raise ValueError("texts")
    return found


def _word(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _address(text: bytes) -> str:
    return _word(text).strip().removeprefix("<").removesuffix(">")


def _number(data: bytes) -> int:
    if len(data) < 4:
        raise ValueError("a number")
    return int.from_bytes(data[:4], "big")


def _negotiated(data: bytes) -> Negotiated:
    version, actions, steps = (_number(data[place:]) for place in (0, 4, 8))
    if not OLDEST <= version <= VERSION:
        raise MilterError(f"the filter speaks version {version}")
    if actions & ~int(ALL_ACTIONS) or steps & ~int(ALL_STEPS) & 0xFFFFFFF:
        raise MilterError(f"the filter wants more than there is: {actions:#x} {steps:#x}")
    chosen = dict(MACROS)
    rest = data[12:]
    while rest:
        stage = _number(rest)
        names, ended, rest = rest[4:].partition(b"\0")
        if not ended or stage >= len(MACRO_STAGES):
            raise ValueError("macros")
        chosen[MACRO_STAGES[stage]] = tuple(names.decode("ascii").split())
    return Negotiated(Agreement(version, Can(actions), Steps(steps & int(ALL_STEPS)), chosen))


def _refusal(data: bytes) -> Refusal:
    """A reply of the filter's own, of one or more lines."""
    lines = data.rstrip(b"\0\r\n").decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    found = [_REPLY.match(line) for line in lines[:MAX_LINES]]
    first = found[0]
    if first is None or any(one is None for one in found):
        raise ValueError("a reply")
    code, enhanced = first[1], first[2] or f"{first[1][0]}.7.1"
    if code[0] != enhanced[0]:
        raise ValueError("a reply of two classes")
    texts = [_UNPRINTABLE.sub("?", one[3] or "").replace("%%", "%")[:MAX_TEXT] for one in found if one is not None]
    return Refusal(Reply(int(code), enhanced, "\n".join(text for text in texts if text) or "Rejected by a filter"))


def _insert(data: bytes) -> InsertHeader:
    name, value = _strings(data[4:], 2, 2)
    return InsertHeader(_number(data), name, value)


def _change(data: bytes) -> ChangeHeader:
    name, *value = _strings(data[4:], 1, 2)
    return ChangeHeader(_number(data), name, value[0] if value else b"")


def _add(data: bytes) -> AddHeader:
    name, *value = _strings(data, 1, 2)
    return AddHeader(name, value[0] if value else b"")


def _add_rcpt(data: bytes) -> AddRecipient:
    address, *parameters = _strings(data, 1, 2)
    return AddRecipient(_address(address), tuple(word for one in parameters for word in _word(one).split()))


def _sender(data: bytes) -> ChangeSender:
    address, *parameters = _strings(data, 1, 2)
    return ChangeSender(_address(address), tuple(word for one in parameters for word in _word(one).split()))


_READERS: Mapping[bytes, Callable[[bytes], Said]] = {
    b"O": _negotiated,
    b"y": _refusal,
    b"h": _add,
    b"i": _insert,
    b"m": _change,
    b"b": ReplaceBody,
    b"+": _add_rcpt,
    b"2": _add_rcpt,
    b"-": lambda data: DeleteRecipient(_address(_strings(data, 1, 1)[0])),
    b"e": _sender,
    b"q": lambda data: Quarantine(_UNPRINTABLE.sub("?", _word(data.rstrip(b"\0")))[:MAX_TEXT]),
}
