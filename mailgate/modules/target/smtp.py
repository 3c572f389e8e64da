"""target.smtp: pass mail on to other servers by SMTP (RFC 5321), in line with its reception."""

from __future__ import annotations

from mailgate.config import values as v
from mailgate.outbound.link_settings import EndpointBlock
from mailgate.outbound.target import Downstream
from mailgate.registry import Argument, Directive

PORT = 25


class SmtpTarget(Downstream):
    """Other servers, spoken to by SMTP: the first that is well gets the message, its answers are the client's."""

    name = "target.smtp"

    inline_targets = Argument("ENDPOINT", v.Endpoint(default_port=PORT), rest=True, doc="Where to deliver to.", origin="maddy")
    targets = Directive(
        "targets",
        v.List(v.Endpoint(default_port=PORT)),
        default=(),
        doc="Where to deliver to, tried in this order.",
        origin="maddy",
    )
    endpoint = Directive(
        "endpoint",
        v.Endpoint(),
        block=EndpointBlock,
        repeatable=True,
        doc="An endpoint with settings of its own, tried after `targets`.",
    )
