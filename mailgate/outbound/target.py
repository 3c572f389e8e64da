"""What target.smtp and target.lmtp have in common: all of it but a port, a verb and a default.

`LinkSettings` are the directives that hold for a target and for each of its `endpoint { }` blocks; `Downstream` is the module.
Loading turns them into `EndpointSettings`, where every contradiction is an error at its place; nothing is opened before `start`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.schema import DEFAULTS, Block, Directive, Refused
from mailgate.events import Event, EventLog
from mailgate.interfaces import Finality, ITarget
from mailgate.message.envelope import Envelope
from mailgate.outbound.advice import LINK_DIRECTIVES, LinkFacts, pool_warnings, warnings_of
from mailgate.outbound.attempts import DeliverySettings, NextHops
from mailgate.outbound.delivery import Delivery
from mailgate.outbound.endpoint import Circuit, Endpoint, EndpointSettings, HealthSettings, Timeouts
from mailgate.outbound.pki import Pki, PkiError
from mailgate.outbound.pool import Pool, PoolSettings
from mailgate.outbound.tls_client import TlsClient
from mailgate.outbound.tls_policy import PolicyError, TlsMode, TlsWords, decide, effective_mode
from mailgate.registry import Globals, Module, ModuleContext, Report
from mailgate.smtp.sasl import External, Login, Plain, SaslClient, SaslError
from mailgate.tls.client import ClientContext
from mailgate.tls.options import TlsError

_LATER = "is not there yet in this version"
_DANE = Refused("dane", "DANE comes with direct delivery")
_SECRETS: dict[str, Callable[[str, str], SaslClient]] = {"plain": Plain, "login": Login}


class LinkSettings(Block):
    """How an endpoint is spoken to."""

    hostname = Directive(
        "hostname", v.String("NAME"), doc="The name we say in EHLO or LHLO; the gateway's by default.", origin="maddy"
    )
    attempt_starttls = Directive(
        "attempt_starttls",
        v.Boolean(),
        default=True,
        doc="STARTTLS if it is offered; if the handshake fails, a new connection without it, unless TLS is required.",
        origin="maddy",
    )
    require_tls = Directive(
        "require_tls",
        v.Boolean(),
        default=False,
        doc="No message over plain text; the certificate is verified unless `tls require` is asked for.",
        origin="maddy",
    )
    tls = Directive(
        "tls",
        v.Choice(
            *(mode.value for mode in TlsMode),
            _DANE,
            Refused("dane_require", _DANE.reason),
            Refused("dane_fallback_require_verify", _DANE.reason),
        ),
        doc="Whether TLS is used, required, verified.",
        origin="halon",
    )
    tls_sni = Directive(
        "tls_sni",
        v.OneOf({"yes": v.Nothing(), "no": v.Nothing(), "": v.String("NAME")}),
        doc="The server name that is asked for; the endpoint's host name by default.",
        origin="halon",
    )
    tls_verify_host = Directive(
        "tls_verify_host", v.Boolean(), default=True, doc="The endpoint's host is a name to verify.", origin="halon"
    )
    tls_verify_name = Directive(
        "tls_verify_name",
        v.Strings("NAME"),
        default=(),
        doc="More names to verify, one of which must match; `.name` is any one label below.",
        origin="halon",
    )
    tls_default_ca = Directive(
        "tls_default_ca",
        v.Boolean(),
        doc="Trust the system's authorities; by default where no `root_ca` is given.",
        origin="halon",
    )
    verify_failure = Directive(
        "verify_failure",
        v.Choice("next", "clear"),
        default="next",
        doc="What `tls optional_verify` does about a bad certificate: the next endpoint, or a new connection in clear text.",
    )
    tls_client = Directive(
        "tls_client", v.BlockOrReference("tls_client"), doc="Trust anchors, certificate and options of TLS.", origin="maddy"
    )
    tls_client_cert = Directive(
        "tls_client_cert",
        v.ReferenceTo("pki", prefix="pki:"),
        doc="Our certificate towards the next hop, of a `pki`: &NAME, or pki:NAME.",
        origin="halon",
    )
    auth = Directive(
        "auth",
        v.OneOf(
            {
                "off": v.Nothing(),
                "plain": v.Args(v.String("USER"), v.Secret("PASSWORD")),
                "login": v.Args(v.String("USER"), v.Secret("PASSWORD")),
                "external": v.Nothing(),
                "forward": Refused("forward", "it needs authentication of clients, which " + _LATER),
                "auto": Refused("auto", "name the mechanism: choosing it " + _LATER),
                "cram-md5": Refused("cram-md5", "this mechanism " + _LATER),
                "scram-sha-256": Refused("scram-sha-256", "this mechanism " + _LATER),
                "xoauth2": Refused("xoauth2", "this mechanism " + _LATER),
                "oauthbearer": Refused("oauthbearer", "this mechanism " + _LATER),
            }
        ),
        doc="How we authenticate. A password goes only over TLS with a verified name or a unix socket.",
        origin="maddy",
    )
    auth_insecure = Directive(
        "auth_insecure", v.Boolean(), default=False, doc="Let `auth` say its password where the peer is not verified."
    )
    connect_timeout = Directive(
        "connect_timeout", v.Duration(minimum=0.001), default=300.0, doc="To be connected.", origin="maddy"
    )
    command_timeout = Directive(
        "command_timeout",
        v.Duration(minimum=0.001),
        default=300.0,
        doc="For the answer to each command, the TLS handshake, and each piece of content to be taken.",
        origin="maddy",
    )
    submission_timeout = Directive(
        "submission_timeout", v.Duration(minimum=0.001), default=720.0, doc="For the answer to the final dot.", origin="maddy"
    )
    xclient = Refused("xclient", "XCLIENT " + _LATER)
    source_ip = Refused("source_ip", "choosing the source address " + _LATER)
    proxy_protocol = Refused("proxy_protocol", "PROXY towards next hops " + _LATER)
    xforward = Refused("xforward", "XFORWARD " + _LATER)
    weight = Refused("weight", "only `balance ordered` is there, which has no weights")


class EndpointBlock(LinkSettings):
    """One endpoint with settings of its own; what is not written here is the target's."""


