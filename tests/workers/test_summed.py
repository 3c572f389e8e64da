"""The metrics of several workers as one: sums, what is no sum, and counters of workers that are gone."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mailgate.admin.summed import SUPERVISOR, Sum
from mailgate.workers import SlotReport


def text(messages: int, *, open_: int = 1, up: int = 1, generation: int = 1) -> str:
    return (
        "# HELP mailgate_messages_total Messages.\n# TYPE mailgate_messages_total counter\n"
        f'mailgate_messages_total{{listener="in"}} {messages}\n'
        "# HELP mailgate_sessions Open.\n# TYPE mailgate_sessions gauge\n"
        f'mailgate_sessions{{listener="in"}} {open_}\n'
        "# HELP mailgate_endpoint_up Up.\n# TYPE mailgate_endpoint_up gauge\n"
        f"mailgate_endpoint_up {up}\n"
        "# HELP mailgate_configuration_generation Number.\n# TYPE mailgate_configuration_generation gauge\n"
        f"mailgate_configuration_generation {generation}\n"
    )


def slot(number: int, pid: int | None, state: str = "serving", restarts: int = 0) -> SlotReport:
    return SlotReport(number, pid, state, 1.0, 0, restarts, "")


def values(rendered: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in rendered.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


class SumTests(SynchronousTestCase):
    def test_it_adds(self) -> None:
        found = values(Sum().render({(1, 10): text(3), (2, 20): text(4, open_=5, up=0)}, [slot(1, 10), slot(2, 20)]))
        self.assertEqual(found['mailgate_messages_total{listener="in"}'], 7)
        self.assertEqual(found['mailgate_sessions{listener="in"}'], 6)
        self.assertEqual(found["mailgate_endpoint_up"], 0)
        self.assertEqual(found['mailgate_workers{state="serving"}'], 2)
        self.assertEqual(found['mailgate_worker_restarts_total{worker="2"}'], 0)

    def test_what_a_worker_counted_that_has_ended_stays(self) -> None:
        total = Sum()
        total.render({(1, 10): text(3), (2, 20): text(4)}, [slot(1, 10), slot(2, 20)])
        away = values(total.render({(2, 20): text(5)}, [slot(1, None, "waiting", 1), slot(2, 20)]))
        self.assertEqual(away['mailgate_messages_total{listener="in"}'], 8)
        self.assertEqual(away['mailgate_sessions{listener="in"}'], 1)
        back = values(total.render({(1, 11): text(1), (2, 20): text(5)}, [slot(1, 11, restarts=1), slot(2, 20)]))
        self.assertEqual(back['mailgate_messages_total{listener="in"}'], 9)
        self.assertEqual(back['mailgate_worker_restarts_total{worker="1"}'], 1)

    def test_one_that_does_not_answer_counts_as_it_did_last(self) -> None:
        total = Sum()
        total.render({(1, 10): text(3), (2, 20): text(4)}, [slot(1, 10), slot(2, 20)])
        found = values(total.render({(2, 20): text(6)}, [slot(1, 10), slot(2, 20)]))
        self.assertEqual(found['mailgate_messages_total{listener="in"}'], 9)

    def test_the_whole_is_the_supervisors_to_count(self) -> None:
        texts = {(1, 10): text(3), (2, 20): text(4), (SUPERVISOR, 0): text(100, generation=7)}
        found = values(Sum().render(texts, [slot(1, 10), slot(2, 20)]))
        self.assertEqual(found["mailgate_configuration_generation"], 7)
        self.assertEqual(found['mailgate_messages_total{listener="in"}'], 7)
