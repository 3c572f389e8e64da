"""`/metrics` of a gateway with several workers: what each of them exports, added up.

A worker that ends takes its counters with it, and a sum that falls would look like a restart of everything. So what a worker had
counted when it was asked last is kept, and stays in the sum; what it counted after that is lost. Gauges end with their worker.
What is about the gateway as a whole, its reloads for one, is counted by the supervisor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from mailgate.workers import SlotReport

Key = tuple[str, tuple[tuple[str, str], ...]]
"""Name and labels of a sample."""

_CUMULATIVE = ("counter", "histogram")
_COMBINED: Mapping[str, Callable[[Iterable[float]], float]] = {
    "mailgate_build_info": max,
    "mailgate_ready": min,
    "mailgate_process_start_time_seconds": min,
    "mailgate_process_max_fds": min,
    "mailgate_old_configurations": max,
    "mailgate_endpoint_up": min,
    "mailgate_queue_oldest_seconds": max,
    "mailgate_queue_paused": max,
    "mailgate_queue_destinations_down": max,
}
"""Gauges that are not added up."""
_OF_THE_WHOLE = frozenset(
    {
        "mailgate_start_time_seconds",
        "mailgate_configuration_generation",
        "mailgate_configuration_time_seconds",
        "mailgate_reloads",
    }
)
"""What the supervisor says."""
_OF_ALL = frozenset({"mailgate_build_info", "mailgate_ready", "mailgate_log_events"})
"""What it adds to what the workers say, besides its process's."""
SUPERVISOR = 0
"""Its number among the workers."""
STATES = ("starting", "serving", "waiting", "draining", "down")


class Sum:
    """The sum, from one time it is asked for to the next. Workers are known by number and process."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], dict[Key, float]] = {}
        self._gone: dict[Key, float] = {}

    def render(self, texts: Mapping[tuple[int, int], str], slots: Iterable[SlotReport]) -> str:
        """``texts`` are what workers and supervisor say, by number and process; ``slots`` all workers. May run in a thread."""
        found: dict[str, Metric] = {}
        values: dict[str, dict[Key, list[float]]] = {}
        reports = list(slots)
        self._forget({(report.worker, report.pid or 0) for report in reports} | {who for who in texts if who[0] == SUPERVISOR})
        for who, text in texts.items():
            counted: dict[Key, float] = {}
            for family in text_string_to_metric_families(text):
                if not _says(who[0], family.name):
                    continue
                found.setdefault(family.name, family)
                for sample in family.samples:
                    key = sample.name, tuple(sample.labels.items())
                    values.setdefault(family.name, {}).setdefault(key, []).append(sample.value)
                    if family.type in _CUMULATIVE:
                        counted[key] = sample.value
            self._last[who] = counted
        return generate_latest(_Registry([*self._families(found, values), *_of_slots(reports)])).decode()

    def _forget(self, there: set[tuple[int, int]]) -> None:
        """Keep what those had counted who have ended."""
        for who in [who for who in self._last if who not in there]:
            for key, value in self._last.pop(who).items():
                self._gone[key] = self._gone.get(key, 0) + value

    def _families(self, found: Mapping[str, Metric], values: Mapping[str, Mapping[Key, list[float]]]) -> Iterable[Metric]:
        """A worker that is away and did not answer counts as it did last."""
        for name, family in found.items():
            made = Metric(name, family.documentation, family.type)
            combine = _COMBINED.get(name, sum)
            for key, numbers in values.get(name, {}).items():
                total = combine(numbers)
                if family.type in _CUMULATIVE:
                    total = self._gone.get(key, 0) + sum(last.get(key, 0) for last in self._last.values())
                made.add_sample(key[0], dict(key[1]), total)
            yield made


def _says(number: int, name: str) -> bool:
    """Whether this one is heard about it."""
    if number != SUPERVISOR:
        return name not in _OF_THE_WHOLE
    return name in _OF_THE_WHOLE or name in _OF_ALL or name.startswith("mailgate_process_")


class _Registry(CollectorRegistry):
    """Families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__(auto_describe=False)
        self.register(_Ready(list(families)))


class _Ready(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_slots(reports: Iterable[SlotReport]) -> Iterable[Metric]:
    """What only the supervisor knows."""
    reports = list(reports)
    workers = GaugeMetricFamily("mailgate_workers", "Workers, by state.", labels=["state"])
    for state in STATES:
        workers.add_metric([state], sum(report.state == state for report in reports))
    yield workers
    restarts: Any = CounterMetricFamily(
        "mailgate_worker_restarts", "Workers that ended unasked and were replaced.", labels=["worker"]
    )
    for report in reports:
        restarts.add_metric([str(report.worker)], report.restarts)
    yield restarts
