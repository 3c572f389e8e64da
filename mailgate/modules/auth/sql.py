"""`auth.sql`: users and their hashed passwords in an SQL database."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.schema import REQUIRED, Directive
from mailgate.interfaces import Account, IAccountStore, Identity, Proof
from mailgate.modules._sql import SqlModule, texts
from mailgate.modules.auth._accounts import NOBODY, proofs_of
from mailgate.passwords import Form, read_secret
from mailgate.registry import ModuleContext

_HASHES = tuple(form.value for form in Form if form is not Form.PLAIN)


class Ambiguous(Exception):
    """The query found more than one secret for one name."""


@implementer(IAccountStore)
class SqlAuth(SqlModule):
    """The query finds the user's secret, as `auth.file` has them. No row: nobody of that name. While the database can't be
    asked, clients hear 454."""

    name = "auth.sql"
    placeholders = ("username",)
    decoy = NOBODY
    query = Directive(
        "query",
        v.String("SELECT"),
        default=REQUIRED,
        doc="Finds one row with one column, the secret. {username} stands for the name, as a parameter of the query; how names"
        " are compared is the database's matter.",
    )
    schemes = Directive(
        "schemes",
        v.List(v.Choice(*_HASHES, Form.PLAIN.value), minimum=1),
        default=_HASHES,
        doc="The forms that secrets may have; plain passwords must be asked for. With `plain` alone CRAM-MD5 and SCRAM-SHA-256"
        " are possible, with `scram-sha-256` and `plain` SCRAM-SHA-256.",
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._forms = frozenset(Form(word) for word in self.schemes)
        self.proofs: frozenset[Proof] = proofs_of(self._forms)

    def account(self, user: str) -> Any:
        return self._account(user)

    async def _account(self, user: str) -> Account | None:
        rows = await self.rows({"username": user})
        found = [text for row in rows for text in texts(row)]
        if not found:
            return None
        if len(found) > 1:
            raise Ambiguous(f"{self.label}: {len(found)} secrets for one name")
        if read_secret(found[0]).form not in self._forms:
            raise ValueError(f"{self.label}: a secret is of a form that `schemes` does not have")
        return Account(Identity(user), found[0])
