"""DMARC: records, alignment, and what a domain may ask for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from publicsuffixlist import PublicSuffixList
from twisted.trial.unittest import SynchronousTestCase

from mailgate.mailauth.dmarc import Evidence, Judged, Outcome, Policy, Record, Wish, choose, evaluate, is_aligned, sampled

SUFFIXES = PublicSuffixList()


def organizational(domain: str) -> str:
    return SUFFIXES.privatesuffix(domain) or domain


class RecordTests(SynchronousTestCase):
    def test_records(self) -> None:
        reject = Record(Wish.REJECT, Wish.REJECT)
        for text, record in {
            b"v=DMARC1; p=reject": reject,
            b"v=DMARC1;p=REJECT;": reject,
            b"v = DMARC1 ; p = reject ; x=y": reject,
            b"v=DMARC1; p=none; sp=quarantine": Record(Wish.NONE, Wish.QUARANTINE),
            b"v=DMARC1; p=quarantine; adkim=s; aspf=s; pct=20": Record(Wish.QUARANTINE, Wish.QUARANTINE, True, True, 20),
            b"v=DMARC1; p=reject; pct=101": reject,
            b"v=DMARC1; p=reject; pct=x": reject,
            b"v=DMARC1; p=reject; rua=mailto:a@x.test!10m, https://x.test, mailto:b@x.test": Record(
                Wish.REJECT, Wish.REJECT, reports_to=("mailto:a@x.test!10m", "mailto:b@x.test")
            ),
            b"v=DMARC1; p=maybe; rua=mailto:a@x.test": Record(Wish.NONE, Wish.NONE, reports_to=("mailto:a@x.test",)),
            b"v=DMARC1; rua=mailto:a@x.test": Record(Wish.NONE, Wish.NONE, reports_to=("mailto:a@x.test",)),
            b"v=DMARC1; p=reject; sp=maybe; rua=mailto:a@x.test": Record(Wish.NONE, Wish.NONE, reports_to=("mailto:a@x.test",)),
            b"v=DMARC1; p=maybe": None,
            b"v=DMARC1": None,
            b"v=DMARC1; p=reject; p=none": None,
            b"v=DMARC1; p=reject\xff": None,
            b"v=dmarc1; p=reject": None,
            b"p=reject; v=DMARC1": None,
            b"v=DMARC12; p=reject": None,
            b"v=spf1 -all": None,
        }.items():
            self.assertEqual(choose([text]), record, text)

    def test_of_several_none_holds(self) -> None:
        self.assertIsNone(choose([b"v=DMARC1; p=reject", b"v=DMARC1; p=none"]))
        self.assertEqual(choose([b"other", b"v=DMARC1; p=reject"]), Record(Wish.REJECT, Wish.REJECT))
        self.assertIsNone(choose([]))

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=80))
    def test_no_text_does_harm(self, text: bytes) -> None:
        choose([b"v=DMARC1;" + text])


ALIGNMENT = """
    example.org          example.org         strict relaxed
    mail.example.org     example.org         -      relaxed
    example.org          mail.example.org    -      relaxed
    a.example.org        b.example.org       -      relaxed
    a.b.c.example.org    example.org         -      relaxed
    example.net          example.org         -      -
    notexample.org       example.org         -      -
    example.org.evil     example.org         -      -
    example.co.uk        other.co.uk         -      -
    a.example.co.uk      example.co.uk       -      relaxed
    co.uk                example.co.uk       -      -
    org                  example.org         -      -
    co.uk                co.uk               strict relaxed
    one.github.io        two.github.io       -      -
    a.one.github.io      one.github.io       -      relaxed
    xn--bcher-kva.de     xn--bcher-kva.de    strict relaxed
    a.xn--bcher-kva.de   xn--bcher-kva.de    -      relaxed
    host.unlisted        other.unlisted      -      -
    a.host.unlisted      host.unlisted       -      relaxed
