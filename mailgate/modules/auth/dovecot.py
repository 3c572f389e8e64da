"""`auth.dovecot`: passwords judged by Dovecot, over its authentication socket."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from mailgate.clients.dovecot import Dovecot
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Argument, Directive
from mailgate.interfaces import Identity, IPasswordJudge, Proof
from mailgate.registry import Module, ModuleContext


@implementer(IPasswordJudge)
class DovecotAuth(Module):
    """Asks Dovecot whether a user's password is right; the name that it answers with, normalised as it does, is the user's from
    then on. While it can't be asked, clients hear 454. Its side is `service auth { unix_listener mailgate-auth { … } }`."""

    name = "auth.dovecot"
    proofs = frozenset({Proof.PASSWORD})
    socket = Argument(
        "SOCKET",
        v.Endpoint(schemes=("unix", "tcp")),
        doc="Where it listens for clients: `unix:///run/dovecot/mailgate-auth`. Passwords go there in clear, so tcp:// is for"
        " this machine only.",
    )
    service = Directive("service", v.String("NAME"), default="smtp", doc="The service that Dovecot is told, for its rules.")
    timeout = Directive("timeout", v.Duration(minimum=1, maximum=60), default=10.0, doc="For connecting, and for each answer.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._server: Dovecot | None = None

    def configure(self, report: Report) -> None:
        if self.socket.scheme == "tcp" and (not self.socket.port or self.socket.host not in ("127.0.0.1", "::1", "localhost")):
            text = "passwords would go there in clear" if self.socket.port else "a port is missing"
            report.error(self.span, text, code="E0845", hint="unix:///run/dovecot/mailgate-auth")
        if not self.service.isascii() or not self.service.isalnum():
            report.error(self.span_of("service"), f"`{self.service}` is no name of a service", code="E0845")

    def check_password(self, user: str, password: str, client_ip: str) -> Any:
        if not user or not password or "\0" in user or "\0" in password:
            return None
        return self._check(user, password)

    async def _check(self, user: str, password: str) -> Identity | None:
        if self._server is None:
            assert self.context.adapters is not None
            place = self.socket
            self._server = Dovecot(
                self.context.adapters.reactor,
                path=place.path,
                host=place.host,
                port=place.port,
                service=self.service,
                timeout=self.timeout,
            )
        verdict = await self._server.check(user, password)
        return Identity(verdict.user) if verdict.user and verdict.user.isprintable() else None

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()
