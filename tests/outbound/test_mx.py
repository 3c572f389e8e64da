"""MX records, addresses, sources: the decisions of direct delivery as tables."""

from __future__ import annotations

from random import Random

import dns.rdata
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.dns.answer import Answer, Status
from mailgate.outbound.ip_strategy import IpStrategy, in_order
from mailgate.outbound.mx import LOOPS_BACK, NO_SUCH_DOMAIN, NULL_MX, exchanges, refusal_of
from mailgate.outbound.sources import SYSTEM, Selection, Source, Turns, choose
from mailgate.smtp.reply import MailError

US = frozenset({"mx.us.test"})


def mx(*records: str, status: Status = Status.FOUND) -> Answer:
    return Answer("d.test", "MX", status, tuple(dns.rdata.from_text("IN", "MX", record) for record in records), "d.test")


class ExchangesTests(SynchronousTestCase):
    def hosts(self, *records: str, seed: int = 1) -> list[str]:
        return [exchange.host for exchange in exchanges(mx(*records), US, Random(seed)).hosts]

    def refused(self, answer: Answer) -> object:
        return self.assertRaises(MailError, exchanges, answer, US, Random(1)).reply

    def test_by_preference(self) -> None:
        self.assertEqual(self.hosts("30 c.test.", "10 A.test.", "20 b.test."), ["a.test", "b.test", "c.test"])

    def test_equal_preferences_are_shuffled(self) -> None:
        orders = {tuple(self.hosts("10 a.test.", "10 b.test.", "20 c.test.", seed=seed)) for seed in range(30)}
        self.assertEqual(orders, {("a.test", "b.test", "c.test"), ("b.test", "a.test", "c.test")})

    def test_without_records_the_domain_itself(self) -> None:
        found = exchanges(mx(status=Status.NODATA), US, Random(1))
        self.assertEqual(([exchange.host for exchange in found.hosts], found.implicit), (["d.test"], True))

    def test_no_such_domain(self) -> None:
        self.assertEqual(self.refused(mx(status=Status.NXDOMAIN)), NO_SUCH_DOMAIN)

    def test_null_mx(self) -> None:
        self.assertEqual(self.refused(mx("0 .")), NULL_MX)
        self.assertEqual(self.refused(mx("10 .")), NULL_MX)
        self.assertEqual(str(NULL_MX), "556 5.1.10 This domain takes no mail")

    def test_a_null_mx_beside_others_says_nothing(self) -> None:
        self.assertEqual(self.hosts("0 .", "10 a.test."), ["a.test"])

    def test_we_and_what_is_behind_us_are_left_out(self) -> None:
        for records, expected in (
            (("10 a.test.", "20 mx.us.test.", "30 c.test."), ["a.test"]),
            (("10 a.test.", "20 MX.us.test.", "20 b.test."), ["a.test"]),
            (("10 a.test.", "20 b.test."), ["a.test", "b.test"]),
        ):
            self.assertEqual(self.hosts(*records), expected)

    def test_mail_that_leads_back_to_us(self) -> None:
        for records in (("10 mx.us.test.",), ("10 mx.us.test.", "10 b.test."), ("10 mx.us.test.", "20 b.test.")):
            self.assertEqual(self.refused(mx(*records)), LOOPS_BACK)
        self.assertEqual((LOOPS_BACK.code, LOOPS_BACK.enhanced), (554, "5.4.6"))

    def test_a_host_named_twice_is_tried_once(self) -> None:
        self.assertEqual(self.hosts("20 a.test.", "10 a.test.", "15 b.test."), ["a.test", "b.test"])


class RefusedAddressTests(SynchronousTestCase):
    def test_addresses(self) -> None:
        for address, refused in (
            ("192.0.2.1", False),
            ("2001:db8::1", False),
            ("10.0.0.1", False),
            ("127.0.0.1", True),
            ("127.8.8.8", True),
            ("::1", True),
            ("::ffff:127.0.0.1", True),
            ("0.0.0.0", True),
            ("::", True),
            ("224.0.0.1", True),
            ("ff02::1", True),
            ("255.255.255.255", True),
            ("198.51.100.7", True),
            ("::ffff:198.51.100.7", True),
        ):
            self.assertEqual(bool(refusal_of(address, {"198.51.100.7"}.__contains__)), refused, address)

    def test_allow_loopback(self) -> None:
        for address, refused in (
            ("127.0.0.1", False),
            ("::1", False),
            ("198.51.100.7", False),
            ("224.0.0.1", True),
            ("::", True),
        ):
            self.assertEqual(bool(refusal_of(address, lambda _: True, allow_loopback=True)), refused, address)