class Health(Block):
    """When an endpoint counts as down."""

    failures = Directive("failures", v.Integer(minimum=1), default=3, doc="Failures in a row that take it out.")
    backoff = Directive(
        "backoff",
        v.Args(v.Duration(minimum=0.001), v.Duration(minimum=0.001)),
        default=(5.0, 300.0),
        doc="How long it stays out at first, and at most; doubled by each failure that follows.",
    )
    probe = Refused("probe", "probing " + _LATER + "; a message tries it when its time is over")


class Failover(Block):
    """When a message goes on to another endpoint."""

    tempfail = Directive(
        "tempfail", v.Boolean(), default=True, doc="Also after 4xx to MAIL, DATA, or a RCPT while none is accepted there."
    )
    total = Directive(
        "total",
        v.Duration(minimum=0.001),
        default=240.0,
        doc="What one command of a client may wait, up to the final dot.",
    )


@implementer(ITarget)
class Downstream(LinkSettings, Module):
    """The base of target.smtp and target.lmtp."""

    finality: ClassVar[Finality] = Finality.TRANSACTION
    is_lmtp: ClassVar[bool] = False
    default_mode: ClassVar[TlsMode] = TlsMode.OPTIONAL

    balance = Directive(
        "balance",
        v.Choice("ordered", *(Refused(word, _LATER) for word in ("round_robin", "random", "least_busy", "hash"))),
        default="ordered",
        doc="How an endpoint is chosen: the first that is well, in the order written.",
    )
    max_connections = Directive("max_connections", v.Integer(minimum=1), default=50, doc="Open connections, idle ones included.")
    max_connections_per_endpoint = Directive(
        "max_connections_per_endpoint", v.Integer(minimum=1), doc="The same for each endpoint; no limit of its own by default."
    )
    max_idle = Directive("max_idle", v.Integer(minimum=0), default=10, doc="Connections that are kept for later.")
    idle_timeout = Directive("idle_timeout", v.Duration(minimum=0.001), default=120.0, doc="How long an idle one is kept.")
    max_age = Directive("max_age", v.Duration(minimum=0.001), default=1800.0, doc="How old a connection may become.")
    max_messages = Directive("max_messages", v.Integer(minimum=1), default=1000, doc="Messages over one connection.")
    lease_timeout = Directive(
        "lease_timeout", v.Duration(minimum=0.001), default=30.0, doc="How long a message waits for a free connection."
    )
    hold_timeout = Directive(
        "hold_timeout",
        v.Duration(minimum=0.001),
        default=30.0,
        doc="How long a connection waits for the client; then it is given back, and the envelope is said again later.",
    )
    fallback_delay = Directive(
        "fallback_delay",
        v.Duration(),
        default=3.0,
        doc="An endpoint that is not connected by then is overtaken by the next one; 0: never.",
    )
    chunking = Directive("chunking", v.Boolean(), default=False, doc="Send content by BDAT where CHUNKING is offered.")
    health = Directive("health", block=Health, default=DEFAULTS, doc="When an endpoint counts as down.")
    failover = Directive("failover", block=Failover, default=DEFAULTS, doc="When a message goes on to another endpoint.")
    debug = Directive(
        "debug",
        v.Boolean(),
        default=False,
        inherit=Globals.debug,
        doc="Log the dialogue with the next hop, without passwords and content.",
        origin="maddy",
    )
    limits = Refused("limits", "limits of a target " + _LATER)

    # Declared by the two kinds of target, each with its own port.
    inline_targets: Any
    targets: Any
    endpoint: Any

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._log = context.log or EventLog("mailgate.outbound")
        self._endpoints: list[EndpointSettings] = []
        self._hops: NextHops | None = None

    # ITarget

    def open(self, envelope: Envelope) -> Delivery:
        """See `ITarget`."""
        assert self._hops is not None, "a target that was not started"
        return Delivery(self._hops, envelope)

    @property
    def endpoint_labels(self) -> tuple[str, ...]:
        """Its endpoints as written, in the order in which they are tried; known after `configure`."""
        return tuple(settings.label for settings in self._endpoints)

    @property
    def endpoint_settings(self) -> tuple[EndpointSettings, ...]:
        """How each of them is spoken to; known after `configure`."""
        return tuple(self._endpoints)

    # Life

    def configure(self, report: Report) -> None:
        """Make the settings of every endpoint, in the order in which they are tried."""
        written = [(address, self) for address in (*self.targets, *self.inline_targets)]
        written += [(block.value, block) for block in self.endpoint]
        if not written:
            report.error(self.span, "no endpoint to deliver to", code="E0732", hint="`targets tcp://host`, or an `endpoint`")
        for address, block in written:
            try:
                self._endpoints.append(self._settings(address, block, report))
            except PolicyError as error:
                report.error(self._place(error.directive, block), str(error), code="E0730")
            except PkiError as error:
                report.error(error.span, str(error), code="E0720")
            except TlsError as error:
                report.error(self._place("tls_client", block), str(error), code="E0720")
            except SaslError as error:
                report.error(self._place("auth", block), str(error), code="E0731")
        for found in pool_warnings(self):
            report.warning(self.span_of(found.directive), found.message, code=found.code, hint=found.hint)
        backoff, most = self.health.backoff
        if most < backoff:
            report.error(self.health.span_of("backoff"), "the longest back-off is shorter than the first", code="E0733")

    async def start(self) -> None:
        adapters = self.context.adapters
        assert adapters is not None
        backoff, most = self.health.backoff
        health = HealthSettings(self.health.failures, backoff, most)
        endpoints = []
        for settings in self._endpoints:
            heard = self._reporter(settings.label)
            endpoints.append(Endpoint(settings, Circuit(health, adapters.reactor, adapters.random, heard)))
        pool_settings = PoolSettings(
            max_connections=self.max_connections,
            max_connections_per_endpoint=self.max_connections_per_endpoint or 0,
            max_idle=self.max_idle,
            idle_timeout=self.idle_timeout,
            max_age=self.max_age,
            max_messages=self.max_messages,
            lease_timeout=self.lease_timeout,
        )
        self._hops = NextHops(
            DeliverySettings(
                label=self.label,
                lmtp=self.is_lmtp,
                tempfail=self.failover.tempfail,
                total=self.failover.total,
                hold_timeout=self.hold_timeout,
                fallback_delay=self.fallback_delay,
                chunking=self.chunking,
            ),
            endpoints,
            Pool(pool_settings, endpoints, adapters.reactor, self._log, self.label),
            adapters.reactor,
            self._log,
        )

    async def stop(self) -> None:
        if self._hops is not None:
            await self._hops.pool.close()

    def _reporter(self, endpoint: str) -> Callable[[bool, str, float], None]:
        def changed(is_up: bool, reason: str, retry_in: float) -> None:
            if is_up:
                self._log.info(Event.ENDPOINT_UP, target=self.label, endpoint=endpoint)
            else:
                self._log.warn(Event.ENDPOINT_DOWN, target=self.label, endpoint=endpoint, reason=reason, retry_in=retry_in)

        return changed

    # Settings

    def _settings(self, address: v.EndpointAddress, block: LinkSettings, report: Report) -> EndpointSettings:
        """:raises PolicyError, TlsError, SaslError: for what can't be."""

        def setting(attribute: str) -> Any:
            return getattr(block if block.span_of(attribute) else self, attribute)

        auth = setting("auth")
        credentials = _credentials(auth)
        insecure = setting("auth_insecure")
        mode = effective_mode(
            TlsWords(
                address.scheme,
                TlsMode(setting("tls")) if setting("tls") else None,
                setting("attempt_starttls") if self._is_written("attempt_starttls", block) else None,
                setting("require_tls"),
                sends_secret=auth is not None and auth.word in _SECRETS,
                auth_insecure=insecure,
                default=self.default_mode,
            )
        )
        client, pki = setting("tls_client"), setting("tls_client_cert")
        has_certificate = client is not None and client.cert is not None
        if has_certificate and pki is not None:
            raise PolicyError("tls_client_cert", "both `tls_client` and `tls_client_cert` give a certificate")
        if auth is not None and auth.word == "external" and address.scheme != "unix" and not has_certificate and pki is None:
            raise PolicyError(
                "auth", "`auth external` needs a certificate: `tls_client_cert`, or `cert` and `key` in `tls_client`"
            )
        names = (*([address.host] if setting("tls_verify_host") else []), *setting("tls_verify_name"))
        sni = _sni(setting("tls_sni"), address.host)
        secret = credentials is not None and not insecure and address.scheme != "unix"
        decisions = [
            decide(
                mode,
                implicit=address.scheme == "tls",
                requiretls=requiretls and address.scheme != "unix",
                credentials=secret,
                clear_after_bad_peer=setting("verify_failure") == "clear",
                names=names or ((address.host,) if requiretls else ()),
                sni=sni,
            )
            for requiretls in (False, True)
        ]
        written = {name for name in LINK_DIRECTIVES if self._is_written(name, block)}
        sends_secret = auth is not None and auth.word in _SECRETS
        self._warn(address, LinkFacts(mode, names, sends_secret, written), block, report)
        return EndpointSettings(
            scheme=address.scheme,
            label=str(address),
            host=address.host,
            port=address.port,
            path=address.path,
            lmtp=self.is_lmtp,
            hostname=setting("hostname") or self.context.hostname,
            decision=decisions[0],
            requiretls_decision=decisions[1],
            tls_context=_tls_context(client, pki, setting("tls_default_ca")),
            credentials=credentials,
            timeouts=Timeouts(setting("connect_timeout"), setting("command_timeout"), setting("submission_timeout")),
            debug=self.debug,
        )

    def _is_written(self, directive: str, block: LinkSettings) -> bool:
        return bool(block.span_of(directive) or self.span_of(directive))

    def _place(self, directive: str, block: LinkSettings) -> Any:
        return block.span_of(directive) or self.span_of(directive) or block.span or self.span

    def _warn(self, address: v.EndpointAddress, link: LinkFacts, block: LinkSettings, report: Report) -> None:
        for found in warnings_of(address, link):
            report.warning(self._place(found.directive, block), found.message, code=found.code, hint=found.hint)


