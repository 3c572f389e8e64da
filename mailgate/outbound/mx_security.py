"""What `tls`, `mx_auth`, DANE and MTA-STS together ask of the hosts of a domain: one object for each target.remote, no I/O.

    an enforced MTA-STS policy      only hosts that it names; TLS 1.2, and a certificate for the host's name
    else                            `tls`, raised by `local_policy`
    usable TLSA records             decide alone, when they are looked up (dane.py), over what is said here

`min_mx_level` asks how far the choice of the hosts is proved. What is not met is temporary: policies change, and mail waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mailgate.config import values as v
from mailgate.outbound.dane import Dane
from mailgate.outbound.failure import Kind
from mailgate.outbound.mta_sts import enforced
from mailgate.outbound.mx_auth import MxAuth, MxLevel
from mailgate.outbound.sts_policy import Mode, StsPolicy
from mailgate.outbound.tls_policy import PROTECTED_VERSION, Decision, Policy, TlsMode, decide
from mailgate.outbound.tls_settings import EndpointTls, decisions
from mailgate.outbound.written import Written
from mailgate.smtp.reply import MailError, Reply

NOT_PROVED = Reply(451, "4.7.5", "The hosts of this domain are not authenticated as this gateway asks for")
NOT_PROTECTED = Reply(550, "5.7.10", "The hosts of this domain can't be authenticated, as REQUIRETLS demands")


def contradictions(tls: EndpointTls, auth: MxAuth) -> Iterator[str]:
    """What `mx_auth` can't be together with."""
    if tls.mode is TlsMode.DISABLED and auth.entries:
        yield f"`{auth.entries[0]}` is of no use without TLS: `tls disabled`, or `attempt_starttls no`, contradicts it"
    dnssec = auth.dnssec or auth.dane
    if auth.least_level is MxLevel.DNSSEC and not dnssec:
        yield "`min_mx_level dnssec` needs `dnssec` or `dane`: nothing could be delivered"
    if auth.least_level is MxLevel.MTASTS and not (auth.mtasts or dnssec):
        yield "`min_mx_level mtasts` needs `mtasts`: nothing could be delivered"


@dataclass(frozen=True, slots=True, eq=False)
class MxSecurity:
    """See the module's docstring."""

    written: Written
    tls: EndpointTls
    auth: MxAuth | None = None

    @property
    def dane(self) -> Dane | None:
        """`mx_auth dane` is `tls dane` over whatever `tls` says."""
        if self.tls.dane is not None:
            return self.tls.dane
        return Dane.TRY if self.auth is not None and self.auth.dane else None

    def admit(self, domain: str, policy: StsPolicy | None, *, secure: bool) -> None:
        """``secure``: the MX records are proved by DNSSEC. :raises MailError: this domain's hosts are not good enough."""
        if self.tls.dane is Dane.REQUIRE and not secure:
            raise MailError(Kind.DANE.reply, f"the MX records of {domain} are not secure, and `tls dane_require` wants it")
        if self.auth is None or self.auth.least_level is MxLevel.NONE:
            return
        level = self.auth.level(secure=secure, enforced=enforced(policy) is not None)
        if level < self.auth.least_level:
            raise MailError(NOT_PROVED, f"{domain}: {level.name.lower()}, min_mx_level {self.auth.least_level.name.lower()}")

    def allowed(self, policy: StsPolicy | None) -> Callable[[str], bool] | None:
        """Which hosts may be used; None: all."""
        binding = enforced(policy)
        return None if binding is None else binding.allows

    def untested(self, policy: StsPolicy | None, host: str) -> bool:
        """A policy that is being tested would keep us from this host."""
        return policy is not None and policy.mode is Mode.TESTING and not policy.allows(host)

    def decisions(self, place: v.EndpointAddress, policy: StsPolicy | None) -> tuple[Decision, Decision]:
        """For messages as they are, and for those that ask for REQUIRETLS."""
        if enforced(policy) is not None:
            decision = decide(TlsMode.REQUIRE_VERIFY, names=(place.host,), sni=place.host)
            decision = replace(decision, min_version=PROTECTED_VERSION, policy=Policy.MTA_STS)
            return decision, decision
        mode = self.tls.mode if self.auth is None else self.auth.raised(self.tls.mode)
        return decisions(self.written, mode, place)
