"""What `mailgate check` proves of a compiled pipeline: that all mail meets a decision, and that no stranger may relay.

Both are shown by a `Tour` (tour.py), and by an envelope that one can try.

`find_relays`: an unauthenticated client, outside `relay_from` and every network that a condition names, reaches a target that
keeps what it gets (irrevocable, or a queue) with a recipient outside ``local_domains``. An address that an alias leads to
elsewhere is not one, as long as the client does not choose where. Without ``local_domains``, the domains that rules, tables and
conditions name count as local. A network that holds all there is trusts nobody.

`find_hole`: the envelope that shows what a missing default leaves open.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from mailgate.config.domains import NOTHING_LOCAL, LocalDomains
from mailgate.interfaces import Finality
from mailgate.message.envelope import Session, TlsFacts
from mailgate.pipeline.router import DeliverTo, Handling, Router
from mailgate.pipeline.samples import STRANGER, answers_offline, branches_below, condition_texts, literals
from mailgate.pipeline.tour import Crowd, End, Samples, Tour, ask
from mailgate.smtp.address import Address, domain_key

CLIENTS = ("203.0.113.9", "198.51.100.9", "192.0.2.9", "8.8.8.8", "2001:db8::9", "2001:4860:4860::8888")
"""Who knocks: the first that is in no trusted network."""

HELO = "client.example"
MAX_HELOS = 16
_TLS = TlsFacts("TLS1.3", "TLS_AES_128_GCM_SHA256")


@dataclass(frozen=True, slots=True)
class Try:
    """An envelope that anybody can try out."""

    client: Session
    sender: str
    recipient: str

    def __str__(self) -> str:
        said = f"client {self.client.client_ip}"
        if self.client.tls is not None:
            said += ", TLS"
        if self.client.helo != HELO:
            said += f", {'EHLO' if self.client.protocol == 'ESMTP' else 'HELO'} {self.client.helo}"
        return f"{said}, MAIL FROM:<{self.sender}>, RCPT TO:<{self.recipient}>"


@dataclass(frozen=True, slots=True)
class Relay:
    """A way to a target that is open to strangers."""

    step: DeliverTo
    envelope: Try


# Open relays


class Locality:
    """What is outside: of ``local_domains`` and their sub-domains; or, where there are none or they can't be known now, of
    everything that is named."""

    def __init__(self, local: LocalDomains, stranger: str) -> None:
        self._local = local
        self._by_name = answers_offline(local.table) if local.table is not None else bool(local.domains)
        self._label = stranger.partition(".")[0]

    def is_foreign(self, address: Address) -> bool:
        domain = domain_key(address.domain)
        labels = domain.split(".")
        if not domain or len(labels) < 2:  # no mail leaves for the bare postmaster or a name without a dot
            return False
        if self._by_name:
            return not any(self.is_local(".".join(labels[start:])) for start in range(len(labels)))
        return any(self._label in label for label in labels[-2:])

    def is_local(self, domain: str) -> bool:
        return domain in self._local.domains or (self._local.table is not None and ask(self._local.table, domain))

    def is_chosen(self, address: Address) -> bool:
        """Whether the domain is one that the client wrote somewhere."""
        return self._label in domain_key(address.domain)


def find_relays(router: Router, local: LocalDomains, listeners: Iterable[str] = ("",), *, lmtp: bool = False) -> list[Relay]:
    """Each target that strangers reach through the router, with a proof. ``listeners`` are the addresses that they come by."""
    rule = router.relay
    trusted = [*(rule.networks if rule is not None else ()), *named_networks(router)]
    address = outside_client(trusted)
    if address is None:
        return []
    found: dict[DeliverTo, Relay] = {}

    def arrive(end: End, crowd: Crowd, recipients: Samples) -> None:
        if not isinstance(end, DeliverTo) or end in found or end.target.finality is Finality.DISCARD:
            return
        relayed = [
            sample.original
            for sample in recipients
            if locality.is_foreign(sample.current)
            and (locality.is_foreign(sample.original) or locality.is_chosen(sample.current))
        ]
        if relayed:
            sender = min(crowd.senders, key=lambda one: (bool(one.guess), one.original.is_null))
            found[end] = Relay(end, Try(crowd.clients[0], sender.shown, str(min(relayed, key=_oddness))))

    def admits(address: Address) -> bool:
        return rule is None or not address.domain or locality.is_local(domain_key(address.domain))

    clients = sample_clients(router, (address,), listeners, lmtp=lmtp)
    tour = Tour(router, clients, local, arrive, admits)
    locality = Locality(local, tour.stranger)
    tour.run()
    return list(found.values())


def _oddness(address: Address) -> tuple[bool, bool, int]:
    """The plainest proof convinces most."""
    return address.local_part.startswith('"'), address.local_part != STRANGER, len(str(address))


def named_networks(router: Router) -> Iterator[Any]:
    """The networks and addresses that conditions name: who is in one is known to the operator. All there is names nobody."""
    for branch in branches_below(router):
        for condition in branch.conditions:
            for literal in literals(condition.test.expression.node):
                if literal.kind in ("network", "address"):
                    network = ipaddress.ip_network(literal.value)
                    if network.prefixlen:
                        yield network


def outside_client(trusted: Iterable[Any]) -> str | None:
    """An address in none of these networks; None if they hold everybody."""
    networks = list(trusted)
    for text in CLIENTS:
        address = ipaddress.ip_address(text)
        if not any(address.version == network.version and address in network for network in networks):
            return text
    return None


def sample_clients(
    router: Router, addresses: Iterable[str], listeners: Iterable[str] = ("",), *, lmtp: bool = False
) -> list[Session]:
    """Clients that have not logged in; they differ in what conditions look at."""
    names = {
        name for branch in branches_below(router) for condition in branch.conditions for name in condition.test.expression.names
    }
    texts = dict.fromkeys(text for branch in branches_below(router) for text in condition_texts(branch))
    helos = [HELO, *(text.lstrip(".") for text in texts)][:MAX_HELOS] if "helo" in names else [HELO]
    protocols = ["LMTP"] if lmtp else ["ESMTP", "SMTP"] if "protocol" in names else ["ESMTP"]
    encrypted = [None, _TLS] if names & {"tls", "tls_version"} else [None]
    return [
        Session("check", listener, "localhost", client_ip=address, helo=helo, protocol=protocol, tls=tls)
        for address, listener, helo, protocol, tls in product(addresses, listeners, helos, protocols, encrypted)
    ]


def is_exempt(endpoint: Any) -> bool:
    """Only this machine's own processes reach it."""
    if endpoint.scheme == "unix":
        return True
    try:
        return ipaddress.ip_address(endpoint.host).is_loopback
    except ValueError:
        return False


# Coverage


def find_hole(router: Router, hole: Handling, local: LocalDomains = NOTHING_LOCAL) -> Try | None:
    """An envelope that comes to ``hole``, a decision that is not there; None if none of the samples does."""
    found: list[Try] = []

    def arrive(end: End, crowd: Crowd, recipients: Samples) -> None:
        if end is hole and not found:
            sender = min(crowd.senders, key=lambda one: (bool(one.guess), one.original.is_null))
            found.append(Try(crowd.clients[0], sender.shown, recipients[0].shown))

    named = [str(network.network_address) for network in named_networks(router)]
    Tour(router, sample_clients(router, (*CLIENTS[:1], *dict.fromkeys(named))), local, arrive, refused=True).run()
    return found[0] if found else None
