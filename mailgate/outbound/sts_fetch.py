"""Fetching a policy: ``https://mta-sts.DOMAIN/.well-known/mta-sts.txt`` (RFC 8461 3.3).

The host is found by the reactor's name resolver, which is ours. Its certificate must lead to a trusted authority and be for its
name (a common name is none); redirects are answers like any other, and so failures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from OpenSSL.SSL import Error as TlsFailure
from service_identity import VerificationError
from twisted.internet.defer import CancelledError
from twisted.internet.protocol import Protocol
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers

from mailgate.clients.web import BoundedBody, Verified, WebFailure, authorities, reason_of
from mailgate.outbound.mta_sts import FetchFailed
from mailgate.outbound.sts_policy import MAX_POLICY, Trouble


class PolicyHosts:
    """``root_ca``: files of authorities in place of the system's, for laboratories."""

    def __init__(self, reactor: Any, root_ca: Sequence[str] = (), port: int = 443) -> None:
        self._port = "" if port == 443 else f":{port}"
        self._agent = Agent(reactor, Verified(authorities(root_ca)), pool=HTTPConnectionPool(reactor, persistent=False))

    async def fetch(self, domain: str) -> bytes:
        """The octets of its policy. :raises FetchFailed: there are none to be had."""
        url = f"https://mta-sts.{domain}{self._port}/.well-known/mta-sts.txt".encode("ascii")
        try:
            response = await self._agent.request(b"GET", url, Headers({b"User-Agent": [b"mailgate"]}))
        except CancelledError:
            raise
        except Exception as error:
            raise FetchFailed(reason_of(error), Trouble.WEBPKI if _is_of_tls(error) else Trouble.FETCH) from error
        if response.code != 200:
            refuse_body(response)
            raise FetchFailed(f"the answer is {response.code}")
        types = response.headers.getRawHeaders(b"content-type", [b""])
        if types[0].partition(b";")[0].strip().lower() != b"text/plain":
            refuse_body(response)
            raise FetchFailed("it is not text/plain")
        body = BoundedBody(MAX_POLICY)
        response.deliverBody(body)
        try:
            return await body.done
        except WebFailure as error:
            raise FetchFailed(str(error)) from error


def refuse_body(response: Any) -> None:
    """Nothing of it is read."""
    response.deliverBody(_Refuse())


class _Refuse(Protocol):
    """Wants no body."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.stopProducing()


def _is_of_tls(error: BaseException | None) -> bool:
    """Whether it is the host's certificate, or the handshake, that is wrong."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return any(_is_of_tls(reason.value) for reason in reasons)
    return isinstance(error, TlsFailure | VerificationError)
