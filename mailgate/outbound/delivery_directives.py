"""What is said of deliveries in one way, whether to next hops of ours (target.smtp, target.lmtp) or to hosts of others
(target.remote): how long they hold, when they move on, how content is sent."""

from __future__ import annotations

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive

TOTAL = 240.0
"""What one command of a client waits at most."""
QUEUE_TOTAL = 1800.0
"""The same for an attempt of a queue."""


class Failover(Block):
    """When a message goes on to another endpoint."""

    tempfail = Directive(
        "tempfail", v.Boolean(), default=True, doc="Also after 4xx to MAIL, DATA, or a RCPT while none is accepted there."
    )
    total = Directive(
        "total",
        v.Duration(minimum=0.001),
        doc="What one command of a client may wait, up to the final dot: 4 minutes by default. An attempt of a queue, where the"
        " client has gone, has 30.",
    )


class DeliveryDirectives(Block):
    """Of a target."""

    hold_timeout = Directive(
        "hold_timeout",
        v.Duration(minimum=0.001),
        default=30.0,
        doc="How long a connection waits for the client; then it is given back, and the envelope is said again later.",
    )
    chunking = Directive("chunking", v.Boolean(), default=False, doc="Send content by BDAT where CHUNKING is offered.")
