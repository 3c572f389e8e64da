"""Whether a next hop takes a user's password: what `auth.smtp` asks, by logging in there and saying QUIT.

Each try is a connection of its own, within the pool's limits and under the target's TLS policy; nothing of it is kept for mail.
The endpoints are tried in their order, those that are down left out while another is up. Only 535 says that the password is
wrong; whatever else goes wrong says nothing about it, and the next endpoint is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from mailgate.outbound.auth_settings import Login, forwarded
from mailgate.outbound.balance import Selection
from mailgate.outbound.endpoint import Endpoint, Link
from mailgate.outbound.failure import AttemptFailed, Kind
from mailgate.outbound.pool import Pool
from mailgate.outbound.tls_policy import Decision, OnFailure

WRONG = 535


class LoginTrial:
    """For one target, over its pool. The endpoints share health with those that it is made of."""

    def __init__(self, endpoints: Sequence[Endpoint], pool: Pool, random: Random) -> None:
        self._pool = pool
        self._endpoints = [_asking(endpoint, random) for endpoint in endpoints]

    async def __call__(self, user: str, password: Any) -> bool:
        """``password`` is a `SecretText`. :raises AttemptFailed: nobody could say."""
        last = AttemptFailed(Kind.CONNECT, "connect", "no endpoint")
        selection = Selection(self._endpoints)
        while (endpoint := selection.next()) is not None:
            link = Link(endpoint, replace(endpoint.link.key, login=Login(user, password)))
            try:
                connection = await self._pool.lease(link, fresh=True)
            except AttemptFailed as failure:
                if failure.kind is Kind.LOGIN and failure.answer is not None and failure.answer.code == WRONG:
                    endpoint.circuit.succeeded()
                    return False
                endpoint.circuit.failed(failure.kind, failure.reason, selection)
                last = failure
                continue
            except BaseException:
                endpoint.circuit.abandoned(selection)
                raise
            connection.quit()
            endpoint.circuit.succeeded()
            return True
        raise last


def _asking(endpoint: Endpoint, random: Random) -> Endpoint:
    settings = replace(endpoint.settings, credentials=forwarded(random), forwards_logins=True, vary=())
    return Endpoint(settings, endpoint.circuit)


def protects_passwords(decision: Decision) -> bool:
    """Whether a password goes over this link only to a peer whose name was verified."""
    return not decision.allow_clear and decision.on_bad_peer is OnFailure.NEXT and bool(decision.names)
