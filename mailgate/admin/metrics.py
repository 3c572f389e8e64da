"""`/metrics`, in the text form of Prometheus: everything under ``mailgate_``, base units, labels from the configuration only.

Nothing is counted for this page: the numbers are where they are needed or cost nothing (message/tally.py, the pools, the
limits, the kinds of log lines), and are gathered when somebody asks, in a thread. What could happen and has not is there as 0,
so that a rate over its first occurrence is seen.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

import mailgate
import twisted
from mailgate.admin.pulse import Pulse
from mailgate.admin.subjects import limits_of, pools_of, queues_of
from mailgate.events import Event
from mailgate.message.body import Spool
from mailgate.message.tally import Tally
from mailgate.queue.engine import Queue
from mailgate.queue.store import StoreError
from mailgate.queue.survey import Summary
from mailgate.runtime import LiveGateway

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

RESULTS = {"accepted": 2, "deferred": 4, "refused": 5}
"""Of messages and the like, by the first digit of the answer."""
CLASSES = {"2xx": 2, "3xx": 3, "4xx": 4, "5xx": 5}
CONNECTION_LIMITS = ("max_connections", "max_connections_per_ip", "max_lag")
TLS_VERSIONS = ("TLSv1.2", "TLSv1.3")
LOGINS = {"ok": Event.AUTH_OK, "failed": Event.AUTH_FAILED, "trouble": Event.AUTH_TROUBLE}

QUEUE_STATES = ("waiting", "held", "owed", "removed")

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Metrics:
    """Of one gateway. ``render`` may run in a thread. A supervisor ``carries_mail`` not: it is asked for its process only."""

    def __init__(
        self, live: LiveGateway, spool: Spool, pulse: Pulse, wall_time: Callable[[], float], *, carries_mail: bool = True
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gateway(live, spool, pulse, wall_time, carries_mail))
        ProcessCollector(namespace="mailgate", registry=self._registry)

    def render(self) -> str:
        return generate_latest(self._registry).decode()


class _Gateway(Collector):
    def __init__(self, live: LiveGateway, spool: Spool, pulse: Pulse, wall_time: Callable[[], float], carries_mail: bool) -> None:
        self._carries_mail = carries_mail
        self._wall_time = wall_time
        self._live = live
        self._spool = spool
        self._pulse = pulse

    def describe(self) -> Iterable[Family]:
        """Asked for when it is registered; `collect` would need a gateway that runs."""
        return ()

    def collect(self) -> Iterator[Family]:
        yield from self._process()
        if self._carries_mail:
            yield from self._listeners()
            yield from self._targets()
            yield from self._queues()
            yield from self._limits()
        yield counter("log_events", "Lines of the log, by event.", ["event"], [([event.value], event.seen) for event in Event])

    def _process(self) -> Iterator[Family]:
        live = self._live
        build = [mailgate.__version__, platform.python_version(), twisted.__version__]
        yield gauge("build_info", "Versions; always 1.", ["version", "python", "twisted"], [(build, 1)])
        yield gauge("ready", "Whether it takes mail.", [], [([], int(live.ready))])
        yield gauge("start_time_seconds", "When it was started, since the epoch.", [], [([], live.started_at)])
        yield gauge("configuration_generation", "Configurations since the start.", [], [([], live.generation)])
        yield gauge(
            "configuration_time_seconds", "When the configuration came into force, since the epoch.", [], [([], live.reloaded_at)]
        )
        yield gauge("old_configurations", "Replaced ones that still have sessions.", [], [([], len(live.old))])
        reloads = [([verdict.value], count) for verdict, count in live.reloads.items()]
        yield counter("reloads", "Reloads asked for, by how they ended.", ["verdict"], reloads)
        yield gauge("body_spool_bytes", "Disk that message bodies take now.", [], [([], self._spool.used)])
        yield gauge("body_spool_limit_bytes", "What they may take: body_spool_limit.", [], [([], self._spool.limit)])
        yield counter("logins", "Ends of AUTH.", ["result"], [([word], event.seen) for word, event in LOGINS.items()])
        buckets, total = self._pulse.histogram()
        documentation = "How late the event loop came to a timer that was due."
        yield HistogramMetricFamily("mailgate_reactor_lag_seconds", documentation, buckets=buckets, sum_value=total)

    def _listeners(self) -> Iterator[Family]:
        listeners = _with_tallies(self._live)
        sessions = [([name], self._sessions(name)) for name, _ in listeners]
        yield gauge("sessions", "Connections that are open, under older configurations too.", ["listener"], sessions)
        connections = [([name], tally.connections) for name, tally in listeners]
        yield counter("connections", "Connections that were accepted.", ["listener"], connections)
        yield counter(
            "connections_refused",
            "Connections that were one too many.",
            ["listener", "limit"],
            [([name, limit], tally.refused.get(limit, 0)) for name, tally in listeners for limit in CONNECTION_LIMITS],
        )
        yield counter(
            "tls_handshakes",
            "TLS handshakes that were finished, by version.",
            ["listener", "version"],
            [
                ([name, version], tally.tls.get(version, 0))
                for name, tally in listeners
                for version in dict.fromkeys((*TLS_VERSIONS, *list(tally.tls)))
            ],
        )
        octets = [([name], tally.octets) for name, tally in listeners]
        yield counter("message_bytes", "Content of the messages that were answered.", ["listener"], octets)
        for name, documentation, label, classes, which in _BY_CLASS:
            yield counter(
                name,
                documentation,
                ["listener", label],
                [([listener, word], which(tally)[digit]) for listener, tally in listeners for word, digit in classes.items()],
            )

    def _sessions(self, name: str) -> int:
        gateways = (*self._live.old, self._live.current)
        return sum(listener.session_count for one in gateways for listener in one.listeners if listener.label == name)

    def _targets(self) -> Iterator[Family]:
        deliveries: dict[str, list[int]] = {}
        for _, tally in _with_tallies(self._live):
            for target, counts in dict(tally.deliveries).items():
                before = deliveries.setdefault(target, [0] * len(counts))
                deliveries[target] = [one + other for one, other in zip(before, counts, strict=True)]
        pools = pools_of(self._live.current.configuration)
        for target in pools:
            deliveries.setdefault(target, [0] * 6)
        answers = [([target, word], counts[digit]) for target, counts in deliveries.items() for word, digit in RESULTS.items()]
        yield counter("deliveries", "Final answers of targets, one for each recipient.", ["target", "result"], answers)
        reports = {target: control.report() for target, control in pools.items()}
        states: dict[str, Callable[[Any], int]] = {"idle": lambda one: one.idle, "leased": lambda one: one.open - one.idle}
        connections = [([name, state], number(one)) for name, one in reports.items() for state, number in states.items()]
        yield gauge("pool_connections", "Connections to next hops.", ["target", "state"], connections)
        limits = [([name], report.max_connections) for name, report in reports.items()]
        yield gauge("pool_connections_limit", "What it may have: max_connections.", ["target"], limits)
        waiting = [([name], report.waiting) for name, report in reports.items()]
        yield gauge("pool_waiting", "Messages that wait for a connection.", ["target"], waiting)
        endpoints = [(name, one) for name, report in reports.items() for one in report.endpoints]
        up = [([name, one.endpoint], int(one.state in ("up", "starting"))) for name, one in endpoints]
        yield gauge("endpoint_up", "1 if it is well and takes part, else 0.", ["target", "endpoint"], up)
        messages = [([name, one.endpoint], one.messages) for name, one in endpoints]
        yield counter("endpoint_messages", "Transactions that came to their answers.", ["target", "endpoint"], messages)

    def _queues(self) -> Iterator[Family]:
        queues = queues_of(self._live.current.configuration)
        summaries = [(name, summary) for name, queue in queues.items() if (summary := _summary(queue)) is not None]
        states = [([name, state], getattr(summary, state)) for name, summary in summaries for state in QUEUE_STATES]
        yield gauge("queue_recipients", "Recipients in the queue, by what they wait for.", ["queue", "state"], states)
        now = self._wall_time()
        ages = [([name], max(now - summary.oldest, 0.0) if summary.oldest else 0.0) for name, summary in summaries]
        yield gauge("queue_oldest_seconds", "Age of the eldest message in the queue, 0 if there is none.", ["queue"], ages)
        damaged = [([name], summary.damaged) for name, summary in summaries]
        yield gauge("queue_damaged_rows", "Rows of its files that were damaged, and set aside.", ["queue"], damaged)
        for name, documentation, number in _OF_QUEUES:
            yield gauge(name, documentation, ["queue"], [([queue], number(one)) for queue, one in queues.items()])
        ends = [([name, end], getattr(queue, end)) for name, queue in queues.items() for end in ("delivered", "failed")]
        yield counter("queue_ends", "Recipients that came to their end, by which.", ["queue", "end"], ends)

    def _limits(self) -> Iterator[Family]:
        states = [(place, state) for place, states in limits_of(self._live.current.configuration) for state in states]
        labels = ["place", "limit"]
        refused = [([place, state.name], state.refused) for place, state in states]
        yield counter("limit_refused", "How often a line of a `limits` block said no.", labels, refused)
        waited = [([place, state.name], state.waited) for place, state in states]
        yield counter("limit_waited", "How often it made somebody wait.", labels, waited)


def _summary(queue: Queue) -> Summary | None:
    """None where the store can't tell: then its numbers are missing, and `queue_paused` says that it fails."""
    try:
        return queue.store.summary_now()  # type: ignore[no-any-return]
    except StoreError:
        return None


