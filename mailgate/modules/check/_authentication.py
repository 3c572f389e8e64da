"""Who sent a message, as far as SPF, DKIM and DMARC can say: found out once for all checks of a message.

Each check asks the `Authentication` of its envelope; whoever comes first does the work, the others wait for the same answer. So
`dmarc` needs no `spf` and `dkim` beside it, and with them costs no lookup more.

Clients that have logged in, those with private addresses and those on unix sockets are ours: the world's policies are about
strangers, and these are not judged.
"""

from __future__ import annotations

import ipaddress
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from mailgate.adapters import Adapters
from mailgate.dns.answer import Status
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import AAAA, MX, PTR, A, Resolver, texts
from mailgate.mailauth import arc, dkim, spf
from mailgate.mailauth.dmarc import Policy
from mailgate.mailauth.spf_record import IPAddress
from mailgate.message.authors import author_domains
from mailgate.message.envelope import Envelope, Session
from mailgate.message.header import Header
from mailgate.message.message import Message
from mailgate.modules._hashing import feed
from mailgate.modules.check._action import at_once
from mailgate.modules.check.dnsbl import is_public
from mailgate.net.shared import Shared
from mailgate.net.waiting import DeadlineExceeded, Wait, start, within
from mailgate.pipeline.check import Check, MessageCheck
from mailgate.smtp.address import ascii_domain

MOST_SIGNATURES = 5
"""DKIM signatures of one message that are looked at, unless a check wants more."""
SPF_TIME = 20.0
"""Seconds for all lookups of one evaluation (RFC 7208 4.6.4)."""
_KEY = "authentication"
_Texts: TypeAlias = "tuple[bytes, ...] | dkim.Unreachable"


def is_stranger(session: Session) -> bool:
    return bool(session.client_ip) and not session.auth_user and is_public(session.client_ip)


def authentication(check: Check, envelope: Envelope) -> Authentication:
    """That of the message, made by the first check that asks."""
    found = envelope.extra.get(_KEY)
    if found is None:
        adapters = check.context.adapters
        assert adapters is not None
        found = envelope.extra[_KEY] = Authentication(envelope, adapters)
    assert isinstance(found, Authentication)
    return found


class ContentState(MessageCheck):
    """One message of a check that judges the content of strangers: ``check.judge`` does, `take_part` says what it wants known."""

    def __init__(self, check: Any, envelope: Envelope) -> None:
        super().__init__(check, envelope)
        if is_stranger(envelope.session):
            self.take_part(authentication(check, envelope))

    def take_part(self, known: Authentication) -> None:
        """Before anything is found out."""

    def body(self, message: Message) -> Any:
        return self.check.judge(self.envelope, message) if is_stranger(self.envelope.session) else None


