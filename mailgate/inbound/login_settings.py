"""Who may log in on a listener, how, and what waits for it: the directives, and what a listener makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar
from unicodedata import normalize

from mailgate.adapters import Adapters
from mailgate.config import values as v
from mailgate.config.schema import Block, Directive
from mailgate.inbound.authentication import Logins, offered
from mailgate.interfaces import Proof
from mailgate.message.envelope import Session
from mailgate.pipeline.reach import targets
from mailgate.registry import ModuleContext, Report
from mailgate.smtp.sasl_server import MECHANISMS

WITH_PASSWORD = ("PLAIN", "LOGIN")
"""The mechanisms that give us the password itself."""


def _casefolded(name: str) -> str:
    return normalize("NFKC", normalize("NFKC", name).casefold())


_NORMALIZE: dict[str, Callable[[str], str] | None] = {"none": None, "lower": str.lower, "casefold": _casefolded}


class LoginDirectives(Block):
    """The directives of `smtp`, `submission` and `lmtp` blocks."""

    tls: Any
    disable_commands: Any
    hostname: str
    context: ModuleContext
    router: Any
    split_queue: Any
    auth_required_by_default: ClassVar[bool] = False

    auth = Directive(
        "auth",
        v.ModuleLine("auth"),
        repeatable=True,
        doc="Who knows the users: a module of the namespace `auth`. Several are asked in this order;"
        " the first that says yes counts.",
        origin="maddy",
    )
    auth_normalize = Directive(
        "auth_normalize",
        v.Choice("none", "lower", "casefold"),
        default="none",
        doc="What is made of a user's name before anybody is asked: `lower` is lower case, `casefold` the form in which Unicode"
        " compares names (NFKC and case folding). Providers that compare names as they are want their names in that form.",
        origin="maddy",
    )
    auth_map = Directive(
        "auth_map",
        v.ModuleLine("table"),
        doc="From names as clients give them to those of the providers: an address to an account, say. A name that it does not"
        " have is nobody's; one without a value stays as it is. Not for tokens and certificates, which have names of their own.",
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
        v.ReplyText("TEXT"),
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

    forwards_logins = False
    """A target with `auth forward` is reached from here; known after `check_logins`."""

    @property
    def login_required(self) -> bool:
        """Whether nobody can send mail without having logged in."""
        return self.auth_required_by_default if self.auth_required is None else bool(self.auth_required)

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What is offered, the strongest first. Where a next hop wants the client's own login, its password must come here."""
        names = offered(self.auth, self.auth_mechanisms)
        return tuple(name for name in names if name in WITH_PASSWORD) if self.forwards_logins else names

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
        if not self.auth:
            return None
        mechanisms, guard = self.mechanisms, self.context.guard
        return Logins(
            self.auth,
            mechanisms,
            guard,
            adapters,
            self.hostname,
            steps,
            keeps_password=self.forwards_logins,
            normalize=_NORMALIZE[self.auth_normalize],
            name_map=self.auth_map,
        )

    def check_logins(self, report: Report) -> None:
        """What only all of it together shows."""
        has_tls = self.tls is not None and self.tls.word != "off"
        asks_certificates = has_tls and self.tls.client_auth != "off"
        place = self.span_of("auth_required") or self.span
        if self.damaged:  # the line that is missing may be the one that is wrong
            return
        if self.login_required and (not self.auth or "AUTH" in self.disable_commands):
            hint = "leave AUTH out of `disable_commands`" if self.auth else "add `auth &NAME`"
            hint += ", or say `auth_required no`"
            report.error(place, "nobody can log in here, but everybody must", code="E0783", hint=hint)
        elif (possible := offered(self.auth, None)) and not self.mechanisms:
            notes = (f"`auth` can judge {', '.join(possible)}",)
            report.error(self.span_of("auth_mechanisms"), "none of these mechanisms can be offered", code="E0784", notes=notes)
        elif self.auth and not (has_tls or self.insecure_auth):
            hint = "add `tls file CERTIFICATE KEY`; `insecure_auth yes` lets passwords go in clear"
            report.error(self.span_of("auth"), "without TLS nobody can log in", code="E0785", hint=hint)
        self._check_forwarding(report)
        for provider in self.auth:
            if hasattr(provider, "review"):  # what could not be known before all targets were configured
                provider.review(report)
        if not asks_certificates and any(Proof.CERTIFICATE in provider.proofs for provider in self.auth):
            hint = "say `client_auth optional` and `client_ca FILE` in `tls { … }`"
            report.warning(self.span_of("auth"), "no client is asked for a certificate here", code="W0786", hint=hint)
        for name in ("auth_mechanisms", "auth_map", "auth_normalize", "insecure_auth", "max_auth_failures"):
            if not self.auth and self.span_of(name) is not None:
                report.warning(self.span_of(name), f"`{name}` has no effect here", code="W0714", hint="there is no `auth`")
        for name in ("auth_required_message", "max_unauthenticated_commands"):
            if not self.login_required and self.span_of(name) is not None:
                report.warning(self.span_of(name), f"`{name}` has no effect here", code="W0714", hint="nobody must log in")

    def _check_forwarding(self, report: Report) -> None:
        """Whether clients' logins are passed on, and what does not go together with that."""
        reached = list(targets(self.router))
        queue = self.split_queue
        self.forwards_logins = any(map(_forwards, reached))
        place = self.span_of("auth_mechanisms") or self.span_of("auth") or self.span
        others = [name for name in self.auth_mechanisms if name not in WITH_PASSWORD]
        if self.forwards_logins and others:
            hint = "`auth_mechanisms PLAIN LOGIN`, or leave it out"
            message = f"`auth forward` needs the client's password, which {others[0]} does not give"
            report.error(place, message, code="E0787", hint=hint)
        elif self.forwards_logins and not self.mechanisms:
            message = "a next hop wants the client's login (`auth forward`), and nobody can log in here with a password"
            report.error(place, message, code="E0788", hint="add `auth &NAME`")
        if any(_forwards(getattr(target, "target", None)) for target in reached) or (self.forwards_logins and queue is not None):
            hint = "give the target behind the queue credentials of its own"
            report.error(self.span, "`auth forward` behind a queue: passwords are not kept", code="E0789", hint=hint)


def _forwards(target: Any) -> bool:
    return bool(getattr(target, "forwards_logins", False))
