"""`auth.smtp`: passwords judged by another mail server: a client's login is right if it is right there."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.places import SecretText
from mailgate.config.schema import Argument, Directive
from mailgate.interfaces import Identity, IPasswordJudge, Proof
from mailgate.modules.auth._known import KnownLogins
from mailgate.outbound.login_trial import protects_passwords
from mailgate.outbound.target import Downstream
from mailgate.registry import Module, ModuleContext


@implementer(IPasswordJudge)
class SmtpAuth(Module):
    """Logs in at a next hop with the user and password that the client gave: one connection for each try. While no endpoint of
    the target can be asked, clients hear 454."""

    name = "auth.smtp"
    proofs = frozenset({Proof.PASSWORD})
    target = Argument("TARGET", v.ReferenceTo("target"), doc="A target.smtp or target.lmtp whose endpoints are asked.")
    cache = Directive(
        "cache",
        v.Duration(maximum=3600),
        default=60.0,
        doc="How long a login that was right is taken for right without asking again; 0: always ask.",
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._known: KnownLogins | None = None

    def review(self, report: Report) -> None:
        """Called by a listener once all targets are configured: would passwords be safe on their way?"""
        target: Any = self.target
        if not isinstance(target, Downstream):
            report.error(self.span, f"`{target.label}` is no server to log in at", code="E0790", hint="use a target.smtp")
            return
        for settings in target.endpoint_settings:
            safe = settings.scheme == "unix" or target.auth_insecure or protects_passwords(settings.decision)
            if not safe:
                hint = "`tls require_verify` in the target, or `auth_insecure yes`"
                report.error(self.span, f"passwords would not be safe on their way to {settings.label}", code="E0790", hint=hint)

    async def start(self) -> None:
        assert self.context.adapters is not None
        self._known = KnownLogins(self.context.adapters, self.cache)

    def check_password(self, user: str, password: str, client_ip: str) -> Any:
        assert self._known is not None
        digest = self._known.digest(user, password)
        return self._known.get(digest) or self._ask(self._known, user, password, digest)

    async def _ask(self, known: KnownLogins, user: str, password: str, digest: bytes) -> Identity | None:
        if not await self.target.try_login(user, SecretText(password)):
            return None
        identity = Identity(user)
        known.add(digest, identity)
        return identity
