"""Who hears of the connections of a delivery to the hosts of a domain: what TLS came to goes to the counts of TLS-RPT."""

from __future__ import annotations

from dataclasses import dataclass

from mailgate.outbound.connection import Connection
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.failure import AttemptFailed
from mailgate.outbound.mta_sts import Missing
from mailgate.outbound.sts_policy import Mode, StsPolicy
from mailgate.outbound.tls_counts import TlsCounts
from mailgate.outbound.tls_report import (
    VALIDATION,
    AppliedPolicy,
    PolicyType,
    SessionFailure,
    of_connection,
    of_failure,
    of_sts,
    policy_of_session,
)


@dataclass(frozen=True, slots=True)
class SessionWatch:
    """Of one group of recipients: ``domain`` led to the hosts, ``sts`` is its policy, or why there is ``missing`` one."""

    counts: TlsCounts
    domain: str
    sts: StsPolicy | None = None
    missing: Missing | None = None

    def made(self, connection: Connection) -> None:
        """A new connection is ready for mail."""
        decision, host = connection.link.decision, connection.settings.mx
        applied = policy_of_session(decision, self.sts, self.domain)
        facts = connection.seen()
        failure = of_connection(facts, decision, applied, host)
        if failure is None and applied.kind is PolicyType.STS and self._is_unnamed(host):
            failure = SessionFailure(VALIDATION, host=host, reason="the policy does not name this host")
        self.counts.add(self.domain, applied, failure)
        self._missed()

    def failed(self, endpoint: Endpoint, failure: AttemptFailed) -> None:
        """A host was left."""
        found = of_failure(failure, self.sts, endpoint.settings.mx, self.domain)
        if found is not None:
            self.counts.add(self.domain, *found)
            self._missed()

    def left_out(self, host: str) -> None:
        """A host that an enforced policy does not name: it is not connected to."""
        failure = SessionFailure(VALIDATION, host=host, reason="the policy does not name this host")
        self.counts.add(self.domain, of_sts(self.sts, self.domain), failure)

    def _is_unnamed(self, host: str) -> bool:
        return self.sts is not None and self.sts.mode is Mode.TESTING and not self.sts.allows(host)

    def _missed(self) -> None:
        """There was a session, and it went without the policy that should have been there."""
        if self.missing is not None and self.sts is None:
            failure = SessionFailure(self.missing.trouble.value, reason=self.missing.reason)
            self.counts.add(self.domain, AppliedPolicy(PolicyType.STS, self.domain), failure)
