"""What a `ServerSession` tells its driver.

Three kinds. A *question* waits for `ServerSession.reply` (or `reply_each`); it is always the last event of a list, and
until it is answered further input is only buffered. A *notification* needs no answer: the engine has said what there is
to say. `Closed` is the last event of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from mailgate.smtp.address import Address
from mailgate.smtp.parameters import MailParameters, RcptParameters
from mailgate.smtp.reply import Reply
from mailgate.smtp.xclient import Identity


class CloseReason(Enum):
    """Why a session ended; the value stands in the log event session.close."""

    QUIT = "quit"
    EARLY_TALKER = "early talker"
    HTTP = "HTTP request"
    RUNAWAY_LINE = "runaway line"
    ERRORS = "too many errors"
    REJECTED_RECIPIENTS = "too many rejected recipients"
    IDLE_COMMANDS = "too many commands without a message"
    AUTH_FAILURES = "too many failed logins"
    UNAUTHENTICATED = "too many commands without login"
    CONTENT_AFTER_REFUSAL = "content after refused DATA"
    BAD_CHUNK_SIZE = "bad BDAT size"
    INJECTION = "STARTTLS injection"
    REPLIED = "closing reply"
    """The driver answered a question with 421."""
    ENDED = "ended by the listener"
    """`ServerSession.close`: drain, timeout, overload."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Notification: EHLO, HELO or LHLO was answered with 250."""

    verb: str
    """``EHLO``, ``HELO`` or ``LHLO``."""
    name: str
    """What the client calls itself: printable ASCII without spaces, brackets of comments, quotes. Not verified."""
    extended: bool
    """EHLO or LHLO: extensions may be used, and Received says ESMTP or LMTP."""


@dataclass(slots=True)  # not frozen, like the other events of every message: that costs a call for each field
class Mail:
    """Question: a sender. A refusal leaves nothing behind, no `Aborted` follows."""

    address: Address
    parameters: MailParameters


@dataclass(slots=True)
class Rcpt:
    """Question: a recipient. 2yz means that it is one of those that content will be answered for."""

    address: Address
    parameters: RcptParameters


@dataclass(frozen=True, slots=True)
class Data:
    """Question: may content come? None, 2yz or 3yz says yes (the engine writes 354 itself), 4yz or 5yz refuses.

    Refused DATA leaves the transaction open, as RFC 5321 does. Refused BDAT ends it (RFC 3030): `Aborted` follows, and the
    refusal is written when the chunk was read and thrown away.
    """

    chunked: bool
    """BDAT; it is asked once, with the first chunk."""


@dataclass(slots=True)
class Content:
    """Notification: clean content, unstuffed and checked; cut anywhere, but not between CR and LF."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ContentEnd:
    """Question: the content is complete and within the rules. SMTP wants `reply`, LMTP `reply_each` with one reply for each
    accepted recipient, in order. The transaction is over with the answer."""


@dataclass(frozen=True, slots=True)
class ContentRefused:
    """Notification: the content broke a rule. The engine has answered (LMTP: once per recipient) and the
    transaction is over; whatever `Content` came before must not be delivered."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Aborted:
    """Notification: an open transaction ended without content: RSET, EHLO, refused BDAT."""


@dataclass(frozen=True, slots=True)
class StartTls:
    """Notification: write `output`, start the handshake, then call `ServerSession.tls_started`."""


@dataclass(frozen=True, slots=True)
class Auth:
    """Question: AUTH, or the client's next line after the driver answered with 334.

    235 makes the session authenticated; 334 asks on; anything else ends the exchange.
    """

    mechanism: str
    """Upper case, one of the settings' mechanisms."""
    response: bytes | None
    """Base64 as it came, without CRLF; None where the client gave no initial response."""
    initial: bool
    """It begins an exchange; one that was left open is forgotten."""


@dataclass(frozen=True, slots=True)
class XClient:
    """Question: from here on the connection is another client's. 2yz makes it so, login by LOGIN included, and is said as a new
    greeting; a refusal closes."""

    identity: Identity
    """Everything that XCLIENT has said of this client."""


@dataclass(frozen=True, slots=True)
class XForward:
    """Notification: where the next message comes from, for the log; with nothing in it, no more."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Closed:
    """Write `output` and close. An open transaction is aborted with it; no further event comes."""

    reason: CloseReason


Event: TypeAlias = (
    Hello | Mail | Rcpt | Data | Content | ContentEnd | ContentRefused | Aborted | StartTls | Auth | XClient | XForward | Closed
)
