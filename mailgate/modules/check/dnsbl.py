"""check.dnsbl: lists of clients and domains in the DNS (RFC 5782), those that speak against them and those that speak for them.

A list is asked for the client's address reversed (octets of IPv4, nibbles of IPv6) under its name, or for a domain under its
name; what its answers mean and count is in `_lists`. The scores of all lists add up, each list once: at `reject_threshold` the
message fails, at `quarantine_threshold` it passes with a mark, and with `count_score` the sum is part of the message's score. A
listing in an `allow` list passes the message whatever the others say.

- A list that does not answer matters only if its answer could turn the outcome; then it is for `on_error`.
- Clients with private and loopback addresses, and on unix sockets, are not asked for.
- What a list's TXT record says is a stranger's text in our reply: printable ASCII in one line, cut. Without it the reply stands.
"""

from __future__ import annotations

import ipaddress
import re
from enum import IntEnum
from functools import lru_cache

from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.dns.answer import Status
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import A, Resolver, texts
from mailgate.events import Event, EventLog
from mailgate.message.envelope import Envelope
from mailgate.message.findings import MethodResult
from mailgate.modules.check._action import NamesCheck, at_once, take
from mailgate.modules.check._lists import PLAIN, AllowBlock, ListBlock, Listing, QuestionBlock
from mailgate.registry import Argument, Report
from mailgate.smtp.address import ascii_domain
from mailgate.smtp.reply import Reply

MAX_TEXT = 200
"""Characters of a TXT record in a reply."""
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
]
_UNPRINTABLE = re.compile(r"[^ -~]+")

_log = EventLog("mailgate.checks")


