"""Changes of header fields that filters ask for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.edits import Add, BadField, Change, Edit, Insert, RemoveAll, edited, field
from mailgate.message.header import Header

SECTION = b"Received: us\r\nA: 1\r\nB: 2\r\nA: 3\r\n"
NAMES = st.sampled_from([b"A", b"a", b"B", b"Received", b"X-New"])
VALUES = st.binary(max_size=30)
EDITS: st.SearchStrategy[Edit] = st.one_of(
    st.builds(Add, NAMES, VALUES),
    st.builds(Insert, st.integers(0, 6), NAMES, VALUES),
    st.builds(Change, NAMES, st.integers(-3, 4), st.none() | VALUES),
    st.builds(RemoveAll, NAMES),
)


class EditTests(SynchronousTestCase):
    def test_each_kind(self) -> None:
        for edit, expected in (
            (Add(b"C", b"4"), b"Received: us\r\nA: 1\r\nB: 2\r\nA: 3\r\nC: 4\r\n"),
            (Insert(0, b"C", b"4"), b"C: 4\r\nReceived: us\r\nA: 1\r\nB: 2\r\nA: 3\r\n"),
            (Insert(1, b"C", b"4"), b"Received: us\r\nC: 4\r\nA: 1\r\nB: 2\r\nA: 3\r\n"),
            (Insert(9, b"C", b"4"), b"Received: us\r\nA: 1\r\nB: 2\r\nA: 3\r\nC: 4\r\n"),
            (Change(b"a", 2, b"4"), b"Received: us\r\nA: 1\r\nB: 2\r\na: 4\r\n"),
            (Change(b"A", -1, None), b"Received: us\r\nA: 1\r\nB: 2\r\n"),
            (Change(b"A", 3, b"4"), b"Received: us\r\nA: 1\r\nB: 2\r\nA: 3\r\nA: 4\r\n"),
            (Change(b"A", 3, None), SECTION),
            (RemoveAll(b"A"), b"Received: us\r\nB: 2\r\n"),
            (Change(b"Received", 1, None), SECTION),
        ):
            self.assertEqual(edited(SECTION, [[edit]]), expected, edit)

    def test_nothing_moves_what_others_count(self) -> None:
        first: list[Edit] = [Change(b"A", 1, None), Insert(1, b"A", b"mine"), Change(b"A", 1, b"mine, changed")]
        self.assertEqual(
            edited(SECTION, [first, [Change(b"A", 2, b"theirs")], [Insert(2, b"B", b"0")]]),
            b"Received: us\r\nA: mine, changed\r\nB: 0\r\nB: 2\r\nA: theirs\r\n",
        )

    def test_values_are_folds_and_never_lines(self) -> None:
        for value, expected in (
            (b"a\r\nB: c", b"A: a\r\n\tB: c\r\n"),
            (b"a\n\tb", b"A: a\r\n\tb\r\n"),
            (b"a\r\n\r\nbody", b"A: a\r\n\tbody\r\n"),
            (b"\0a\r", b"A: a\r\n"),
            (b"", b"A: \r\n"),
        ):
            self.assertEqual(field(b"A", value), expected)
        for name in (b"", b"A B", b"A:", b"A\r\n", b"\xc3\xa4"):
            self.assertRaises(BadField, field, name, b"x")

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.lists(EDITS, max_size=5), max_size=3))
    def test_whatever_is_asked_for_the_section_stays_one(self, of_filters: list[list[Edit]]) -> None:
        section = edited(SECTION, of_filters)
        fields = Header(section).fields
        self.assertTrue(all(one.name for one in fields), section)
        self.assertNotIn(b"\r\n\r\n", section)
        self.assertEqual(section.count(b"\n"), section.count(b"\r\n"))
        self.assertEqual(section.count(b"\r"), section.count(b"\r\n"))
        self.assertIn(b"Received: us\r\n", section)
