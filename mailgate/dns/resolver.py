"""The resolver that all rooms ask: typed answers out of a cache, and each question on its way only once.

    answer = await resolver.mx("example.org")          # Answer: found, no data, or no such domain
    for record in answer.require(): …                  # raises NoData or NoDomain, both permanent
    addresses = await resolver.addresses("mx.example.org")

Contract:

- A method returns what servers said (`Answer`), or raises `Bogus`, `ServerFailure` or `Timeout`, all temporary. There is no None
  and no empty answer that could be either.
- Names are complete: no search list. A U-label is asked as its A-label; what can't be a name does not exist.
- `addresses` knows address literals, /etc/hosts and the names of RFC 6761 (localhost, invalid) without asking anybody. It asks
  for both families at once and denies only what both denied; with one family failed and nothing found, it fails.
- Equal questions wait for the same answer; one that is cancelled leaves the others waiting, the last one takes the question
  with it. A cached answer costs no wait at all.
- An answer with more than `wire.MAX_RECORDS` records is cut where any of them will do, and a `ServerFailure` where one of those
  cut could be the one that counts (MX, TXT, TLSA).

``secure`` in an answer is the AD bit of a trusted server (delivery.md); we validate nothing ourselves.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol

import dns.exception
import dns.name
import dns.reversename
import idna
from dns.rdatatype import RdataType
from twisted.internet.defer import CancelledError

from mailgate.dns.answer import Answer, Loop, Status, follow
from mailgate.dns.cache import Cache, lifetime
from mailgate.dns.failure import DnsFailure, ServerFailure
from mailgate.dns.system import NO_HOSTS, Hosts
from mailgate.dns.txdnspython import Reply
from mailgate.dns.wire import Question, kind_of
from mailgate.net.waiting import Wait, start

A, AAAA, PTR, MX, TXT, SRV, TLSA = (
    int(kind) for kind in (RdataType.A, RdataType.AAAA, RdataType.PTR, RdataType.MX, RdataType.TXT, RdataType.SRV, RdataType.TLSA)
)
IPV4, IPV6 = 4, 6
BOTH = (IPV4, IPV6)
_KIND_OF = {IPV4: A, IPV6: AAAA}

DEFAULT_CACHE = 16 << 20
_WHOLE = frozenset({MX, TXT, TLSA})
"""Types whose answer is of use only as a whole."""
_LOCALHOST = {IPV4: "127.0.0.1", IPV6: "::1"}


class Asks(Protocol):
    """What a resolver asks: a `txdnspython.Transport`, or a test's own."""

    @property
    def trusted(self) -> bool:
        """Whether the AD bit of a server is believed."""

    def ask(self, question: Question) -> Any:
        """An awaitable of a `Reply`; cancelling it ends it."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of a name. ``failure`` is of the one family that could not be asked, while the other gave some."""

    name: str
    status: Status
    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()
    canonical: str = ""
    secure: bool = False
    """Whether all that was asked was answered securely."""
    failure: DnsFailure | None = None


