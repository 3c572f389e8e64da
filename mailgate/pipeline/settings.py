"""What a listener decides for all its transactions; inbound/listener.py makes it of the configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mailgate.adapters import Adapters
from mailgate.message.body import Spool
from mailgate.message.envelope import FIRST_ATTEMPT, Attempt, Envelope
from mailgate.message.tally import Tally
from mailgate.pipeline.grammar import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionSettings:
    """See the module's docstring. Sizes are octets."""

    spool: Spool
    adapters: Adapters
    hostname: str
    """Our name in Received."""
    authserv_id: str = ""
    """Our name in Authentication-Results, if it is another."""
    own_names: frozenset[str] = frozenset()
    """What else this gateway speaks as, in Authentication-Results. Nobody outside may use any of these names there."""
    split: Split = Split.DEFER
    keeper: Callable[[Any, Envelope], Any] | None = None
    """Of `on_split queue`: from a target and an envelope to a delivery into the queue, which keeps what the target does not."""
    reports: Callable[[Envelope], Any] | None = None
    """Of `reports &queue`: from an envelope to what keeps reports of success; None where DSN is not offered."""
    tally: Tally = field(default_factory=Tally)
    per_recipient: bool = False
    """LMTP: one reply for each recipient after the dot."""
    max_received: int = 50
    """Received fields in what comes in; RFC 5321 6.3 wants at least 100 or a better loop test: ours counts hops that
    no real path has."""
    memory_limit: int = 1 << 20
    """Of one body; what is larger goes to the spool."""
    attempt: Attempt = FIRST_ATTEMPT
    """What deliveries are told of the message's life; other than the first attempt only for mail of our own."""
    defer_sender_reject: bool = True
    """Refusals of the sender are given at RCPT: the log then knows who was written to."""
    prepare: Callable[[bytes, str, str, float], bytes] | None = None
    """`message.preparation.prepare`, for submission."""
    hide_client: bool = False
    """Received does not say where the client is."""
