"""Deliveries of target.remote: one transaction for each group of recipients that share their MX hosts.

A `RemoteDelivery` is for one message. Each recipient has a `Route`; those whose routes have the same key are one group, and a
group is one `Delivery` as target.smtp makes them: cut-through, failover before the final dot, one final answer. What is special
is where its endpoints come from: the addresses of the route, looked up when its first recipient comes.

`RemoteHosts` keeps one `Endpoint` for each host, address and TLS decision, with its health and its connections, whichever domain
led to it: so connections are used again across messages and across domains.

The order of tries (`HostSelection`): after a fault of connecting the next address; after anything else that goes wrong before
the envelope is answered, the next host. What is kept of it all is the most informative failure (attempts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.defer import CancelledError, DeferredList
from zope.interface import implementer

from mailgate.interfaces import IWholeDelivery
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.net.waiting import as_deferred
from mailgate.outbound.attempts import DeliverySettings, NextHops
from mailgate.outbound.balance import Balance, Selection
from mailgate.outbound.delivery import Delivery
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.endpoint_settings import EndpointSettings, Timeouts
from mailgate.outbound.failure import ABORTED, Kind
from mailgate.outbound.health import Circuit
from mailgate.outbound.pool import Pool
from mailgate.outbound.routes import Route, Stop
from mailgate.outbound.session_watch import SessionWatch
from mailgate.outbound.tls_policy import Decision
from mailgate.smtp.reply import MailError, Reply

MAX_HOSTS = 5000
"""Addresses that are remembered; those without a connection that were used longest ago go first."""

SAME_HOST = frozenset({Kind.CONNECT, Kind.LEASE, Kind.LOCAL, Kind.SOURCE})
"""What goes wrong with one address says nothing against the other addresses of its host."""


@dataclass(frozen=True, slots=True)
class Way:
    """One address of one host, the TLS that is decided on for it, and how long it may take."""

    stop: Stop
    decision: Decision
    requiretls: Decision
    timeouts: Timeouts


class RemoteHosts:
    """See the module's docstring. ``settings`` is what all have in common; ``endpoints`` is the pool's list."""

    def __init__(self, settings: EndpointSettings, make_circuit: Callable[[str], Circuit], endpoints: list[Endpoint]) -> None:
        self.settings = settings
        self.endpoints = endpoints
        self._make_circuit = make_circuit
        self._known: dict[Way, Endpoint] = {}
        self._circuits: dict[str, Circuit] = {}

    def endpoint(self, way: Way) -> Endpoint:
        endpoint = self._known.pop(way, None)
        if endpoint is None:
            endpoint = self._make(way)
        self._known[way] = endpoint  # at the end: used last
        return endpoint

    def _make(self, way: Way) -> Endpoint:
        if len(self._known) >= MAX_HOSTS:
            self._forget()
        host, address = way.stop.host, way.stop.address
        literal = f"[{address}]" if ":" in address else address
        label = f"{host}[{address}]:{self.settings.port}" if host else f"tcp://{literal}:{self.settings.port}"
        circuit = self._circuits.get(label)
        if circuit is None:
            circuit = self._circuits[label] = self._make_circuit(label)
        settings = replace(
            self.settings,
            label=label,
            host=address,
            mx=host,
            decision=way.decision,
            requiretls_decision=way.requiretls,
            timeouts=way.timeouts,
        )
        endpoint = Endpoint(settings, circuit)
        self.endpoints.append(endpoint)
        return endpoint

    def _forget(self) -> None:
        """Make room for a tenth."""
        unused = [way for way, endpoint in self._known.items() if not endpoint.open_count][: MAX_HOSTS // 10]
        gone = {id(self._known.pop(way)) for way in unused}
        self.endpoints[:] = [endpoint for endpoint in self.endpoints if id(endpoint) not in gone]
        labels = {endpoint.settings.label for endpoint in self.endpoints}
        self._circuits = {label: circuit for label, circuit in self._circuits.items() if label in labels}


class HostSelection(Selection):
    """The addresses of a route in their order, with an eye on the hosts they belong to."""

    __slots__ = ()

    def failed(self, endpoint: Endpoint, kind: Kind | None) -> None:
        host = endpoint.settings.mx
        if kind not in SAME_HOST and host:
            self.tried.update(other for other in self._endpoints if other.settings.mx == host)


class HostOrder(Balance):
    """The order of a route is the one there is."""

    __slots__ = ("_stops",)

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._stops = endpoints
        self.is_ordered = True
        self.is_plural = len(endpoints) > 1

    def select(self, variables: Any, who: object = None) -> Selection:
        return HostSelection(self._stops, who)


@dataclass(frozen=True, slots=True, eq=False)
class Office:
    """What all deliveries of one target share. ``route(envelope, recipient)`` and ``ways(envelope, recipient, route)`` are
    awaitable and raise MailError."""

    settings: DeliverySettings
    hosts: RemoteHosts
    pool: Pool
    clock: Any
    log: Any
    route: Callable[[Envelope, Recipient], Any]
    ways: Callable[[Envelope, Recipient, Route], Any]
    watch: Callable[[Envelope, Route], SessionWatch | None]

    def hops(self, ways: Sequence[Way], watch: SessionWatch | None) -> NextHops:
        endpoints = [self.hosts.endpoint(way) for way in ways]
        return NextHops(self.settings, endpoints, self.pool, self.clock, self.log, HostOrder(endpoints), watch)


@implementer(IWholeDelivery)
class RemoteDelivery:
    """See the module's docstring."""

    __slots__ = ("_aborted", "_accepted", "_envelope", "_groups", "_office", "_waiting")

    def __init__(self, office: Office, envelope: Envelope) -> None:
        self._office = office
        self._envelope = envelope
        self._groups: dict[Hashable, Delivery] = {}
        self._accepted: list[tuple[Recipient, Delivery]] = []
        self._waiting: Any = None
        """A lookup that `abort` cancels."""
        self._aborted = False

    @property
    def endpoint(self) -> str:
        """Labels of the endpoints that were heard of last, for the log."""
        return " ".join(group.endpoint for group in self._groups.values())

    async def rcpt(self, recipient: Recipient) -> Reply:
        """See `IDelivery`."""
        try:
            group = await self._group_of(recipient)
        except MailError as error:
            return error.reply
        except CancelledError:
            if self._aborted:
                return ABORTED
            raise
        reply = await group.rcpt(recipient)
        if reply.code // 100 == 2:
            self._accepted.append((recipient, group))
        return reply

    async def offer(self, recipients: Sequence[Recipient], message: Message) -> list[Reply]:
        """See `IWholeDelivery`. A group after the other: the queue has one delivery for each domain."""
        replies: dict[int, Reply] = {}
        members: dict[Delivery, list[Recipient]] = {}
        for recipient in recipients:
            try:
                members.setdefault(await self._group_of(recipient), []).append(recipient)
            except MailError as error:
                replies[id(recipient)] = error.reply
            except CancelledError:
                if self._aborted:
                    return [ABORTED] * len(recipients)
                raise
        for group, some in members.items():
            for recipient, reply in zip(some, await group.offer(some, message), strict=True):
                replies[id(recipient)] = reply
                if reply.code // 100 == 2:
                    self._accepted.append((recipient, group))
        return [replies[id(recipient)] for recipient in recipients]

    async def _group_of(self, recipient: Recipient) -> Delivery:
        route: Route = await self._wait_for(self._office.route(self._envelope, recipient))
        group = self._groups.get(route.key)
        if group is None:
            ways = await self._wait_for(self._office.ways(self._envelope, recipient, route))
            hops = self._office.hops(ways, self._office.watch(self._envelope, route))
            group = self._groups[route.key] = Delivery(hops, self._envelope)
        return group

    async def _wait_for(self, lookup: Any) -> Any:
        self._waiting = waiting = as_deferred(lookup)
        return await waiting

    def withdraw(self, recipients: Sequence[Recipient]) -> None:
        """See `IDelivery`."""
        gone = [(recipient, group) for recipient, group in self._accepted if recipient in recipients]
        self._accepted = [one for one in self._accepted if one not in gone]
        for group in {id(group): group for _, group in gone}.values():
            group.withdraw([recipient for recipient, its in gone if its is group])

    async def send(self, message: Message) -> list[Reply]:
        """See `IDelivery`. All groups at once; each recipient has the answer of its own."""
        groups = list({id(group): group for _, group in self._accepted}.values())
        for group in self._groups.values():
            if group not in groups:
                group.abort()
        if len(groups) == 1:
            return await groups[0].send(message)
        sending = [as_deferred(group.send(message)) for group in groups]
        outcomes: list[tuple[bool, Any]] = await DeferredList(sending, consumeErrors=True)
        answers: dict[int, Reply] = {}
        for group, (sent, replies) in zip(groups, outcomes, strict=True):
            if not sent:
                replies.raiseException()  # a cancellation: nothing else gets out of send
            members = [recipient for recipient, its in self._accepted if its is group]
            answers.update((id(recipient), reply) for recipient, reply in zip(members, replies, strict=True))
        return [answers[id(recipient)] for recipient, _ in self._accepted]

    def abort(self) -> None:
        """See `IDelivery`."""
        self._aborted = True
        if self._waiting is not None:
            self._waiting.cancel()
        for group in self._groups.values():
            group.abort()