"""


class AlignmentTests(SynchronousTestCase):
    def test_the_table(self) -> None:
        for line in ALIGNMENT.strip().splitlines():
            domain, author, strict, relaxed = line.split()
            self.assertEqual(is_aligned(domain, author, organizational, strict=True), strict == "strict", line)
            self.assertEqual(is_aligned(domain, author, organizational, strict=False), relaxed == "relaxed", line)

    def test_no_domain_is_aligned_with_nothing(self) -> None:
        self.assertFalse(is_aligned("", "example.org", organizational, strict=False))


def judged(
    record: Record, *, spf: Evidence | None = None, dkim: tuple[Evidence, ...] = (), author: str = "example.org", at: str = ""
) -> Judged:
    return evaluate(Policy(record, at or author, author), spf, dkim, organizational)


class EvaluationTests(SynchronousTestCase):
    record = Record(Wish.REJECT, Wish.QUARANTINE)
    good, below = Evidence("example.org", True), Evidence("mail.example.org", True)
    bad, unknown = Evidence("example.org", False), Evidence("example.org", False, unanswered=True)
    other, other_unknown = Evidence("other.test", True), Evidence("other.test", False, unanswered=True)

    def test_one_of_both_is_enough(self) -> None:
        passed = Outcome.PASS, Wish.NONE
        for spf, dkim, expected in (
            (self.good, (), (*passed, True, False)),
            (None, (self.good,), (*passed, False, True)),
            (self.below, (self.below,), (*passed, True, True)),
            (self.bad, (self.other, self.bad, self.good), (*passed, False, True)),
            (self.unknown, (self.good,), (*passed, False, True)),
            (self.other, (self.other,), (Outcome.FAIL, Wish.REJECT, False, False)),
            (None, (), (Outcome.FAIL, Wish.REJECT, False, False)),
            (self.other_unknown, (self.bad,), (Outcome.FAIL, Wish.REJECT, False, False)),
            (self.unknown, (self.bad,), (Outcome.TEMPERROR, Wish.NONE, False, False)),
            (self.bad, (self.unknown,), (Outcome.TEMPERROR, Wish.NONE, False, False)),
        ):
            found = judged(self.record, spf=spf, dkim=dkim)
            self.assertEqual((found.outcome, found.wish, found.spf_aligned, found.dkim_aligned), expected, (spf, dkim))

    def test_strict(self) -> None:
        strict = Record(Wish.REJECT, Wish.REJECT, strict_dkim=True)
        self.assertIs(judged(strict, dkim=(self.below,)).outcome, Outcome.FAIL)
        self.assertIs(judged(strict, spf=self.below).outcome, Outcome.PASS)
        strict = Record(Wish.REJECT, Wish.REJECT, strict_spf=True)
        self.assertIs(judged(strict, dkim=(self.below,)).outcome, Outcome.PASS)
        self.assertIs(judged(strict, spf=self.below).outcome, Outcome.FAIL)

    def test_below_the_domain_that_has_the_record(self) -> None:
        self.assertIs(judged(self.record, author="mail.example.org", at="example.org").wish, Wish.QUARANTINE)
        self.assertIs(judged(self.record, author="mail.example.org").wish, Wish.REJECT)

    def test_not_for_every_message(self) -> None:
        for wish, milder in ((Wish.REJECT, Wish.QUARANTINE), (Wish.QUARANTINE, Wish.NONE)):
            failed = Judged(Outcome.FAIL, wish)
            self.assertEqual(sampled(failed, 20, 0.19), failed)
            self.assertEqual(sampled(failed, 20, 0.2), Judged(Outcome.FAIL, milder, sampled_out=True))
            self.assertEqual(sampled(failed, 100, 0.999999), failed)
            self.assertTrue(sampled(failed, 0, 0.0).sampled_out)
        passed = Judged(Outcome.PASS)
        self.assertIs(sampled(passed, 0, 0.5), passed)
