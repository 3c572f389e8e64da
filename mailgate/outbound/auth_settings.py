"""`auth` of a target: which mechanism, with which credentials; nothing else reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive, Refused
from mailgate.outbound.written import Written
from mailgate.smtp.sasl import External, Login, Plain, SaslClient

_LATER = "is not there yet in this version"
_SECRETS: dict[str, Callable[[str, str], SaslClient]] = {"plain": Plain, "login": Login}


class AuthSettings(Block):
    """How we authenticate to an endpoint."""

    auth = Directive(
        "auth",
        v.OneOf(
            {
                "off": v.Nothing(),
                "plain": v.Args(v.String("USER"), v.Secret("PASSWORD")),
                "login": v.Args(v.String("USER"), v.Secret("PASSWORD")),
                "external": v.Nothing(),
                "forward": Refused("forward", "it needs authentication of clients, which " + _LATER),
                "auto": Refused("auto", "name the mechanism: choosing it " + _LATER),
                "cram-md5": Refused("cram-md5", "this mechanism " + _LATER),
                "scram-sha-256": Refused("scram-sha-256", "this mechanism " + _LATER),
                "xoauth2": Refused("xoauth2", "this mechanism " + _LATER),
                "oauthbearer": Refused("oauthbearer", "this mechanism " + _LATER),
            }
        ),
        doc="How we authenticate. A password goes only over TLS with a verified name or a unix socket.",
        origin="maddy",
    )
    auth_insecure = Directive(
        "auth_insecure", v.Boolean(), default=False, doc="Let `auth` say its password where the peer is not verified."
    )


@dataclass(frozen=True, slots=True)
class Authentication:
    """``credentials`` makes the mechanism of one exchange; ``sends_secret``: with a password; ``shows_certificate``: by TLS."""

    credentials: Callable[[], SaslClient] | None = field(default=None, repr=False)
    sends_secret: bool = False
    shows_certificate: bool = False


def authentication(written: Written) -> Authentication:
    """:raises SaslError: for a name or password that can't be sent."""
    auth = written.value("auth")
    if auth is None or auth.word == "off":
        return Authentication()
    if auth.word == "external":
        return Authentication(External, shows_certificate=True)
    mechanism = _SECRETS[auth.word]
    user, secret = auth.value
    mechanism(user, secret.reveal())
    return Authentication(lambda: mechanism(user, secret.reveal()), sends_secret=True)
