"""Who may log in on a listener, how, and what waits for it: the directives, and what a listener makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from mailgate.adapters import Adapters
from mailgate.config import values as v
from mailgate.config.schema import Block, Directive
from mailgate.inbound.authentication import Logins, offered
from mailgate.interfaces import Proof
from mailgate.message.envelope import Session
from mailgate.registry import ModuleContext, Report
from mailgate.smtp.sasl_server import MECHANISMS


class LoginDirectives(Block):
    """The directives of `smtp`, `submission` and `lmtp` blocks."""

    tls: Any
    disable_commands: Any
    hostname: str
    context: ModuleContext
    auth_required_by_default: ClassVar[bool] = False

    auth = Directive(
        "auth",
        v.ModuleLine("auth"),
        repeatable=True,
        doc="Who knows the users: a module of the namespace `auth`. Several are asked in this order;"
        " the first that says yes counts.",
        origin="maddy",
    )
    auth_mechanisms = Directive(
        "auth_mechanisms",
        v.List(v.Choice(*MECHANISMS)),
        default=(),
        doc="The mechanisms to offer, of those that `auth` can judge; by default all of them.",
        origin="smtp-server",
    )
    insecure_auth = Directive(
        "insecure_auth",
        v.Boolean(),
        default=False,
        doc="Offer AUTH without TLS, so that passwords may be read on their way; else AUTH hears 538 before TLS.",
        origin="smtp-server",
    )
    auth_required = Directive(
        "auth_required",
        v.Boolean(),
        default=None,
        doc="Whether clients must log in before they send mail, else MAIL hears 530; by default in `submission` blocks.",
        origin="smtp-server",
    )
    auth_required_message = Directive(
        "auth_required_message",
        v.String("TEXT"),
        default="Authentication required",
        doc="Text of that 530.",
        origin="smtp-server",
    )
    max_unauthenticated_commands = Directive(
        "max_unauthenticated_commands",
        v.OneOf({"off": v.Nothing(), "": v.Integer(minimum=1)}),
        default=None,
        doc="Commands but AUTH and QUIT before a login that is required; the next one hears 421. 10 by default.",
        origin="smtp-server",
    )
    max_auth_failures = Directive(
        "max_auth_failures",
        v.Integer(minimum=1),
        default=3,
        doc="The failed login that ends the session. Guesses are counted over sessions too, by address and by user.",
    )

    @property
    def login_required(self) -> bool:
        """Whether nobody can send mail without having logged in."""
        return self.auth_required_by_default if self.auth_required is None else bool(self.auth_required)

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What is offered, the strongest first."""
        return offered(self.auth, self.auth_mechanisms)

    def login_settings(self) -> dict[str, Any]:
        """The fields of `smtp.settings.ServerSettings` that these directives decide."""
        most = self.max_unauthenticated_commands
        return {
            "auth_mechanisms": self.mechanisms,
            "insecure_auth": self.insecure_auth,
            "auth_required": self.login_required,
            "auth_required_message": self.auth_required_message,
            "max_unauthenticated_commands": 10 if most is None else most.value or 0,
            "max_auth_failures": self.max_auth_failures,
        }

    def logins(self, adapters: Adapters, steps: Sequence[Callable[[Session], Any]] = ()) -> Logins | None:
        """For `inbound.sessions`; None where nobody can log in. ``steps``: see `Logins`."""
        return Logins(self.auth, self.mechanisms, self.context.guard, adapters, self.hostname, steps) if self.auth else None

    def check_logins(self, report: Report) -> None:
        """What only all of it together shows."""
        has_tls = self.tls is not None and self.tls.word != "off"
        asks_certificates = has_tls and self.tls.client_auth != "off"
        place = self.span_of("auth_required") or self.span
        if self.login_required and (not self.auth or "AUTH" in self.disable_commands):
            hint = "add `auth &NAME`, or `auth_required no`"
            report.error(place, "nobody can log in here, but everybody must", code="E0783", hint=hint)
        elif self.auth and not self.mechanisms:
            possible = offered(self.auth, None)
            notes = (f"`auth` can judge {', '.join(possible)}",)
            report.error(self.span_of("auth_mechanisms"), "none of these mechanisms can be offered", code="E0784", notes=notes)
        elif self.auth and not (has_tls or self.insecure_auth):
            hint = "add `tls file CERTIFICATE KEY`; `insecure_auth yes` lets passwords go in clear"
            report.error(self.span_of("auth"), "without TLS nobody can log in", code="E0785", hint=hint)
        if not asks_certificates and any(Proof.CERTIFICATE in provider.proofs for provider in self.auth):
            hint = "say `client_auth optional` and `client_ca FILE` in `tls { … }`"
            report.warning(self.span_of("auth"), "no client is asked for a certificate here", code="W0786", hint=hint)
        for name in ("auth_mechanisms", "insecure_auth", "max_auth_failures"):
            if not self.auth and self.span_of(name) is not None:
                report.warning(self.span_of(name), f"`{name}` has no effect here", code="W0714", hint="there is no `auth`")
        for name in ("auth_required_message", "max_unauthenticated_commands"):
            if not self.login_required and self.span_of(name) is not None:
                report.warning(self.span_of(name), f"`{name}` has no effect here", code="W0714", hint="nobody must log in")
