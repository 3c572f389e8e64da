"""Command lines: how the stream is cut into them, the grammar of their arguments (RFC 5321 4.1.1), what a row of the
command table says.

A line ends at LF, and is a command only if that LF came with its CR and no other CR or NUL is in it: a line with a bare
LF is answered 500 at once, so that such a client does not wait for ever, but never obeyed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from mailgate.smtp.address import Address, AddressError, read_path
from mailgate.smtp.reply import MailError, Reply

LINE_TOO_LONG = Reply(500, "5.5.2", "Line too long")
BARE_LINE_END = Reply(500, "5.5.2", "Bare CR or LF in a command")
NUL_OCTET = Reply(500, "5.5.2", "NUL in a command")

RUNAWAY_FACTOR = 4
"""Lines over this many times max_command_length are no mistake: 421 and close."""


@dataclass(frozen=True, slots=True)
class LineLimits:
    """For one line, in octets without CRLF; ``too_long`` answers what is over the one and not over the other."""

    length: int
    runaway: int
    too_long: Reply


_HELLO_NAME = re.compile(rb"[!#-'*+\-./0-9:=?A-Z\[\]^_`a-z{|}~]{1,255}")
"""Any name a client may have for itself that can stand in a Received field: no ( ) < > @ , ; \\ or quote."""
_HTTP_REQUEST = re.compile(rb"[A-Z]{3,10} [^ ]+ HTTP/[0-9.]+")
_CHUNK = re.compile(rb"([0-9]+)(?: +(.*))?", re.DOTALL)
_MAX_CHUNK = 2**63

PLAIN_ENVELOPE = re.compile(
    rb"(?:DATA|(MAIL FROM|RCPT TO):<(?=[^@>]{1,63}@[^@>]{1,63}>)"
    rb"([A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+)*)@"
    rb"([A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*)>)\r\n"
)
"""A whole DATA, MAIL or RCPT line as nearly all of them are: read at one go, with what the long way would give (a test compares).
Up to 63 octets neither a local part, nor a label of a domain, nor the path can be too long."""
PLAIN_LENGTH = len("MAIL FROM:<@>") + 2 * 63
"""The longest of them, without CRLF."""


class Phase(IntEnum):
    """Where a session stands; the transaction is open from SENDER on."""

    CONNECTED = 0
    GREETED = 1
    SENDER = 2
    RECIPIENTS = 3
    CHUNKS = 4
    """The first BDAT was accepted."""


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the command table."""

    verb: str
    handler: Callable[[Any, bytes], None]
    phases: tuple[Phase, ...] = tuple(Phase)
    out_of_order: str = ""
    """Text of the 503 in other phases; before the hello it is always the same."""
    dialect: str = ""
    """``SMTP`` or ``LMTP`` where it exists in one only."""
    bare: bool = False
    """Takes no argument."""
    login: bool = False
    """Is 530 until the client has logged in, where that is required (RFC 4954 6)."""
    idle: bool = False
    """Counts against max_idle_commands."""


def is_runaway(buffer: bytes, start: int, limit: int) -> bool:
    """Whether ``buffer[start:]``, which has no LF, can only become a line of more than ``limit`` octets."""
    excess = len(buffer) - start - limit
    return excess > 1 or (excess == 1 and not buffer.endswith(b"\r"))


def judge_line(line: bytes, max_length: int) -> Reply | None:
    """Why ``line`` (with its LF) is no command, or None. A runaway line is the caller's."""
    if len(line) - (2 if line.endswith(b"\r\n") else 1) > max_length:
        return LINE_TOO_LONG
    if not line.endswith(b"\r\n") or line.count(b"\r") > 1:
        return BARE_LINE_END
    if b"\0" in line:
        return NUL_OCTET
    return None


def is_http_request(line: bytes) -> bool:
    """``GET / HTTP/1.1`` and its like: a browser, or someone who makes one talk to us (cross-protocol attacks)."""
    return _HTTP_REQUEST.fullmatch(line) is not None


def hello_name(argument: bytes) -> str | None:
    """The one word behind EHLO, HELO or LHLO, or None."""
    word = argument.strip(b" ")
    return word.decode("ascii") if _HELLO_NAME.fullmatch(word) else None


def path_argument(argument: bytes, keyword: bytes, *, strict: bool, bad: Reply) -> tuple[Address, str]:
    """Address and parameter text of ``FROM:<path> …`` or ``TO:<path> …``.

    :raises MailError: with ``bad`` when it has no such form.
    """
    if not strict:
        argument = argument.strip(b" ")
        name, colon, argument = argument.partition(b":")
        argument = name.rstrip(b" ") + colon + argument.lstrip(b" ")
    if argument[: len(keyword)].upper() != keyword:
        raise MailError(bad)
    try:
        return read_path(argument[len(keyword) :].decode(), strict=strict)
    except (AddressError, UnicodeDecodeError) as error:
        raise MailError(bad, str(error)) from None


@dataclass(frozen=True, slots=True)
class Chunk:
    """The argument of BDAT."""

    size: int
    last: bool
    valid: bool
    """False when something else than LAST stands behind the size; the size holds all the same."""


def chunk_argument(argument: bytes) -> Chunk | None:
    """None when the size is no decimal below 2**63, so that nobody knows where the next command begins."""
    match = _CHUNK.fullmatch(argument.strip(b" "))
    if match is None or len(match[1]) > 19 or int(match[1]) >= _MAX_CHUNK:
        return None
    word = (match[2] or b"").upper()
    return Chunk(int(match[1]), word == b"LAST", word in (b"", b"LAST"))
