"""target.remote: deliver mail straight to the hosts that its recipients' domains name (RFC 5321 5.1).

What its directives decide is carried out in mailgate/outbound: routes.py asks the DNS, remote.py makes the transactions. Here
they are put together. Expressions see the host (``mx``) where it is known, and our address (``local_ip``) in `hostname`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFDSet
from zope.interface import implementer

from mailgate.clients.web import NoAuthority, authorities
from mailgate.config import values as v
from mailgate.config.dynamic import Dynamic, alternatives
from mailgate.config.dynamic_variables import Stage, outbound
from mailgate.config.schema import DEFAULTS, Directive, Refused
from mailgate.events import Event, EventLog
from mailgate.interfaces import Finality, IGroupingTarget
from mailgate.message.envelope import Envelope, Recipient
from mailgate.outbound.attempts import DeliverySettings
from mailgate.outbound.auth_settings import Authentication
from mailgate.outbound.dane import begin_self_check, dane_vary, report_trust
from mailgate.outbound.delivery_directives import QUEUE_TOTAL, TOTAL, DeliveryDirectives
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.endpoint_settings import EndpointSettings, Timeouts
from mailgate.outbound.health import Circuit, HealthSettings
from mailgate.outbound.heritage import PER_DELIVERY, Estate, Share
from mailgate.outbound.ip_strategy import IpStrategy
from mailgate.outbound.limited import Gates, LimitedDelivery, LimitsDirective
from mailgate.outbound.mta_sts import PolicyFiles, PolicyStore, WithoutFiles, enforced
from mailgate.outbound.mx_security import NOT_PROTECTED, MxSecurity, contradictions
from mailgate.outbound.next_hop import is_next_hop
from mailgate.outbound.own_addresses import is_own_address
from mailgate.outbound.pki import PkiError
from mailgate.outbound.pool import Pool
from mailgate.outbound.pool_settings import PoolDirectives, pool_settings
from mailgate.outbound.remote import Office, RemoteDelivery, RemoteHosts, Way
from mailgate.outbound.remote_settings import LONGER, RemoteFailover, RemoteHealth, RemoteTimeouts
from mailgate.outbound.routes import Choices, Directory, DirectoryRules, Route, Stop, settled
from mailgate.outbound.session_watch import SessionWatch
from mailgate.outbound.source_settings import SourceSettings, endpoint_source, report_source
from mailgate.outbound.sts_fetch import PolicyHosts
from mailgate.outbound.survey import Surveyor
from mailgate.outbound.target import endpoint_reporter
from mailgate.outbound.timeout_settings import TimeoutSettings, report_steps_set_twice, written_steps
from mailgate.outbound.tls_policy import PolicyError, TlsMode
from mailgate.outbound.tls_settings import EndpointTls, TlsSettings, endpoint_tls, report_tls
from mailgate.outbound.variables import DeliveryVariables
from mailgate.outbound.written import Written
from mailgate.registry import Globals, Module, ModuleContext, Report
from mailgate.registry.fingerprint import fingerprint
from mailgate.smtp.address import Address
from mailgate.smtp.reply import MailError
from mailgate.tls.options import TlsError

_ANY_HOST = "mx.invalid"
"""Stands for every host where settings are judged before one is known."""
_ROUTES = "target.remote.routes"


@implementer(IGroupingTarget)
class RemoteTarget(SourceSettings, TlsSettings, TimeoutSettings, PoolDirectives, DeliveryDirectives, LimitsDirective, Module):
    """The hosts that the domains of the recipients name: MX, or the domain itself. One transaction for all recipients of a
    message whose domains have the same hosts; connections are used again, whichever domain they were made for."""

    name = "target.remote"
    finality: ClassVar[Finality] = Finality.GROUP
    enforces_requiretls: ClassVar[bool] = True
    """A message with REQUIRETLS goes only to hosts that DNSSEC or an enforced MTA-STS policy proves, verified by TLS."""

    ip_strategy = Directive(
        "ip_strategy",
        v.Choice(*(strategy.value for strategy in IpStrategy)),
        default=IpStrategy.IPV4_THEN_IPV6.value,
        dynamic=outbound(Stage.HOST),
        doc="Which addresses of a host are tried, and in what order. If `multihomed_limit` would leave none of the second family,"
        " its first address takes the last place; only happy_eyeballs lets the families take turns.",
        origin="stalwart",
    )
    mx_limit = Directive(
        "mx_limit",
        v.Integer(minimum=1, maximum=100),
        default=5,
        dynamic=outbound(Stage.RECIPIENT),
        doc="Hosts that are tried at most.",
        origin="stalwart",
    )
    multihomed_limit = Directive(
        "multihomed_limit",
        v.Integer(minimum=1, maximum=100),
        default=2,
        dynamic=outbound(Stage.HOST),
        doc="Addresses of one host that are tried at most.",
        origin="stalwart",
    )
    port = Directive("port", v.Integer(minimum=1, maximum=65535), default=25, doc="The port of the hosts; for laboratories.")
    allow_loopback = Directive(
        "allow_loopback",
        v.Boolean(),
        default=False,
        doc="Deliver to loopback and own addresses too, which otherwise are left out; for laboratories.",
    )
    address_literals = Directive(
        "address_literals", v.Boolean(), default=False, doc="Deliver to address literals (`user@[192.0.2.1]`), straight there."
    )
    timeouts = Directive(
        "timeouts",
        block=RemoteTimeouts,
        block_required=True,
        doc="How long each step may take.",
        origin="stalwart",
    )
    balance = Refused("balance", "hosts are tried in the order that their domain gives them")
    health = Directive("health", block=RemoteHealth, default=DEFAULTS, doc="When an address of a host counts as down.")
    failover = Directive("failover", block=RemoteFailover, default=DEFAULTS, doc="When a message goes on to another host.")
    fallback_delay = Directive(
        "fallback_delay",
        v.Duration(),
        default=3.0,
        doc="An address that is not connected by then is overtaken by the next one; 0: never.",
    )
    debug = Directive(
        "debug",
        v.Boolean(),
        default=False,
        inherit=Globals.debug,
        doc="Log the dialogue with the hosts, without content.",
        origin="maddy",
    )
    mx_auth = Directive(
        "mx_auth",
        v.BlockOrReference("mx_auth"),
        doc="How the hosts of a domain are authenticated: DANE, MTA-STS, DNSSEC, and what is asked of all.",
        origin="maddy",
    )
    tls_report = Directive(
        "tls_report",
        v.ReferenceTo("tls_report"),
        doc="Count how TLS fares, and report it to the domains that want to hear of it (TLS-RPT): &NAME.",
        origin="stalwart",
    )
    route = Directive(
        "route",
        v.String("DOMAIN"),
        dynamic=outbound(Stage.RECIPIENT),
        doc="The domain (also as `mx://domain`) whose hosts get the mail in place of the recipient's, or `[host]`, a host or"
        " address whose MX records are not asked for. What it publishes (DANE, MTA-STS) is what counts.",
        origin="stalwart",
    )
    auth = Refused("auth", "hosts of others are not logged in to")

    auth_insecure = False
    """Read by the settings of TLS: nothing secret is said."""

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._log = context.log or EventLog("mailgate.outbound")
        self._written = Written(self, self)
        self._tls: EndpointTls | None = None
        self._told: Any = None
        self._gates: Gates | None = None
        self._inherited: tuple[Estate, RemoteHosts] | None = None
        self._share: Share | None = None
        self._hosts: RemoteHosts | None = None
        self._directory: Directory | None = None
        self._office: Office | None = None
        self._security: MxSecurity | None = None
        self._policies: PolicyStore | None = None
        self._checking: Deferred[None] | None = None

    # ITarget

    def open(self, envelope: Envelope) -> RemoteDelivery | LimitedDelivery:
        """See `ITarget`."""
        assert self._office is not None, "a target that was not started"
        delivery = RemoteDelivery(self._office, envelope)
        return delivery if self._gates is None else LimitedDelivery(self._gates, envelope, delivery)

    async def group(self, envelope: Envelope, recipient: Recipient) -> Hashable:
        """See `IGroupingTarget`."""
        route = await self._route(envelope, recipient)
        return route.key

    def queue_destination(self, address: Address) -> str:
        """What messages of a queue share on this way: the domain, with its hosts, its back-off and its place in the line."""
        return address.domain.lower()

    # Life

    def configure(self, report: Report) -> None:
        self.check_limits(report)
        fine = report_tls(self, report) & report_steps_set_twice(self, report) & report_source(self, report)
        for hop, place in alternatives(self.route, self.span_of("route")):
            if hop and not is_next_hop(hop):
                hint = "a domain, or `[host]` for one host or address"
                report.error(place, f"`{hop}` is no domain and no host", code="E0737", hint=hint)
                fine = False
        backoff, most = self.health.backoff
        if most < backoff:
            report.error(self.health.span_of("backoff"), "the longest back-off is shorter than the first", code="E0733")
        if not fine:
            return
        try:
            self._tls = endpoint_tls(self._written, self._place(_ANY_HOST), Authentication(), TlsMode.OPTIONAL)
        except PolicyError as error:
            report.error(self._written.place(error.directive), str(error), code="E0730")
        except PkiError as error:
            report.error(error.span, str(error), code="E0720")
        except TlsError as error:
            report.error(self._written.place("tls_client"), str(error), code="E0720")
        if self._tls is not None:
            self._security = MxSecurity(self._written, self._tls, self.mx_auth)
            self._check_security(self._security, report)
        self._told = (self.context.hostname, self.label, fingerprint(self, PER_DELIVERY))

    def _check_security(self, security: MxSecurity, report: Report) -> None:
        place = self.span_of("tls") if security.tls.dane is not None else self.span_of("mx_auth")
        report_trust(self.context, security.dane, place, report)
        if self.mx_auth is None:
            return
        for text in contradictions(security.tls, self.mx_auth):
            report.error(self.span_of("mx_auth"), text, code="E0730")
        try:
            authorities(self.mx_auth.mtasts_root_ca)
        except NoAuthority as error:
            report.error(self.mx_auth.span_of("mtasts_root_ca"), str(error), code="E0720")

    def inherit_state(self, old: Module) -> None:
        if isinstance(old, RemoteTarget):
            self.inherit_limits(old)
            if old._share is not None and old._hosts is not None:
                self._inherited = old._share.estate, old._hosts

    async def start(self) -> None:
        adapters = self.context.adapters
        assert adapters is not None
        if adapters.resolver is None:
            raise RuntimeError("target.remote needs a resolver")
        inherited, self._inherited = self._inherited, None
        if inherited is not None and inherited[0].told == self._told:
            estate, self._hosts = inherited
        else:
            estate, self._hosts = self._make_estate()
        self._share = Share(estate)
        self._gates = self.make_gates(self.label, self.lease_timeout)
        self._open_office(self._hosts, estate.pool, PolicyFiles(os.path.join(self.context.state_dir, "mta-sts")))
        if self._security is not None and self._security.dane is not None:
            self._checking = begin_self_check(adapters.resolver, self._log, self.label)
        if self._policies is not None:
            self._policies.sweep()

    def surveyor(self) -> Surveyor:
        """For `mailgate route`, in place of `start`: the DNS is asked, policies are fetched, nothing is kept; `stop` ends it."""
        adapters = self.context.adapters
        assert adapters is not None
        assert self._security is not None
        estate, self._hosts = self._make_estate()
        self._open_office(self._hosts, estate.pool, WithoutFiles(os.path.join(self.context.state_dir, "mta-sts")))
        assert self._office is not None
        missing = self._policies.missing if self._policies is not None else None
        return Surveyor(self._office, adapters.resolver, self._security, self._rules, missing)

    @cached_property
    def _rules(self) -> DirectoryRules:
        adapters = self.context.adapters
        assert adapters is not None
        is_own = is_own_address if IReactorFDSet.providedBy(adapters.reactor) else lambda _: False
        return DirectoryRules(frozenset(self._own_names()), is_own, self.allow_loopback, self.address_literals)

    def _open_office(self, hosts: RemoteHosts, pool: Pool, files: PolicyFiles) -> None:
        adapters = self.context.adapters
        assert adapters is not None
        self._directory = Directory(adapters.resolver, adapters.random, self._rules)
        settings = DeliverySettings(
            label=self.label,
            tempfail=self.failover.tempfail,
            total=self.failover.total or TOTAL,
            queue_total=self.failover.total or QUEUE_TOTAL,
            hold_timeout=self.hold_timeout,
            fallback_delay=self.fallback_delay,
            chunking=self.chunking,
            quotes_failures=True,
        )
        if self.mx_auth is not None and self.mx_auth.mtasts:
            self._policies = PolicyStore(
                adapters.resolver,
                PolicyHosts(adapters.reactor, self.mx_auth.mtasts_root_ca).fetch,
                files,
                adapters,
                self._log,
                patience=self.timeouts.mta_sts if self.timeouts is not None else RemoteTimeouts.mta_sts.default,
            )
        self._office = Office(settings, hosts, pool, adapters.reactor, self._log, self._route, self._ways, self._watch)

    def superseded(self) -> None:
        if self._share is not None:
            self._share.superseded()

    async def stop(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
        if self._policies is not None:
            self._policies.stop()
        if self._share is not None:
            share, self._share = self._share, None
            await share.release()

    def _make_estate(self) -> tuple[Estate, RemoteHosts]:
        adapters = self.context.adapters
        assert adapters is not None
        assert self._security is not None
        tls = self._security.tls
        backoff, most = self.health.backoff
        health = HealthSettings(self.health.failures, backoff, most)

        def make_circuit(label: str) -> Circuit:
            return Circuit(health, adapters.reactor, adapters.random, endpoint_reporter(self._log, self.label, label))

        source = endpoint_source(self._written, "tcp", self.context.hostname, adapters.random)
        settings = EndpointSettings(
            scheme="tcp",
            label="",
            port=self.port,
            hostname=source.hostname,
            source=source.policy,
            vary=(*source.vary, *dane_vary(self._security.dane, adapters.resolver, self.port, by_domain=self.route is None)),
            tls_context=tls.context,
            capture_peer=tls.capture,
            debug=self.debug,
        )
        endpoints: list[Endpoint] = []
        pool = Pool(pool_settings(self), endpoints, adapters.reactor, self._log, self.label)
        return Estate(self._told, health, endpoints, pool), RemoteHosts(settings, make_circuit, endpoints)

    def _own_names(self) -> Iterable[str]:
        written = [name for name, _ in alternatives(self.hostname) if name]
        return (name.lower().removesuffix(".") for name in (self.context.hostname, *written))

    def _place(self, host: str) -> v.EndpointAddress:
        return v.EndpointAddress("tcp", host, self.port)

    # Routes

    async def _route(self, envelope: Envelope, recipient: Recipient) -> Route:
        """Asked once for each domain of a message: what is promised to a client must not change with the next answer."""
        assert self._directory is not None
        known: dict[Any, Route] = envelope.extra.setdefault(_ROUTES, {})
        address = recipient.address
        asked = (self, address if isinstance(self.route, Dynamic) else address.domain.casefold())
        route = known.get(asked)
        if route is None:
            hop: str = await settled(valued(self.route, DeliveryVariables(envelope, (recipient,)))) or ""
            route = await (self._directory.fixed_route(hop) if hop else self._directory.route(address.domain))
            if self._policies is not None and route.answer is not None and not envelope.is_free_of_policies:
                policy = await self._policies.policy(route.domain)
                route = replace(route, key=(route.key, enforced(policy)), policy=policy)
            if self._sees_domain:
                route = replace(route, key=(route.key, route.domain))
            known[asked] = route
        return route

    @property
    def _sees_domain(self) -> bool:
        """Some setting depends on whom the message is for: recipients of different domains then share nothing."""
        written = (self.hostname, self.ip_strategy, self.mx_limit, self.multihomed_limit, self.source_ip, *self._times.values())
        names = frozenset[str]().union(*(setting.names for setting in written if isinstance(setting, Dynamic)))
        return bool(names & {"rcpt", "rcpt_domain", "recipients"})

    async def _ways(self, envelope: Envelope, recipient: Recipient, route: Route) -> list[Way]:
        assert self._directory is not None

        def seen(host: str) -> DeliveryVariables:
            return DeliveryVariables(envelope, (recipient,), mx=host)

        security = self._security
        assert security is not None
        security.admit(route.domain, route.policy, secure=route.secure)
        if envelope.parameters.requiretls and not (route.answer is None or route.secure or enforced(route.policy)):
            raise MailError(NOT_PROTECTED, f"{route.domain}: neither DNSSEC nor an enforced MTA-STS policy proves its hosts")
        limit: int = await settled(valued(self.mx_limit, seen("")))
        choices = Choices(
            limit,
            lambda host: self._strategy(seen(host)),
            lambda host: valued(self.multihomed_limit, seen(host)),
            self._allowed(envelope, route),
        )
        stops = await self._directory.stops(route, choices)
        for host in {stop.host for stop in stops if security.untested(route.policy, stop.host)}:
            self._log.info(Event.MTA_STS, domain=route.domain, result="testing", reason=f"{host} is not named by the policy")
        return [await self._way(stop, route, seen(stop.host)) for stop in stops]

    def _allowed(self, envelope: Envelope, route: Route) -> Callable[[str], bool] | None:
        """Which hosts may be used; those that may not count as failures of the policy."""
        assert self._security is not None
        allowed = self._security.allowed(route.policy)
        watch = self._watch(envelope, route)
        if allowed is None or watch is None:
            return allowed

        def judged(host: str) -> bool:
            if not allowed(host):
                watch.left_out(host)
                return False
            return True

        return judged

    def _watch(self, envelope: Envelope, route: Route) -> SessionWatch | None:
        """Who counts the sessions of a message. Those that no policy binds say nothing of one; so reports are not reported on."""
        if self.tls_report is None or self._share is None or route.answer is None or envelope.is_free_of_policies:
            return None
        missing = self._policies.missing(route.domain) if self._policies is not None else None
        return SessionWatch(self.tls_report.counts, route.domain, route.policy, missing)

    async def _way(self, stop: Stop, route: Route, seen: DeliveryVariables) -> Way:
        assert self._security is not None
        times = {name: await settled(valued(time, seen)) for name, time in self._times.items()}
        decision, requiretls = self._security.decisions(self._place(stop.host or stop.address), route.policy)
        return Way(stop, decision, requiretls, Timeouts(**times))

    @cached_property
    def _times(self) -> dict[str, Any]:
        """The steps that are not as everywhere."""
        return {**LONGER, **{name: time for name, time in written_steps(self) if name != "mta_sts"}}

    async def _strategy(self, seen: DeliveryVariables) -> IpStrategy:
        return IpStrategy(await settled(valued(self.ip_strategy, seen)))


def valued(setting: Any, variables: Any) -> Any:
    """Its value for a message, maybe awaitable. :raises TemporaryError: it has none this time."""
    return setting.value(variables) if isinstance(setting, Dynamic) else setting
