"""The pool, health and balance of a target as the configuration writes them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from mailgate.config import values as v
from mailgate.config.schema import DEFAULTS, Block, Directive
from mailgate.outbound.balance import Balance, LeastBusy, Method, RoundRobin, at_random, by_hash, ordered
from mailgate.outbound.choice_or_hash import ChoiceOrHash
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.health import HealthSettings
from mailgate.outbound.pool import PoolSettings
from mailgate.registry import Report

WEIGHTED = frozenset({"random", "round_robin", "least_busy"})


class Health(Block):
    """When an endpoint counts as down."""

    failures = Directive("failures", v.Integer(minimum=1), default=3, doc="Failures in a row that take it out.")
    backoff = Directive(
        "backoff",
        v.Args(v.Duration(minimum=0.001), v.Duration(minimum=0.001)),
        default=(5.0, 300.0),
        doc="How long it stays out at first, and at most; doubled by each failure that follows.",
    )
    probe = Directive(
        "probe",
        v.OneOf({"off": v.Nothing(), "": v.Duration(minimum=0.1)}),
        default=v.Chosen("off"),
        doc="How often an endpoint is probed that is down, or that no message went to since the last time: connect, greeting,"
        " hello, TLS and AUTH as configured, QUIT. While it is down, probes and no messages find out that it is back.",
    )
    slow_start = Directive(
        "slow_start",
        v.Duration(),
        default=10.0,
        doc="How long an endpoint that has come back takes until it gets all its messages again: its share grows evenly from a"
        " tenth; 0: at once.",
    )


class PoolDirectives(Block):
    """Of a target."""

    balance = Directive(
        "balance",
        ChoiceOrHash("ordered", "round_robin", "random", "least_busy"),
        default=v.Chosen("ordered"),
        doc="Which endpoint a message goes to: the first that is well, in the order written; in turn; by lot; to the one with the"
        " fewest connections in use; or always the same for the same text, of sender, rcpt, rcpt_domain, client_ip, auth_user.",
    )
    max_connections = Directive(
        "max_connections", v.Integer(minimum=1), default=50, divided=True, doc="Open connections, idle ones included."
    )
    max_connections_per_endpoint = Directive(
        "max_connections_per_endpoint",
        v.Integer(minimum=1),
        divided=True,
        doc="The same for each endpoint; no limit of its own by default.",
    )
    max_idle = Directive(
        "max_idle",
        v.Integer(minimum=0),
        default=10,
        doc="Connections that are kept for later; those beyond it are closed after a second.",
    )
    idle_timeout = Directive("idle_timeout", v.Duration(minimum=0.001), default=120.0, doc="How long an idle one is kept.")
    max_age = Directive("max_age", v.Duration(minimum=0.001), default=1800.0, doc="How old a connection may become.")
    max_messages = Directive("max_messages", v.Integer(minimum=1), default=1000, doc="Messages over one connection.")
    lease_timeout = Directive(
        "lease_timeout", v.Duration(minimum=0.001), default=30.0, doc="How long a message waits for a free connection."
    )
    health = Directive("health", block=Health, default=DEFAULTS, doc="When an endpoint counts as down.")

    @property
    def shares_load(self) -> bool:
        """Whether another endpoint than the first may be chosen while all are well."""
        return bool(self.balance.word != "ordered")


def report_pool(block: PoolDirectives, endpoints: Sequence[Block], report: Report) -> None:
    """What contradicts itself."""
    backoff, most = block.health.backoff
    if most < backoff:
        report.error(block.health.span_of("backoff"), "the longest back-off is shorter than the first", code="E0733")
    if block.balance.word in WEIGHTED:
        return
    for endpoint in endpoints:
        place = endpoint.span_of("weight")
        if place is not None:
            hint = f"`balance {' | '.join(sorted(WEIGHTED))}`"
            report.error(place, f"`balance {block.balance.word}` has no weights", code="E0738", hint=hint)


def pool_settings(block: PoolDirectives) -> PoolSettings:
    return PoolSettings(
        max_connections=block.max_connections,
        max_connections_per_endpoint=block.max_connections_per_endpoint or 0,
        max_idle=block.max_idle,
        idle_timeout=block.idle_timeout,
        max_age=block.max_age,
        max_messages=block.max_messages,
        lease_timeout=block.lease_timeout,
    )


def health_settings(health: Health) -> HealthSettings:
    backoff, most = health.backoff
    return HealthSettings(health.failures, backoff, most, health.probe.value or 0.0, health.slow_start)


def balance_of(chosen: v.Chosen, endpoints: Sequence[Endpoint], random: Random) -> Balance:
    return Balance(endpoints, random, _method(chosen, random))


def _method(chosen: v.Chosen, random: Random) -> Method:
    if chosen.word == "round_robin":
        return RoundRobin()
    if chosen.word == "random":
        return at_random(random)
    if chosen.word == "least_busy":
        return LeastBusy()
    if chosen.word == "hash":
        return by_hash(chosen.value.expression.call)
    return ordered
