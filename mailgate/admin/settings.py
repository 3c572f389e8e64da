"""`admin tcp://127.0.0.1:8025 { … }`: an address for monitoring, and with a token for everything the control socket does."""

from __future__ import annotations

import ipaddress

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.places import EndpointAddress
from mailgate.config.schema import Argument
from mailgate.registry import Module
from mailgate.registry.administration import token_directive


class Admin(Module):
    """An address where the gateway is watched by HTTP: /metrics, /health/live and /health/ready; /v1/ with a token."""

    name = "admin"
    is_nameless = True

    endpoints = Argument(
        "ADDRESS",
        v.OpenedEndpoint(schemes=("tcp",)),
        rest=True,
        minimum=1,
        doc="Where: tcp://127.0.0.1:8025. On other addresses than loopback everything needs a token.",
    )
    token = token_directive()

    def configure(self, report: Report) -> None:
        for endpoint in self.endpoints:
            if not is_loopback(endpoint) and not self.token:
                report.error(
                    self.span,
                    f"`{endpoint}` is open to others and has no `token`",
                    code="E0770",
                    hint="add `token view file:PATH`, or listen on 127.0.0.1",
                )


def is_loopback(endpoint: EndpointAddress) -> bool:
    try:
        return ipaddress.ip_address(endpoint.host).is_loopback
    except ValueError:
        return False
