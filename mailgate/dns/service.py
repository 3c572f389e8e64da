"""The resolver of a `resolver` block, or of the system's files; and as what Twisted asks for host names."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHostnameResolver, IHostResolution, IReactorFDSet
from twisted.logger import Logger
from zope.interface import implementer

from mailgate.adapters import Adapters
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import BOTH, DEFAULT_CACHE, IPV4, IPV6, Addresses, Resolver
from mailgate.dns.system import read_hosts, read_resolv_conf
from mailgate.dns.txdnspython import Schedule, Server, Transport, is_loopback
from mailgate.net.waiting import spawn
from mailgate.registry.names import ResolverBlock

_log = Logger(namespace="mailgate.dns")

_FAMILY_OF = {IPv4Address: IPV4, IPv6Address: IPV6}


def build_resolver(block: ResolverBlock | None, adapters: Adapters) -> Resolver:
    """What the block says, or /etc/resolv.conf; both files are read now, and again by a reload."""
    if block is None or not block.servers:
        system = read_resolv_conf()
        schedule, cache = Schedule(system.timeout, system.attempts), DEFAULT_CACHE
    else:
        schedule, cache = Schedule(block.timeout, block.attempts), block.cache
    transport = Transport(servers_of(block), adapters.reactor, adapters.random, schedule)
    return Resolver(transport, adapters.reactor.seconds, cache=cache, hosts=read_hosts())


def servers_of(block: ResolverBlock | None) -> tuple[Server, ...]:
    """Those of the block, or of /etc/resolv.conf. On loopback they are trusted."""
    if block is None or not block.servers:  # of a damaged block nothing is used; the file is refused anyway
        return tuple(Server(host, 53, is_loopback(host)) for host in read_resolv_conf().servers)
    return tuple(Server(one.host, one.port, block.trusted or is_loopback(one.host)) for one in block.servers)


def with_names(block: ResolverBlock | None, adapters: Adapters) -> Adapters:
    """The outside world with a resolver: the one it has, or the block's. A reactor that reads no sockets, as a simulated one,
    has its own names."""
    if adapters.resolver is not None or not IReactorFDSet.providedBy(adapters.reactor):
        return adapters
    return replace(adapters, resolver=build_resolver(block, adapters))


@implementer(IHostResolution)
class _Resolution:
    """One name being resolved for Twisted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting: Deferred[Any] | None = None

    def cancel(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()


@implementer(IHostnameResolver)
class HostnameResolver:
    """Our resolver as the reactor's: whatever connects by name asks it. Families take turns, IPv6 first (RFC 8305), since those
    who ask this way try the addresses side by side. A failure is no address, and a line at debug level."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: Any = "TCP",
    ) -> Any:
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        families = BOTH if addressTypes is None else tuple(_FAMILY_OF[kind] for kind in addressTypes if kind in _FAMILY_OF)

        def resolved(addresses: Addresses) -> None:
            for address in _in_turns(addresses):
                kind = IPv6Address if ":" in address else IPv4Address
                resolutionReceiver.addressResolved(kind(transportSemantics, address, portNumber))
            resolutionReceiver.resolutionComplete()

        def failed(failure: Any) -> None:
            if not failure.check(DnsFailure, CancelledError):
                _log.failure("resolving {name} failed", failure, name=hostName)
            elif failure.check(DnsFailure):
                _log.debug("resolving {name} failed: {reason}", name=hostName, reason=str(failure.value))
            resolutionReceiver.resolutionComplete()

        resolution.waiting = spawn(self.resolver.addresses(hostName, families))
        resolution.waiting.addCallbacks(resolved, failed)
        return resolution


def _in_turns(addresses: Addresses) -> list[str]:
    pairs = zip_longest(addresses.ipv6, addresses.ipv4, fillvalue="")
    return [address for pair in pairs for address in pair if address]