class Resolver:
    """See the module's docstring."""

    def __init__(
        self, transport: Asks, seconds: Callable[[], float], *, cache: int = DEFAULT_CACHE, hosts: Hosts = NO_HOSTS
    ) -> None:
        self._transport = transport
        self._seconds = seconds
        self._hosts = hosts
        self._flights: dict[tuple[str, int], _Flight] = {}
        self.cache = Cache(cache, seconds)

    @property
    def trusted(self) -> bool:
        """Whether an answer can be secure at all."""
        return self._transport.trusted

    # questions

    async def query(self, name: str, rdtype: int) -> Answer:
        """Ask for the records of one type.

        :raises DnsFailure: `Bogus`, `ServerFailure`, `Timeout`.
        """
        asked = name if name == "." else name.lower().removesuffix(".")
        key = (asked, rdtype)
        known = self.cache.get(key)
        if known is not None:
            if isinstance(known, DnsFailure):
                raise known.again()
            return known
        flight = self._flights.get(key)
        if flight is None:
            parsed = parse_name(asked)
            if parsed is None:
                return Answer(asked, kind_of(rdtype), Status.NXDOMAIN, canonical=asked)
            flight = _Flight(self, key)
            self._flights[key] = flight
            flight.take_off(self._find(asked, parsed, rdtype))
        return await flight.join()

    async def mx(self, domain: str) -> Answer:
        return await self.query(domain, MX)

    async def txt(self, name: str) -> Answer:
        """Its records have ``strings``; see `texts`."""
        return await self.query(name, TXT)

    async def srv(self, name: str) -> Answer:
        return await self.query(name, SRV)

    async def tlsa(self, host: str, port: int) -> Answer:
        return await self.query(f"_{port}._tcp.{host}", TLSA)

    async def reverse(self, address: str) -> tuple[str, ...]:
        """The names of an address, without final dot; none if it has none. /etc/hosts and loopback are not asked for.

        :raises DnsFailure: `Bogus`, `ServerFailure`, `Timeout`.
        """
        ip = ipaddress.ip_address(address.partition("%")[0])
        if name := self._hosts.names.get(str(ip)):
            return (name,)
        if ip.is_loopback:
            return ("localhost",)
        answer = await self.query(dns.reversename.from_address(str(ip)).to_text(omit_final_dot=True), PTR)
        return tuple(record.target.to_text(omit_final_dot=True) for record in answer.records)

    async def addresses(self, name: str, families: tuple[int, ...] = BOTH) -> Addresses:
        """The addresses of a host.

        :raises DnsFailure: no family gave an address, and one of them could not be asked.
        """
        local = self._local_addresses(name)
        if local is not None:
            ipv4 = local.ipv4 if IPV4 in families else ()
            ipv6 = local.ipv6 if IPV6 in families else ()
            status = Status.FOUND if ipv4 or ipv6 else Status.NXDOMAIN if local.status is Status.NXDOMAIN else Status.NODATA
            return replace(local, ipv4=ipv4, ipv6=ipv6, status=status)
        under_way = [(family, self._begin(name, _KIND_OF[family])) for family in families]
        answers: list[Answer] = []
        failure: DnsFailure | None = None
        try:
            for _, waiting in under_way:
                try:
                    answers.append(await waiting if isinstance(waiting, Wait) else waiting())
                except DnsFailure as error:
                    failure = error
        except CancelledError:
            for _, waiting in under_way:
                if isinstance(waiting, Wait):
                    waiting.cancel()
            raise
        found = [answer for answer in answers if answer.status is Status.FOUND]
        if failure is not None and not found:
            raise failure
        records = {answer.kind: tuple(record.address for record in answer.records) for answer in found}
        nothing = Status.NXDOMAIN if any(answer.status is Status.NXDOMAIN for answer in answers) else Status.NODATA
        return Addresses(
            name,
            Status.FOUND if found else nothing,
            records.get("A", ()),
            records.get("AAAA", ()),
            (found or answers)[0].canonical,
            all(answer.secure for answer in answers),
            failure,
        )

    def forget(self) -> None:
        """Empty the cache."""
        self.cache.clear()

    # inside

    def _begin(self, name: str, rdtype: int) -> Any:
        """The question under way: a `Wait`, or a call that gives its result."""
        try:
            answer = start(self.query(name, rdtype))
        except DnsFailure as error:
            return _Raise(error)
        return answer if isinstance(answer, Wait) else lambda: answer

    def _local_addresses(self, name: str) -> Addresses | None:
        """What is known without asking: literals, /etc/hosts, the names of RFC 6761 6.3 and 6.4."""
        try:
            ip = ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            pass
        else:
            return Addresses(name, Status.FOUND, (name,) * (ip.version == 4), (name,) * (ip.version == 6), name)
        lower = name.lower().removesuffix(".")
        if addresses := self._hosts.addresses.get(lower):
            ipv6 = tuple(address for address in addresses if ":" in address)
            ipv4 = tuple(address for address in addresses if ":" not in address)
            return Addresses(lower, Status.FOUND, ipv4, ipv6, canonical=lower)
        top = lower.rpartition(".")[2]
        if top == "localhost":
            return Addresses(lower, Status.FOUND, (_LOCALHOST[IPV4],), (_LOCALHOST[IPV6],), canonical=lower)
        if top == "invalid":
            return Addresses(lower, Status.NXDOMAIN, canonical=lower)
        return None

    async def _find(self, asked: str, parsed: dns.name.Name, rdtype: int) -> Answer:
        """Ask, following aliases that a response leaves open."""
        kind = kind_of(rdtype)
        seen: set[dns.name.Name] = set()
        name = parsed
        secure, more, size, ttl = True, False, 0, float("inf")
        while True:
            reply: Reply = await self._transport.ask(Question(name, rdtype))
            response = reply.response
            try:
                step = follow(response, name, rdtype, seen)
            except Loop:
                raise ServerFailure(asked, kind, "its aliases (CNAME) go in circles, or are too many") from None
            secure = secure and reply.server.trusted and response.authentic
            more = more or response.more
            size += response.size
            ttl = min(ttl, step.ttl)
            name = step.canonical
            if step.status is not None:
                break
        if more and rdtype in _WHOLE:
            raise ServerFailure(asked, kind, "too many records")
        records = step.records
        if rdtype == MX:
            records = tuple(sorted(records, key=lambda record: record.preference))
        expires = self._seconds() + lifetime(step.status, ttl)
        canonical = asked if name is parsed else name.to_text(omit_final_dot=True).lower()
        return Answer(asked, kind, step.status, records, canonical, secure, expires, more, size)

    def _landed(self, key: tuple[str, int], result: Answer | Exception) -> None:
        del self._flights[key]
        if isinstance(result, Answer):
            self.cache.keep(key, result)
        elif isinstance(result, DnsFailure):
            self.cache.keep_failure(key, result)


