"""Why a question has no answer. A name that does not exist is an answer (`answer.Status`); these are what is left.

Each is temporary but `NoDomain` and `NoData`, which `Answer.require` raises where a caller needs records.
"""

from __future__ import annotations


class DnsFailure(Exception):
    """``name`` and ``kind`` are what was asked; the text is for logs."""

    temporary = True

    def __init__(self, name: str, kind: str, reason: str) -> None:
        super().__init__(f"{name} {kind}: {reason}")
        self.name = name
        self.kind = kind
        self.reason = reason

    def again(self) -> DnsFailure:
        """The same failure for one more waiter: an exception that is raised twice collects tracebacks."""
        return type(self)(self.name, self.kind, self.reason)


class NoDomain(DnsFailure):
    """The name does not exist (NXDOMAIN)."""

    temporary = False


class NoData(DnsFailure):
    """The name exists without records of this type."""

    temporary = False


class Bogus(DnsFailure):
    """The validating resolver says that the answer fails DNSSEC (RFC 8914 codes 6 to 12)."""


class ServerFailure(DnsFailure):
    """The servers answered, and none with an answer: SERVFAIL, REFUSED, lame, malformed, a loop of aliases."""


class Timeout(DnsFailure):
    """No server answered in time."""
