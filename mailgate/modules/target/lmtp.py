"""target.lmtp: deliver to mail stores by LMTP (RFC 2033), with an answer for each recipient."""

from __future__ import annotations

from mailgate.config import values as v
from mailgate.interfaces import Finality
from mailgate.outbound.link_settings import EndpointBlock
from mailgate.outbound.target import Downstream
from mailgate.outbound.tls_policy import TlsMode
from mailgate.registry import Argument, Directive

PORT = 24


class LmtpTarget(Downstream):
    """Mail stores, spoken to by LMTP: each recipient has an answer of its own after the content."""

    name = "target.lmtp"
    finality = Finality.RECIPIENT
    is_lmtp = True
    default_mode = TlsMode.DISABLED

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
    attempt_starttls = Directive(
        "attempt_starttls",
        v.Boolean(),
        default=False,
        doc="STARTTLS if it is offered; if the handshake fails, a new connection without it, unless TLS is required.",
        origin="maddy",
    )
