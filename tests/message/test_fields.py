"""Fields that we write, as others read them."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.fields import WIDTH, field, matching, with_field, with_one, with_tagged_subject
from mailgate.message.header import Header

WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=("Cc", "Zs")), min_size=1, max_size=30)
TEXTS = st.lists(WORDS, min_size=1, max_size=20).map(" ".join)


def read(section: bytes) -> EmailMessage:
    parsed: Any = message_from_bytes(section + b"\r\n", policy=policy.default)
    return parsed


class FieldTests(SynchronousTestCase):
    @settings(max_examples=150, deadline=None)
    @given(TEXTS)
    def test_others_read_what_was_meant(self, text: str) -> None:
        made = field("X-Note", text)
        self.assertTrue(made.isascii())
        self.assertTrue(made.endswith(b"\r\n"))
        (only,) = Header(made).fields
        self.assertEqual(only.name, "x-note")
        self.assertEqual(read(made)["X-Note"], text)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.text("abc", min_size=1, max_size=40), min_size=1, max_size=30).map(" ".join))
    def test_lines_are_short_where_there_is_space(self, text: str) -> None:
        self.assertLessEqual(max(map(len, field("X", text).split(b"\r\n"))), WIDTH)

    def test_a_long_word_stays_whole(self) -> None:
        word = "x" * 200
        self.assertEqual(field("X-Note", word), f"X-Note: {word}\r\n".encode())
        self.assertEqual(field("X-Note", f"a {word} b"), f"X-Note: a\r\n {word}\r\n b\r\n".encode())


SECTION = (
    b"Received: one\r\nX-Spam-Flag: YES\r\nSubject: Hello\r\n\tthere\r\nx-spam-score: 7\r\nX-Spam-Flag : NO\r\nX-Span: 1\r\n"
)


class SectionTests(SynchronousTestCase):
    def test_names(self) -> None:
        header = Header(SECTION + b"no field at all\r\n")
        for names, kept in (
            (("X-Spam-Flag",), ["received", "subject", "x-spam-score", "x-span", ""]),
            (("x-spam-*",), ["received", "subject", "x-span", ""]),
            (("X-Spa*", "Subject"), ["received", ""]),
            (("*",), [""]),
            (("nobody",), [one.name for one in header.fields]),
        ):
            self.assertEqual([one.name for one in Header(header.without(matching(names))).fields], kept, names)

    def test_one_more(self) -> None:
        self.assertEqual(with_field(SECTION, "X-New", "yes"), SECTION + b"X-New: yes\r\n")

    def test_one_in_place_of_all(self) -> None:
        self.assertEqual(
            with_one(SECTION, "X-SPAM-Flag", "MAYBE"),
            b"Received: one\r\nX-SPAM-Flag: MAYBE\r\nSubject: Hello\r\n\tthere\r\nx-spam-score: 7\r\nX-Span: 1\r\n",
        )
        self.assertEqual(with_one(b"A: 1\r\n", "B", "2"), b"A: 1\r\nB: 2\r\n")

    def test_subjects(self) -> None:
        for before, tag, after in (
            (b"Subject: Hello\r\n", "[x]", b"Subject: [x] Hello\r\n"),
            (b"SUBJECT:Hello\r\n", "[x]", b"SUBJECT: [x] Hello\r\n"),
            (b"Subject: [x] Hello\r\n", "[x]", b"Subject: [x] Hello\r\n"),
            (b"Subject: Re: [x] Hello\r\n", "[x]", b"Subject: [x] Re: [x] Hello\r\n"),
            (b"Subject: Hello\r\n there\r\n", "[x]", b"Subject: [x] Hello\r\n there\r\n"),
            (b"Subject:\r\n Hello\r\n", "[x]", b"Subject: [x]\r\n Hello\r\n"),
            (b"Subject:\r\n", "[x]", b"Subject: [x]\r\n"),
            (b"From: a@b.test\r\n", "[x]", b"From: a@b.test\r\nSubject: [x]\r\n"),
            (b"Subject: =?utf-8?q?=C3=BC?=\r\n", "ö", b"Subject: =?utf-8?b?w7Y=?= =?utf-8?q?=C3=BC?=\r\n"),
            (b"Subject: " + b"y" * 70 + b"\r\n", "[x]", b"Subject: [x]\r\n " + b"y" * 70 + b"\r\n"),
        ):
            self.assertEqual(with_tagged_subject(before, tag), after)

    @settings(max_examples=100, deadline=None)
    @given(TEXTS, st.sampled_from(("[external]", "ö:", "two words")))
    def test_a_tag_is_in_front_and_comes_once(self, subject: str, tag: str) -> None:
        once = with_tagged_subject(field("Subject", subject), tag)
        self.assertEqual(with_tagged_subject(once, tag), once)
        self.assertTrue(read(once)["Subject"].startswith(tag))
        self.assertIn(subject.split()[-1], read(once)["Subject"])