class IpStrategyTests(SynchronousTestCase):
    def test_table(self) -> None:
        for strategy, ipv4, ipv6, limit, expected in (
            ("ipv4_only", "ab", "xy", 2, "ab"),
            ("ipv4_only", "", "xy", 2, ""),
            ("ipv6_only", "ab", "xy", 1, "x"),
            ("ipv4_then_ipv6", "ab", "xy", 4, "abxy"),
            ("ipv4_then_ipv6", "ab", "xy", 3, "abx"),
            ("ipv4_then_ipv6", "ab", "xy", 2, "ax"),
            ("ipv4_then_ipv6", "ab", "xy", 1, "a"),
            ("ipv4_then_ipv6", "ab", "", 2, "ab"),
            ("ipv4_then_ipv6", "", "xy", 2, "xy"),
            ("ipv4_then_ipv6", "a", "xy", 2, "ax"),
            ("ipv6_then_ipv4", "ab", "xyz", 3, "xya"),
            ("ipv6_then_ipv4", "ab", "xy", 1, "x"),
            ("happy_eyeballs", "ab", "xyz", 5, "xaybz"),
            ("happy_eyeballs", "ab", "x", 2, "xa"),
            ("happy_eyeballs", "ab", "", 2, "ab"),
        ):
            self.assertEqual("".join(in_order(IpStrategy(strategy), ipv4, ipv6, limit)), expected, (strategy, ipv4, ipv6, limit))

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(IpStrategy), st.integers(0, 5), st.integers(0, 5), st.integers(1, 8))
    def test_always(self, strategy: IpStrategy, four: int, six: int, limit: int) -> None:
        ipv4, ipv6 = [f"10.0.0.{n}" for n in range(four)], [f"2001:db8::{n}" for n in range(six)]
        chosen = in_order(strategy, ipv4, ipv6, limit)
        self.assertLessEqual(len(chosen), limit)
        self.assertEqual(len(set(chosen)), len(chosen))
        if strategy not in (IpStrategy.IPV4_ONLY, IpStrategy.IPV6_ONLY):
            self.assertEqual(len(chosen), min(four + six, limit))
            if four and six and limit >= 2:
                self.assertEqual({":" in address for address in chosen}, {True, False})


FOUR = (Source("192.0.2.1", "a.test"), Source("192.0.2.2"))
SIX = (Source("2001:db8::1"),)


class SourceTests(SynchronousTestCase):
    def choose(self, sources: tuple[Source, ...], remote: str, selection: str = "random", **options: object) -> Source | None:
        turns = options.pop("turns", Turns())
        return choose(sources, remote, Selection(selection), random=Random(1), turns=turns, **options)  # type: ignore[arg-type]

    def test_of_the_family(self) -> None:
        for sources, remote, fallback, expected in (
            ((), "198.51.100.1", False, {SYSTEM}),
            (FOUR, "198.51.100.1", False, set(FOUR)),
            (FOUR + SIX, "2001:db8::9", False, set(SIX)),
            (FOUR, "2001:db8::9", False, {None}),
            (FOUR, "2001:db8::9", True, {SYSTEM}),
        ):
            self.assertIn(self.choose(sources, remote, fallback=fallback), expected)

    def test_at_random(self) -> None:
        random = Random(5)
        chosen = [choose(FOUR, "198.51.100.1", Selection.RANDOM, random=random, turns=Turns()) for _ in range(200)]
        self.assertGreater(min(chosen.count(source) for source in FOUR), 60)

    def test_in_turn(self) -> None:
        turns = Turns()
        chosen = [self.choose(FOUR + SIX, "198.51.100.1", "round_robin", turns=turns) for _ in range(4)]
        self.assertEqual(chosen, [*FOUR, *FOUR])

    def test_by_hash(self) -> None:
        many = tuple(Source(f"192.0.2.{n}") for n in range(1, 6))
        first = {text: self.choose(many, "198.51.100.1", "hash", text=text) for text in map(str, range(100))}
        self.assertEqual(set(first.values()), set(many))
        for text, source in first.items():
            after = self.choose(many[:4], "198.51.100.1", "hash", text=text)
            if source != many[4]:
                self.assertEqual(after, source)
