"""One next hop of a target: what makes its connections alike, its health, and what there is to see of it.

A connection is kept for its `Link`, which is an endpoint and a `LinkKey`, and is never used for another one. What a key holds is
what the peer, or whoever listens in between, could tell two connections apart by: the TLS that was decided on, our name, our
address, whose login, which client's address was passed on. TLS contexts, credentials of our own, timeouts and the like are
constant for an endpoint and so belong to its part of the key.

Where something of the key depends on the message (a dynamic setting, the client's own login, XCLIENT), the endpoint's settings
have ``vary``: each of these functions completes the key by one thing, in their order. An endpoint without them has two links,
one for REQUIRETLS, and nothing to compute.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from mailgate.outbound.endpoint_settings import EndpointSettings
from mailgate.outbound.health import Circuit, State
from mailgate.outbound.sources import Source
from mailgate.outbound.tls_memory import BrokenTls
from mailgate.outbound.tls_policy import Decision
from mailgate.smtp.proxy_protocol import Header

MAX_LINKS = 200
"""Links with a key of their own that an endpoint remembers; those without a connection go first."""


@dataclass(frozen=True, slots=True)
class LinkKey:
    """What makes two connections to one endpoint alike."""

    decision: Decision
    hostname: str
    """What we say behind EHLO or LHLO."""
    sources: tuple[Source, ...] = ()
    """Our addresses, of which one is used, with their names; empty: what the endpoint's settings say."""
    login: Hashable = None
    """Whose credentials, where they are not the endpoint's own."""
    xclient: tuple[tuple[str, str], ...] = ()
    proxy: Header | None = None
    """What a PROXY header says."""


class Link:
    """The connections of one key: of two links they are never exchanged."""

    __slots__ = ("decision", "endpoint", "idle", "key", "open_count")

    def __init__(self, endpoint: Endpoint, key: LinkKey) -> None:
        self.endpoint = endpoint
        self.key = key
        self.decision = key.decision
        self.open_count = 0
        self.idle: list[Any] = []
        """Ready connections, the newest last; the pool's."""


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """What there is to see of one endpoint. Times are in seconds: ``since`` how long it has been so."""

    endpoint: str
    state: str
    """up, starting (slowly), down, half-open, drained."""
    since: float
    evidence: tuple[tuple[float, str], ...]
    """Failures, the latest last: how long ago, what."""
    retry_in: float
    """Until a circuit that is open lets a delivery try; 0: at once, or it is closed."""
    probe_in: float | None
    """Until the next probe; None without probing."""
    share: float
    weight: int
    open: int
    idle: int
    leased: int
    """Connections in use or being opened."""
    messages: int


class Endpoint:
    """An endpoint of a target."""

    __slots__ = (
        "broken_tls",
        "circuit",
        "constant",
        "link",
        "links",
        "messages",
        "next_probe",
        "open_count",
        "requiretls_link",
        "settings",
        "weight",
    )

    def __init__(self, settings: EndpointSettings, circuit: Circuit, weight: int = 1) -> None:
        self.settings = settings
        self.circuit = circuit
        self.weight = weight
        self.open_count = 0
        """Connections that are open or being opened; the pool counts."""
        self.messages = 0
        """Transactions that came to their answers."""
        self.next_probe: float | None = None
        """When it is probed next, on the clock."""
        self.broken_tls = BrokenTls(circuit.now)
        self.constant = not settings.vary
        """Every message gets one of the two links that are always there."""
        self.link = Link(self, LinkKey(settings.decision, settings.hostname))
        same = settings.requiretls_decision == settings.decision
        self.requiretls_link = self.link if same else Link(self, LinkKey(settings.requiretls_decision, settings.hostname))
        self.links = {link.key: link for link in (self.link, self.requiretls_link)}
        """All of them."""

    def link_for(self, variables: Any, *, requiretls: bool) -> Any:
        """The link for a message, or an awaitable of it.

        :raises MailError: there can be none: a lookup failed, say, or the client has no login to pass on."""
        link = self.requiretls_link if requiretls else self.link
        key = link.key
        for number, vary in enumerate(self.settings.vary):
            varied = vary(key, variables)
            if inspect.isawaitable(varied):
                return self._link_later(varied, variables, number + 1)
            key = varied
        return self.link_of(key)

    async def _link_later(self, varied: Any, variables: Any, number: int) -> Link:
        key = await varied
        for vary in self.settings.vary[number:]:
            varied = vary(key, variables)
            key = await varied if inspect.isawaitable(varied) else varied
        return self.link_of(key)

    def link_of(self, key: LinkKey) -> Link:
        link = self.links.get(key)
        if link is None:
            if len(self.links) >= MAX_LINKS:
                self._forget()
            link = self.links[key] = Link(self, key)
        return link

    def _forget(self) -> None:
        """Links nobody is connected by. Who waits for one keeps it; it is only not shared any more."""
        kept = (self.link, self.requiretls_link)
        self.links = {key: link for key, link in self.links.items() if link.open_count or link in kept}

    @property
    def idle_count(self) -> int:
        return sum(len(link.idle) for link in self.links.values())

    @property
    def leased(self) -> int:
        return self.open_count - self.idle_count

    def report(self) -> EndpointReport:
        circuit = self.circuit
        now = circuit.now()
        idle = self.idle_count
        return EndpointReport(
            self.settings.label,
            self._state(),
            now - circuit.since,
            tuple((now - evidence.at, str(evidence)) for evidence in circuit.evidence),
            0.0 if circuit.closed else max(circuit.due - now, 0.0),
            None if self.next_probe is None else max(self.next_probe - now, 0.0),
            circuit.share,
            self.weight,
            self.open_count,
            idle,
            self.open_count - idle,
            self.messages,
        )

    def _state(self) -> str:
        circuit = self.circuit
        if circuit.drained:
            return "drained"
        if circuit.closed:
            return "up" if circuit.share == 1.0 else "starting"
        return "half-open" if circuit.state is State.HALF_OPEN else "down"
