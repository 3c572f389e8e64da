"""Who a client is by name: the directives `reverse_lookup`, `reverse_lookup_timeout` and `resolver` of listeners.

Before the greeting the client's address is asked for its names (PTR). ``verify``, the default, takes the first name that has this
address among its own (forward-confirmed), ``yes`` the first name as it stands, ``no`` asks nothing. The name stands in Received,
in the logs and in `when client_name`; no name is "".

- It never refuses and never fails: no name in time is no name. What was asked goes on into the resolver's cache if others wait
  for it.
- Any owner of an address can write any name there: under ``yes`` it is a claim, and no route should trust it.
- Loopback and what /etc/hosts lists have their names without asking; a unix socket has none. Private addresses are asked for as
  any other: a local server may know them.
- A name that XCLIENT gave is kept.
"""

from __future__ import annotations

import re
from typing import Any

from mailgate.adapters import Adapters
from mailgate.config import values as v
from mailgate.config.schema import Block, Directive
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import IPV4, IPV6, Resolver
from mailgate.dns.service import build_resolver
from mailgate.inbound.welcome import Step
from mailgate.message.envelope import Session
from mailgate.net.waiting import DeadlineExceeded, Wait, start, within
from mailgate.registry.names import ResolverBlock

MAX_NAMES = 5
"""PTR records that are verified: some addresses have hundreds."""

_HOST_NAME = re.compile(
    r"(?!.{254})[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*\Z"
)


class NamesBlock(Block):
    """A part of every listener."""

    reverse_lookup = Directive(
        "reverse_lookup",
        v.Choice("verify", "yes", "no"),
        default="verify",
        doc="The client's name by its address: verify takes one that has the address in turn, yes any, no asks for none.",
        origin="smtp-server",
    )
    reverse_lookup_timeout = Directive(
        "reverse_lookup_timeout",
        v.Duration(minimum=0.01, maximum=30.0),
        default=1.5,
        doc="How long the greeting waits for the name at most.",
        origin="smtp-server",
    )
    resolver = Directive(
        "resolver",
        block=ResolverBlock,
        block_required=True,
        doc="DNS servers of this listener alone, in place of the global ones.",
        origin="smtp-server",
    )

    def names(self, adapters: Adapters) -> Resolver | None:
        """The resolver of this listener; None where there is no DNS."""
        found: Resolver | None = adapters.resolver if self.resolver is None else build_resolver(self.resolver, adapters)
        return found

    def name_steps(self, adapters: Adapters) -> list[Step]:
        """What is asked about a client before its greeting; see `inbound.welcome`."""
        resolver = self.names(adapters)
        if resolver is None:
            return []
        steps: list[Step] = [OwnResolver(resolver)] if self.resolver is not None else []
        if self.reverse_lookup != "no":
            verified = self.reverse_lookup == "verify"
            steps.append(NameStep(resolver, adapters.reactor, self.reverse_lookup_timeout, verified=verified))
        return steps


class OwnResolver:
    """Tells a session, and so the checks of its messages, whom this listener asks for names."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def __call__(self, session: Session) -> None:
        session.resolver = self._resolver


class NameStep:
    """Finds the name of a session's client."""

    def __init__(self, resolver: Resolver, clock: Any, seconds: float, *, verified: bool) -> None:
        self._resolver = resolver
        self._clock = clock
        self._seconds = seconds
        self._verified = verified

    def __call__(self, session: Session) -> Any:
        if not session.client_ip or session.client_name:
            return None
        name = start(self._find(session.client_ip))
        if isinstance(name, Wait):
            return self._in_time(name, session)
        session.client_name = name
        return None

    async def _in_time(self, waiting: Wait[str], session: Session) -> None:
        try:
            session.client_name = await within(waiting, self._seconds, self._clock)
        except DeadlineExceeded:
            session.client_name = ""

    async def _find(self, address: str) -> str:
        """The name of an address, "" without one."""
        try:
            names = [name.lower() for name in await self._resolver.reverse(address) if _HOST_NAME.match(name)]
            if not self._verified:
                return names[0] if names else ""
            for name in names[:MAX_NAMES]:
                if await self._has(name, address):
                    return name
        except DnsFailure:
            pass
        return ""

    async def _has(self, name: str, address: str) -> bool:
        family = IPV6 if ":" in address else IPV4
        try:
            found = await self._resolver.addresses(name, (family,))
        except DnsFailure:
            return False  # another of the names may do
        return address in (found.ipv6 if family == IPV6 else found.ipv4)
