"""From a recipient to the addresses that take its mail: what target.remote asks of the DNS, and in what order it will try.

`Directory.route` says where the mail of a recipient goes: a `Route`. Recipients whose routes have the same ``key`` share a
transaction: the domains have the same MX hosts with the same preferences. `Directory.stops` then gives the addresses of a route,
in the order in which they are tried.

- Denials are permanent, failures temporary: an address that could not be asked for is never one that does not exist.
- All hosts of a route are asked for at once; those that fail are left out while others are there.
- A host that is this gateway (by name, or by an address) prunes itself and whatever is not preferred to it.
- Loopback, unspecified, multicast and own addresses are left out, whatever the DNS says.

RFC 5321 5.1, RFC 7505; what is decided is in mx.py and ip_strategy.py, what is asked here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.dns.answer import Answer, Status
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import Addresses, Resolver
from mailgate.net.waiting import Wait, start
from mailgate.outbound.ip_strategy import IpStrategy, families_of, in_order
from mailgate.outbound.mx import LOOPS_BACK, Exchange, Exchanges, exchanges, refusal_of, without_us
from mailgate.outbound.next_hop import MX, host_in, is_next_hop, literal_address
from mailgate.outbound.sts_policy import StsPolicy
from mailgate.smtp.address import ascii_domain
from mailgate.smtp.reply import MailError, Reply, TemporaryError

LOOKUP_FAILED = Reply(451, "4.4.3", "The hosts of this domain can't be looked up at present, try again later")
NO_HOST = Reply(550, "5.4.4", "No host that takes the mail of this domain has an address")
NOWHERE = Reply(550, "5.4.4", "The hosts of this domain have only addresses that no mail is sent to")
NOT_ALLOWED = Reply(451, "4.7.5", "No host of this domain is one that its MTA-STS policy names")
NO_LITERALS = Reply(550, "5.1.2", "Mail is not sent to address literals")
NO_WAY = Reply(451, "4.4.4", "The next hop of this gateway can't be found at present, try again later")
NO_DOMAIN = Reply(550, "5.1.2", "The address has no domain that mail could be sent to")


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """Where the mail of a domain goes. ``answer`` is its MX answer; None for an address literal, which ``literal`` is, and for
    a ``host`` that the operator names."""

    key: Hashable
    domain: str
    answer: Answer | None = None
    literal: str = ""
    host: str = ""
    fixed: bool = False
    """The operator's choice: that it leads nowhere is no reason to refuse mail for good."""
    policy: StsPolicy | None = None
    """What the domain asks for by MTA-STS, where that is looked up."""

    @property
    def secure(self) -> bool:
        """DNSSEC proves the MX records, or that there are none; or nobody needs them."""
        return bool(self.host) or (self.answer is not None and self.answer.secure)


@dataclass(frozen=True, slots=True)
class Stop:
    """One address of one host; ``host`` is "" for an address literal."""

    host: str
    address: str


@dataclass(frozen=True, slots=True)
class DirectoryRules:
    """What holds for all messages of a target."""

    own_names: frozenset[str] = frozenset()
    is_own: Callable[[str], bool] = lambda _: False
    allow_loopback: bool = False
    address_literals: bool = False


@dataclass(frozen=True, slots=True)
class Choices:
    """What may differ by message: functions of the host, since expressions see it."""

    mx_limit: int
    strategy: Callable[[str], Any]
    """Maybe awaitable `IpStrategy`."""
    multihomed_limit: Callable[[str], Any]
    """Maybe awaitable int."""
    allowed: Callable[[str], bool] | None = None
    """Hosts that may be used; None: all."""


@contextmanager
def _only_for_now(hop: str) -> Iterator[None]:
    """What is wrong with a next hop of the operator's is not the message's fault."""
    try:
        yield
    except MailError as error:
        if error.reply.is_temporary:
            raise
        raise TemporaryError(NO_WAY.text, enhanced=NO_WAY.enhanced, reason=f"{hop}: {error.reason}") from error


