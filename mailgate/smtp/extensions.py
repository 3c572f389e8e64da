"""Which service extensions a session has, and how EHLO announces them.

RFC 5321 4.1.1.1, 2920 (PIPELINING), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8), 2034 (ENHANCEDSTATUSCODES), 3030 (CHUNKING,
BINARYMIME), 3461 (DSN), 9422 (LIMITS), 3207 (STARTTLS), 8689 (REQUIRETLS), 4954 (AUTH), 6710 (MT-PRIORITY),
4865 (FUTURERELEASE), 2852 (DELIVERBY).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import Any, TypeVar

from mailgate.smtp import xclient
from mailgate.smtp.reply import Reply
from mailgate.smtp.settings import ServerSettings

T = TypeVar("T")


def _known(function: Callable[..., T]) -> Callable[..., T]:
    """Worked out once for each settings and key, and kept in the settings: what is kept anywhere else would keep a whole
    configuration from before a reload."""

    @wraps(function)
    def known(settings: ServerSettings, key: Any) -> T:
        answers = settings.known
        try:
            answer: T = answers[function, key]
        except KeyError:
            answer = answers[function, key] = function(settings, key)
        return answer

    return known


@dataclass(frozen=True, slots=True)
class Extension:
    """One row: when it is offered (given settings and whether TLS is on), what stands behind the keyword, and the
    command it lives by, if it has one that an operator might disable."""

    offered: Callable[[ServerSettings, bool], bool] = lambda settings, tls: True
    argument: Callable[[ServerSettings, frozenset[str]], str] = lambda settings, lacking: ""
    command: str = ""


RESTS_ON = {"BINARYMIME": "CHUNKING", "SMTPUTF8": "8BITMIME"}
"""Keywords that may not be announced without another (RFC 3030 3, RFC 6531 3.1): hiding that hides them."""

NEEDS_CERTIFICATE = frozenset({"EXTERNAL"})
NEEDS_BINDING = frozenset({"SCRAM-SHA-256-PLUS"})
NEEDS_TLS = NEEDS_CERTIFICATE | NEEDS_BINDING
"""SASL mechanisms that a connection in clear lacks; one with TLS may lack some too."""


@_known
def mechanisms(settings: ServerSettings, lacking: frozenset[str]) -> tuple[str, ...]:
    """The SASL mechanisms that a client may use on a connection that lacks some."""
    return tuple(mechanism for mechanism in settings.auth_mechanisms if mechanism not in lacking)


EXTENSIONS: Mapping[str, Extension] = {
    "PIPELINING": Extension(),
    "SIZE": Extension(argument=lambda settings, lacking: str(settings.max_message_size) if settings.announce_size else ""),
    "8BITMIME": Extension(),
    "SMTPUTF8": Extension(),
    "ENHANCEDSTATUSCODES": Extension(),
    "CHUNKING": Extension(command="BDAT"),
    "BINARYMIME": Extension(command="BDAT"),
    "DSN": Extension(lambda settings, tls: settings.dsn),
    "LIMITS": Extension(argument=lambda settings, lacking: f"RCPTMAX={settings.max_recipients}"),
    "STARTTLS": Extension(lambda settings, tls: settings.starttls and not tls, command="STARTTLS"),
    "REQUIRETLS": Extension(lambda settings, tls: settings.requiretls and tls),
    "AUTH": Extension(
        lambda settings, tls: bool(settings.auth_mechanisms) and (tls or settings.insecure_auth),
        argument=lambda settings, lacking: " ".join(mechanisms(settings, lacking)),
        command="AUTH",
    ),
    "MT-PRIORITY": Extension(lambda settings, tls: settings.max_priority is not None),
    "FUTURERELEASE": Extension(lambda settings, tls: settings.max_hold > 0, argument=lambda settings, lacking: _until(settings)),
    "DELIVERBY": Extension(
        lambda settings, tls: settings.min_deliver_by is not None,
        argument=lambda settings, lacking: str(settings.min_deliver_by or ""),
    ),
    "XCLIENT": Extension(lambda settings, tls: settings.xclient, argument=lambda *_: " ".join(xclient.XCLIENT)),
    "XFORWARD": Extension(lambda settings, tls: settings.xforward, argument=lambda *_: " ".join(xclient.XFORWARD)),
}
"""In the order of the announcement."""


@_known
def offered(settings: ServerSettings, tls: bool) -> frozenset[str]:
    """The extensions a client may use now, announced or hidden."""
    return frozenset(
        keyword
        for keyword, extension in EXTENSIONS.items()
        if extension.offered(settings, tls) and extension.command not in settings.disable_commands
    )


@_known
def accepted(settings: ServerSettings, tls: bool) -> frozenset[str]:
    """The extensions whose parameters are read: in clear REQUIRETLS too, which has a refusal of its own there."""
    return offered(settings, tls) if tls else offered(settings, tls) | {"REQUIRETLS"}


def _until(settings: ServerSettings) -> str:
    """How long a message may be held, and until when (RFC 4865 3)."""
    until = datetime.fromtimestamp(settings.wall_time() + settings.max_hold, UTC)
    return f"{settings.max_hold} {until:%Y-%m-%dT%H:%M:%SZ}"


def announcement(settings: ServerSettings, tls: bool, lacking: frozenset[str] = NEEDS_TLS) -> tuple[str, ...]:
    """The keyword lines of the EHLO reply. One that says a time is said anew each time."""
    return _announcement(settings, tls, lacking) if settings.max_hold else _known_announcement(settings, (tls, lacking))


def _announcement(settings: ServerSettings, tls: bool, lacking: frozenset[str]) -> tuple[str, ...]:
    """AUTH is left out where the client can use none of its mechanisms."""
    available = offered(settings, tls) - settings.hide
    available -= {keyword for keyword, basis in RESTS_ON.items() if basis not in available}
    if not mechanisms(settings, lacking):
        available -= {"AUTH"}
    return tuple(
        f"{keyword} {extension.argument(settings, lacking)}".rstrip()
        for keyword, extension in EXTENSIONS.items()
        if keyword in available
    )


@_known
def _known_announcement(settings: ServerSettings, key: tuple[bool, frozenset[str]]) -> tuple[str, ...]:
    return _announcement(settings, *key)


def hello_reply(
    settings: ServerSettings, tls: bool, client: str, *, extended: bool, lacking: frozenset[str] = NEEDS_TLS
) -> Reply:
    """250 to EHLO and LHLO with the announcement, to HELO without."""
    greeting = _fill_in(settings.helo_response, settings.hostname, client)
    return Reply(250, "", "\n".join((greeting, *announcement(settings, tls, lacking))) if extended else greeting)


def _fill_in(template: str, *values: str) -> str:
    """The values for each ``%s``; what is left over is empty. No other % means anything."""
    parts = template.split("%s")
    filled = parts[0]
    for number, part in enumerate(parts[1:]):
        filled += (values[number] if number < len(values) else "") + part
    return filled