class Authentication:
    """See the module's docstring."""

    def __init__(self, envelope: Envelope, adapters: Adapters) -> None:
        self.envelope = envelope
        self._adapters = adapters
        self.mail_from = Shared(lambda: self._spf(self.sender_domain, str(envelope.sender)))
        """SPF of the reverse-path; for the null sender that of the hello name (RFC 7208 2.4)."""
        self.helo = Shared(lambda: self._spf(self.helo_domain, ""))
        """SPF of the hello name (RFC 7208 2.3)."""
        self.most_signatures = MOST_SIGNATURES
        self.signatures = Shared(self._dkim)
        """DKIM, once `content` was called."""
        self.policies: Shared[tuple[Policy, ...]] | None = None
        """DMARC's policies of the authors' domains, where a check asks for them (`check.dmarc`)."""
        self.trusted_sealers: frozenset[str] = frozenset()
        """Whose word on DMARC counts, if a chain of ARC brings it (`check.arc`)."""
        self.most_sets = arc.MOST_SETS
        self.chain = Shared(self._arc)
        """ARC, once `content` was called."""
        self._message: Message | None = None

    def content(self, message: Message) -> None:
        """The content is here. Judged is what came in, without what was added or removed here since."""
        self._message = self._message or message

    @property
    def section(self) -> bytes:
        """The header section as it came."""
        assert self._message is not None
        return self._message.body.header

    @cached_property
    def header(self) -> Header:
        return Header(self.section)

    @cached_property
    def authors(self) -> list[str]:
        """The domains of From, as A-labels."""
        return [as_domain(domain) for domain in author_domains(self.header.values("from"))]

    @property
    def resolver(self) -> Resolver:
        resolver = self.envelope.session.resolver or self._adapters.resolver
        assert resolver is not None, "checks of names need a resolver"
        found: Resolver = resolver
        return found

    @property
    def helo_domain(self) -> str:
        return as_domain(self.envelope.session.helo)

    @property
    def sender_domain(self) -> str:
        """Whose SPF record the reverse-path is judged by, as A-labels."""
        return as_domain(self.envelope.sender.domain) if self.envelope.sender.domain else self.helo_domain

    async def _dkim(self) -> tuple[dkim.Result, ...]:
        assert self._message is not None
        judging = dkim.Verification(self.section, self.most_signatures)
        keys = await hashed(judging, self._message, self.resolver, self._adapters)
        return judging.results(keys, self._adapters.wall_time())

    async def _arc(self) -> arc.Verdict:
        assert self._message is not None
        chain = arc.Chain(self.section, self.most_sets)
        return await verified(chain, self._message, self.resolver, self._adapters)

    async def vouched_for(self) -> str:
        """The trusted sealer who has found that DMARC passes, while all who came after are trusted too; "" if there is none."""
        if not self.trusted_sealers:
            return ""
        verdict = await self.chain.get()
        if verdict.outcome is arc.Outcome.PASS:
            for hand in reversed(verdict.hands):
                if hand.sealer not in self.trusted_sealers:
                    break
                if hand.says("dmarc", "pass"):
                    return hand.sealer
        return ""

    async def _spf(self, domain: str, sender: str) -> spf.Verdict:
        session = self.envelope.session
        ip = ipaddress.ip_address(session.client_ip.partition("%")[0])
        local_part = sender.rpartition("@")[0] or "postmaster"
        question = spf.Question(
            ip, domain, f"{local_part}@{domain}", self.helo_domain, session.hostname, self._adapters.wall_time()
        )
        under_way = start(spf.check_host(question, ResolverLookups(self.resolver)))
        if not isinstance(under_way, Wait):
            return under_way
        try:
            return await within(under_way, SPF_TIME, self._adapters.reactor)
        except DeadlineExceeded:
            return spf.Verdict(spf.Outcome.TEMPERROR, f"not evaluated within {SPF_TIME:g} seconds")


class Hashing(Protocol):
    """A machine that verifies signatures: `dkim.Verification` or `arc.Chain`."""

    @property
    def key_names(self) -> tuple[str, ...]: ...

    def update(self, piece: bytes) -> None: ...


async def hashed(machine: Hashing, message: Message, resolver: Resolver, adapters: Adapters) -> dict[str, _Texts]:
    """Give it the body, and return its keys, which are asked for meanwhile."""
    names = machine.key_names
    if not names:
        return {}
    asked = start(at_once([resolver.txt(name) for name in names]))
    try:
        await feed(machine.update, message, adapters)
        answers = await asked if isinstance(asked, Wait) else asked
    finally:
        if isinstance(asked, Wait):
            asked.cancel()
    return {
        name: dkim.Unreachable.UNREACHABLE if isinstance(answer, DnsFailure) else texts(answer)
        for name, answer in zip(names, answers, strict=True)
    }


async def verified(chain: arc.Chain, message: Message, resolver: Resolver, adapters: Adapters) -> arc.Verdict:
    keys = await hashed(chain, message, resolver, adapters)
    return chain.verdict(keys, adapters.wall_time())


def as_domain(name: str) -> str:
    """As it is asked for; what can't be a domain stays as it is, and has no record."""
    return (ascii_domain(name.removesuffix(".")) or name).lower()


class ResolverLookups:
    """What SPF asks, out of our resolver with its cache."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def txt(self, name: str) -> tuple[bytes, ...]:
        try:
            return texts(await self._resolver.txt(name))
        except DnsFailure as failure:
            raise spf.NoAnswer(str(failure)) from failure

    async def addresses(self, name: str, version: int) -> tuple[str, ...]:
        return tuple(record.address for record in await self._records(name, A if version == 4 else AAAA))

    async def mx(self, name: str) -> tuple[str, ...]:
        return tuple(record.exchange.to_text(omit_final_dot=True) for record in await self._records(name, MX))

    async def names(self, ip: IPAddress) -> tuple[str, ...]:
        return tuple(record.target.to_text(omit_final_dot=True) for record in await self._records(ip.reverse_pointer, PTR))

    async def _records(self, name: str, kind: int) -> tuple[Any, ...]:
        try:
            answer = await self._resolver.query(name, kind)
        except DnsFailure as failure:
            raise spf.NoAnswer(str(failure)) from failure
        return answer.records if answer.status is Status.FOUND else ()
