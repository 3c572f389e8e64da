"""What a name server said, as far as a mail gateway needs it.

An `Answer` is one of three things (`Status`) and is true until ``expires``. It is made of one or more responses: the chain of
aliases (CNAME) is followed inside a response by `follow`, and over responses by the resolver, with a bound and without going in
circles (RFC 1034 3.6.2, 5.2.2). It is ``secure`` if every response was, by a server whose AD bit is trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import dns.name

from mailgate.dns.failure import NoData, NoDomain
from mailgate.dns.wire import CNAME, NXDOMAIN, Response

MAX_ALIASES = 12
"""CNAMEs from a name to its records. Honest chains have two or three; unbound follows 11."""


class Status(Enum):
    FOUND = "found"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"


@dataclass(frozen=True, slots=True)
class Answer:
    """``records`` are dnspython's rdata. ``canonical`` is the name that has them, without final dot; ``expires`` is in seconds of
    the clock. ``more`` says that there were more records than `wire.MAX_RECORDS`."""

    name: str
    kind: str
    status: Status
    records: tuple[Any, ...] = ()
    canonical: str = ""
    secure: bool = False
    expires: float = 0.0
    more: bool = False
    size: int = 0
    """Octets it took on the wire; the cache counts them."""

    def require(self) -> tuple[Any, ...]:
        """The records, at least one.

        :raises NoDomain, NoData: there is none.
        """
        if self.status is Status.FOUND:
            return self.records
        raise (NoDomain if self.status is Status.NXDOMAIN else NoData)(self.name, self.kind, self.status.value)


class Loop(Exception):
    """Aliases go in circles, or on for ever."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one response says of a name: a status, or None where the chain of aliases leaves the response unanswered."""

    status: Status | None
    canonical: dns.name.Name
    records: tuple[Any, ...]
    ttl: float
    """Seconds; 0 where nothing says how long it holds."""


def follow(response: Response, name: dns.name.Name, rdtype: int, seen: set[dns.name.Name]) -> Step:
    """Walk the aliases of one response. ``seen`` are the names met on the way here, and grows.

    :raises Loop: see `MAX_ALIASES`.
    """
    records = response.records
    if records and all(record.rdtype == rdtype and record.owner is name for record in records):  # no alias, as nearly always
        return Step(Status.FOUND, name, tuple(record.data for record in records), min(record.ttl for record in records))
    found: dict[dns.name.Name, list[Any]] = {}
    aliases: dict[dns.name.Name, tuple[dns.name.Name, int]] = {}
    ttls: dict[dns.name.Name, int] = {}
    for record in records:
        if record.rdtype == rdtype:
            found.setdefault(record.owner, []).append(record.data)
            ttls[record.owner] = min(record.ttl, ttls.get(record.owner, record.ttl))
        elif record.rdtype == CNAME:
            data: Any = record.data
            aliases.setdefault(record.owner, (data.target, record.ttl))
    ttl: float = float("inf")
    start = name
    seen.add(name)
    while name not in found and name in aliases:
        name, alias_ttl = aliases[name]
        ttl = min(ttl, alias_ttl)
        if name in seen or len(seen) > MAX_ALIASES:
            raise Loop(name.to_text())
        seen.add(name)
    if name in found:
        return Step(Status.FOUND, name, tuple(found[name]), min(ttl, ttls[name]))
    denial = min(ttl, response.negative_ttl) if response.negative_ttl is not None else 0.0
    if response.rcode == NXDOMAIN:
        return Step(Status.NXDOMAIN, name, (), denial)
    if name != start and response.negative_ttl is None:
        return Step(None, name, (), ttl)
    return Step(Status.NODATA, name, (), denial)
