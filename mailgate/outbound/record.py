"""What became of one try at one endpoint: one record, for the log and for whoever else wants it (trace, queue).

An attempt begins when an endpoint is chosen for a client command and ends with the answers to the final dot, with an answer that
refuses it, or with a failure. ``Envelope.on_attempt`` hears of each of a message's attempts; the log has one line for each.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailgate.events import Event, EventLog
from mailgate.smtp.reply import Reply
from mailgate.tls.capture import PeerFacts
from mailgate.values import value


@value
class ConnectionFacts:
    """The connection of an attempt, as far as it came."""

    local: str = ""
    remote: str = ""
    """``192.0.2.1:25``, ``[2001:db8::1]:25`` or a path; "" if nobody was reached."""
    hostname: str = ""
    """Our name in EHLO or LHLO."""
    reused: bool = False
    tls: PeerFacts | None = None
    """None: in clear text."""
    tls_error: str = ""
    """Why opportunistic TLS failed there, where the connection goes on without it."""
    timings: tuple[tuple[str, float], ...] = ()
    """Seconds of each step: those of making the connection, if it was made for this attempt, then those of the transaction.
    Commands that were answered together are one step, under the name of the first."""


NOT_CONNECTED = ConnectionFacts()


@value
class AttemptRecord:
    """See the module's docstring. ``reply`` is what the next hop said, ``error`` what happened where it said nothing."""

    message: str
    target: str
    endpoint: str
    """As the configuration writes it."""
    stage: str
    """How far it came: ``lease``, ``connect``, or a `smtp.client.Step`."""
    reply: Reply | None = None
    error: str = ""
    seconds: float = 0.0
    """Since the client's command."""
    connection: ConnectionFacts = NOT_CONNECTED
    mx: str = ""
    """The host that the recipient's domain named; "" where the configuration names the endpoint."""
    results: tuple[tuple[str, Reply], ...] = ()
    """After the final dot, each recipient's answer; ``reply`` is the worst of them."""
    unknown: tuple[str, ...] = ()
    """Recipients for whom nobody knows whether the message was taken: it may arrive twice."""
    passed_on: bool = False
    """The message was taken by a next hop that does DSN: what was asked for was passed on, reports of success are its duty."""
    relayed: bool = False
    """DSN was asked for and this next hop does not do it: as far as RFC 3461 goes the message was relayed."""


def worst(replies: Sequence[Reply]) -> Reply | None:
    """The one to show of many: 5yz, else 4yz, else the first."""
    found = None
    most = -1
    for reply in replies:
        says = reply.code // 100 if reply.code >= 400 else 0
        if says > most:
            found, most = reply, says
    return found


def log_attempt(log: EventLog, record: AttemptRecord) -> None:
    connection = record.connection
    fields: dict[str, object] = {
        "message": record.message,
        "target": record.target,
        "endpoint": record.endpoint,
        "stage": record.stage,
    }
    if record.reply is not None:
        fields["reply"] = record.reply
    else:
        fields["error"] = record.error
    if record.mx:
        fields["mx"] = record.mx
    if connection is not NOT_CONNECTED:
        fields["remote"] = connection.remote
        fields["local"] = connection.local
        fields["reused"] = "yes" if connection.reused else "no"
        _add_tls(fields, connection)
        fields["timings"] = " ".join([f"{step}={seconds:.3f}" for step, seconds in connection.timings])
    if record.relayed:
        fields["dsn"] = "relayed"
    fields["seconds"] = record.seconds
    log.info(Event.DELIVERY_ATTEMPT, **fields)


def _add_tls(fields: dict[str, object], connection: ConnectionFacts) -> None:
    tls = connection.tls
    if tls is None:
        if connection.tls_error:
            fields["tls_error"] = connection.tls_error
        return
    fields["tls"] = tls.version
    fields["cipher"] = tls.cipher
    fields["verified"] = (tls.matched_name or "chain") if tls.verified else "no"
    if not tls.verified:
        fields["verify_error"] = f"{tls.code} {tls.reason}"
    if tls.peer is not None:
        fields["peer_cert"] = tls.peer.fingerprint
        fields["peer_key"] = tls.peer.key_fingerprint
        fields["peer_chain"] = " / ".join(tls.peer.subjects)
