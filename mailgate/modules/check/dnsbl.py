"""check.dnsbl: lists of clients and domains in the DNS (RFC 5782), those that block and those that allow.

A list is asked for the client's address reversed (octets of IPv4, nibbles of IPv6) under its name, or for a domain under its
name; an address record inside `responses` is a listing. What is listed counts `score` for that list, once, and the message fails
at `reject_threshold`. A listing in an `allow` list passes the message whatever the others say.

- Without `responses`, all of 127.0.0.0/8 is a listing but 127.255.255.0/24, by which large lists say that they do not answer
  the likes of us: that is no answer, as is SERVFAIL. Addresses outside 127.0.0.0/8 are a domain that somebody has parked.
- A list that does not answer matters only if its answer could turn the outcome; then it is for `on_error`.
- Clients with private and loopback addresses, and on unix sockets, are not asked for.
- What a list's TXT record says is a stranger's text in our reply: printable ASCII in one line, cut. Without it the reply stands.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive, default_block
from mailgate.dns.answer import Status
from mailgate.dns.failure import DnsFailure, ServerFailure
from mailgate.dns.resolver import A, Resolver, texts
from mailgate.message.envelope import Envelope
from mailgate.modules.check._action import NamesCheck, at_once
from mailgate.registry import Argument, Report
from mailgate.smtp.address import ascii_domain
from mailgate.smtp.reply import Reply

MAX_TEXT = 200
"""Characters of a TXT record in a reply."""
_LISTED = ipaddress.ip_network("127.0.0.0/8")
_NOT_ANSWERED = ipaddress.ip_network("127.255.255.0/24")
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
]
_UNPRINTABLE = re.compile(r"[^ -~]+")
_SUBJECTS = ("client_ip", "helo", "sender_domain")


class ListBlock(Block):
    """How one list is asked, and what it counts."""

    ask = Directive("ask", v.List(v.Choice(*_SUBJECTS)), default=("client_ip",), doc="What the list is asked for.")
    responses = Directive(
        "responses",
        v.List(v.Network()),
        default=(),
        doc="Which addresses in its answer are a listing; by default 127.0.0.0/8 without 127.255.255.0/24.",
        origin="maddy",
    )
    score = Directive("score", v.Integer(minimum=1), default=1, doc="What a listing counts.", origin="maddy")

    def is_listing(self, name: str, addresses: tuple[str, ...]) -> bool:
        """:raises DnsFailure: it says that it does not answer."""
        found = [ipaddress.ip_address(address) for address in addresses]
        if self.responses:
            return any(address in network for address in found for network in self.responses)
        if any(address in _NOT_ANSWERED for address in found):
            raise ServerFailure(name, "A", f"the list does not answer us: {', '.join(addresses)}")
        return any(address in _LISTED for address in found)


PLAIN: Any = default_block(ListBlock)
"""A list that is named on the line."""


class AllowBlock(ListBlock):
    """How a list is asked whose members pass."""

    score = None


class Dnsbl(NamesCheck):
    """Clients, and where asked for hello names and senders' domains, that are in a list hear 554 5.7.1 with the list's name and
    its text. Lists are named on the line, or each with its settings in the block."""

    name = "check.dnsbl"
    refusal = Reply(554, "5.7.1", "Listed")

    zones = Argument("ZONE", v.String("ZONE"), rest=True, doc="Lists that are asked for the client's address.")
    lists = Directive(
        "list", v.String("ZONE"), block=ListBlock, repeatable=True, doc="A list with settings of its own.", origin="maddy"
    )
    allow = Directive("allow", v.String("ZONE"), block=AllowBlock, repeatable=True, doc="A list whose members pass (DNSWL).")
    reject_threshold = Directive(
        "reject_threshold", v.Integer(minimum=1), default=1, doc="The sum of scores that refuses.", origin="maddy"
    )

    def configure(self, report: Report) -> None:
        if not self.zones and not self.lists:
            report.error(self.span, "no list to ask", code="E0792", hint="such as `dnsbl bl.example.org`")
        for zone in (*self.zones, *(block.value for block in (*self.lists, *self.allow))):
            if ascii_domain(zone) is None or "." not in zone:
                report.error(self.span, f"`{zone}` is no name of a list", code="E0792", hint="such as `bl.example.org`")
        most = len(self.zones) + sum(block.score for block in self.lists)
        if most < self.reject_threshold:
            message = f"all lists together count {most}: nobody would be refused"
            report.error(self.span_of("reject_threshold"), message, code="E0792", hint="lower it, or raise scores")

    async def judge(self, envelope: Envelope, resolver: Resolver) -> None:
        blocking = [*((zone, PLAIN) for zone in self.zones), *((block.value, block) for block in self.lists)]
        allowing = [(block.value, block) for block in self.allow]
        asked = [_ask(resolver, zone, block, _subjects(envelope, block.ask)) for zone, block in (*allowing, *blocking)]
        answers = await at_once(asked)
        allowed, answers = answers[: len(allowing)], answers[len(allowing) :]
        if any(isinstance(answer, str) and answer for answer in allowed):
            return
        sure = possible = 0
        failure: DnsFailure | None = None
        listed: list[tuple[str, str]] = []
        for (zone, block), answer in zip(blocking, answers, strict=True):
            if isinstance(answer, DnsFailure):
                failure = failure or answer
                possible += block.score
            elif answer:
                listed.append((zone, answer))
                sure += block.score
        if sure + possible < self.reject_threshold:
            return
        unsure = next((answer for answer in allowed if isinstance(answer, DnsFailure)), None)
        unsure = unsure or (failure if sure < self.reject_threshold else None)
        if unsure is not None:
            raise unsure
        await self._listed(envelope, resolver, listed)

    async def _listed(self, envelope: Envelope, resolver: Resolver, listed: list[tuple[str, str]]) -> None:
        zone, query = listed[0]
        text = ""
        (answer,) = await at_once([resolver.txt(query)])
        if not isinstance(answer, DnsFailure) and answer.records:
            text = cleaned(texts(answer)[0])
        subject = query.removesuffix(f".{zone}")
        reply = self.refusal.with_text(f"Listed in {zone}" + (f": {text}" if text else ""))
        self.failed(envelope, f"{subject} is listed in {', '.join(name for name, _ in listed)}", reply)


def cleaned(text: bytes) -> str:
    """A stranger's text as a part of one line of a reply."""
    return _UNPRINTABLE.sub("?", text.decode("utf-8", "replace"))[:MAX_TEXT].strip()


