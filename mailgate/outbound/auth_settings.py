"""`auth` of a target: which mechanism, with which credentials; nothing else reads it.

With `auth forward` the credentials are those of the client whose message it is: they stand in the key of the link
(`Login`), so two users never share a connection, and a client that has not logged in is refused before anybody is connected to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, TypeAlias

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive
from mailgate.outbound.endpoint import LinkKey
from mailgate.outbound.written import Written
from mailgate.smtp.reply import MailError, Reply
from mailgate.smtp.sasl import CHOICES, Offer, SaslClient, check_credentials, check_token, external, strongest

NO_LOGIN = Reply(530, "5.7.0", "Authentication required")

_WITH_SECRET = v.Args(v.String("USER"), v.Secret("PASSWORD"))
_WITH_TOKEN = v.Args(v.String("USER"), v.Secret("TOKEN"))

Credentials: TypeAlias = Callable[[Offer, Any], SaslClient | None]
"""Makes the mechanism of one exchange, of what the peer offers and the login in the link's key; None where there is nobody to log
in (a probe, with `auth forward`). :raises SaslError: it can't."""


class AuthSettings(Block):
    """How we authenticate to an endpoint."""

    auth = Directive(
        "auth",
        v.OneOf(
            {
                "off": v.Nothing(),
                "auto": _WITH_SECRET,
                "plain": _WITH_SECRET,
                "login": _WITH_SECRET,
                "cram-md5": _WITH_SECRET,
                "scram-sha-256": _WITH_SECRET,
                "xoauth2": _WITH_TOKEN,
                "oauthbearer": _WITH_TOKEN,
                "external": v.Nothing(),
                "forward": v.Nothing(),
            }
        ),
        doc="How we authenticate: with one mechanism, with the strongest that is offered (`auto`), with our certificate"
        " (`external`), or with the user and password of the client whose message it is (`forward`). Secrets go only over TLS"
        " with a verified name or a unix socket.",
        origin="maddy",
    )
    auth_insecure = Directive(
        "auth_insecure", v.Boolean(), default=False, doc="Let `auth` say its password where the peer is not verified."
    )


@dataclass(frozen=True, slots=True)
class Login:
    """A client's, to be passed on."""

    user: str
    password: Any
    """A `SecretText`."""


@dataclass(frozen=True, slots=True)
class Authentication:
    """``sends_secret``: credentials that others could use; ``shows_certificate``: by TLS; ``vary`` puts a client's login into
    the key of the link."""

    credentials: Credentials | None = field(default=None, repr=False)
    sends_secret: bool = False
    shows_certificate: bool = False
    vary: tuple[Callable[[LinkKey, Any], LinkKey], ...] = ()

    @property
    def forwards(self) -> bool:
        return bool(self.vary)


def authentication(written: Written, random: Random) -> Authentication:
    """:raises SaslError: for a name or password that can't be sent."""

    auth = written.value("auth")
    if auth is None or auth.word == "off":
        return Authentication()
    if auth.word == "external":
        return Authentication(lambda offer, login: external(offer), shows_certificate=True)
    if auth.word == "forward":
        return Authentication(forwarded(random), sends_secret=True, vary=(_with_login,))
    choose = CHOICES[auth.word]
    user, secret = auth.value
    check_credentials(user, secret.reveal())
    if auth.word in ("xoauth2", "oauthbearer"):
        check_token(secret.reveal())
    return Authentication(lambda offer, login: choose(_fresh(offer, random), user, secret.reveal()), sends_secret=True)


def forwarded(random: Random) -> Credentials:
    """The strongest mechanism for the login in the link's key."""

    def choose(offer: Offer, login: Any) -> SaslClient | None:
        return None if login is None else strongest(_fresh(offer, random), login.user, login.password.reveal())

    return choose


def _fresh(offer: Offer, random: Random) -> Offer:
    return replace(offer, nonce=f"{random.getrandbits(144):036x}")


def _with_login(key: LinkKey, variables: Any) -> LinkKey:
    """:raises MailError: the client has not logged in with a password."""
    credentials = variables.envelope.session.credentials
    if credentials is None:
        raise MailError(NO_LOGIN, "auth forward: the client has not logged in")
    user, password = credentials
    return replace(key, login=Login(user, password))
