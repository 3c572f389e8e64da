"""Fetching a policy: ``https://mta-sts.DOMAIN/.well-known/mta-sts.txt`` (RFC 8461 3.3).

The host is found by the reactor's name resolver, which is ours. Its certificate must lead to a trusted authority and be for its
name (a common name is none); redirects are answers like any other, and so failures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from OpenSSL.crypto import Error as SslError
from OpenSSL.SSL import Error as TlsFailure
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, TLSVersion, optionsForClientTLS, platformTrust, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from mailgate.outbound.mta_sts import FetchFailed
from mailgate.outbound.sts_policy import MAX_POLICY, Trouble
from mailgate.tls.options import TlsError


class PolicyHosts:
    """``root_ca``: files of authorities in place of the system's, for laboratories."""

    def __init__(self, reactor: Any, root_ca: Sequence[str] = (), port: int = 443) -> None:
        self._port = "" if port == 443 else f":{port}"
        self._agent = Agent(reactor, _Verified(authorities(root_ca)), pool=HTTPConnectionPool(reactor, persistent=False))

    async def fetch(self, domain: str) -> bytes:
        """The octets of its policy. :raises FetchFailed: there are none to be had."""
        url = f"https://mta-sts.{domain}{self._port}/.well-known/mta-sts.txt".encode("ascii")
        try:
            response = await self._agent.request(b"GET", url, Headers({b"User-Agent": [b"mailgate"]}))
        except CancelledError:
            raise
        except Exception as error:
            raise FetchFailed(_reason(error), Trouble.WEBPKI if _is_of_tls(error) else Trouble.FETCH) from error
        if response.code != 200:
            response.deliverBody(_Refuse())
            raise FetchFailed(f"the answer is {response.code}")
        types = response.headers.getRawHeaders(b"content-type", [b""])
        if types[0].partition(b";")[0].strip().lower() != b"text/plain":
            response.deliverBody(_Refuse())
            raise FetchFailed("it is not text/plain")
        body = _Body()
        response.deliverBody(body)
        return await body.done


class _Body(Protocol):
    """Reads so much and no more."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.done: Deferred[bytes] = Deferred(lambda _: self._abort())

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_POLICY:
            self._parts.clear()
            self._abort()
            return
        self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if self._size > MAX_POLICY:
            self.done.errback(FetchFailed("it is too large"))
        elif reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(FetchFailed(_reason(reason.value)))

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.stopProducing()


class _Refuse(Protocol):
    """Wants no body."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.stopProducing()


@implementer(IPolicyForHTTPS)
class _Verified:
    def __init__(self, trust: Any) -> None:
        self._trust = trust

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        options = {"raiseMinimumTo": TLSVersion.TLSv1_2}
        return optionsForClientTLS(hostname.decode("ascii"), trustRoot=self._trust, extraCertificateOptions=options)


def authorities(root_ca: Sequence[str]) -> Any:
    """Those in the files, or the system's. :raises TlsError: a file can't be used."""
    if not root_ca:
        return platformTrust()
    certificates = []
    for path in root_ca:
        try:
            with open(path, "rb") as file:
                certificates.append(Certificate.loadPEM(file.read()))
        except (OSError, ValueError, SslError) as error:
            raise TlsError(f"{path}: {getattr(error, 'strerror', None) or 'no certificate in PEM form'}") from error
    return trustRootFromCertificates(certificates)


def _is_of_tls(error: BaseException | None) -> bool:
    """Whether it is the host's certificate, or the handshake, that is wrong."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return any(_is_of_tls(reason.value) for reason in reasons)
    return isinstance(error, TlsFailure | VerificationError)


def _reason(error: BaseException | None) -> str:
    reasons = getattr(error, "reasons", None)
    if reasons:
        return "; ".join(_reason(reason.value) for reason in reasons)
    return str(error) or type(error).__name__
