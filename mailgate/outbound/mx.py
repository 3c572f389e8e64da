"""Which hosts take the mail of a domain, and which of their addresses mail is sent to: pure decisions (RFC 5321 5.1, RFC 7505).

`exchanges` orders the MX records of a domain, or says why there is nobody to ask; `refusal_of` says why an address is none that
mail is sent to; `without_us` prunes what would lead back to this gateway. Names are without final dot, in lower case.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from random import Random

from mailgate.dns.answer import Answer, Status
from mailgate.smtp.reply import MailError, Reply

NO_SUCH_DOMAIN = Reply(550, "5.1.2", "The domain of this address does not exist")
NULL_MX = Reply(556, "5.1.10", "This domain takes no mail")
LOOPS_BACK = Reply(554, "5.4.6", "Mail for this domain leads back to this gateway")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One host that takes mail. An implicit one (RFC 5321 5.1) is the domain itself, for want of MX records."""

    host: str
    preference: int = 0


@dataclass(frozen=True, slots=True)
class Exchanges:
    """In the order in which they are tried. ``secure``: the answer that names them was."""

    hosts: tuple[Exchange, ...]
    implicit: bool = False
    secure: bool = False


def exchanges(answer: Answer, own_names: Collection[str], random: Random) -> Exchanges:
    """The hosts for the domain of an MX answer; those of equal preference in random order.

    :raises MailError: nobody takes its mail: 550 5.1.2, 556 5.1.10, 554 5.4.6.
    """
    if answer.status is Status.NXDOMAIN:
        raise MailError(NO_SUCH_DOMAIN)
    if answer.status is Status.NODATA:
        hosts, implicit = [Exchange(answer.canonical or answer.name)], True
    else:
        named = [Exchange(record.exchange.to_text(omit_final_dot=True).lower(), record.preference) for record in answer.records]
        # A "." beside real hosts is against RFC 7505 3, and says nothing.
        hosts, implicit = [exchange for exchange in named if exchange.host not in ("", ".", "@")], False
        if not hosts:
            raise MailError(NULL_MX)
    random.shuffle(hosts)
    hosts.sort(key=lambda exchange: exchange.preference)
    hosts = without_us(hosts, lambda exchange: exchange.host in own_names)
    return Exchanges(tuple(_once(hosts)), implicit, answer.secure)


def without_us(hosts: Sequence[Exchange], is_us: Callable[[Exchange], bool]) -> list[Exchange]:
    """Those that are preferred to ourselves: what is at our preference or behind us would send the mail back.

    :raises MailError: 554 5.4.6, there is none.
    """
    ours = min((exchange.preference for exchange in hosts if is_us(exchange)), default=None)
    left = [exchange for exchange in hosts if ours is None or exchange.preference < ours]
    if not left:
        raise MailError(LOOPS_BACK)
    return left


def _once(hosts: Sequence[Exchange]) -> list[Exchange]:
    """Each host where it stands first."""
    first: dict[str, Exchange] = {}
    for exchange in hosts:
        first.setdefault(exchange.host, exchange)
    return list(first.values())


def refusal_of(address: str, is_own: Callable[[str], bool], *, allow_loopback: bool = False) -> str:
    """Why no mail is sent to an address; "" if nothing speaks against it. ``is_own`` says whether it is this machine's."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255":
        return "not the address of a host"
    if allow_loopback:
        return ""
    if ip.is_loopback:
        return "a loopback address"
    return "an address of this machine" if is_own(str(ip)) else ""
