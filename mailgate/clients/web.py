"""Questions to a service by HTTP (Twisted's Agent), bounded and verified.

`WebClient` is one configuration's: connections are kept and used again, at most ``connections`` at a time; a question waits its
turn for a bounded time, its answer is read up to ``max_body`` octets; redirects are answers like any other. Over TLS the
certificate must lead to a trusted authority and be for the URL's host. After failures in a row nobody asks for a while
(`Breaker`); 502, 503 and 504 count, for they are about the service. Another 5yz, or an answer that is too large, may be about the
question: it fails, but whoever chooses what is asked can't have the service left alone by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from OpenSSL.crypto import Error as SslError
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, TLSVersion, optionsForClientTLS, platformTrust, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from mailgate.adapters import Adapters
from mailgate.clients.breaker import Breaker
from mailgate.net.waiting import DeadlineExceeded, within

WAITING = 256
"""Questions that wait for a connection."""
OUTAGES = (502, 503, 504)


class NoAuthority(Exception):
    """A file of certificates can't be used."""


class WebFailure(Exception):
    """There is no answer to be had."""


class TooLarge(WebFailure):
    """There is one, and it is too large."""


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """``kind``: the media type without parameters, in lower case."""

    code: int
    kind: str
    body: bytes


class WebClient:
    """See the module's docstring."""

    def __init__(
        self,
        label: str,
        adapters: Adapters,
        *,
        timeout: float,
        connections: int,
        max_body: int,
        root_ca: Sequence[str] = (),
    ) -> None:
        self.label = label
        self._reactor = adapters.reactor
        self._timeout = timeout
        self._max_body = max_body
        self._pool = HTTPConnectionPool(self._reactor, persistent=True)
        self._pool.maxPersistentPerHost = connections
        self._pool.retryAutomatically = True  # an idle connection that was closed meanwhile; idempotent questions only
        self._agent = Agent(self._reactor, Verified(authorities(root_ca)), connectTimeout=timeout, pool=self._pool)
        self._turns = DeferredSemaphore(connections)
        self._breaker = Breaker(self._reactor.seconds)
        self._under_way = 0
        self._limit = WAITING + connections

    async def ask(self, method: str, url: str, headers: Mapping[str, Sequence[str]] | None = None, body: Any = None) -> WebAnswer:
        """``body`` is octets, or an IBodyProducer.

        :raises WebFailure: nobody answered, or with 5yz."""
        if self._under_way >= self._limit:
            raise WebFailure(f"{self.label}: too many questions wait for an answer")
        if not self._breaker.begin():
            raise WebFailure(f"{self.label}: left alone for a while, since it failed")
        self._under_way += 1
        try:
            asked: Deferred[WebAnswer] = self._turns.run(
                lambda: Deferred.fromCoroutine(self._ask(method, url, headers or {}, body))
            )
            answer = await within(asked, self._timeout, self._reactor)
        except CancelledError:
            self._breaker.gave_up()
            raise
        except TooLarge as error:
            self._breaker.succeeded()
            raise WebFailure(f"{self.label}: {error}") from error
        except Exception as error:
            self._breaker.failed()
            text = "no answer in time" if isinstance(error, DeadlineExceeded) else reason_of(error)
            raise WebFailure(f"{self.label}: {text}") from error
        finally:
            self._under_way -= 1
        if answer.code in OUTAGES:
            self._breaker.failed()
        else:
            self._breaker.succeeded()
        if answer.code >= 500:
            raise WebFailure(f"{self.label}: the answer is {answer.code}")
        return answer

    async def stop(self) -> None:
        await self._pool.closeCachedConnections()

    async def _ask(self, method: str, url: str, headers: Mapping[str, Sequence[str]], body: Any) -> WebAnswer:
        fields = Headers({b"User-Agent": [b"mailgate"]})
        for name, values in headers.items():
            fields.setRawHeaders(name, list(values))
        producer = FileBodyProducer(BytesIO(body)) if isinstance(body, bytes) else body
        response = await self._agent.request(method.encode("ascii"), url.encode("ascii"), fields, producer)
        reading = BoundedBody(self._max_body)
        response.deliverBody(reading)
        kinds = response.headers.getRawHeaders(b"content-type", [b""])
        kind = kinds[0].partition(b";")[0].strip().lower().decode("latin-1")
        return WebAnswer(response.code, kind, await reading.done)


class BoundedBody(Protocol):
    """Reads so much and no more: ``done`` has the octets, or fails."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self.done: Deferred[bytes] = Deferred(lambda _: self._abort())

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            self._parts.clear()
            self._abort()
            return
        self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if self._size > self._limit:
            self.done.errback(TooLarge("it is too large"))
        elif reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(WebFailure(reason_of(reason.value)))

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection() if hasattr(transport, "abortConnection") else transport.stopProducing()


@implementer(IPolicyForHTTPS)
class Verified:
    """TLS 1.2 or newer, and a certificate for the host by one of ``trust``."""

    def __init__(self, trust: Any) -> None:
        self._trust = trust

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        options = {"raiseMinimumTo": TLSVersion.TLSv1_2}
        return optionsForClientTLS(hostname.decode("ascii"), trustRoot=self._trust, extraCertificateOptions=options)


def authorities(root_ca: Sequence[str]) -> Any:
    """Those in the files, or the system's.

    :raises NoAuthority: a file can't be used."""
    if not root_ca:
        return platformTrust()
    certificates = []
    for path in root_ca:
        try:
            with open(path, "rb") as file:
                certificates.append(Certificate.loadPEM(file.read()))
        except (OSError, ValueError, SslError) as error:
            raise NoAuthority(f"{path}: {getattr(error, 'strerror', None) or 'no certificate in PEM form'}") from error
    return trustRootFromCertificates(certificates)


def reason_of(error: BaseException | None) -> str:
    """What the library's exceptions say, which nest."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return "; ".join(reason_of(reason.value) for reason in reasons)
    return str(error).strip() or type(error).__name__
