"""`auth.shared`: some users, one password."""

from __future__ import annotations

import hmac

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.schema import REQUIRED, Argument, Directive
from mailgate.interfaces import Identity, IPasswordJudge, Proof
from mailgate.registry import Module


@implementer(IPasswordJudge)
class Shared(Module):
    """For devices that can't have passwords of their own."""

    name = "auth.shared"
    proofs = frozenset({Proof.PASSWORD})
    users = Argument("USER", v.String("USER"), rest=True, minimum=1, doc="Who may log in.")
    password = Directive("password", v.Secret(), default=REQUIRED, doc="The password of all of them.")

    def check_password(self, user: str, password: str, client_ip: str) -> Identity | None:
        # Raise when it can't be judged: the client then hears 454, never that the password is wrong.
        right = hmac.compare_digest(self.password.reveal().encode(), password.encode())
        return Identity(user) if right and user in self.users else None
