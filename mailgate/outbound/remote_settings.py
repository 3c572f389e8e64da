"""Blocks of target.remote: what is said of the hosts of others in another way than of next hops of ours."""

from __future__ import annotations

from typing import Any

from mailgate.config import values as v
from mailgate.config.dynamic_variables import Stage, outbound
from mailgate.config.schema import Block, Directive, Refused
from mailgate.outbound.delivery_directives import Failover
from mailgate.outbound.pool_settings import Health
from mailgate.outbound.timeout_settings import TimeoutsBlock

LONGER = {"tls": 180.0, "data": 600.0, "data_block": 180.0}
"""Where hosts of others get another time than next hops of ours."""


def _by_host(declared: Any) -> Directive:
    """A step of `timeouts` that may depend on the message and its host."""
    return Directive(
        declared.name,
        declared.type,
        default=LONGER.get(declared.name, declared.default),
        dynamic=outbound(Stage.HOST),
        doc=declared.doc,
        origin="stalwart",
    )


class RemoteTimeouts(TimeoutsBlock):
    """How long each step of the dialogue with a host may take."""

    connect = _by_host(TimeoutsBlock.connect)
    greeting = _by_host(TimeoutsBlock.greeting)
    tls = _by_host(TimeoutsBlock.tls)
    ehlo = _by_host(TimeoutsBlock.ehlo)
    mail_from = _by_host(TimeoutsBlock.mail_from)
    rcpt_to = _by_host(TimeoutsBlock.rcpt_to)
    data = _by_host(TimeoutsBlock.data)
    data_block = _by_host(TimeoutsBlock.data_block)
    final_dot = _by_host(TimeoutsBlock.final_dot)
    rset = _by_host(TimeoutsBlock.rset)
    quit = _by_host(TimeoutsBlock.quit)
    total = _by_host(TimeoutsBlock.total)
    auth = Refused("auth", "hosts of others are not logged in to")
    mta_sts = Directive(
        "mta_sts", v.Duration(minimum=0.001), default=300.0, doc="For a policy of MTA-STS to be fetched.", origin="stalwart"
    )


class RemoteHealth(Health):
    """When an address of a host counts as down."""

    probe = Refused("probe", "hosts of others are not probed")
    slow_start = Refused("slow_start", "hosts of others are tried in the order that their domain gives them")


class RemoteFailover(Block):
    """When a message goes on to another host."""

    tempfail = Directive(
        "tempfail",
        v.Boolean(),
        default=False,
        doc="Also after 4xx to MAIL, DATA, or a RCPT while none is accepted there. Hosts that greylist all do.",
    )
    total = Directive("total", Failover.total.type, doc=Failover.total.doc)