def _subjects(envelope: Envelope, ask: tuple[str, ...]) -> list[str]:
    """What goes in front of a list's name."""
    session = envelope.session
    found = []
    if "client_ip" in ask and session.client_ip and is_public(session.client_ip):
        found.append(reversed_address(session.client_ip))
    domains = {"helo": session.helo, "sender_domain": envelope.sender.domain}
    found += [name for subject, domain in domains.items() if subject in ask and (name := _name(domain))]
    return list(dict.fromkeys(found))


def _name(domain: str) -> str:
    """A domain as lists have it, "" for what is none: literals, bare addresses, names without a dot."""
    if domain.startswith("[") or "." not in domain.strip("."):
        return ""
    try:
        ipaddress.ip_address(domain)
    except ValueError:
        return ascii_domain(domain.removesuffix(".")) or ""
    return ""


@lru_cache(maxsize=4096)
def is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    return not any(ip in network for network in _NOT_PUBLIC)


def reversed_address(address: str) -> str:
    """``2.0.0.127`` of 127.0.0.2, 32 nibbles of IPv6 (RFC 5782 2.1, 2.4)."""
    name = ipaddress.ip_address(address.partition("%")[0]).reverse_pointer
    return name.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")


async def _ask(resolver: Resolver, zone: str, block: ListBlock, subjects: list[str]) -> str:
    """The name under which something is listed, "" if nothing is.

    :raises DnsFailure: nothing that answered is, and something did not answer.
    """
    names = [f"{subject}.{zone}" for subject in subjects]
    failure: DnsFailure | None = None
    for name, answer in zip(names, await at_once([_is_listed(resolver, name, block) for name in names]), strict=True):
        if isinstance(answer, DnsFailure):
            failure = failure or answer
        elif answer:
            return name
    if failure is not None:
        raise failure
    return ""


async def _is_listed(resolver: Resolver, name: str, block: ListBlock) -> bool:
    answer = await resolver.query(name, A)
    return answer.status is Status.FOUND and block.is_listing(name, tuple(record.address for record in answer.records))