_OF_QUEUES: tuple[tuple[str, str, Callable[[Queue], int]], ...] = (
    ("queue_in_flight", "Deliveries under way.", lambda queue: queue.in_flight),
    ("queue_paused", "1 while it delivers nothing, because its store fails.", lambda queue: int(bool(queue.paused))),
    ("queue_destinations_down", "Destinations that back off.", lambda queue: queue.destinations.down),
)
_BY_CLASS: tuple[tuple[str, str, str, dict[str, int], Callable[[Tally], list[int]]], ...] = (
    (
        "replies",
        "Everything that was said to clients after the greeting, by class.",
        "class",
        CLASSES,
        lambda tally: tally.replies,
    ),
    ("senders", "MAIL commands, by answer.", "result", RESULTS, lambda tally: tally.senders),
    ("recipients", "RCPT commands, by answer.", "result", RESULTS, lambda tally: tally.recipients),
    ("messages", "Messages whose content came, by answer.", "result", RESULTS, lambda tally: tally.messages),
)


def counter(name: str, documentation: str, labels: Sequence[str], samples: Iterable[tuple[list[str], float]]) -> Family:
    family = CounterMetricFamily(f"mailgate_{name}", documentation, labels=labels)
    _fill(family, samples)
    return family


def gauge(name: str, documentation: str, labels: Sequence[str], samples: Iterable[tuple[list[str], float]]) -> Family:
    family = GaugeMetricFamily(f"mailgate_{name}", documentation, labels=labels)
    _fill(family, samples)
    return family


def _fill(family: CounterMetricFamily | GaugeMetricFamily, samples: Iterable[tuple[list[str], float]]) -> None:
    sums: dict[tuple[str, ...], float] = {}
    for labels, value in samples:  # two inline targets may have one label
        sums[tuple(labels)] = sums.get(tuple(labels), 0) + value
    for key, value in sums.items():
        family.add_metric(list(key), value)


def _with_tallies(live: LiveGateway) -> list[tuple[str, Tally]]:
    """The listeners of the current configuration; a tally that two have inherited is the first one's."""
    found: dict[int, tuple[str, Tally]] = {}
    for listener in live.current.listeners:
        found.setdefault(id(listener.tally), (listener.label, listener.tally))
    return list(found.values())
