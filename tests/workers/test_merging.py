"""What workers answer, made one: tables of (answers, answer)."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.admin import merging


def endpoint(state: str, **changes: Any) -> dict[str, Any]:
    return {
        "endpoint": "tcp://h:25",
        "state": state,
        "since": 1.0,
        "evidence": (),
        "retry_in": 0.0,
        "probe_in": None,
        "share": 1.0,
        "weight": 1,
        "open": 1,
        "idle": 1,
        "leased": 0,
        "messages": 5,
        **changes,
    }


def pool(one: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "target": "t",
        "balance": "ordered",
        "open": 1,
        "idle": 1,
        "waiting": 2,
        "max_connections": 25,
        "endpoints": (one,),
        **changes,
    }


class PoolTests(SynchronousTestCase):
    def test_numbers_are_added_and_the_worst_state_is_shown_with_all_evidence(self) -> None:
        up = pool(endpoint("up", evidence=((9.0, "refused"),)))
        down = pool(endpoint("down", messages=7, retry_in=3.0, evidence=((2.0, "timed out"),)))
        merged = merging.pools([(1, {"pools": [up]}), (2, {"pools": [down]})])["pools"]
        self.assertEqual(len(merged), 1)
        self.assertEqual((merged[0]["max_connections"], merged[0]["waiting"], merged[0]["open"]), (50, 4, 2))
        (one,) = merged[0]["endpoints"]
        self.assertEqual((one["state"], one["messages"], one["retry_in"], one["weight"]), ("down", 12, 3.0, 1))
        self.assertEqual(one["evidence"], [(9.0, "worker 1: refused"), (2.0, "worker 2: timed out")])
        self.assertEqual(one["states"], {"worker 1": "up", "worker 2": "down"})

    def test_states_that_agree_are_not_told_apart(self) -> None:
        merged = merging.pools([(1, {"pools": [pool(endpoint("up"))]}), (2, {"pools": [pool(endpoint("up"))]})])
        self.assertNotIn("states", merged["pools"][0]["endpoints"][0])

    def test_an_act_names_the_worker_where_it_failed(self) -> None:
        parts = [
            (1, {"failure": None, "pool": pool(endpoint("up"))}),
            (2, {"failure": "refused", "pool": pool(endpoint("down"))}),
        ]
        merged = merging.pool_act(parts)
        self.assertEqual(merged["failure"], "worker 2: refused")
        self.assertEqual(merging.pool_act(parts[:1])["failure"], None)


class LimitTests(SynchronousTestCase):
    def test_counts_and_holders_are_added(self) -> None:
        state = {"place": "in", "name": "ip concurrency 4", "refused": 1, "waited": 0, "waiting": 0, "keys": 1}
        parts = [
            (1, {"limits": [{**state, "holders": [["a", 1]]}]}),
            (2, {"limits": [{**state, "holders": [["a", 1], ["b", 1]]}]}),
        ]
        (merged,) = merging.limits(parts)["limits"]
        self.assertEqual((merged["refused"], merged["keys"], merged["holders"]), (2, 2, [("a", 2), ("b", 1)]))


class QueueTests(SynchronousTestCase):
    def test_numbers_of_entries_come_back(self) -> None:
        for worker in (1, 2, 64):
            for number in (1, 7, 1 << 40):
                self.assertEqual(merging.of_entry(merging.entry_number(worker, number)), (worker, number))

    def test_a_store_that_fails_hides_no_other(self) -> None:
        numbers = {"queue": "q", "waiting": 3, "oldest": "2026-01-01", "paused": None, "destinations": 2}
        merged = merging.queue_stats([(1, {"queues": [numbers]}), (2, {"queues": [{"queue": "q", "paused": "disk full"}]})])
        (one,) = merged["queues"]
        self.assertEqual((one["waiting"], one["oldest"], one["paused"]), (3, "2026-01-01", "worker 2: disk full"))

    def test_the_oldest_is_the_oldest(self) -> None:
        rows = [{"queue": "q", "waiting": 1, "oldest": oldest, "paused": None, "destinations": 1} for oldest in (None, "b", "a")]
        (one,) = merging.queue_stats([(number, {"queues": [row]}) for number, row in enumerate(rows, 1)])["queues"]
        self.assertEqual((one["waiting"], one["oldest"], one["destinations"]), (3, "a", 1))

    def test_a_survey_adds_columns(self) -> None:
        def part(*ages: int) -> dict[str, Any]:
            total = sum(ages)
            return {
                "ages": ["1h", "older"],
                "queues": [
                    {
                        "queue": "q",
                        "recipients": total,
                        "paused": None,
                        "destinations": [{"destination": "d", "recipients": total, "ages": list(ages)}],
                        "clusters": [{"code": 451, "status": "4.4.1", "text": "x", "recipients": total}],
                    }
                ],
            }

        (one,) = merging.queue_survey([(1, part(1, 2)), (2, part(3, 4))])["queues"]
        self.assertEqual(one["recipients"], 10)
        self.assertEqual(one["destinations"], [{"destination": "d", "recipients": 10, "ages": [4, 6]}])
        self.assertEqual(one["clusters"][0]["recipients"], 10)

    def test_missing_is_what_nobody_had(self) -> None:
        parts: list[tuple[int, dict[str, Any]]] = [
            (1, {"matched": 1, "changed": 1, "busy": 0, "messages": ["a"], "missing": ["b", "c"]}),
            (2, {"matched": 2, "changed": 1, "busy": 1, "messages": ["b"], "missing": ["a", "c"]}),
        ]
        merged = merging.queue_done(parts)
        self.assertEqual(merged, {"matched": 3, "changed": 2, "busy": 1, "messages": ["a", "b"], "next": None, "missing": ["c"]})
