"""What the operator decides about one listener's protocol; each with its documented default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import time
from typing import Any

from mailgate.smtp.framing import ContentRules


@dataclass(frozen=True, slots=True, eq=False)
class ServerSettings:
    """One per listener, shared by its sessions, and compared by identity. Sizes are octets."""

    hostname: str
    """Our name in the greeting and the hello reply."""
    lmtp: bool = False
    """RFC 2033: LHLO only, one reply per recipient after the content."""
    replies: list[int] = field(default_factory=lambda: [0] * 6, repr=False)
    """How many were said, by their first digits: counted here by all sessions, for whoever wants to know."""
    known: dict[Any, Any] = field(init=False, default_factory=dict, repr=False)
    """What follows from these settings alone, worked out once: see `mailgate.smtp.extensions`."""
    banner: str = ""
    """Text behind the host name and protocol in the greeting."""
    helo_response: str = "%s greets %s"
    """First line of the hello reply: our name, the client's."""
    max_message_size: int = 32 << 20
    """RFC 1870: 552 5.3.4, on a declared and on an actual excess."""
    announce_size: bool = True
    """Whether SIZE in EHLO names the limit, which holds in any case."""
    hide: frozenset[str] = frozenset()
    """EHLO keywords not announced; still accepted, but without ENHANCEDSTATUSCODES replies carry no such codes."""
    disable_commands: frozenset[str] = frozenset()
    """Verbs answered 502 5.5.1; their keywords are not announced either."""
    strict_line_endings: str = "reject"
    """Bare CR and LF in content: ``reject`` or ``normalize``. A command with one is always refused."""
    nul: str = "reject"
    """NUL in content: ``reject`` or ``strip``."""
    max_line_length: int = 4000
    """Of a line of content, without CRLF."""
    max_header_size: int = 1 << 20
    """Of the header section."""
    max_header_count: int = 1000
    """Fields in the header section."""
    max_command_length: int = 4096
    """Of a command without CRLF. Longer is 500 5.5.2, beyond four times that 421 and close: memory per connection."""
    max_recipients: int = 1000
    """Accepted per transaction, then 452 4.5.3; RFC 5321 4.5.3.1.8 wants at least 100."""
    max_errors: int = 10
    """The reply 500 to 504 that would be the Nth since the last delivered message is 421: junk, guessing, other protocols."""
    max_rejected_recipients: int = 50
    """The refused RCPT that would be the Nth since the last delivered message is 421: harvesting of addresses."""
    max_idle_commands: int = 100
    """Commands without effect (NOOP, RSET, EHLO, HELP, VRFY, refused MAIL…) since the last delivered message: floods."""
    strict_addresses: bool = True
    """RFC 5321's grammar and lengths for paths, or what real clients send."""
    refuse_early_talkers: bool = True
    """Whether input before the greeting closes the connection."""
    starttls: bool = False
    """STARTTLS is offered while the session is in clear."""
    dsn: bool = False
    """RFC 3461 is offered: only where relayed reports have a queue to go to."""
    requiretls: bool = False
    """RFC 8689 is offered once TLS is on: only where the way out enforces it."""
    max_priority: int | None = None
    """RFC 6710 is offered, and this is the highest priority that is granted; None: it is not offered."""
    max_hold: int = 0
    """RFC 4865 is offered, and a message may be held for so many seconds; 0: it is not offered."""
    min_deliver_by: int | None = None
    """RFC 2852 is offered, and a message that is to be returned when late has at least so many seconds; None: not offered."""
    wall_time: Callable[[], float] = time
    """Seconds since the epoch, for times that clients name."""
    auth_mechanisms: tuple[str, ...] = ()
    """SASL mechanisms offered; without any, AUTH is not implemented."""
    xclient: bool = False
    """This client may give XCLIENT. Like the next one not of the listener but of the peer: `dataclasses.replace`."""
    xforward: bool = False
    """This client may give XFORWARD."""
    insecure_auth: bool = False
    """AUTH in clear."""
    auth_required: bool = False
    """530 5.7.0 to MAIL and what follows it, until the client has logged in."""
    auth_required_message: str = "Authentication required"
    """Text of that 530."""
    max_unauthenticated_commands: int = 10
    """Commands but AUTH and QUIT before the login, where it is required, then 421; 0 is no limit."""
    max_auth_failures: int = 3
    """The failed login that would be the Nth on a connection is 421: guessing."""

    content_rules: ContentRules = field(init=False, repr=False)
    """What concerns content, put together once."""

    def __post_init__(self) -> None:
        rules = ContentRules(
            max_size=self.max_message_size,
            max_line_length=self.max_line_length,
            max_header_size=self.max_header_size,
            max_header_count=self.max_header_count,
            normalize_line_endings=self.strict_line_endings == "normalize",
            strip_nul=self.nul == "strip",
        )
        object.__setattr__(self, "content_rules", rules)
