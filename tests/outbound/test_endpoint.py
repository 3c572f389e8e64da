"""Health: when a circuit opens, for how long, and who may try."""

from __future__ import annotations

import random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.outbound.balance import Selection
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.endpoint_settings import EndpointSettings
from mailgate.outbound.failure import Kind
from mailgate.outbound.health import JITTER, TRIAL, Circuit, HealthSettings, State


class CircuitTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.changes: list[tuple[bool, str]] = []
        self.circuit = Circuit(
            HealthSettings(failures=3, backoff=5, max_backoff=30),
            self.clock,
            random.Random(1),
            lambda change: self.changes.append((change.is_up, change.reason)),
        )

    def wait(self) -> float:
        return self.circuit.due - self.clock.seconds()

    def test_three_failures_in_a_row(self) -> None:
        for _ in range(2):
            self.circuit.failed(Kind.TIMEOUT)
            self.assertIs(self.circuit.state, State.CLOSED)
        self.circuit.failed(Kind.TIMEOUT, "no answer")
        self.assertIs(self.circuit.state, State.OPEN)
        self.assertEqual(self.changes, [(False, "no answer")])

    def test_success_between_them(self) -> None:
        for _ in range(5):
            self.circuit.failed(Kind.TIMEOUT)
            self.circuit.failed(Kind.SESSION)
            self.circuit.succeeded()
        self.assertIs(self.circuit.state, State.CLOSED)
        self.assertEqual(self.changes, [])

    def test_a_fault_of_connecting_opens_at_once(self) -> None:
        self.circuit.failed(Kind.CONNECT)
        self.assertIs(self.circuit.state, State.OPEN)

    def test_our_own_limits_say_nothing_about_it(self) -> None:
        for _ in range(5):
            self.circuit.failed(Kind.LEASE)
            self.circuit.failed(Kind.TOTAL)
        self.assertIs(self.circuit.state, State.CLOSED)

    def test_the_back_off_doubles_up_to_the_most_with_jitter(self) -> None:
        for base in (5, 10, 20, 30, 30):
            self.circuit.begin()
            self.circuit.failed(Kind.CONNECT)
            self.assertTrue(base * (1 - JITTER) <= self.wait() <= base * (1 + JITTER), (base, self.wait()))
            self.assertFalse(self.circuit.available)
            self.clock.advance(self.wait())
            self.assertTrue(self.circuit.available)

    def test_one_tries_it_when_half_open(self) -> None:
        self.circuit.failed(Kind.CONNECT)
        self.clock.advance(self.wait())
        self.assertIs(self.circuit.state, State.HALF_OPEN)
        self.circuit.begin()
        self.assertFalse(self.circuit.available)
        self.circuit.abandoned()
        self.assertTrue(self.circuit.available)

    def test_only_the_trial_ends_the_trial(self) -> None:
        self.circuit.failed(Kind.CONNECT)
        self.clock.advance(self.wait())
        self.circuit.begin("trial")
        for learns_nothing in (
            lambda: self.circuit.abandoned("older"),
            lambda: self.circuit.failed(Kind.LEASE, "", "older"),
            lambda: self.circuit.begin("last resort"),
            lambda: self.circuit.abandoned("last resort"),
        ):
            learns_nothing()
            self.assertFalse(self.circuit.is_free_for("another"))
            self.assertTrue(self.circuit.is_free_for("trial"))
        self.circuit.failed(Kind.LEASE, "", "trial")
        self.assertTrue(self.circuit.is_free_for("another"))

    def test_a_trial_that_never_says_how_it_went_keeps_no_endpoint_down(self) -> None:
        self.circuit.failed(Kind.CONNECT)
        self.clock.advance(self.wait())
        lost, other = object(), object()
        self.circuit.begin(lost)
        self.clock.advance(TRIAL - 1)
        self.assertFalse(self.circuit.is_free_for(other))
        self.clock.advance(1)
        self.assertTrue(self.circuit.is_free_for(other))
        self.circuit.begin(other)
        self.assertFalse(self.circuit.is_free_for(lost))

    def test_success_closes_and_starts_over(self) -> None:
        for _ in range(3):
            self.circuit.begin()
            self.circuit.failed(Kind.CONNECT)
            self.clock.advance(self.wait())
        self.circuit.begin()
        self.circuit.succeeded()
        self.assertIs(self.circuit.state, State.CLOSED)
        self.assertEqual(self.changes[-1], (True, ""))
        self.circuit.failed(Kind.CONNECT)
        self.assertLessEqual(self.wait(), 5 * (1 + JITTER))

    def test_many_that_fail_together_count_once(self) -> None:
        self.circuit.failed(Kind.CONNECT)
        due = self.circuit.due
        for _ in range(10):
            self.circuit.failed(Kind.CONNECT)
        self.assertEqual(self.circuit.due, due)


class SelectionTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        health = HealthSettings(backoff=5, max_backoff=5)
        self.endpoints = [
            Endpoint(EndpointSettings("tcp", name), Circuit(health, self.clock, random.Random(number)))
            for number, name in enumerate("abc")
        ]

    def labels(self) -> str:
        selection = Selection(self.endpoints)
        chosen = []
        while (endpoint := selection.next()) is not None:
            chosen.append(endpoint.settings.label)
        return "".join(chosen)

    def test_in_the_order_written_each_once(self) -> None:
        self.assertEqual(self.labels(), "abc")

    def test_an_open_one_is_left_out(self) -> None:
        self.endpoints[0].circuit.failed(Kind.CONNECT)
        self.assertEqual(self.labels(), "bc")

    def test_when_it_is_due_one_tries_it(self) -> None:
        self.endpoints[0].circuit.failed(Kind.CONNECT)
        self.clock.advance(6)
        self.assertEqual(self.labels(), "abc")
        self.assertEqual(self.labels(), "bc")

    def test_all_open_the_one_due_soonest_is_tried(self) -> None:
        for at in (1, 0, 2):
            self.endpoints[at].circuit.failed(Kind.CONNECT)
            self.clock.advance(2.5)
        soonest = min(self.endpoints, key=lambda endpoint: endpoint.circuit.due)
        self.clock.rightNow = soonest.circuit.due - 0.1
        self.assertEqual(self.labels(), soonest.settings.label)
