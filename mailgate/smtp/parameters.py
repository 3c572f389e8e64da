"""What MAIL and RCPT carry besides the address, parsed and typed.

RFC 1870 (SIZE), 6152 and 3030 (BODY), 6531 (SMTPUTF8), 3461 (RET, ENVID, NOTIFY, ORCPT), 4954 (AUTH=), 8689 (REQUIRETLS).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class BodyType(Enum):
    SEVEN_BIT = "7BIT"
    EIGHT_BIT = "8BITMIME"
    BINARY = "BINARYMIME"


@dataclass(frozen=True, slots=True)
class MailParameters:
    """Parameters of MAIL. None means that the client did not give it."""

    size: int | None = None
    body: BodyType | None = None
    smtputf8: bool = False
    requiretls: bool = False
    ret: str | None = None
    """``FULL`` or ``HDRS``."""
    envid: str | None = None
    """As the client wrote it: xtext, validated, not decoded."""
    auth: str | None = None
    """As the client wrote it: xtext or ``<>``, validated."""


@dataclass(frozen=True, slots=True)
class RcptParameters:
    """Parameters of RCPT."""

    notify: frozenset[str] = field(default_factory=frozenset)
    """Of NEVER, SUCCESS, FAILURE, DELAY; empty when not given."""
    orcpt: str | None = None
    """``type;xtext`` as the client wrote it, validated."""


NO_MAIL_PARAMETERS = MailParameters()
NO_RCPT_PARAMETERS = RcptParameters()
