"""Which addresses of a host are tried, and in what order: one pure function, after `ip_strategy` and `multihomed_limit`.

A strategy of two families tries all addresses of the first, then those of the second. If the limit would leave none of the
second family, its first address takes the last place: a host whose first family is broken can then still be reached. Only
`happy_eyeballs` lets the families take turns, IPv6 first (RFC 8305 4). Within a family the order is the name server's.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from itertools import zip_longest

IPV4, IPV6 = 4, 6


class IpStrategy(Enum):
    IPV4_ONLY = "ipv4_only"
    IPV6_ONLY = "ipv6_only"
    IPV4_THEN_IPV6 = "ipv4_then_ipv6"
    IPV6_THEN_IPV4 = "ipv6_then_ipv4"
    HAPPY_EYEBALLS = "happy_eyeballs"


_FAMILIES = {
    IpStrategy.IPV4_ONLY: (IPV4,),
    IpStrategy.IPV6_ONLY: (IPV6,),
    IpStrategy.IPV4_THEN_IPV6: (IPV4, IPV6),
    IpStrategy.IPV6_THEN_IPV4: (IPV6, IPV4),
    IpStrategy.HAPPY_EYEBALLS: (IPV6, IPV4),
}


def families_of(strategy: IpStrategy) -> tuple[int, ...]:
    """The families that are asked for, the preferred one first."""
    return _FAMILIES[strategy]


def in_order(strategy: IpStrategy, ipv4: Sequence[str], ipv6: Sequence[str], limit: int) -> tuple[str, ...]:
    """At most ``limit`` addresses, in the order in which they are tried."""
    groups = [ipv4 if family == IPV4 else ipv6 for family in families_of(strategy)]
    if strategy is IpStrategy.HAPPY_EYEBALLS:
        turns = [address for pair in zip_longest(*groups, fillvalue="") for address in pair if address]
        return tuple(turns[:limit])
    first, second = groups[0], groups[1] if len(groups) > 1 else ()
    chosen = [*first, *second][:limit]
    if second and limit >= 2 and len(first) >= limit:
        chosen[-1] = second[0]
    return tuple(chosen)
