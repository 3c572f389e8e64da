"""`auth.external`: clients that log in with their TLS certificate (SASL EXTERNAL), without a password."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.interfaces import ICertificateJudge, Identity, Proof
from mailgate.message.envelope import TlsFacts
from mailgate.pipeline.lookup import look_up
from mailgate.registry import Module

_KEYS: Mapping[str, Callable[[TlsFacts], tuple[str, ...]]] = {
    "name": lambda facts: facts.peer_names or ((facts.peer_name,) if facts.peer_name else ()),
    "subject": lambda facts: (facts.peer_subject,),
    "fingerprint": lambda facts: (facts.peer_fingerprint,),
}
"""What may be known of a certificate that was verified. One of them is chosen, so that a name can't pass for a fingerprint."""


@implementer(ICertificateJudge)
class ExternalAuth(Module):
    """The client's certificate says who it is: by a table, or with a name in it for the user. The listener asks for certificates
    with `tls { client_auth optional; client_ca FILE }`."""

    name = "auth.external"
    proofs = frozenset({Proof.CERTIFICATE})
    match = Directive(
        "match",
        v.Choice(*_KEYS),
        default="name",
        doc="What of the certificate counts: its names (DNS and mail, else the common name), its subject as RFC 4514 writes it,"
        " or its SHA-256 fingerprint in hexadecimal digits.",
    )
    users = Directive(
        "users",
        v.ModuleLine("table"),
        doc="A table that gives the user for it, and further users that it may act as if it asks. Without a table the first name"
        " is the user, and it may act as the others.",
    )

    async def check_certificate(self, facts: TlsFacts | None) -> Identity | None:
        if facts is None or not facts.peer_fingerprint:
            return None
        keys = _KEYS[self.match](facts)
        if self.users is None:
            return _identity(keys)
        for key in keys:
            identity = _identity(await look_up(self.users, key))
            if identity is not None:
                return identity
        return None


def _identity(users: tuple[str, ...]) -> Identity | None:
    named = tuple(user for user in users if user)
    return Identity(named[0], frozenset(named[1:])) if named else None