def _credentials(auth: Any) -> Callable[[], SaslClient] | None:
    """:raises SaslError: for a name or password that can't be sent."""
    if auth is None or auth.word == "off":
        return None
    if auth.word == "external":
        return External
    mechanism = _SECRETS[auth.word]
    user, secret = auth.value
    mechanism(user, secret.reveal())
    return lambda: mechanism(user, secret.reveal())


def _sni(choice: Any, host: str) -> str | None:
    if choice is None or choice.word == "yes":
        return host or None
    return None if choice.word == "no" else str(choice.value)


def _tls_context(client: TlsClient | None, pki: Pki | None, use_default_ca: bool | None) -> ClientContext:
    """:raises TlsError: for files and options that can't be used."""
    pair, authorities = (pki.key_pair(), pki.ca) if pki is not None else (None, ())
    if client is not None:
        return client.make(use_default_ca=use_default_ca, certificate=pair, authorities=authorities)
    default_ca = not authorities if use_default_ca is None else use_default_ca
    if pair is None and not authorities and default_ca:
        return _system_context()
    return ClientContext(authorities, default_ca, pair)


@lru_cache(maxsize=1)
def _system_context() -> ClientContext:
    """The system's certificate authorities and nothing else: what most endpoints have. Reading them takes 30 ms."""
    return ClientContext((), True, None)
