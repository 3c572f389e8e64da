"""Reports to https: places (RFC 8460 5.4): one POST of the compressed JSON, taken when the answer is 2xx.

The place is what the owner of a domain wrote into its DNS, so it is believed only so far: its certificate is verified, there
are no redirects, an answer's body is not read, and hosts at addresses that are not public are not posted to (``allow_private``
for laboratories).
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError
from twisted.web.client import Agent, HTTPConnectionPool, ResponseNeverReceived
from twisted.web.http_headers import Headers

from mailgate.clients.web import Verified, authorities, reason_of
from mailgate.dns.answer import Status
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import Resolver
from mailgate.net.waiting import DeadlineExceeded, within
from mailgate.outbound.sts_fetch import refuse_body
from mailgate.outbound.tls_report import WebPlace
from mailgate.outbound.tls_report_mail import GZIP

PATIENCE = 60.0
"""Seconds for one POST."""


class Poster:
    """``root_ca``: files of authorities in place of the system's."""

    def __init__(self, reactor: Any, resolver: Resolver, root_ca: Sequence[str] = (), *, allow_private: bool = False) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._allow_private = allow_private
        agent = Agent(reactor, Verified(authorities(root_ca)), pool=HTTPConnectionPool(reactor, persistent=False))
        self._client = HTTPClient(agent)

    async def post(self, place: WebPlace, packed: bytes) -> str:
        """Why it was not taken; "" if it was."""
        try:
            host = urlsplit(place.url).hostname or ""
            return await self._refusal(host) or await within(self._post(place, packed), PATIENCE, self._reactor)
        except CancelledError:
            raise
        except DeadlineExceeded:
            return "no answer in time"
        except Exception as error:
            return reason_of(error)

    async def _refusal(self, host: str) -> str:
        try:
            found = await self._resolver.addresses(host)
        except DnsFailure as failure:
            return str(failure)
        if found.status is not Status.FOUND:
            return f"{host} has no address"
        addresses = [ip_address(address.partition("%")[0]) for address in (*found.ipv4, *found.ipv6)]
        if not self._allow_private and not all(address.is_global for address in addresses):
            return f"{host} has an address that is not public"
        return ""

    async def _post(self, place: WebPlace, packed: bytes) -> str:
        headers = Headers({"Content-Type": [GZIP], "User-Agent": ["mailgate"]})
        try:
            response = await self._client.post(place.url, data=packed, headers=headers, allow_redirects=False)
        except ResponseNeverReceived as error:  # so the client wraps a cancellation, too
            if any(reason.check(CancelledError) for reason in error.reasons):
                raise CancelledError from error
            raise
        refuse_body(response)
        return "" if response.code // 100 == 2 else f"the answer is {response.code}"
