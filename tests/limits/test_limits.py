"""Blocks of limits at work: what is let in, which limit refuses, what waits, and that nothing stays taken."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from mailgate.limits.limits import Exceeded, Kind, Lease, Limits, Line, Scope, Subject
from mailgate.net.waiting import Wait


def rate(scope: Scope, count: int, period: float, wait: float | None = None, prefixes: tuple[int, int] = (0, 0)) -> Line:
    return Line(scope, Kind.RATE, count, period, wait, prefixes)


def slots(scope: Scope, count: int, wait: float | None = None, prefixes: tuple[int, int] = (0, 0)) -> Line:
    return Line(scope, Kind.CONCURRENCY, count, 0.0, wait, prefixes)


SUBJECT = Subject(ip="192.0.2.7", user="ann", source="a.test", destination="b.test", helo="c.test")


class LimitsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def gate(self, *lines: Line, patience: float = 0.0) -> Any:
        self.limits = Limits(lines, self.clock)
        return self.limits.gate(Scope, "here", patience=patience)

    def name(self, answer: Any) -> str:
        """What was refused by, "" if it was let in."""
        self.assertIsInstance(answer, (Lease, Exceeded))
        return "" if isinstance(answer, Lease) else answer.name


class AcquireTests(LimitsCase):
    def test_a_refusal_names_the_limit_and_who_reached_it(self) -> None:
        gate = self.gate(rate(Scope.IP, 1, 60.0))
        self.assertIsInstance(gate.acquire(SUBJECT), Lease)
        self.assertEqual(gate.acquire(SUBJECT), Exceeded(Scope.IP, "ip rate 1 1m", "192.0.2.7"))

    def test_every_scope_counts_its_own(self) -> None:
        fields = {
            Scope.IP: "ip",
            Scope.USER: "user",
            Scope.SOURCE: "source",
            Scope.DESTINATION: "destination",
            Scope.HELO: "helo",
        }
        for line in (rate, slots):
            for scope, field in fields.items():
                with self.subTest(scope=scope, kind=line.__name__):
                    gate = self.gate(rate(scope, 1, 60.0) if line is rate else slots(scope, 1))
                    one, other, unknown = Subject(**{field: "x"}), Subject(**{field: "y"}), Subject()
                    self.assertEqual([bool(self.name(gate.acquire(who))) for who in (one, other, one)], [False, False, True])
                    self.assertEqual([self.name(gate.acquire(unknown)) for _ in range(3)], ["", "", ""])

    def test_all_counts_everybody(self) -> None:
        gate = self.gate(rate(Scope.ALL, 2, 60.0))
        answers = [self.name(gate.acquire(Subject(ip=f"192.0.2.{number}"))) for number in range(3)]
        self.assertEqual(answers, ["", "", "all rate 2 1m"])

    def test_networks_count_by_their_prefixes(self) -> None:
        gate = self.gate(rate(Scope.NETWORK, 1, 60.0, prefixes=(24, 64)))
        clients = ["192.0.2.1", "192.0.2.200", "192.0.3.1", "2001:db8::1", "2001:db8::ffff:0:1", "2001:db8:0:1::1"]
        refused = [bool(self.name(gate.acquire(Subject(ip=client)))) for client in clients]
        self.assertEqual(refused, [False, True, False, False, True, False])

    def test_an_ipv6_client_has_all_of_its_64(self) -> None:
        for line in (rate(Scope.IP, 1, 60.0), slots(Scope.IP, 1)):
            gate = self.gate(line)
            clients = ["2001:db8::1", "2001:db8::ffff:0:1", "2001:db8:0:1::1", "192.0.2.1", "192.0.2.2"]
            refused = [bool(self.name(gate.acquire(Subject(ip=client)))) for client in clients]
            self.assertEqual(refused, [False, True, False, False, False])

    def test_who_is_refused_by_one_limit_takes_nothing_of_the_others(self) -> None:
        gate = self.gate(rate(Scope.ALL, 2, 60.0), slots(Scope.IP, 1))
        self.assertIsInstance(gate.acquire(SUBJECT), Lease)
        for _ in range(5):
            self.assertEqual(self.name(gate.acquire(SUBJECT)), "ip concurrency 1")
        self.assertEqual(self.name(gate.acquire(Subject(ip="192.0.2.8"))), "")

    def test_a_lease_is_released_once(self) -> None:
        gate = self.gate(slots(Scope.ALL, 2))
        first, second = gate.acquire(SUBJECT), gate.acquire(SUBJECT)
        first.release()
        first.release()
        self.assertIsInstance(gate.acquire(SUBJECT), Lease)
        self.assertEqual(self.name(gate.acquire(SUBJECT)), "all concurrency 2")
        second.release()

    def test_looking_takes_nothing_and_counts_as_a_refusal(self) -> None:
        gate = self.gate(rate(Scope.IP, 1, 60.0), slots(Scope.ALL, 1))
        for _ in range(3):
            self.assertIsNone(gate.exceeded(SUBJECT))
        gate.acquire(SUBJECT)
        self.assertEqual(gate.exceeded(SUBJECT).name, "ip rate 1 1m")
        self.assertEqual(gate.exceeded(Subject(ip="192.0.2.8")).name, "all concurrency 1")
        self.assertEqual([state.refused for state in self.limits.states], [1, 1])

    def test_who_may_wait_is_not_exceeded(self) -> None:
        gate = self.gate(rate(Scope.IP, 1, 10.0, wait=10.0), slots(Scope.ALL, 1, wait=5.0))
        gate.acquire(SUBJECT)
        self.assertIsNone(gate.exceeded(SUBJECT))

    def test_a_gate_without_lines_is_none(self) -> None:
        self.assertIsNone(Limits([rate(Scope.IP, 1, 1.0)], self.clock).gate([Scope.ALL], "here"))


class WaitTests(LimitsCase):
    def test_a_rate_with_wait_is_a_pause(self) -> None:
        gate = self.gate(rate(Scope.ALL, 1, 10.0, wait=20.0))
        gate.acquire(SUBJECT)
        second, third = gate.acquire(SUBJECT), gate.acquire(SUBJECT)
        self.assertEqual(self.name(gate.acquire(SUBJECT)), "all rate 1 10s")
        self.clock.advance(10)
        self.assertEqual((second.done, third.done), (True, False))
        self.clock.advance(10)
        self.assertIsInstance(third.result(), Lease)

    def test_who_stops_waiting_gives_the_token_back(self) -> None:
        gate = self.gate(rate(Scope.ALL, 1, 10.0, wait=10.0))
        gate.acquire(SUBJECT)
        gate.acquire(SUBJECT).cancel()
        waiting = gate.acquire(SUBJECT)
        self.assertIsInstance(waiting, Wait)
        self.clock.advance(10)
        self.assertIsInstance(waiting.result(), Lease)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_slot_is_waited_for_in_turn(self) -> None:
        gate = self.gate(slots(Scope.ALL, 1, wait=10.0))
        lease = gate.acquire(SUBJECT)
        second, third = gate.acquire(SUBJECT), gate.acquire(SUBJECT)
        lease.release()
        self.clock.advance(0)
        self.assertEqual((second.done, third.done), (True, False))
        second.result().release()
        self.clock.advance(0)
        third.result().release()
        self.assertEqual(self.limits.states[0].keys, 0)

    def test_waiting_ends_with_the_name_of_the_limit(self) -> None:
        gate = self.gate(slots(Scope.ALL, 1, wait=10.0))
        gate.acquire(SUBJECT)
        waiting = gate.acquire(SUBJECT)
        self.clock.advance(10)
        self.assertEqual(self.name(waiting.result()), "all concurrency 1")

    def test_the_wait_is_one_for_token_and_slot(self) -> None:
        gate = self.gate(rate(Scope.ALL, 1, 4.0, wait=10.0), slots(Scope.ALL, 1, wait=6.0))
        lease = gate.acquire(SUBJECT)
        waiting = gate.acquire(SUBJECT)
        self.clock.advance(4)
        self.assertFalse(waiting.done)
        self.clock.advance(2)
        self.assertEqual(self.name(waiting.result()), "all concurrency 1")
        lease.release()
        self.clock.advance(4)
        self.assertIsInstance(gate.acquire(SUBJECT), Lease)  # the token was given back

    def test_who_waits_for_a_narrow_slot_holds_no_wide_one(self) -> None:
        gate = self.gate(slots(Scope.ALL, 2, wait=10.0), slots(Scope.IP, 1, wait=10.0))
        gate.acquire(SUBJECT)
        for _ in range(5):
            gate.acquire(SUBJECT)
        self.assertIsInstance(gate.acquire(Subject(ip="192.0.2.8")), Lease)

    def test_cancelling_leaves_nothing_taken(self) -> None:
        gate = self.gate(slots(Scope.IP, 1, wait=10.0), slots(Scope.ALL, 1, wait=10.0))
        lease = gate.acquire(SUBJECT)
        waiting = gate.acquire(Subject(ip="192.0.2.8"))  # holds its own slot, waits for everybody's
        waiting.cancel()
        self.assertRaises(CancelledError, waiting.result)
        lease.release()
        self.assertEqual([(state.keys, state.waiting) for state in self.limits.states], [(0, 0), (0, 0)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_place_may_have_patience_of_its_own(self) -> None:
        gate = self.gate(slots(Scope.ALL, 1), patience=30.0)
        gate.acquire(SUBJECT)
        waiting = gate.acquire(SUBJECT)
        self.clock.advance(29)
        self.assertFalse(waiting.done)
        self.clock.advance(1)
        self.assertEqual(self.name(waiting.result()), "all concurrency 1")
        impatient = self.gate(slots(Scope.ALL, 1, wait=0.0), patience=30.0)
        impatient.acquire(SUBJECT)
        self.assertEqual(self.name(impatient.acquire(SUBJECT)), "all concurrency 1")


class SharedTests(LimitsCase):
    def test_two_places_share_one_block(self) -> None:
        limits = Limits([slots(Scope.ALL, 1)], self.clock)
        one, other = limits.gate([Scope.ALL], "one"), limits.gate([Scope.ALL], "other")
        assert one is not None
        assert other is not None
        one.acquire(SUBJECT)
        self.assertEqual(self.name(other.acquire(SUBJECT)), "all concurrency 1")

    def test_a_new_configuration_goes_on_counting(self) -> None:
        old = Limits([rate(Scope.IP, 4, 40.0), slots(Scope.ALL, 1), rate(Scope.USER, 1, 1.0)], self.clock)
        gate = old.gate(Scope, "old")
        assert gate is not None
        lease = gate.acquire(SUBJECT)
        assert isinstance(lease, Lease)
        new = Limits([slots(Scope.ALL, 2), rate(Scope.IP, 2, 60.0)], self.clock, old)
        after = new.gate(Scope, "new")
        assert after is not None
        self.assertEqual(self.name(after.acquire(SUBJECT)), "")
        self.assertEqual(self.name(after.acquire(Subject(ip="192.0.2.8"))), "all concurrency 2")
        lease.release()  # a session of the old configuration has ended
        self.assertEqual(self.name(after.acquire(SUBJECT)), "ip rate 2 1m")

    def test_a_line_that_is_unchanged_is_the_same_bucket(self) -> None:
        old = Limits([rate(Scope.ALL, 2, 60.0)], self.clock)
        new = Limits([rate(Scope.ALL, 2, 60.0)], self.clock, old)
        gates = [limits.gate(Scope, "here") for limits in (old, new, old)]
        answers = [self.name(gate.acquire(SUBJECT)) for gate in gates if gate is not None]
        self.assertEqual(answers, ["", "", "all rate 2 1m"])

    def test_states_say_who_holds(self) -> None:
        gate = self.gate(slots(Scope.IP, 2), rate(Scope.SOURCE, 9, 60.0))
        for client in ("192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.2"):
            gate.acquire(Subject(ip=client, source="a.test"))
        state, other = self.limits.states
        self.assertEqual((state.name, state.refused, state.keys), ("ip concurrency 2", 1, 2))
        self.assertEqual(state.holders, (("192.0.2.2", 2), ("192.0.2.1", 1)))
        self.assertEqual((other.name, other.refused, other.keys), ("source rate 9 1m", 0, 1))


class LogTests(LimitsCase):
    def setUp(self) -> None:
        super().setUp()
        self.lines: list[str] = []

        def keep(event: Any) -> None:
            if "event_text" in event:
                self.lines.append(str(event["event_text"]))

        globalLogPublisher.addObserver(keep)
        self.addCleanup(globalLogPublisher.removeObserver, keep)

    def test_a_flood_is_a_line_a_second(self) -> None:
        gate = self.gate(rate(Scope.IP, 1, 3600.0))
        for _ in range(100):
            gate.acquire(SUBJECT)
        self.clock.advance(1.5)
        gate.acquire(SUBJECT)
        expected = 'limit.refused place=here limit="ip rate 1 1h" key=192.0.2.7 refused='
        self.assertEqual(self.lines, [f"{expected}1", f"{expected}99"])
