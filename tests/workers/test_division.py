"""What the whole gateway may is divided among its workers: never more together than the configuration says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.adapters import Adapters
from mailgate.cli.check import examine
from mailgate.config.files import Recorded
from mailgate.config.schema import Directive
from mailgate.limits.guesses import Guesses
from mailgate.limits.limits import Kind, Line, Scope
from mailgate.queue.offline import files_for
from mailgate.registry import Built, build
from mailgate.registry.catalogue import find, known_names
from mailgate.registry.effective import effective
from mailgate.runtime import Assembler
from mailgate.workers import RecordingAssembler

CONFIGURATION = """\
hostname g.test
tls off
body_spool_limit 9M
target.smtp next {
    targets tcp://h.test:25
    max_connections 11
}
smtp tcp://127.0.0.1:2525 {
    max_connections 10
    max_connections_per_ip 7
    reserved_connections 3
    limits {
        ip rate 20 1m
        all rate 1 1m
        all concurrency 9
    }
    deliver_to &next
}
"""


def adapters(worker: int = 1, workers: int = 1) -> Adapters:
    return Adapters(Clock(), lambda: 0.0, maybeDeferred, random.Random(1), worker=worker, workers=workers)


class DivisionTests(SynchronousTestCase):
    def built(self, text: str, workers: int) -> Built:
        path = Path(self.mktemp())
        path.write_text(text)
        return Assembler(str(path), adapters(workers=workers)).assemble()

    def test_each_worker_has_its_part(self) -> None:
        built = self.built(CONFIGURATION, 3)
        assert built.configuration is not None
        (listener,) = built.configuration.listeners
        found: Any = listener
        settings = found.connection_settings()
        self.assertEqual((settings.max_connections, settings.max_connections_per_ip), (3, 2))
        self.assertEqual(settings.reserved_connections, 1)
        target: Any = built.configuration.instances["next"]
        self.assertEqual(target.max_connections, 3)
        self.assertEqual(built.configuration.globals.body_spool_limit, 3 << 20)
        lines = {
            state.name: limit.line for state, limit in zip(found.limits.limits.states, found.limits.limits._limits, strict=True)
        }
        self.assertEqual(set(lines), {"ip rate 20 1m", "all rate 1 1m", "all concurrency 9"})
        self.assertEqual((lines["ip rate 20 1m"].count, lines["all concurrency 9"].count), (6, 3))
        self.assertEqual((lines["all rate 1 1m"].count, lines["all rate 1 1m"].period), (1, 180.0))

    def test_what_is_shown_is_what_is_written(self) -> None:
        built = self.built(CONFIGURATION, 3)
        assert built.configuration is not None
        shown = [setting.line for block in effective(built.configuration) for setting in (block, *(block.block or ()))]
        for line in ("max_connections 10", "max_connections_per_ip 7", "max_connections 11", "body_spool_limit 9M"):
            self.assertIn(line, shown)

    def test_alone_nothing_is_divided(self) -> None:
        built = self.built(CONFIGURATION, 1)
        assert built.configuration is not None
        (listener,) = built.configuration.listeners
        self.assertEqual(listener.max_connections, 10)  # type: ignore[attr-defined]

    def test_less_than_one_for_each_is_an_error_where_it_is_written(self) -> None:
        self.assertEqual([str(one) for one in self.built(CONFIGURATION, 7).diagnostics if one.is_error], [])
        errors = [one for one in self.built(CONFIGURATION, 10).diagnostics if one.is_error]
        self.assertEqual([(one.code, one.span.line) for one in errors if one.span], [("E0409", 10), ("E0409", 15)])

    def test_the_check_can_be_for_workers(self) -> None:
        path = Path(self.mktemp())
        path.write_text(CONFIGURATION)
        self.assertEqual([one for one in examine(str(path)) if one.is_error], [])
        self.assertEqual([one.code for one in examine(str(path), workers=10) if one.is_error], ["E0409", "E0409"])

    def test_a_default_is_enough_for_one_each(self) -> None:
        built = self.built("hostname g.test\ntls off\nsmtp tcp://127.0.0.1:2525 {\n discard\n}\n", 64)
        assert built.configuration is not None
        self.assertEqual(built.configuration.listeners[0].max_connections_per_ip, 1)  # type: ignore[attr-defined]

    def test_every_number_of_connections_is_divided(self) -> None:
        limits = [one for one in _directives() if "connections" in one.name or one.name == "concurrency"]
        self.assertGreater(len(limits), 5)
        undivided = {one.name for one in limits if not one.divided}
        # It has its parts from `crowd_settings`. Others say `divided=True`, or each worker would have all of them.
        self.assertEqual(undivided, {"reserved_connections"})


def _directives() -> Iterator[Directive]:
    for name in known_names():
        declared = find(name)
        if declared is not None:
            yield from declared.directives.values()


class LineTests(SynchronousTestCase):
    @settings(max_examples=100)
    @given(st.integers(1, 1000), st.floats(0.1, 1e5), st.integers(1, 64))
    def test_rates_together_are_the_rate(self, count: int, period: float, workers: int) -> None:
        part = Line(Scope.IP, Kind.RATE, count, period).divided(workers)
        self.assertAlmostEqual(part.count / part.period * workers, count / period, delta=count / period * 1e-9)
        self.assertLessEqual(part.count * workers, max(count, workers))
        self.assertEqual(part.name, Line(Scope.IP, Kind.RATE, count, period).name)

    def test_guesses_are_divided(self) -> None:
        guesses = Guesses(Clock(), workers=4)
        for _ in range(5):
            self.assertEqual(guesses.exceeded("192.0.2.1"), "")
            guesses.failed("192.0.2.1")
        self.assertEqual(guesses.exceeded("192.0.2.1"), "address")


class FileTests(SynchronousTestCase):
    def files(self, numbers: set[int]) -> str:
        directory = Path(self.mktemp())
        directory.mkdir()
        for number in numbers:
            (directory / f"{number}.sqlite").touch()
        return str(directory)

    @settings(max_examples=60, deadline=None)
    @given(st.sets(st.integers(1, 70), max_size=12), st.integers(1, 8))
    def test_every_file_is_somebodys_and_nobody_elses(self, numbers: set[int], workers: int) -> None:
        directory = self.files(numbers)
        shares = [files_for(directory, worker, workers) for worker in range(1, workers + 1)]
        everything = [path for share in shares for path in share]
        self.assertEqual(len(everything), len(set(everything)))
        found = {int(Path(path).stem) for path in everything}
        self.assertLessEqual(numbers, found)
        if workers > 1:
            self.assertEqual([Path(share[0]).name for share in shares], [f"{worker}.sqlite" for worker in range(1, workers + 1)])

    def test_one_alone_without_files_begins_with_the_first(self) -> None:
        self.assertEqual([Path(path).name for path in files_for(self.files(set()), 1, 1)], ["1.sqlite"])
        self.assertEqual([Path(path).name for path in files_for(self.files({3}), 1, 1)], ["3.sqlite"])


class RecordTests(SynchronousTestCase):
    def test_a_recorded_configuration_is_the_same_whatever_the_files_say_now(self) -> None:
        directory = Path(self.mktemp())
        (directory / "parts").mkdir(parents=True)
        main = directory / "m.conf"
        main.write_text("hostname g.test\ntls off\nimport parts/*.conf\nimport extra.conf\n")
        (directory / "extra.conf").write_text("smtp tcp://127.0.0.1:2525 {\n banner first\n discard\n}\n")
        (directory / "parts" / "a.conf").write_text("target.smtp next {\n targets tcp://h.test:25\n}\n")
        supervisor = RecordingAssembler(str(main), adapters())
        first = supervisor.assemble()
        self.assertIsNotNone(first.configuration)
        (directory / "extra.conf").write_text("no_such_thing\n")
        (directory / "parts" / "b.conf").write_text("no_such_thing\n")
        self.assertIsNone(build(str(main), adapters()).configuration)
        worker = Assembler(str(main), adapters())
        worker.files = Recorded({"texts": supervisor.record["texts"], "patterns": supervisor.record["patterns"]})
        again = worker.assemble().configuration
        assert again is not None
        self.assertEqual(again.listeners[0].banner, "first")  # type: ignore[attr-defined]
        worker.files = Recorded({"texts": {}, "patterns": {}})
        self.assertRaises(FileNotFoundError, worker.assemble)
