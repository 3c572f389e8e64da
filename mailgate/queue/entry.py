"""What a queue keeps: one entry per message and target, one row per recipient.

An entry is written once and never changed; what changes with each attempt stands in its recipients. Both are values: an
attempt makes new rows, the store saves them. Times are seconds since the epoch (they outlive the process), sizes octets.

The standing of a recipient:

    PREPARED   durable, but nobody was answered 250 for it yet: the second phase is missing. Start-up forgets it.
    WAITING    to be delivered at ``due``.
    HELD       an operator, or a target that is gone from the configuration, keeps it back; or, with a ``fate``, it is the
               report that nobody has accepted for as long as a message is tried.
    OWED       its fate is sealed and recorded; the report that its sender asked for has not been accepted yet. It is made at
               ``due``.
    REMOVED    an operator took it out; it can be put back for a day.

A recipient that was delivered, or whose report is on its way, has no row any more.
"""

from __future__ import annotations

from enum import IntEnum

from mailgate.message.envelope import Session
from mailgate.message.message import Message
from mailgate.smtp.address import Address
from mailgate.smtp.parameters import NO_RCPT_PARAMETERS, MailParameters, RcptParameters
from mailgate.values import value


class Standing(IntEnum):
    """See the module's docstring. The numbers stand in files."""

    PREPARED = 0
    WAITING = 1
    HELD = 2
    OWED = 3
    REMOVED = 4


class Fate(IntEnum):
    """What was decided about a recipient; the action field of a report (RFC 3464 2.3.3). The numbers stand in files."""

    FAILED = 1
    """Refused for good, or expired."""
    RELAYED = 2
    """Passed on to a system that sends no reports of its own (RFC 3461 5.2.2)."""
    DELIVERED = 3
    EXPANDED = 4


@value
class Origin:
    """Where a message came from: for variables of dynamic settings, trace and operators."""

    session: str = ""
    listener: str = ""
    client_ip: str = ""
    client_name: str = ""
    helo: str = ""
    protocol: str = ""
    auth_user: str = ""
    tls: str = ""
    source: str = "client"
    """``client``, ``dsn`` or ``report``."""

    @classmethod
    def of(cls, session: Session, source: str = "client") -> Origin:
        return cls(
            session.id,
            session.listener,
            session.client_ip,
            session.client_name,
            session.helo,
            session.protocol,
            session.auth_user,
            session.tls.version if session.tls is not None else "",
            source,
        )


@value
class Way:
    """The connection of an attempt, as far as it came."""

    peer: str = ""
    """The MX, or the endpoint as the configuration writes it, that was heard of last; "" if nobody was chosen."""
    address: str = ""
    """Address and port of the other end, ``192.0.2.1:25``; "" if nobody was reached."""
    local: str = ""
    """Ours."""
    tls: str = ""
    """``TLSv1.3``; "" in clear."""
    stage: str = ""
    """How far it came: ``connect``, ``rcpt``, ``dot``, …"""

    def __str__(self) -> str:
        """For the end of a line: `` (mx.example.org 192.0.2.1:25, rcpt, TLSv1.3)``."""
        who = " ".join(dict.fromkeys(filter(None, (self.peer, self.address))))
        words = ", ".join(filter(None, (who, self.stage, self.tls)))
        return f" ({words})" if words else ""


NO_WAY = Way()


@value
class LastTry:
    """How the last attempt at a recipient ended."""

    at: float
    code: int = 0
    """Of the reply; 0 when there was none."""
    status: str = ""
    """Enhanced status code, ``4.4.1``."""
    text: str = ""
    """What the next hop said, or what went wrong with the connection."""
    kind: str = ""
    """Class of failure (docs/queue.md): connection, dns, greylist, mailbox, rate, system, tls, …"""
    remote: bool = False
    """The text is a next hop's, word for word."""
    way: Way = NO_WAY


@value
class Waiting:
    """One recipient of an entry."""

    number: int
    """Its place in the entry: 0, 1, …"""
    address: Address
    destination: str = ""
    """What its delivery shares back-off and concurrency with: the domain, or ``&target`` where all go the same way."""
    parameters: RcptParameters = NO_RCPT_PARAMETERS
    original: Address | None = None
    standing: Standing = Standing.WAITING
    due: float = 0.0
    retries: int = 0
    """Attempts that really were made; waiting for a limit is none."""
    notified: int = 0
    """Reports of delay that went out."""
    last: LastTry | None = None
    in_doubt: bool = False
    """A final dot may have gone out whose answer nobody recorded: the next delivery may be the second."""
    fate: Fate | None = None
    """Set while OWED, and from then on: whatever becomes of the report, the message goes nowhere any more."""
    reports: int = 0
    """How often its report was refused for now."""
    owed_since: float = 0.0
    """When that was for the first time; 0 if it never was."""
    reason: str = ""
    """Why it is HELD or was REMOVED."""
    before: Standing | None = None
    """Of a REMOVED one: what it was, and what it is again if that is undone."""


@value
class Draft:
    """A message on its way in. ``recipients`` are numbered from 0; drafts over one body share it in the store."""

    message_id: str
    target: str
    """Reference of the target that will deliver it, as the configuration names it."""
    sender: Address
    parameters: MailParameters
    origin: Origin
    arrived: float
    message: Message
    recipients: tuple[Waiting, ...]
    priority: int = 0
    """MT-PRIORITY, RFC 6710: -9 to 9."""


@value
class Entry:
    """One message for one target, as it lies in a store."""

    id: int
    message_id: str
    target: str
    sender: Address
    parameters: MailParameters
    origin: Origin
    arrived: float
    header: bytes
    """The header section of this variant; the rest is the body's."""
    body: int
    """The store's name of the content behind the header section."""
    size: int
    """Of the whole message."""
    recipients: tuple[Waiting, ...]
    priority: int = 0


@value
class Lease:
    """An entry's recipients that are this process's to deliver, until ``until`` of the reactor's clock; ``epoch`` guards every
    save."""

    entry: Entry
    recipients: tuple[Waiting, ...]
    epoch: int = 0
    until: float = float("inf")
    intended: bool = False
    """The intent to deliver them was written when they were accepted."""


@value
class Settled:
    """What an attempt made of one recipient: its new row, or None when nothing is left to do."""

    number: int
    row: Waiting | None
    note: str = ""
    """One line of the entry's history."""
