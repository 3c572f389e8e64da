"""SRS: addresses as other implementations make them, and what does not lead back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.mailauth.srs import NotOurs, Rewriter, is_rewritten

NOW = 1_700_000_000.0
DAY = 86400
OURS = Rewriter(["tops3cret"], 21)
FIRST = "SRS0=Mfnq=G3=source.test=ann"
NEXT = "SRS1=M/0k=fwd1.test==Mfnq=G3=source.test=ann"


class SrsTests(SynchronousTestCase):
    def test_as_others_make_them(self) -> None:
        """What pysrs 1.0.3 makes, with the same secret on the same day."""
        self.assertEqual(OURS.forward("ann", "source.test", NOW), FIRST)
        self.assertEqual(OURS.forward(FIRST, "fwd1.test", NOW), NEXT)
        self.assertEqual(OURS.forward(NEXT, "fwd2.test", NOW), NEXT)
        self.assertEqual(OURS.reverse(FIRST, NOW), ("ann", "source.test"))
        self.assertEqual(OURS.reverse(NEXT, NOW), (FIRST, "fwd1.test"))

    def test_hosts_that_change_case_and_other_separators(self) -> None:
        self.assertEqual(OURS.reverse(FIRST.lower(), NOW), ("ann", "source.test"))
        self.assertEqual(OURS.reverse(FIRST.replace("SRS0=", "SRS0+"), NOW), ("ann", "source.test"))
        self.assertTrue(is_rewritten("srs1-x"))
        self.assertFalse(is_rewritten("SRS0"))

    def test_for_so_many_days(self) -> None:
        self.assertEqual(OURS.reverse(FIRST, NOW + 21 * DAY), ("ann", "source.test"))
        for moment in (NOW + 22 * DAY, NOW - DAY, NOW + 1000 * DAY):
            self.assertRaises(NotOurs, OURS.reverse, FIRST, moment)
        later = NOW + 1000 * DAY
        self.assertEqual(OURS.reverse(OURS.forward("ann", "source.test", later), later + 20 * DAY), ("ann", "source.test"))

    def test_a_new_secret(self) -> None:
        both = Rewriter(["n3w-secret", "tops3cret"], 21)
        self.assertEqual(both.reverse(FIRST, NOW), ("ann", "source.test"))
        newer = both.forward("ann", "source.test", NOW)
        self.assertNotEqual(newer, FIRST)
        self.assertRaises(NotOurs, OURS.reverse, newer, NOW)

    def test_what_is_not_ours(self) -> None:
        for address in (
            FIRST.replace("Mfnq", "Mfnr"),
            FIRST.replace("Mfnq", ""),
            FIRST.replace("Mfnq", "Mfn"),
            FIRST.replace("source", "victim"),
            FIRST.replace("=ann", "=ben"),
            FIRST.replace("G3", "G4"),
            NEXT.replace("fwd1", "victim"),
            NEXT.replace("M/0k", "M/0l"),
            "SRS0=Mfnq=G3",
            "SRS1=M/0k=fwd1.test",
            "ann",
        ):
            self.assertRaises(NotOurs, OURS.reverse, address, NOW)

    @settings(max_examples=150, deadline=None)
    @given(st.text("abcXYZ019.=+-_\u00e9", min_size=1, max_size=30), st.from_regex(r"[a-z0-9-]{1,20}\.test", fullmatch=True))
    def test_there_and_back(self, local_part: str, domain: str) -> None:
        if is_rewritten(local_part):
            return
        once = OURS.forward(local_part, domain, NOW)
        self.assertEqual(OURS.reverse(once, NOW), (local_part, domain))
        twice = OURS.forward(once, "first.test", NOW)
        self.assertEqual(OURS.reverse(twice, NOW), (once, "first.test"))

    @settings(max_examples=150, deadline=None)
    @given(st.text(max_size=40))
    def test_no_text_gets_through(self, text: str) -> None:
        for prefix in ("SRS0=", "SRS1="):
            self.assertRaises(NotOurs, OURS.reverse, prefix + text, NOW)