class Directory:
    """See the module's docstring."""

    def __init__(self, resolver: Resolver, random: Random, rules: DirectoryRules) -> None:
        self._resolver = resolver
        self._random = random
        self._rules = rules

    async def fixed_route(self, hop: str) -> Route:
        """Where the operator sends mail: a domain, or one host in brackets.

        :raises MailError: it leads nowhere at present; never for good."""
        if not is_next_hop(hop):
            raise TemporaryError("Temporary lookup failure", reason=f"`route` gave {hop!r}, which is no domain and no host")
        with _only_for_now(hop):
            if not hop.startswith("["):
                return replace(await self.route(hop.removeprefix(MX)), fixed=True)
        address = literal_address(hop)
        if address:
            return Route(("literal", address), hop, literal=address, fixed=True)
        host = host_in(hop)
        return Route(("host", host), host, host=host, fixed=True)

    async def route(self, domain: str) -> Route:
        """:raises MailError: nobody takes the mail of this domain, or that can't be said at present."""
        if domain.startswith("["):
            return self._literal(domain)
        name = ascii_domain(domain.removesuffix("."))
        if name is None:
            raise MailError(NO_DOMAIN)
        try:
            answer = await self._resolver.mx(name)
        except DnsFailure as failure:
            raise MailError(LOOKUP_FAILED, str(failure)) from failure
        exchanges(answer, self._rules.own_names, self._random)  # refuses what goes nowhere
        if answer.status is Status.NODATA:
            return Route(("implicit", name), name, answer)
        named = frozenset((record.preference, record.exchange.to_text().lower()) for record in answer.records)
        return Route(("mx", named), name, answer)

    def _literal(self, domain: str) -> Route:
        if not self._rules.address_literals:
            raise MailError(NO_LITERALS)
        address = literal_address(domain)
        if not address:
            raise MailError(NO_DOMAIN)
        return Route(("literal", address), domain, literal=address)

    async def stops(self, route: Route, choices: Choices) -> list[Stop]:
        """At least one. :raises MailError: there is none, or that can't be said at present."""
        with _only_for_now(route.domain) if route.fixed else nullcontext():
            return await self._stops(route, choices)

    async def _stops(self, route: Route, choices: Choices) -> list[Stop]:
        if route.literal:
            self._refuse(route.literal)
            return [Stop("", route.literal)]
        if route.answer is None:
            chosen = Exchanges((Exchange(route.host),))
            if route.host in self._rules.own_names:
                raise MailError(LOOPS_BACK)
        else:
            chosen = exchanges(route.answer, self._rules.own_names, self._random)
        hosts = [exchange for exchange in chosen.hosts if choices.allowed is None or choices.allowed(exchange.host)]
        if not hosts:
            raise MailError(NOT_ALLOWED)
        chosen = replace(chosen, hosts=tuple(hosts[: choices.mx_limit]))
        found = await self._addresses(chosen, choices)
        return await self._in_order(chosen, found, choices)

    async def _addresses(self, chosen: Exchanges, choices: Choices) -> dict[str, Addresses | DnsFailure]:
        """Of all hosts, asked for at once."""
        waiting = {exchange.host: start(self._ask(exchange.host, choices)) for exchange in chosen.hosts}
        try:
            return {host: await one if isinstance(one, Wait) else one for host, one in waiting.items()}
        except CancelledError:
            for one in waiting.values():
                if isinstance(one, Wait):
                    one.cancel()
            raise

    async def _ask(self, host: str, choices: Choices) -> Addresses | DnsFailure:
        strategy: IpStrategy = await settled(choices.strategy(host))
        try:
            return await self._resolver.addresses(host, families_of(strategy))
        except DnsFailure as failure:
            return failure

    async def _in_order(self, chosen: Exchanges, found: dict[str, Addresses | DnsFailure], choices: Choices) -> list[Stop]:
        usable: dict[str, Addresses] = {}
        ours: set[str] = set()
        failure: DnsFailure | None = None
        nowhere = False
        for exchange in chosen.hosts:
            addresses = found[exchange.host]
            if isinstance(addresses, DnsFailure):
                failure = addresses
            elif addresses.status is Status.FOUND:
                good = self._good(addresses)
                if self._is_ours(addresses):
                    ours.add(exchange.host)
                elif good.ipv4 or good.ipv6:
                    usable[exchange.host] = good
                else:
                    nowhere = True
            failure = failure or (addresses.failure if isinstance(addresses, Addresses) else None)
        hosts: list[Exchange] = list(chosen.hosts)
        if ours:
            hosts = without_us(hosts, lambda exchange: exchange.host in ours)
        stops: list[Stop] = []
        for exchange in hosts:
            if exchange.host in usable:
                stops += await self._stops_of(exchange, usable[exchange.host], choices)
        if stops:
            return stops
        if failure is not None:
            raise MailError(LOOKUP_FAILED, str(failure))
        raise MailError(NOWHERE if nowhere else NO_HOST)

    async def _stops_of(self, exchange: Exchange, addresses: Addresses, choices: Choices) -> list[Stop]:
        strategy = await settled(choices.strategy(exchange.host))
        limit = await settled(choices.multihomed_limit(exchange.host))
        chosen = in_order(strategy, addresses.ipv4, addresses.ipv6, limit)
        return [Stop(exchange.host, address) for address in chosen]

    def _is_ours(self, addresses: Addresses) -> bool:
        if self._rules.allow_loopback:
            return False
        return any(self._rules.is_own(address) for address in (*addresses.ipv4, *addresses.ipv6))

    def _good(self, addresses: Addresses) -> Addresses:
        """Without those that no mail is sent to."""
        ipv4 = tuple(address for address in addresses.ipv4 if not self._refusal(address))
        ipv6 = tuple(address for address in addresses.ipv6 if not self._refusal(address))
        return Addresses(addresses.name, addresses.status, ipv4, ipv6, addresses.canonical, addresses.secure, addresses.failure)

    def _refusal(self, address: str) -> str:
        return refusal_of(address, self._rules.is_own, allow_loopback=self._rules.allow_loopback)

    def _refuse(self, address: str) -> None:
        reason = self._refusal(address)
        if reason:
            raise MailError(LOOPS_BACK if self._rules.is_own(address) else NOWHERE, reason)


async def settled(value: Any) -> Any:
    """The value, awaited if it has to be."""
    return await value if hasattr(value, "__await__") else value
