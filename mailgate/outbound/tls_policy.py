"""How an endpoint is spoken to over TLS: two pure functions, no I/O.

`effective_mode` reads what the configuration says (`tls MODE`, attempt_starttls, require_tls, auth) into one mode or a
`PolicyError` for the operator; `decide` turns the mode into a `Decision`, which is all the dialogue looks at:

mode              STARTTLS not offered or refused   handshake fails                   bad chain or name
disabled          clear                             -                                 -
optional          clear                             new connection in clear           ignored, recorded
optional_verify   clear                             new connection in clear           next endpoint, or clear by verify_failure
require           next endpoint, 4.7.4              next endpoint, 4.7.5              ignored, recorded
require_verify    next endpoint, 4.7.4              next endpoint, 4.7.5              next endpoint, 4.7.5

There is no path from a decision without ``allow_clear`` to a command in clear text: `handshake.py` asks for nothing but what
stands here, a pooled connection belongs to its decision, and REQUIRETLS (RFC 8689) makes a decision of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mailgate.tls.dane import Tlsa


class TlsMode(Enum):
    DISABLED = "disabled"
    OPTIONAL = "optional"
    OPTIONAL_VERIFY = "optional_verify"
    REQUIRE = "require"
    REQUIRE_VERIFY = "require_verify"


class Start(Enum):
    """When TLS begins."""

    NEVER = "never"
    OFFERED = "offered"
    ALWAYS = "always"
    IMPLICIT = "implicit"


class OnFailure(Enum):
    """What a failure of TLS leads to."""

    NEXT = "next"
    CLEAR = "clear"
    """A new connection in clear text to the same address."""
    IGNORE = "ignore"


class Policy(Enum):
    """Whose policy a decision follows."""

    OURS = "local"
    DANE = "dane"
    MTA_STS = "mta-sts"


@dataclass(frozen=True, slots=True)
class Decision:
    """See the table above. ``names`` empty: only the chain is verified."""

    start: Start
    allow_clear: bool
    on_handshake: OnFailure
    on_bad_peer: OnFailure
    names: tuple[str, ...] = ()
    sni: str | None = None
    min_version: str = ""
    """A handshake of an older version is a failed one: ``TLS1.2``. "": what the context allows."""
    tlsa: tuple[Tlsa, ...] = ()
    """With records the peer is judged by them alone (tls/dane.py)."""
    policy: Policy = Policy.OURS
    published: Any = field(default=None, compare=False, repr=False)
    """Of a host under DANE, the `DanePolicy`: for reports."""

    @property
    def clear_retry(self) -> bool:
        """Some failure of TLS leads back to clear text."""
        return self.allow_clear and OnFailure.CLEAR in (self.on_handshake, self.on_bad_peer)


PROTECTED_VERSION = "TLS1.2"
"""The oldest that RFC 9325 (BCP 195) allows, to which RFC 8689 refers."""

IN_CLEAR = Decision(Start.NEVER, True, OnFailure.NEXT, OnFailure.NEXT)

_ROWS = {
    TlsMode.DISABLED: (Start.NEVER, True, OnFailure.NEXT, OnFailure.NEXT),
    TlsMode.OPTIONAL: (Start.OFFERED, True, OnFailure.CLEAR, OnFailure.IGNORE),
    TlsMode.OPTIONAL_VERIFY: (Start.OFFERED, True, OnFailure.CLEAR, OnFailure.NEXT),
    TlsMode.REQUIRE: (Start.ALWAYS, False, OnFailure.NEXT, OnFailure.IGNORE),
    TlsMode.REQUIRE_VERIFY: (Start.ALWAYS, False, OnFailure.NEXT, OnFailure.NEXT),
}


def decide(
    mode: TlsMode,
    *,
    implicit: bool = False,
    requiretls: bool = False,
    credentials: bool = False,
    clear_after_bad_peer: bool = False,
    names: tuple[str, ...] = (),
    sni: str | None = None,
) -> Decision:
    """``implicit``: a tls:// endpoint. ``requiretls``: the message asks for it. ``credentials``: AUTH is configured without
    auth_insecure, so nothing may be said in clear text. ``clear_after_bad_peer``: `verify_failure clear`."""
    if requiretls:
        mode = TlsMode.REQUIRE_VERIFY
    start, allow_clear, on_handshake, on_bad_peer = _ROWS[mode]
    if mode is TlsMode.OPTIONAL_VERIFY and clear_after_bad_peer:
        on_bad_peer = OnFailure.CLEAR
    if implicit:
        start = Start.IMPLICIT
    elif credentials and start is Start.OFFERED:
        start = Start.ALWAYS
    if implicit or credentials:
        allow_clear = False
        on_handshake = OnFailure.NEXT
        on_bad_peer = OnFailure.NEXT if on_bad_peer is OnFailure.CLEAR else on_bad_peer
    return Decision(start, allow_clear, on_handshake, on_bad_peer, names, sni, PROTECTED_VERSION if requiretls else "")


class PolicyError(Exception):
    """Settings that contradict each other; ``directive`` is the one to point at."""

    def __init__(self, directive: str, text: str) -> None:
        super().__init__(text)
        self.directive = directive


@dataclass(frozen=True, slots=True)
class TlsWords:
    """What the configuration says; None where it says nothing."""

    scheme: str
    mode: TlsMode | None = None
    attempt_starttls: bool | None = None
    require_tls: bool = False
    sends_secret: bool = False
    """`auth` with a password."""
    has_names: bool = True
    """A name is verified, not the chain alone."""
    auth_insecure: bool = False
    default: TlsMode = TlsMode.OPTIONAL
    """optional for SMTP, disabled for LMTP."""


_RAISED = frozenset({TlsMode.OPTIONAL, TlsMode.OPTIONAL_VERIFY})


def effective_mode(words: TlsWords) -> TlsMode:
    """:raises PolicyError: for words that contradict each other."""
    mode = words.mode
    if words.scheme == "unix":
        if words.require_tls:
            raise PolicyError("require_tls", "a unix:// endpoint has no TLS to require")
        return TlsMode.DISABLED
    if words.scheme == "tls":
        if mode is TlsMode.DISABLED:
            raise PolicyError("tls", "a tls:// endpoint can't be spoken to without TLS")
    elif words.attempt_starttls is False:
        if mode not in (None, TlsMode.DISABLED):
            raise PolicyError("attempt_starttls", f"`attempt_starttls no` contradicts `tls {mode.value if mode else ''}`")
        mode = TlsMode.DISABLED
    elif words.attempt_starttls and mode is TlsMode.DISABLED:
        raise PolicyError("attempt_starttls", "`attempt_starttls yes` contradicts `tls disabled`")
    if words.require_tls:
        if mode is TlsMode.DISABLED:
            word = "tls" if words.mode is TlsMode.DISABLED else "attempt_starttls"
            raise PolicyError(word, "`require_tls yes` contradicts it: nothing could be sent")
        if mode is None or mode in _RAISED:
            mode = TlsMode.REQUIRE_VERIFY
    if words.sends_secret and not words.auth_insecure:
        if mode is None:
            mode = TlsMode.REQUIRE_VERIFY
        elif mode is not TlsMode.REQUIRE_VERIFY:
            word = "tls" if words.mode is not None else "attempt_starttls"
            text = "a password goes only over TLS with a verified name: `tls require_verify`, or `auth_insecure yes`"
            raise PolicyError(word, text)
        if not words.has_names:
            text = "a password goes only over TLS with a verified name: `tls_verify_name NAME`, or `auth_insecure yes`"
            raise PolicyError("tls_verify_host", text)
    if mode is None:
        if words.scheme == "tls":
            return TlsMode.REQUIRE_VERIFY
        return TlsMode.OPTIONAL if words.attempt_starttls else words.default
    return mode
