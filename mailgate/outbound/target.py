"""What target.smtp and target.lmtp have in common: all of it but a port, a verb and a default.

How its endpoints are spoken to is `link_settings`' affair; here are the pool, health and failover, and the module. Nothing is
opened before `start`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.schema import DEFAULTS, Directive
from mailgate.events import Event, EventLog
from mailgate.interfaces import Finality, ITarget
from mailgate.message.envelope import Envelope
from mailgate.outbound.advice import pool_warnings
from mailgate.outbound.attempts import DeliverySettings, NextHops
from mailgate.outbound.dane import MODES, Dane, begin_self_check, report_trust
from mailgate.outbound.delivery import Delivery
from mailgate.outbound.delivery_directives import QUEUE_TOTAL, TOTAL, DeliveryDirectives, Failover
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.endpoint_settings import EndpointSettings
from mailgate.outbound.health import Change, Circuit
from mailgate.outbound.heritage import PER_DELIVERY, Estate, Share
from mailgate.outbound.limited import Gates, LimitedDelivery, LimitsDirective
from mailgate.outbound.link_settings import EndpointBlock, LinkDefaults, LinkSettings, endpoint_settings, report_block
from mailgate.outbound.login_trial import LoginTrial
from mailgate.outbound.operations import PoolControl
from mailgate.outbound.pool import Pool
from mailgate.outbound.pool_settings import PoolDirectives, balance_of, health_settings, pool_settings, report_pool
from mailgate.outbound.probe import Prober
from mailgate.outbound.tls_policy import TlsMode
from mailgate.registry import Globals, Module, ModuleContext, Report
from mailgate.registry.fingerprint import fingerprint


@implementer(ITarget)
class Downstream(LinkSettings, PoolDirectives, DeliveryDirectives, LimitsDirective, Module):
    """The base of target.smtp and target.lmtp."""

    finality: Finality = Finality.TRANSACTION
    """With one endpoint that is spoken to by LMTP, that of LMTP."""
    is_lmtp: ClassVar[bool] = False
    default_mode: ClassVar[TlsMode] = TlsMode.OPTIONAL

    fallback_delay = Directive(
        "fallback_delay",
        v.Duration(),
        default=3.0,
        doc="An endpoint that is not connected by then is overtaken by the next one; 0: never.",
    )
    max_line_length = Directive(
        "max_line_length",
        v.OneOf({"off": v.Nothing(), "": v.Integer(minimum=64)}),
        doc="Refuse a message with a longer line, in octets without its end; off by default: lines are sent as they came.",
    )
    enforces_requiretls: ClassVar[bool] = True
    """A message with REQUIRETLS goes on only as RFC 8689 wants it."""

    failover = Directive("failover", block=Failover, default=DEFAULTS, doc="When a message goes on to another endpoint.")
    debug = Directive(
        "debug",
        v.Boolean(),
        default=False,
        inherit=Globals.debug,
        doc="Log the dialogue with the next hop, without passwords and content.",
        origin="maddy",
    )

    # Declared by the two kinds of target, each with its own port.
    inline_targets: Any
    targets: Any
    endpoint: Any

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._log = context.log or EventLog("mailgate.outbound")
        self._endpoints: list[EndpointSettings] = []
        self._weights: list[int] = []
        self._hops: NextHops | None = None
        self._gates: Gates | None = None
        self._told: Any = None
        self._inherited: Estate | None = None
        self._share: Share | None = None
        self._prober: Prober | None = None
        self._trial: LoginTrial | None = None
        self._uses_dane = False
        self._checking: Deferred[None] | None = None

    # ITarget

    def open(self, envelope: Envelope) -> Delivery | LimitedDelivery:
        """See `ITarget`."""
        assert self._hops is not None, "a target that was not started"
        delivery = Delivery(self._hops, envelope)
        return delivery if self._gates is None else LimitedDelivery(self._gates, envelope, delivery)

    @property
    def control(self) -> PoolControl | None:
        """What an operator sees of its pool and does to it; None before it was started."""
        return None if self._hops is None else PoolControl(self._hops, self.balance.word)

    @property
    def endpoint_labels(self) -> tuple[str, ...]:
        """Its endpoints as written, in the order in which they are tried; known after `configure`."""
        return tuple(settings.label for settings in self._endpoints)

    @property
    def forwards_logins(self) -> bool:
        """Whether some endpoint is told the client's own user and password; known after `configure`."""
        return any(settings.forwards_logins for settings in self._endpoints)

    @property
    def endpoint_settings(self) -> tuple[EndpointSettings, ...]:
        """How each of them is spoken to; known after `configure`."""
        return tuple(self._endpoints)

    async def try_login(self, user: str, password: Any) -> bool:
        """Whether an endpoint takes this login; ``password`` is a `SecretText`. :raises AttemptFailed: nobody could say."""
        assert self._hops is not None, "a target that was not started"
        assert self.context.adapters is not None
        if self._trial is None:
            self._trial = LoginTrial(self._hops.endpoints, self._hops.pool, self.context.adapters.random)
        return await self._trial(user, password)

    # Life

    def configure(self, report: Report) -> None:
        """Make the settings of every endpoint, in the order in which they are tried."""
        self.check_limits(report)
        written = [(address, self) for address in (*self.targets, *self.inline_targets)]
        written += [(block.value, block) for block in self.endpoint]
        if not written:
            report.error(self.span, "no endpoint to deliver to", code="E0732", hint="`targets tcp://host`, or an `endpoint`")
        adapters = self.context.adapters
        random = adapters.random if adapters is not None else Random(0)
        resolver = adapters.resolver if adapters is not None else None
        defaults = LinkDefaults(self.is_lmtp, self.default_mode, self.context.hostname, self.debug, random, resolver)
        fine = [report_block(linked, report) for linked in (self, *self.endpoint)]
        if not all(fine):
            return
        for linked in (self, *self.endpoint):
            if linked.span_of("tls") and linked.tls in MODES:
                report_trust(self.context, Dane(linked.tls), linked.span_of("tls"), report)
                self._uses_dane = True
        for address, block in written:
            settings = endpoint_settings(address, block, self, defaults, report)
            if settings is not None:
                self._endpoints.append(settings)
                self._weights.append(block.weight if isinstance(block, EndpointBlock) else 1)
        if any(settings.lmtp for settings in self._endpoints):
            self.finality = Finality.RECIPIENT
        for found in pool_warnings(self):
            report.warning(self.span_of(found.directive), found.message, code=found.code, hint=found.hint)
        self._told = (self.context.hostname, self.label, fingerprint(self, PER_DELIVERY))
        report_pool(self, self.endpoint, report)

    def inherit_state(self, old: Module) -> None:
        if isinstance(old, Downstream):
            self.inherit_limits(old)
        if isinstance(old, Downstream) and old._share is not None:
            self._inherited = old._share.estate

    async def start(self) -> None:
        adapters = self.context.adapters
        assert adapters is not None
        inherited, self._inherited = self._inherited, None
        estate = inherited if inherited is not None and inherited.told == self._told else self._make_estate(inherited)
        self._share = Share(estate)
        self._gates = self.make_gates(self.label, self.lease_timeout)
        if estate.health.probe:
            self._prober = Prober(
                estate.pool, estate.endpoints, estate.health.probe, adapters.reactor, adapters.random, self._log
            )
            self._prober.start()
        if self._uses_dane and adapters.resolver is not None:
            self._checking = begin_self_check(adapters.resolver, self._log, self.label)
        self._hops = NextHops(
            DeliverySettings(
                label=self.label,
                tempfail=self.failover.tempfail,
                total=self.failover.total or TOTAL,
                queue_total=self.failover.total or QUEUE_TOTAL,
                hold_timeout=self.hold_timeout,
                fallback_delay=self.fallback_delay,
                chunking=self.chunking,
                max_line_length=(self.max_line_length.value or 0) if self.max_line_length else 0,
            ),
            estate.endpoints,
            estate.pool,
            adapters.reactor,
            self._log,
            balance_of(self.balance, estate.endpoints, adapters.random),
        )

    def superseded(self) -> None:
        if self._prober is not None:
            self._prober.stop()
        if self._share is not None:
            self._share.superseded()

    async def stop(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
        if self._prober is not None:
            self._prober.stop()
        if self._share is not None:
            share, self._share = self._share, None
            await share.release()

    def _make_estate(self, inherited: Estate | None) -> Estate:
        adapters = self.context.adapters
        assert adapters is not None
        health = health_settings(self.health)
        endpoints = []
        for settings, weight in zip(self._endpoints, self._weights, strict=True):
            circuit = inherited.circuit(settings.label, health) if inherited is not None else None
            if circuit is None:
                heard = endpoint_reporter(self._log, self.label, settings.label)
                circuit = Circuit(health, adapters.reactor, adapters.random, heard)
            endpoints.append(Endpoint(settings, circuit, weight))
        pool = Pool(pool_settings(self), endpoints, adapters.reactor, self._log, self.label)
        return Estate(self._told, health, endpoints, pool)


def endpoint_reporter(log: EventLog, target: str, endpoint: str) -> Callable[[Change], None]:
    """It outlives the target that made it: the health of an endpoint goes on over reloads."""

    def changed(change: Change) -> None:
        if change.is_up:
            log.info(Event.ENDPOINT_UP, target=target, endpoint=endpoint)
            return
        log.warn(
            Event.ENDPOINT_DOWN,
            target=target,
            endpoint=endpoint,
            reason=change.reason,
            retry_in=change.retry_in,
            evidence="; ".join(map(str, change.evidence)),
        )

    return changed
