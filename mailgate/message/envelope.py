"""The envelope of one message (RFC 5321 2.3.1), and the session it came by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mailgate.message.findings import Findings
from mailgate.smtp.address import Address
from mailgate.smtp.parameters import NO_MAIL_PARAMETERS, NO_RCPT_PARAMETERS, MailParameters, RcptParameters
from mailgate.smtp.proxy_protocol import Header
from mailgate.smtp.xclient import Identity


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """What is known of a finished TLS handshake; logs and Received say it."""

    version: str
    """``TLS1.3``"""
    cipher: str
    sni: str = ""
    peer_name: str = ""
    """The verified name of the peer's certificate, "" without one. Of a client: the first of ``peer_names``, else its common
    name."""
    peer_names: tuple[str, ...] = ()
    """Of a client whose certificate was verified: every DNS name, then every mail address in it, in lower case."""
    peer_subject: str = ""
    """Of such a client: the subject as RFC 4514 writes it, ``CN=gw1,O=Example``."""
    peer_fingerprint: str = ""
    """Of such a client: SHA-256 over the certificate, in hexadecimal digits."""


@dataclass(slots=True)
class Session:
    """One inbound connection, as the pipeline and logs see it. The listener keeps it up to date."""

    id: str
    listener: str
    """The listener's address as written: ``tcp://127.0.0.1:25``."""
    hostname: str
    """Our name on this listener."""
    client_ip: str = ""
    """"" on a unix socket. Never in the ``::ffff:`` form."""
    client_port: int = 0
    local_ip: str = ""
    local_port: int = 0
    client_name: str = ""
    """The name of the client's address, verified unless the listener says `reverse_lookup yes`; "" if unknown."""
    helo: str = ""
    protocol: str = "SMTP"
    """The with-keyword of Received without its S and A: SMTP, ESMTP, LMTP."""
    tls: TlsFacts | None = None
    auth_user: str = ""
    """Who has logged in; "" if nobody."""
    auth_mechanism: str = ""
    """How: ``PLAIN``, ``SCRAM-SHA-256``, …; "" where a trusted client said so (XCLIENT LOGIN)."""
    credentials: tuple[str, Any] | None = None
    """User and password (a `SecretText`) of the login, only where a target with `auth forward` may need them."""
    proxy: Header | None = None
    """What a proxy in front has said of the connection (PROXY protocol)."""
    xclient: Identity | None = None
    """What a trusted client has said of the one for whom it speaks; the fields above are that one's then."""
    xforward: Identity | None = None
    """What a trusted client has said of where the next message comes from. For the log and for next hops, never for access."""
    at_end: list[Callable[[], None]] | None = None
    """What is called, once, when the connection is gone, whatever the way it ends, or another client's by XCLIENT."""
    check_states: dict[Any, Any] | None = None
    """What checks keep of the connection, by check (`pipeline.session_checks`)."""
    resolver: Any = None
    """The `dns.resolver.Resolver` of a listener that has one of its own; else `Adapters.resolver` is asked."""


@dataclass(slots=True, eq=False)
class Recipient:
    """One forward-path of an envelope; identity matters (the same address may be given twice)."""

    address: Address
    parameters: RcptParameters = NO_RCPT_PARAMETERS
    original: Address | None = None
    """What the client said, where a modifier rewrote it."""


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """Where this delivery stands in a message's life; the variables of dynamic settings (configuration.md)."""

    retry_num: int = 0
    notify_num: int = 0
    expires_in: float | None = None
    """Seconds; None without a queue."""
    queue_age: float = 0.0
    last_status: str = ""
    """``temporary``, ``unknown``; "" before there was one."""
    last_error: str = ""
    """A class of failure, of `config.dynamic_variables.LAST_ERRORS`."""
    last_code: int = 0
    priority: int = 0
    source: str = "client"
    """``client``, ``dsn`` or ``report``."""
    queued: bool = False
    """True when a queue delivers: the whole message is here, and the time budget is the queue's."""


FIRST_ATTEMPT = Attempt()


@dataclass(slots=True, eq=False)
class Envelope:
    """What a delivery is opened with: everything but the recipients, which follow one by one."""

    id: str
    """The message id that stands in replies, logs and Received."""
    sender: Address
    """The reverse-path as rewritten for this delivery; the null address for ``<>``."""
    session: Session
    parameters: MailParameters = NO_MAIL_PARAMETERS
    recipients: list[Recipient] = field(default_factory=list)
    """Those accepted so far, for checks and logs."""
    attempt: Attempt = FIRST_ATTEMPT
    extra: dict[str, Any] = field(default_factory=dict)
    """Values that checks leave for each other."""
    findings: dict[Any, Findings] = field(default_factory=dict)
    """What checks have found, by check; see `findings_of`. The same for all variants of the sender."""
    tls_required_no: bool = False
    """The message says `TLS-Required: No` (RFC 8689 4.1), as far as its content is known when it is delivered."""
    on_attempt: Callable[[Any], None] | None = None
    """Hears of every try to deliver it: an `outbound.record.AttemptRecord`."""

    def findings_of(self, check: Any) -> Findings:
        """Where a check writes down what it finds. Its class must say that it does: `pipeline.check.Check.marks`."""
        found = self.findings.get(check)
        if found is None:
            found = self.findings[check] = Findings()
        return found

    @property
    def is_free_of_policies(self) -> bool:
        """What domains publish of their TLS (DANE, MTA-STS) does not bind it: its sender asks for that, and not for REQUIRETLS;
        or it is a report of TLS, which must arrive where TLS is broken (RFC 8460 5.3.1)."""
        return (self.tls_required_no or self.attempt.source == "report") and not self.parameters.requiretls
