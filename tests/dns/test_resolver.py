"""The resolver on a simulated clock: single flight, what is asked again when, what a mixed answer of two families means."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.dns.answer import Status
from mailgate.dns.failure import ServerFailure, Timeout
from mailgate.dns.resolver import A, parse_name
from mailgate.net.waiting import as_deferred
from mailgate.testing.names import NEGATIVE_TTL, Action, MemoryNames


class _Simulated(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.names = MemoryNames(self.clock)
        self.resolver = self.names.resolver()

    def ask(self, coroutine: Any, seconds: float = 0.1) -> Any:
        waiting = as_deferred(coroutine)
        self.clock.pump([seconds, 0.02, 0.02])
        return self.successResultOf(waiting)


class SingleFlightTests(_Simulated):
    def test_equal_questions_are_one(self) -> None:
        self.names.add("a.test", "A", "192.0.2.1")
        waiting = [as_deferred(self.resolver.query(name, A)) for name in ("a.test", "A.TEST", "a.test.")]
        self.clock.advance(0.1)
        answers = [self.successResultOf(each) for each in waiting]
        self.assertIs(answers[0], answers[2])
        self.assertEqual(self.names.asked("a.test"), 1)

    def test_a_failure_reaches_each_waiter_as_its_own(self) -> None:
        self.names.script("a.test", "A", Action.SERVFAIL)
        waiting = [as_deferred(self.resolver.query("a.test", A)) for _ in range(2)]
        self.clock.advance(0.1)
        first, second = (self.failureResultOf(each, ServerFailure).value for each in waiting)
        self.assertIsNot(first, second)

    def test_a_waiter_that_leaves_leaves_the_others(self) -> None:
        self.names.add("a.test", "A", "192.0.2.1")
        first, second = (as_deferred(self.resolver.query("a.test", A)) for _ in range(2))
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.clock.advance(0.1)
        self.assertIs(self.successResultOf(second).status, Status.FOUND)

    def test_after_the_last_has_left_it_is_asked_anew(self) -> None:
        self.names.add("a.test", "A", "192.0.2.1")
        waiting = as_deferred(self.resolver.query("a.test", A))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertIs(self.ask(self.resolver.query("a.test", A)).status, Status.FOUND)
        self.assertEqual(self.names.asked("a.test"), 2)


class CachingTests(_Simulated):
    def test_by_ttl(self) -> None:
        self.names.add("a.test", "A", "192.0.2.1", ttl=30)
        self.ask(self.resolver.query("a.test", A))
        self.ask(self.resolver.query("a.test", A), 29.0)
        self.assertEqual(self.names.asked("a.test"), 1)
        self.clock.advance(1.0)
        self.ask(self.resolver.query("a.test", A))
        self.assertEqual(self.names.asked("a.test"), 2)

    def test_the_shortest_ttl_of_a_chain_counts(self) -> None:
        self.names.add("a.test", "CNAME", "b.test.", ttl=5)
        self.names.add("b.test", "A", "192.0.2.1", ttl=300)
        for action in (Action.ANSWER, Action.OPEN_ALIAS):
            self.resolver.forget()
            self.names.script("a.test", "A", action)
            answer = self.ask(self.resolver.query("a.test", A))
            self.assertAlmostEqual(answer.expires - self.clock.seconds(), 5.0, places=0)

    def test_a_denial_by_its_soa(self) -> None:
        self.assertIs(self.ask(self.resolver.mx("gone.test")).status, Status.NXDOMAIN)
        self.ask(self.resolver.mx("gone.test"), NEGATIVE_TTL - 1.0)
        self.assertEqual(self.names.asked("gone.test"), 1)
        self.clock.advance(2.0)
        self.ask(self.resolver.mx("gone.test"))
        self.assertEqual(self.names.asked("gone.test"), 2)

    def test_a_failure_for_a_second(self) -> None:
        self.names.script("a.test", "A", Action.SERVFAIL)
        for seconds, asked in ((0.1, 1), (0.5, 1), (0.6, 2)):
            self.clock.advance(seconds)
            waiting = as_deferred(self.resolver.query("a.test", A))
            self.clock.advance(0.01)
            self.failureResultOf(waiting, ServerFailure)
            self.assertEqual(self.names.asked("a.test"), asked)

    def test_an_answer_in_the_cache_is_no_wait(self) -> None:
        self.names.add("a.test", "A", "192.0.2.1")
        self.ask(self.resolver.addresses("a.test"))
        coroutine = self.resolver.addresses("a.test")
        self.assertRaises(StopIteration, coroutine.send, None)


class TwoFamiliesTests(_Simulated):
    """Permanent only when both families said so."""

    def test_every_pair(self) -> None:
        outcomes = {"found": None, "nothing": None, "fails": Action.SERVFAIL, "silent": Action.SILENCE}
        number = 0
        for four in outcomes:
            for six in outcomes:
                number += 1
                name = f"h{number}.test"
                self.names.add(name, "TXT", '"it exists"')
                for kind, outcome, record in (("A", four, "192.0.2.1"), ("AAAA", six, "2001:db8::1")):
                    if outcome == "found":
                        self.names.add(name, kind, record)
                    elif action := outcomes[outcome]:
                        self.names.script(name, kind, action)
                waiting = as_deferred(self.resolver.addresses(name))
                self.clock.advance(6.0)
                if "found" in (four, six):
                    found = self.successResultOf(waiting)
                    self.assertIs(found.status, Status.FOUND)
                    self.assertEqual((bool(found.ipv4), bool(found.ipv6)), (four == "found", six == "found"))
                    self.assertEqual(found.failure is not None, bool({"fails", "silent"} & {four, six}))
                elif (four, six) == ("nothing", "nothing"):
                    self.assertIs(self.successResultOf(waiting).status, Status.NODATA)
                else:
                    self.failureResultOf(waiting, ServerFailure, Timeout)

    def test_neither_exists(self) -> None:
        self.assertIs(self.ask(self.resolver.addresses("gone.test")).status, Status.NXDOMAIN)

    def test_cancelling_cancels_both(self) -> None:
        waiting = as_deferred(self.resolver.addresses("a.test"))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.resolver._flights, {})


LABELS = st.text(st.characters(codec="utf-8", exclude_characters="."), max_size=80)


class NameTests(SynchronousTestCase):
    def test_what_can_be_a_name(self) -> None:
        for text, expected in (
            ("example.org", "example.org."),
            ("_25._tcp.mx.example.org", "_25._tcp.mx.example.org."),
            ("bücher.example", "xn--bcher-kva.example."),
            ("a" * 63 + ".test", "a" * 63 + ".test."),
            ("a" * 64 + ".test", None),
            (".".join(["a" * 60] * 5), None),
            ("", None),
            ("a..b", None),
            (".a", None),
            ("bü cher.example", None),
        ):
            parsed = parse_name(text)
            self.assertEqual(parsed and parsed.to_text(), expected, text)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(LABELS, max_size=6))
    def test_any_text_is_a_name_or_none(self, labels: list[str]) -> None:
        parsed = parse_name(".".join(labels))
        if parsed is not None:
            self.assertTrue(parsed.is_absolute())
            self.assertLessEqual(len(parsed.to_wire() or b""), 255)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.text("abcXYZ019-_", min_size=1, max_size=20), min_size=1, max_size=6))
    def test_an_ascii_name_is_asked_as_it_is(self, labels: list[str]) -> None:
        name = ".".join(labels)
        parsed = parse_name(name)
        assert parsed is not None
        self.assertEqual(parsed.labels, (*(label.encode() for label in labels), b""))
