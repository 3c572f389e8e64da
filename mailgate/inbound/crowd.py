"""Directives of listeners against crowds and guessers: `reserved_connections`, `tarpit`; and for visitors who come all the time:
`quiet_hosts`."""

from __future__ import annotations

from math import inf
from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive

RESERVED = 10
"""Connections that are kept for those we know unless the operator says otherwise, but no more than a tenth of them all: enough to
watch a gateway that is flooded, and to pass one's own mail through it."""

MAX_LAG = 0.5
"""A session is then answered within a second or two, and a turn of a busy gateway takes a tenth of it."""


class CrowdDirectives(Block):
    """A part of every listener."""

    reserved_connections = Directive(
        "reserved_connections",
        v.Args(v.Integer(minimum=0), v.List(v.Network(), minimum=0)),
        doc="Of max_connections, so many are kept for loopback, unix sockets, relay_from and these networks: a flood of strangers"
        f" leaves them room. By default {RESERVED}, but no more than a tenth.",
    )
    max_lag = Directive(
        "max_lag",
        v.OneOf({"off": v.Nothing(), "": v.Duration(minimum=0.01)}),
        doc="While the event loop takes longer than this for each of its turns, there is more to do than can be done: new"
        f" connections hear 421 4.3.2 until that is over. {MAX_LAG:g} s by default. Those whom `reserved_connections` are for are"
        " let in up to four times as long a turn.",
    )
    tarpit = Directive(
        "tarpit",
        v.OneOf({"off": v.Nothing(), "": v.Args(v.Duration(minimum=0.1, maximum=60.0), v.Duration(minimum=0.1, maximum=300.0))}),
        doc="By how much the answer to each further mistake (no command, a refused recipient, a failed login) comes later, and"
        " how late at most: `tarpit 1s 10s`. Off by default, since each client that waits holds a connection.",
    )
    quiet_hosts = Directive(
        "quiet_hosts",
        v.List(v.Network()),
        default=(),
        doc="Clients whose sessions are not logged unless a message comes of them, such as health checkers.",
        origin="smtp-server",
    )

    def crowd_settings(self, max_connections: int, workers: int = 1) -> dict[str, Any]:
        """Fields of `ConnectionSettings`, of one of several ``workers``; ``max_connections`` is its own part."""
        if self.reserved_connections is None:
            reserved, networks = min(RESERVED, max_connections // 10), ()
        else:
            reserved, networks = self.reserved_connections
            reserved = -(-reserved // workers)
        step, limit = self.tarpit.value if self.tarpit is not None and self.tarpit.value is not None else (0.0, 0.0)
        return {
            "max_lag": MAX_LAG if self.max_lag is None else self.max_lag.value or inf,
            "reserved_connections": min(reserved, max_connections),
            "reserved_for": tuple(networks),
            "tarpit": step,
            "tarpit_limit": max(step, limit),
            "quiet": tuple(self.quiet_hosts),
        }
