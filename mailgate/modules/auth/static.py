"""`auth.static`: users in the configuration itself, for laboratories and for a few machines."""

from __future__ import annotations

import hmac

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import REQUIRED, Directive
from mailgate.interfaces import Account, IAccountStore, Identity, ITokenJudge, Proof
from mailgate.modules.auth._accounts import NOBODY, account_of, proofs_of
from mailgate.passwords import Form, PasswordError, read_secret
from mailgate.registry import Module, ModuleContext


@implementer(IAccountStore, ITokenJudge)
class StaticAuth(Module):
    """Users and their secrets. With passwords in plain it can judge every mechanism, bearer tokens included: a token is the
    user's secret then."""

    name = "auth.static"
    entries = Directive(
        "entry",
        v.Args(v.String("USER"), v.Secret("SECRET")),
        repeatable=True,
        default=REQUIRED,
        doc="One user, and the password or a hash of it: argon2, bcrypt, sha512-crypt, sha256-crypt, yescrypt, SCRAM-SHA-256.",
        origin="maddy",
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._secrets = {user: secret.reveal() for user, secret in self.entries}
        self.decoy = next(iter(self._secrets.values()), NOBODY)
        self.proofs: frozenset[Proof] = frozenset()

    def configure(self, report: Report) -> None:
        forms = set()
        seen: set[str] = set()
        for item in self.items:
            user, secret = item.value
            if user in seen or not user or not user.isprintable():
                problem = f"the user `{user}` stands here twice" if user in seen else "this is no name for a user"
                report.error(item.span, problem, code="E0780")
            seen.add(user)
            try:
                forms.add(read_secret(secret.reveal()).form)
            except PasswordError as error:
                report.error(item.span, f"the secret of `{user}` can't be used: {error}", code="E0781")
        self.proofs = proofs_of(forms) | ({Proof.TOKEN} if forms == {Form.PLAIN} else frozenset())

    def account(self, user: str) -> Account | None:
        return account_of(user, self._secrets)

    def check_token(self, user: str, token: str) -> Identity | None:
        """A token without a name is that of whose secret it is."""
        found = None
        for name, secret in self._secrets.items():
            if hmac.compare_digest(read_secret(secret).text.encode(), token.encode()) and user in ("", name):
                found = Identity(name)
        return found
