"""Replies on the wire."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp.reply import MAX_TEXT_LINE, Reply, _encode, split_enhanced


class Encoding(SynchronousTestCase):
    def test_table(self) -> None:
        for reply, written in (
            (Reply(250, "2.0.0", "Ok"), b"250 2.0.0 Ok\r\n"),
            (Reply(250, "2.0.0"), b"250 2.0.0\r\n"),
            (Reply(354, "", "Go"), b"354 Go\r\n"),
            (Reply(250), b"250\r\n"),
            (Reply(550, "5.1.1", "two\nlines"), b"550-5.1.1 two\r\n550 5.1.1 lines\r\n"),
            (Reply(550, "5.1.1", "a\rb\0c\x7f"), b"550 5.1.1 a?b?c?\r\n"),
            (Reply(550, "5.1.1", "für"), b"550 5.1.1 f?r\r\n"),
        ):
            self.assertEqual(reply.encode(), written)
        self.assertEqual(Reply(550, "5.1.1", "für").encode(utf8=True), "550 5.1.1 für\r\n".encode())
        self.assertEqual(Reply(250, "2.0.0", "Ok").encode(enhanced=False), b"250 Ok\r\n")

    def test_long_texts_are_wrapped(self) -> None:
        written = Reply(550, "5.1.1", "word " * 300).encode()
        lines = written.split(b"\r\n")
        self.assertEqual(lines.pop(), b"")
        self.assertTrue(all(len(line) < 511 for line in lines))
        self.assertTrue(all(line.startswith(b"550-5.1.1 ") for line in lines[:-1]))
        self.assertTrue(lines[-1].startswith(b"550 5.1.1 "))

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=MAX_TEXT_LINE + 5), st.sampled_from(["", "5.1.1"]), st.booleans(), st.booleans())
    def test_the_short_way_says_the_same(self, text: str, status: str, enhanced: bool, utf8: bool) -> None:
        reply = Reply(550, status, text)
        written = reply.encode(enhanced=enhanced, utf8=utf8)
        self.assertEqual(written, _encode(reply, enhanced, utf8))
        self.assertTrue(all(len(line) <= 510 and line.startswith(b"550") for line in written.split(b"\r\n")[:-1]))
        self.assertNotIn(b"\r", written.replace(b"\r\n", b""))
        self.assertNotIn(b"\n", written.replace(b"\r\n", b""))

    def test_enhanced_codes_are_taken_out_of_text(self) -> None:
        self.assertEqual(split_enhanced(550, "5.1.1 unknown"), ("5.1.1", "unknown"))
        self.assertEqual(split_enhanced(550, "2.1.5 odd"), ("", "odd"))
        self.assertEqual(split_enhanced(550, "just text"), ("", "just text"))
