"""What `table.ldap` and `auth.ldap` share: how the directory is reached, and what may stand in a filter."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

from ldap3.core.exceptions import LDAPException
from ldap3.operation.search import parse_filter
from ldap3.utils.dn import parse_dn

from mailgate.clients.ldap import PLACEHOLDER, Directory, fill, in_dn, in_filter
from mailgate.clients.ldap_link import Access, Bind, Scope, Server
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.places import EndpointAddress, SecretText
from mailgate.config.schema import DEFAULTS, REQUIRED, Block, Directive
from mailgate.registry import Module, ModuleContext

PORTS = {"ldap": 389, "ldaps": 636}
SAMPLE = "x"
_ATTRIBUTE = re.compile(r"([A-Za-z][A-Za-z0-9-]*|\d+(\.\d+)+)(;[A-Za-z0-9-]+)*\Z")


class LdapTls(Block):
    """Whom to trust, and what to show. The name in the server's certificate must be the one in `urls`."""

    root_ca = Directive(
        "root_ca", v.List(v.Path()), default=(), doc="Files with the certificates to trust (PEM), in place of the system's."
    )
    cert = Directive("cert", v.Path(), doc="Our own certificate with its intermediates (PEM), for `bind external`.")
    key = Directive("key", v.Path(), doc="The private key of `cert` (PEM).")


class LdapModule(Module):
    """Directives of whatever asks an LDAP directory."""

    urls = Directive(
        "urls",
        v.List(v.Endpoint(schemes=tuple(PORTS))),
        default=REQUIRED,
        doc="The servers, `ldap://HOST[:PORT]` or `ldaps://HOST[:PORT]`: the first that is in order is asked.",
        origin="maddy",
    )
    starttls = Directive(
        "starttls",
        v.Boolean(),
        default=False,
        doc="Go over to TLS before anything else is said, on ldap:// servers. The certificate is always verified.",
        origin="maddy",
    )
    bind = Directive(
        "bind",
        v.OneOf({"off": v.Nothing(), "plain": v.Args(v.String("DN"), v.Secret("PASSWORD")), "external": v.Nothing()}),
        default=v.Chosen("off"),
        doc="Who we are to the directory: nobody, a name with a password, or (external) whom our certificate names.",
        origin="maddy",
    )
    base_dn = Directive("base_dn", v.String("DN"), default="", doc="Where searches begin.", origin="maddy")
    scope = Directive(
        "scope",
        v.Choice(*(scope.value for scope in Scope)),
        default=Scope.SUB.value,
        doc="What is searched: the entry at base_dn alone (base), those directly below it (one), or all below it (sub).",
    )
    connect_timeout = Directive(
        "connect_timeout",
        v.Duration(minimum=0.1, maximum=60),
        default=3.0,
        doc="For connecting to a server, and as much again for TLS.",
        origin="maddy",
    )
    timeout = Directive(
        "timeout", v.Duration(minimum=1, maximum=60), default=5.0, doc="For one answer of a server.", origin="maddy"
    )
    connections = Directive(
        "connections",
        v.Integer(minimum=1, maximum=64),
        default=4,
        divided=True,
        doc="Connections at most, and threads that use them.",
    )
    tls_client = Directive(
        "tls_client", block=LdapTls, default=DEFAULTS, block_required=True, doc="TLS towards the servers.", origin="maddy"
    )

    sends_passwords = False
    """Whether users' passwords go to the servers."""

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        dn, password = self.bind.value or ("", SecretText(""))
        tls = self.tls_client
        self.access = Access(
            servers=tuple(_server(url) for url in self.urls),
            starttls=self.starttls,
            bind=Bind(self.bind.word),
            dn=dn,
            password=password,
            authorities=tuple(tls.root_ca),
            certificate=tls.cert,
            key=tls.key,
            connect_timeout=self.connect_timeout,
            timeout=self.timeout,
            connections=self.connections,
        )
        self.search_scope = Scope(self.scope)
        self._directory: Directory | None = None

    @property
    def directory(self) -> Directory:
        """Made when it is asked first: while a file is only checked there is no outside world."""
        if self._directory is None:
            assert self.context.adapters is not None
            self._directory = Directory(self.access, self.context.adapters)
        return self._directory

    def configure(self, report: Report) -> None:
        self._configure_tls(report)
        access = self.access
        if access.bind is Bind.PLAIN and not (access.dn and access.password.reveal()):
            report.error(self.span_of("bind"), "a bind without a name or a password proves nothing", code="E0832")
        said = self.sends_passwords or access.bind is Bind.PLAIN
        clear = [server for server in access.servers if not (server.is_tls or access.starttls or _is_loopback(server.host))]
        if said and clear:
            text = f"passwords go to {clear[0]} in clear"
            report.warning(self.span_of("urls"), text, code="W0830", hint="`starttls yes`, or ldaps://")

    def _configure_tls(self, report: Report) -> None:
        access = self.access
        if (access.certificate is None) != (access.key is None):
            report.error(self.span_of("tls_client"), "`cert` and `key` belong together", code="E0832")
            return
        if access.bind is Bind.EXTERNAL and access.certificate is None:
            report.error(self.span_of("bind"), "`bind external` needs `cert` and `key` in tls_client", code="E0832")
        if access.starttls and any(server.is_tls for server in access.servers):
            report.error(self.span_of("starttls"), "an ldaps:// server has TLS already", code="E0832", hint="ldap://")
        try:
            access.tls_context()
        except OSError as error:  # SSLError is one
            report.error(self.span_of("tls_client") or self.span, f"TLS can't be set up: {error}", code="E0832")

    def check_template(self, report: Report, directive: str, allowed: Iterable[str]) -> None:
        """A filter (or the DN of `dn_template`) must be one whatever stands for its placeholders, of which it has one at
        least."""
        template: str = getattr(self, directive)
        allowed = tuple(allowed)
        span = self.span_of(directive)
        names = PLACEHOLDER.findall(template)
        hint = f"possible: {', '.join('{' + name + '}' for name in allowed)}"
        if wrong := [name for name in names if name not in allowed]:
            report.error(span, f"`{{{wrong[0]}}}` stands for nothing here", code="E0830", hint=hint)
            return
        if not names:
            report.error(span, "without a placeholder it is the same for everybody", code="E0830", hint=hint)
            return
        sample: Mapping[str, str] = dict.fromkeys(allowed, SAMPLE)
        try:
            if directive == "filter":
                parse_filter(fill(template, sample, in_filter), None, False, False, None, False)
            else:
                parse_dn(fill(template, sample, in_dn))
        except (LDAPException, IndexError) as error:
            report.error(span, f"no {directive.removesuffix('_template')} that LDAP knows: {error}", code="E0830")

    def check_attributes(self, report: Report, directive: str, names: Iterable[str]) -> None:
        for name in names:
            if not _ATTRIBUTE.match(name):
                report.error(self.span_of(directive), f"`{name}` is no attribute", code="E0830")

    async def stop(self) -> None:
        if self._directory is not None:
            await self._directory.stop()


def _server(url: EndpointAddress) -> Server:
    return Server(url.host, url.port or PORTS[url.scheme], url.scheme == "ldaps")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