class Level(IntEnum):
    """What a sum of scores leads to."""

    PASS = 0
    QUARANTINE = 1
    REJECT = 2


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
        "reject_threshold",
        v.OneOf({"off": v.Nothing(), "": v.Float(minimum=0)}),
        default=None,
        doc="The sum of scores that refuses, 1 by default; `off`: none.",
        origin="maddy",
    )
    quarantine_threshold = Directive(
        "quarantine_threshold",
        v.Float(minimum=0),
        default=None,
        doc="The sum of scores with which a message passes with X-Mailgate-Quarantine.",
        origin="maddy",
    )
    count_score = Directive(
        "count_score",
        v.Boolean(),
        default=False,
        doc="Whether the sum, below zero too, is a part of the message's score (`check.score`).",
    )

    @property
    def marks(self) -> bool:
        return super().marks or bool(self.allow) or self.count_score or self.quarantine_threshold is not None

    @property
    def _reject_at(self) -> float | None:
        chosen = self.reject_threshold
        return 1.0 if chosen is None else chosen.value

    def configure(self, report: Report) -> None:
        if not self.zones and not self.lists:
            report.error(self.span, "no list to ask", code="E0792", hint="such as `dnsbl bl.example.org`")
        for zone in (*self.zones, *(block.value for block in (*self.lists, *self.allow))):
            if ascii_domain(zone) is None or "." not in zone:
                report.error(self.span, f"`{zone}` is no name of a list", code="E0792", hint="such as `bl.example.org`")
        most = round(sum(block.most for _, block in self._blocking), 6)
        for name, threshold in (("reject_threshold", self._reject_at), ("quarantine_threshold", self.quarantine_threshold)):
            if threshold is not None and most < threshold:
                message = f"all lists together count {most:g}: nobody would meet `{name}`"
                report.error(self.span_of(name) or self.span, message, code="E0792", hint="lower it, or raise scores")
        reject_at = self._reject_at
        if self.quarantine_threshold is not None and reject_at is not None and self.quarantine_threshold >= reject_at:
            text = "`quarantine_threshold` is not below `reject_threshold`: nobody would meet it"
            report.error(self.span_of("quarantine_threshold"), text, code="E0792")
        if reject_at is None and self.quarantine_threshold is None and not self.count_score:
            report.error(
                self.span_of("reject_threshold"), "nothing would come of any listing", code="E0792", hint="`count_score yes`"
            )
        if self.count_score and self.on_fail.word == "score":
            text = "`on_fail score` and `count_score` would count the same twice"
            report.error(self.span_of("count_score"), text, code="E0792", hint="leave one of them out")

    @property
    def _blocking(self) -> list[tuple[str, ListBlock]]:
        return [*((zone, PLAIN) for zone in self.zones), *((block.value, block) for block in self.lists)]

    def _level(self, score: float) -> Level:
        score = round(score, 6)  # 0.7, 0.2 and 0.1 are 1
        if self._reject_at is not None and score >= self._reject_at:
            return Level.REJECT
        quarantines = self.quarantine_threshold is not None and score >= self.quarantine_threshold
        return Level.QUARANTINE if quarantines else Level.PASS

    async def judge(self, envelope: Envelope, resolver: Resolver) -> None:
        blocking = self._blocking
        allowing = [(block.value, block) for block in self.allow]
        asked = [_ask(resolver, zone, block, _subjects(envelope, block.ask)) for zone, block in (*allowing, *blocking)]
        answers = await at_once(asked)
        allowed, answers = answers[: len(allowing)], answers[len(allowing) :]
        results = [_allowed(zone, answer) for (zone, _), answer in zip(allowing, allowed, strict=True)]
        envelope.findings_of(self).results += results
        if any(isinstance(answer, Listing) for answer in allowed):
            return
        sure = low = high = 0.0
        unsure = next((answer for answer in allowed if isinstance(answer, DnsFailure)), None)
        failure: DnsFailure | None = None
        listed: list[tuple[str, Listing]] = []
        for (zone, block), answer in zip(blocking, answers, strict=True):
            if isinstance(answer, DnsFailure):
                failure = failure or answer
                low, high = low + block.least, high + block.most
            elif answer is not None:
                listed.append((zone, answer))
                sure += answer.score
        least, most = self._level(sure + low), self._level(sure + high)
        can_turn = least is not most or (self.count_score and low < high and least is not Level.REJECT)
        if unsure is not None and (most is not Level.PASS or (self.count_score and bool(listed or failure))):
            raise unsure
        if failure is not None and can_turn:
            self._count(envelope, listed, sure)  # for whom `on_error` lets pass
            raise failure
        await self._conclude(envelope, resolver, listed, sure, most)

    async def _conclude(
        self, envelope: Envelope, resolver: Resolver, listed: list[tuple[str, Listing]], score: float, level: Level
    ) -> None:
        """Returns if the message passes."""
        against = [(zone, listing) for zone, listing in listed if listing.score > 0]
        if level is Level.REJECT:
            await self._listed(envelope, resolver, against)
        elif level is Level.QUARANTINE:
            take(self, v.Chosen("quarantine"), self.refusal, envelope, _words(against))
        self._count(envelope, listed, score)

    def _count(self, envelope: Envelope, listed: list[tuple[str, Listing]], score: float) -> None:
        if self.count_score and score:
            envelope.findings_of(self).count(score)
            fields = {"message": envelope.id, "session": envelope.session.id, "check": self.name}
            _log.info(Event.CHECK_ANSWERED, **fields, answer=_words(listed), score=score)

    async def _listed(self, envelope: Envelope, resolver: Resolver, listed: list[tuple[str, Listing]]) -> None:
        zone, listing = listed[0]
        text = listing.text
        if not text:
            (answer,) = await at_once([resolver.txt(listing.name)])
            if not isinstance(answer, DnsFailure) and answer.records:
                text = cleaned(texts(answer)[0])
        reply = self.refusal.with_text(f"Listed in {zone}" + (f": {text}" if text else ""))
        self.failed(envelope, _words(listed), reply)


def _words(listed: list[tuple[str, Listing]]) -> str:
    zone, listing = listed[0]
    return f"{listing.name.removesuffix(f'.{zone}')} is listed in {', '.join(name for name, _ in listed)}"


def _allowed(zone: str, answer: Listing | DnsFailure | None) -> MethodResult:
    """What a list of those who are trusted says (RFC 8904)."""
    result = "temperror" if isinstance(answer, DnsFailure) else "pass" if answer else "none"
    return MethodResult("dnswl", result, "", (("dns.zone", zone),))


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


async def _ask(resolver: Resolver, zone: str, block: QuestionBlock, subjects: list[str]) -> Listing | None:
    """What it says of the first of them that is listed.

    :raises DnsFailure: nothing that answered is, and something did not answer.
    """
    names = [f"{subject}.{zone}" for subject in subjects]
    failure: DnsFailure | None = None
    for answer in await at_once([_listing(resolver, name, block) for name in names]):
        if isinstance(answer, DnsFailure):
            failure = failure or answer
        elif answer is not None:
            found: Listing = answer
            return found
    if failure is not None:
        raise failure
    return None


async def _listing(resolver: Resolver, name: str, block: QuestionBlock) -> Listing | None:
    answer = await resolver.query(name, A)
    if answer.status is not Status.FOUND:
        return None
    return block.listing(name, tuple(record.address for record in answer.records))
