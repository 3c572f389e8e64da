"""What the providers that store secrets have in common: which proofs their secrets serve, and how they are asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mailgate.interfaces import Account, Identity, Proof
from mailgate.passwords import Form
from mailgate.smtp.scram import decoy_keys

NOBODY = str(decoy_keys("", b""))
"""The decoy of a provider without users."""

_FOR_KEYS = frozenset({Form.PLAIN, Form.SCRAM})
_FOR_SECRET = frozenset({Form.PLAIN})


def proofs_of(forms: Iterable[Form]) -> frozenset[Proof]:
    """What all of the secrets serve: a mechanism that only some users could use is not offered."""
    forms = frozenset(forms)
    proofs = {Proof.PASSWORD}
    if forms and forms <= _FOR_KEYS:
        proofs.add(Proof.KEYS)
    if forms and forms <= _FOR_SECRET:
        proofs.add(Proof.SECRET)
    return frozenset(proofs)


def account_of(user: str, secrets: Mapping[str, str]) -> Account | None:
    """Names are compared as they are: two users may differ in case only."""
    secret = secrets.get(user)
    return Account(Identity(user), secret) if secret is not None else None