class _Raise:
    """A failure as the result of a call."""

    def __init__(self, error: DnsFailure) -> None:
        self._error = error

    def __call__(self) -> Answer:
        raise self._error


class _Flight:
    """One question on its way, and all who wait for it."""

    def __init__(self, resolver: Resolver, key: tuple[str, int]) -> None:
        self._resolver = resolver
        self._key = key
        self._passengers: list[Wait[Answer]] = []
        self._task: Wait[Answer] | None = None
        self._result: Answer | Exception | None = None

    def take_off(self, finding: Coroutine[Any, Any, Answer]) -> None:
        try:
            task = start(finding)
        except DnsFailure as failure:
            self._land(failure)
            return
        if not isinstance(task, Wait):
            self._land(task)
            return
        self._task = task
        task.when_done(self._done)

    def join(self) -> Wait[Answer]:
        passenger: Wait[Answer] = Wait(lambda: self._leave(passenger))
        if self._result is not None:
            _tell(passenger, self._result)
        else:
            self._passengers.append(passenger)
        return passenger

    def _leave(self, passenger: Wait[Answer]) -> None:
        if passenger in self._passengers:
            self._passengers.remove(passenger)
        if not self._passengers and self._task is not None and not self._task.done:
            self._task.cancel()

    def _done(self) -> None:
        assert self._task is not None
        try:
            self._land(self._task.result())
        except Exception as error:  # CancelledError too: nobody waits any more, or the transport was closed
            self._land(error)

    def _land(self, result: Answer | Exception) -> None:
        self._result = result
        self._resolver._landed(self._key, result)
        passengers, self._passengers = self._passengers, []
        for passenger in passengers:
            _tell(passenger, result)


def _tell(passenger: Wait[Answer], result: Answer | Exception) -> None:
    if isinstance(result, Answer):
        passenger.fire(result)
    else:
        passenger.fail(result.again() if isinstance(result, DnsFailure) else result)


def parse_name(name: str) -> dns.name.Name | None:
    """A complete name in its wire form; None where it can't be one: an empty label, one too long, a character that IDNA refuses.

    No escapes: a backslash is a character of a label.
    """
    if name == ".":
        return dns.name.root
    try:
        if not name.isascii():
            name = idna.encode(name, uts46=True).decode("ascii")
        return dns.name.Name([*(label.encode("ascii") for label in name.split(".")), b""]) if name else None
    except (idna.IDNAError, UnicodeError, dns.exception.DNSException):
        return None


def texts(answer: Answer) -> tuple[bytes, ...]:
    """The texts of TXT records: the strings of each put together."""
    return tuple(b"".join(record.strings) for record in answer.records)
