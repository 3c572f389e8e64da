"""Which endpoint is first: every method against what its name says, with weights, with endpoints that come and go."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.outbound.balance import Balance, LeastBusy, Method, RoundRobin, at_random, by_hash, ordered
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.endpoint_settings import EndpointSettings
from mailgate.outbound.failure import Kind
from mailgate.outbound.health import Circuit, HealthSettings

BY_SENDER = by_hash(lambda variables: variables.sender)


def message(sender: str | None = "a@x.example") -> Any:
    return SimpleNamespace(sender=sender)


class _Balanced(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.random = random.Random(7)

    def endpoints(self, *weights: int, **health: Any) -> list[Endpoint]:
        settings = HealthSettings(**{"backoff": 5.0, "max_backoff": 5.0, **health})
        return [
            Endpoint(EndpointSettings("tcp", f"tcp://{name}:25"), Circuit(settings, self.clock, random.Random(number)), weight)
            for number, (name, weight) in enumerate(zip("abcdefgh", weights, strict=False))
        ]

    def balance(self, endpoints: list[Endpoint], method: Method) -> Balance:
        return Balance(endpoints, self.random, method)

    def firsts(self, balance: Balance, count: int, variables: Any = None) -> str:
        chosen = []
        for _ in range(count):
            endpoint = balance.select(variables or message()).next()
            assert endpoint is not None
            endpoint.circuit.abandoned()
            chosen.append(endpoint.settings.label[6])
        return "".join(chosen)

    def down(self, endpoint: Endpoint) -> None:
        endpoint.circuit.failed(Kind.CONNECT, "refused")


class OrderedTest(_Balanced):
    def test_the_first_that_is_well(self) -> None:
        endpoints = self.endpoints(1, 1, 1)
        balance = self.balance(endpoints, ordered)
        self.assertTrue(balance.is_ordered)
        self.assertEqual(self.firsts(balance, 3), "aaa")
        self.down(endpoints[0])
        self.assertEqual(self.firsts(balance, 3), "bbb")


class RoundRobinTest(_Balanced):
    def test_in_turn(self) -> None:
        self.assertEqual(self.firsts(self.balance(self.endpoints(1, 1, 1), RoundRobin()), 6), "abcabc")

    def test_weights_are_spread_evenly(self) -> None:
        self.assertEqual(self.firsts(self.balance(self.endpoints(5, 1, 1), RoundRobin()), 7), "aabacaa")

    def test_one_that_is_down_loses_its_turns_to_the_others_evenly(self) -> None:
        endpoints = self.endpoints(1, 1, 1)
        balance = self.balance(endpoints, RoundRobin())
        self.down(endpoints[1])
        self.assertEqual(Counter(self.firsts(balance, 20)), {"a": 10, "c": 10})

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    def test_in_each_round_everybody_has_its_weight(self, weights: list[int]) -> None:
        self.setUp()
        chosen = self.firsts(self.balance(self.endpoints(*weights), RoundRobin()), 3 * sum(weights))
        for start in range(0, len(chosen), sum(weights)):
            counts = Counter(chosen[start : start + sum(weights)])
            self.assertEqual([counts[name] for name, _ in zip("abcdefgh", weights, strict=False)], weights)


class RandomTest(_Balanced):
    def test_by_weight(self) -> None:
        counts = Counter(self.firsts(self.balance(self.endpoints(6, 3, 1), at_random(self.random)), 3000))
        for name, share in {"a": 0.6, "b": 0.3, "c": 0.1}.items():
            self.assertApproximates(counts[name] / 3000, share, 0.04)

    def test_the_next_is_by_weight_too(self) -> None:
        endpoints = self.endpoints(1, 6, 3)
        self.down(endpoints[0])
        counts = Counter(self.firsts(self.balance(endpoints, at_random(self.random)), 3000))
        self.assertApproximates(counts["b"] / 3000, 2 / 3, 0.04)


class LeastBusyTest(_Balanced):
    def test_fewest_in_use_for_its_weight(self) -> None:
        endpoints = self.endpoints(1, 1, 4)
        balance = self.balance(endpoints, LeastBusy())
        for endpoint, leased in zip(endpoints, (3, 1, 3), strict=True):
            endpoint.open_count = leased
        self.assertEqual(self.firsts(balance, 3), "ccc")
        endpoints[2].open_count = 8
        self.assertEqual(self.firsts(balance, 3), "bbb")

    def test_idle_connections_are_not_busy(self) -> None:
        endpoints = self.endpoints(1, 1)
        endpoints[0].open_count = 5
        endpoints[0].link.idle += [object()] * 5
        endpoints[1].open_count = 1
        self.assertEqual(self.firsts(self.balance(endpoints, LeastBusy()), 2), "aa")

    def test_in_turn_among_equals(self) -> None:
        self.assertEqual(
            Counter(self.firsts(self.balance(self.endpoints(1, 1, 1), LeastBusy()), 30)), {"a": 10, "b": 10, "c": 10}
        )


class HashTest(_Balanced):
    SENDERS = tuple(f"user{number}@x.example" for number in range(600))

    def assigned(self, endpoints: list[Endpoint]) -> dict[str, str]:
        balance = self.balance(endpoints, BY_SENDER)
        return {sender: self.firsts(balance, 1, message(sender)) for sender in self.SENDERS}

    def test_the_same_text_goes_to_the_same_endpoint(self) -> None:
        self.assertEqual(self.assigned(self.endpoints(1, 1, 1)), self.assigned(self.endpoints(1, 1, 1)))

    def test_texts_are_spread(self) -> None:
        counts = Counter(self.assigned(self.endpoints(1, 1, 1)).values())
        self.assertTrue(all(150 < counts[name] < 250 for name in "abc"), counts)

    def test_one_that_is_down_moves_its_own_texts_only(self) -> None:
        endpoints = self.endpoints(1, 1, 1)
        before = self.assigned(endpoints)
        self.down(endpoints[1])
        after = self.assigned(endpoints)
        self.assertEqual({s for s in self.SENDERS if before[s] != after[s]}, {s for s in self.SENDERS if before[s] == "b"})
        self.assertEqual(set(Counter(after[s] for s in self.SENDERS if before[s] == "b")), {"a", "c"})

    def test_one_more_takes_its_part_and_moves_nothing_else(self) -> None:
        before, after = self.assigned(self.endpoints(1, 1)), self.assigned(self.endpoints(1, 1, 1))
        self.assertEqual({after[s] for s in self.SENDERS if before[s] != after[s]}, {"c"})

    def test_nothing_is_a_text_too(self) -> None:
        self.assertEqual(len(self.firsts(self.balance(self.endpoints(1, 1), BY_SENDER), 1, message(None))), 1)


class SlowStartTest(_Balanced):
    def recovered(self, *weights: int) -> list[Endpoint]:
        endpoints = self.endpoints(*weights, slow_start=100.0)
        self.down(endpoints[0])
        self.clock.advance(7)
        endpoints[0].circuit.begin()
        endpoints[0].circuit.succeeded()
        return endpoints

    def share(self, endpoints: list[Endpoint], method: Method) -> float:
        balance = self.balance(endpoints, method)
        return self.firsts(balance, 1000).count("a") / 1000

    def test_its_share_grows_evenly_to_all_of_it(self) -> None:
        endpoints = self.recovered(1, 1)
        self.assertFalse(endpoints[0].circuit.steady)
        for share in (0.1, 0.3, 0.6, 0.9):
            self.clock.rightNow = 7.0 + 100 * share
            self.assertApproximates(self.share(endpoints, ordered), share, 0.06)
        self.clock.rightNow = 107.0
        self.assertEqual(self.share(endpoints, ordered), 1.0)
        self.assertTrue(endpoints[0].circuit.steady)

    def test_it_begins_with_a_tenth(self) -> None:
        self.assertApproximates(self.share(self.recovered(1, 1), ordered), 0.1, 0.04)

    def test_of_what_its_balance_gives_it(self) -> None:
        endpoints = self.recovered(1, 1)
        self.clock.rightNow = 57.0
        self.assertApproximates(self.share(endpoints, RoundRobin()), 0.25, 0.05)

    def test_alone_it_has_everything(self) -> None:
        self.assertEqual(self.share(self.recovered(1), ordered), 1.0)

    def test_failing_again_ends_it(self) -> None:
        endpoints = self.recovered(1, 1)
        self.down(endpoints[0])
        self.assertEqual(endpoints[0].circuit.share, 1.0)
        self.assertEqual(self.firsts(self.balance(endpoints, ordered), 5), "bbbbb")


class DrainTest(_Balanced):
    def test_a_drained_one_is_never_chosen(self) -> None:
        endpoints = self.endpoints(1, 1)
        endpoints[0].circuit.drain(True)
        for method in (ordered, RoundRobin(), at_random(self.random), LeastBusy(), BY_SENDER):
            self.assertEqual(self.firsts(self.balance(endpoints, method), 5), "bbbbb")

    def test_not_as_a_last_resort_either(self) -> None:
        endpoints = self.endpoints(1, 1)
        endpoints[0].circuit.drain(True)
        self.down(endpoints[1])
        self.assertEqual(self.firsts(self.balance(endpoints, ordered), 1), "b")
        endpoints[1].circuit.drain(True)
        self.assertIsNone(self.balance(endpoints, ordered).select(message()).next())

    def test_back_again(self) -> None:
        endpoints = self.endpoints(1, 1)
        endpoints[0].circuit.drain(True)
        endpoints[0].circuit.drain(False)
        self.assertTrue(endpoints[0].circuit.steady)
        self.assertEqual(self.firsts(self.balance(endpoints, ordered), 2), "aa")
