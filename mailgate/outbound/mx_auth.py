"""`mx_auth { … }`: how target.remote finds out whom it may trust to take the mail of a domain, and how much of that it asks for.

How far the choice of a host is proved is a `MxLevel`: by nothing, by an enforced MTA-STS policy that names it, or by DNSSEC. How
the connection must be protected follows from `tls`, DANE and MTA-STS, and `local_policy` asks for no less than it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive
from mailgate.outbound.tls_policy import TlsMode
from mailgate.registry import Module


class MxLevel(IntEnum):
    NONE = 0
    MTASTS = 1
    DNSSEC = 2


_ENCRYPTED = {TlsMode.OPTIONAL: TlsMode.REQUIRE, TlsMode.OPTIONAL_VERIFY: TlsMode.REQUIRE_VERIFY}


class LocalPolicy(Block):
    """What is asked of every host, whatever its domain publishes."""

    min_tls_level = Directive(
        "min_tls_level",
        v.Choice("none", "encrypted", "authenticated"),
        default="none",
        doc="encrypted: no message over plain text; authenticated: the host is verified by its certificate or by DANE.",
        origin="maddy",
    )
    min_mx_level = Directive(
        "min_mx_level",
        v.Choice(*(level.name.lower() for level in MxLevel)),
        default="none",
        doc="mtasts: only hosts that an enforced MTA-STS policy names, or that DNSSEC proves; dnssec: only the latter.",
        origin="maddy",
    )


class MxAuth(Module):
    """Policies by which the hosts of a domain are authenticated, for `mx_auth` of target.remote."""

    name = "mx_auth"

    dane = Directive(
        "dane", v.Boolean(), default=False, doc="TLSA records decide, where DNSSEC proves them: as `tls dane`.", origin="maddy"
    )
    mtasts = Directive(
        "mtasts",
        v.Boolean(),
        default=False,
        doc="Policies of MTA-STS (RFC 8461): where one is enforced, only hosts that it names, verified by their certificates.",
        origin="maddy",
    )
    mtasts_root_ca = Directive(
        "mtasts_root_ca",
        v.List(v.Path()),
        default=(),
        doc="Authorities for the hosts that policies are fetched from, in place of the system's; for laboratories.",
    )
    dnssec = Directive(
        "dnssec", v.Boolean(), default=False, doc="MX records that DNSSEC proves count as authenticated.", origin="maddy"
    )
    local_policy = Directive("local_policy", block=LocalPolicy, doc="What is asked of every host.", origin="maddy")

    @property
    def least_level(self) -> MxLevel:
        return MxLevel.NONE if self.local_policy is None else MxLevel[self.local_policy.min_mx_level.upper()]

    def raised(self, mode: TlsMode) -> TlsMode:
        """At least as strict as the local policy."""
        least = "none" if self.local_policy is None else self.local_policy.min_tls_level
        if least == "authenticated":
            return TlsMode.REQUIRE_VERIFY
        return _ENCRYPTED.get(mode, mode) if least == "encrypted" else mode

    def level(self, *, secure: bool, enforced: bool) -> MxLevel:
        """How far the choice of a host is proved: ``secure`` MX records, a policy that is ``enforced`` and names it."""
        if secure and (self.dnssec or self.dane):
            return MxLevel.DNSSEC
        return MxLevel.MTASTS if enforced else MxLevel.NONE

    @property
    def entries(self) -> Sequence[str]:
        """The policies that are written."""
        names = ("dane", "mtasts", "dnssec", "local_policy")
        return [name for name in names if getattr(self, name)]
