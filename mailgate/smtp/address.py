"""Mail addresses: RFC 5321 4.1.2 and 4.1.3, RFC 6531 3.3."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """One reverse-path or forward-path without its brackets and source route.

    ``local_part`` stands as it was received, quotes included; ``domain`` as received, without a trailing dot, or an
    address literal with its brackets. Both are "" for the null reverse-path; ``domain`` alone is "" for ``<Postmaster>``.
    """

    local_part: str
    domain: str

    @property
    def is_null(self) -> bool:
        return not self.local_part and not self.domain

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}" if self.domain else self.local_part


NULL_ADDRESS = Address("", "")
