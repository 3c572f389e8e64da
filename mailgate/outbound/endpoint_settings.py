"""How one endpoint is spoken to, as data: what a configuration comes to (link_settings.py) and the dialogue reads.

Each step of the dialogue has a time of its own. RFC 5321 4.5.3.2 asks for 5 minutes for most commands, 2 for DATA, 3 for each
block of content and 10 for the answer to the final dot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from mailgate.message.envelope import Envelope
from mailgate.outbound.source_policy import SourcePolicy
from mailgate.outbound.tls_policy import IN_CLEAR, Decision
from mailgate.smtp.client import Step
from mailgate.smtp.sasl import Offer, SaslClient
from mailgate.smtp.xclient import Identity


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. ``data`` is DATA up to its 354, ``data_block`` a piece of content up to when the peer has taken it, ``total`` the
    whole attempt: from connecting, or from MAIL on a connection that is used again, to the answer to the final dot."""

    connect: float = 300.0
    greeting: float = 300.0
    tls: float = 300.0
    ehlo: float = 300.0
    auth: float = 300.0
    mail_from: float = 300.0
    rcpt_to: float = 300.0
    data: float = 300.0
    data_block: float = 300.0
    final_dot: float = 720.0
    rset: float = 20.0
    quit: float = 10.0
    total: float = inf
    by_step: Mapping[Step, float] = field(init=False, repr=False, compare=False)
    """For the answer that belongs to each step."""

    def __post_init__(self) -> None:
        steps = {
            Step.GREETING: self.greeting,
            Step.HELLO: self.ehlo,
            Step.STARTTLS: self.tls,
            Step.XCLIENT: self.ehlo,
            Step.AUTH: self.auth,
            Step.XFORWARD: self.mail_from,
            Step.MAIL: self.mail_from,
            Step.RCPT: self.rcpt_to,
            Step.DATA: self.data,
            Step.CHUNK: self.data_block,
            Step.DOT: self.final_dot,
            Step.RSET: self.rset,
            Step.NOOP: self.rset,
            Step.QUIT: self.quit,
        }
        object.__setattr__(self, "by_step", steps)


@dataclass(frozen=True, slots=True, eq=False)
class EndpointSettings:
    """How to speak to it. ``credentials`` makes the mechanism of one exchange (auth_settings.py)."""

    scheme: str
    label: str
    """As written: ``tcp://mx1.example.org:25``."""
    host: str = ""
    port: int = 0
    path: str = ""
    mx: str = ""
    """The host that the recipient's domain named, where ``host`` is one of its addresses."""
    lmtp: bool = False
    hostname: str = "localhost"
    decision: Decision = IN_CLEAR
    requiretls_decision: Decision = IN_CLEAR
    tls_context: Any = None
    capture_peer: bool = False
    """Keep the peer's certificates in the record of each attempt."""
    credentials: Callable[[Offer, Any], SaslClient | None] | None = field(default=None, repr=False)
    forwards_logins: bool = False
    """The credentials are the client's."""
    vary: tuple[Callable[[Any, Any], Any], ...] = ()
    """Where connections differ by message: each makes, of a `LinkKey` and the variables of a delivery (variables.py), the key
    with one thing more in it, or an awaitable of that. In this order: source address, hostname, XCLIENT, PROXY, login."""
    source: SourcePolicy | None = None
    """From which of our addresses; None: the system chooses."""
    proxy_version: int = 0
    """Of the PROXY header that each connection begins with; 0: none."""
    xclient_required: bool = True
    xforward: Callable[[Envelope], Identity] | None = None
    """What XFORWARD says of a message."""
    timeouts: Timeouts = Timeouts()
    debug: bool = False
