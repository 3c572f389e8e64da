"""What can go wrong with an attempt before a reply about the message itself: one table.

Each kind says what the client is told when no endpoint is left, and what it means for the endpoint's health
(docs/behaviour.md): a fault of connecting opens its circuit at once, trouble in the dialogue counts towards it. Replies about a
sender, a recipient or a message are no failures and never come here.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from mailgate.outbound.record import NOT_CONNECTED
from mailgate.smtp.reply import Reply
from mailgate.values import value


class Health(Enum):
    """What a failure means for the endpoint."""

    OPEN = "open"
    COUNT = "count"
    NEUTRAL = "neutral"


class Kind(Enum):
    """Name, reply when nobody else is left, health."""

    CONNECT = ("connect", Reply(451, "4.4.1", "The next hop can't be reached, try again later"), Health.OPEN)
    LOST = ("lost", Reply(451, "4.4.2", "The connection to the next hop was lost, try again later"), Health.COUNT)
    TIMEOUT = ("timeout", Reply(451, "4.4.2", "The next hop does not answer, try again later"), Health.COUNT)
    GARBAGE = ("garbage", Reply(451, "4.5.0", "The next hop does not speak the protocol, try again later"), Health.COUNT)
    CLOSING = ("closing", Reply(451, "4.3.2", "The next hop is closing its connections, try again later"), Health.COUNT)
    SESSION = ("session", Reply(451, "4.3.2", "The next hop does not take mail at present, try again later"), Health.COUNT)
    NO_TLS = ("no-tls", Reply(451, "4.7.4", "The next hop does not offer the required encryption"), Health.COUNT)
    TLS = ("tls", Reply(451, "4.7.5", "No trusted encrypted connection to the next hop"), Health.COUNT)
    DANE = ("dane", Reply(451, "4.7.5", "The next hop can't be authenticated by DANE, try again later"), Health.NEUTRAL)
    UNPROTECTED = (
        "tls",
        Reply(550, "5.7.10", "No next hop could be authenticated over TLS, as REQUIRETLS demands"),
        Health.NEUTRAL,
    )
    STS_NO_TLS = (
        "mta-sts",
        Reply(451, "4.7.4", "The next hop lacks the encryption that its policy demands"),
        Health.COUNT,
    )
    STS = ("mta-sts", Reply(451, "4.7.5", "The next hop can't be authenticated as its policy demands"), Health.COUNT)
    AUTH = ("auth", Reply(451, "4.7.0", "The next hop does not accept this gateway, try again later"), Health.COUNT)
    LOGIN = ("auth", Reply(451, "4.7.0", "The next hop does not accept this login, try again later"), Health.NEUTRAL)
    XCLIENT = ("xclient", Reply(451, "4.7.0", "The next hop does not take mail for this client, try again later"), Health.NEUTRAL)
    LEASE = ("lease", Reply(451, "4.3.2", "All connections to the next hop are busy, try again later"), Health.NEUTRAL)
    LOCAL = ("local", Reply(451, "4.3.0", "Temporary lookup failure"), Health.NEUTRAL)
    SOURCE = ("source", Reply(451, "4.3.0", "No address to send from at present, try again later"), Health.NEUTRAL)
    TOTAL = ("total", Reply(451, "4.4.1", "No next hop answered in time, try again later"), Health.NEUTRAL)

    def __init__(self, label: str, reply: Reply, health: Health) -> None:
        self.label = label
        self.reply = reply
        self.health = health


@value
class Trouble(Reply):
    """The reply of a kind, where a host's ``answer`` led to it: what is made of it is ours, though words of the host's may be
    quoted."""

    kind: Kind = Kind.SESSION
    answer: Reply = Reply(0)


_KINDS = {id(kind.reply): kind for kind in Kind}


def kind_of(reply: Reply) -> Kind | None:
    """The failure that a reply tells of; None: it tells of none, since a next hop, or somebody else here, gave it. A next hop may
    well use the same words: it is one of these."""
    return reply.kind if isinstance(reply, Trouble) else _KINDS.get(id(reply))


class AttemptFailed(Exception):
    """One endpoint could not be used. ``stage`` and ``reason`` are for the log, ``answer`` is what the peer said, if it did."""

    def __init__(self, kind: Kind, stage: str, reason: str, answer: Reply | None = None) -> None:
        super().__init__(f"{stage}: {reason}")
        self.kind = kind
        self.stage = stage
        self.reason = reason
        self.answer = answer
        self.facts = NOT_CONNECTED
        """The connection it happened on, for the record."""
        self.decision: Any = None
        """What was decided on TLS there, a `tls_policy.Decision`."""


class Moved(Exception):
    """This endpoint is done with; the next one gets the envelope."""


class Refused(Exception):
    """The transaction has its answer, whoever else might be asked."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


NO_LONGER_ACCEPTED = Reply(451, "4.3.0", "The next hop no longer accepts this recipient, try again later")
UNKNOWN_OUTCOME = Reply(451, "4.4.2", "The next hop did not say whether it took the message")
ABORTED = Reply(451, "4.4.2", "The transaction was aborted")
