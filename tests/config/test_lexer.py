"""Text to tokens, in tables: what comes out, and what is said of what can't be meant."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.diagnostics import Report
from mailgate.config.lexer import Kind, tokenize
from mailgate.config.source import Source

# Text → words (quoted ones in « »), structure as itself, ↵ for a line's end.
TOKENS = [
    ("", ""),
    ("a b\tc", "a b c"),
    ("a\r\nb\n", "a ↵ b ↵"),
    ("\ufeffa b", "a b"),
    ("a\u00a0b", "a b"),
    ('a "b c" d', "a «b c» d"),
    ('"" a', "«» a"),
    ('"a\nb" c', "«a\nb» c"),
    ('"a\r\nb"', "«a\nb»"),
    (r'"say \"hi\""', '«say "hi"»'),
    (r'"C:\x" "\\" "a\\b"', r"«C:\x» «\\» «a\\b»"),
    ('a"b c', 'a"b c'),
    ("a # b", "a #"),
    ("pass#word #x", "pass#word #"),
    ('"a" # b', "«a» #"),
    ('"#a" "{" "}"', "«#a» «{» «}»"),
    ("# only\na", "# ↵ a"),
    ("a { b c }", "a { b c }"),
    ("a { b { c d } }", "a { b { c d } }"),
    ('a "b"{', "a «b» {"),
    ('a { b "c"}', "a { b «c» }"),
    ("a \\\n b", "a \\ b"),
    ("a \\  \n b", "a \\ b"),
    ("a \\ b", "a \\ b"),
    ("a b\\\nc", "a b\\ ↵ c"),
    ("{env:HOME} x{2} a{1,2}b {key}", "{env:HOME} x{2} a{1,2}b {key}"),
    ("$(a)-$(b)", "$(a)-$(b)"),
    ("tcp://[::1]:25", "tcp://[::1]:25"),
    ("in [10.0.0.0/8, 192.168.0.0/16] and", "in [10.0.0.0/8, 192.168.0.0/16] and"),
    ('header("X, y") == "a"', 'header("X, y") == «a»'),
    ('in ["a", "b"] {', 'in ["a", "b"] {'),
    ('f("a)", (1 + 2)) x', 'f("a)", (1 + 2)) x'),
    ("[a # b, c] d", "[a # b, c] d"),
    ("a) b]", "a) b]"),
    ("^(.+)@x$ $1", "^(.+)@x$ $1"),
]

# Text → (line, column, length, code) of each mistake, and the tokens it is read as.
MISTAKES = [
    ('a "b', [(1, 3, 1, "E0103")], "a «b»"),
    ('a "b {\nc\n}', [(1, 3, 1, "E0103")], "a «b» { ↵ c ↵ }"),
    ('a "b\nc "d"', [(1, 3, 1, "E0103")], "a «b» ↵ c «d»"),
    ('a "b"c d', [(1, 6, 1, "E0104")], "a «b» d"),
    ("a (b c", [(1, 3, 1, "E0105")], "a (b c"),
    ("a [(b] c", [(1, 3, 1, "E0105")], "a [(b] c"),
    ('a ["b c', [(1, 3, 1, "E0105")], 'a ["b c'),
    ("a b;", [(1, 4, 1, "E0106")], "a b ↵"),
    ("a; b", [(1, 2, 1, "E0106")], "a ↵ b"),
    ("a {\n};", [(2, 2, 1, "E0106")], "a { ↵ } ↵"),
    ("a{\nb\n}", [(1, 2, 1, "E0107")], "a { ↵ b ↵ }"),
    ("a tcp://x:25{", [(1, 13, 1, "E0107")], "a tcp://x:25 {"),
    ("a { b c}", [(1, 8, 1, "E0107")], "a { b c }"),
    ("a {b c }", [(1, 3, 1, "E0107")], "a { b c }"),
    ("a\x00b", [(1, 2, 1, "E0108")], "a\x00b"),
    ("a\rb", [(1, 2, 1, "E0108")], "a b"),
    ("a \u202eb", [(1, 3, 1, "E0108")], "a \u202eb"),
]


def lex(text: str) -> tuple[str, Report, Source]:
    report, source = Report(), Source("test.conf", text)
    shown = []
    for token in tokenize(source, report):
        if token.kind is Kind.END:
            continue
        shapes = {Kind.NEWLINE: "↵", Kind.COMMENT: "#", Kind.JOIN: "\\"}
        shown.append(shapes.get(token.kind, f"«{token.text}»" if token.quoted else token.text))
    return " ".join(shown), report, source


class LexerTests(SynchronousTestCase):
    def test_tokens(self) -> None:
        for text, expected in TOKENS:
            shown, report, _ = lex(text)
            self.assertEqual((shown, report.diagnostics), (expected, []), repr(text))

    def test_mistakes_are_placed_and_read_as_meant(self) -> None:
        for text, places, expected in MISTAKES:
            shown, report, _ = lex(text)
            found = [(d.span.line, d.span.column, d.span.length, d.code) for d in report.diagnostics if d.span]
            self.assertEqual((found, shown), (places, expected), repr(text))

    def test_a_comment_is_kept_whole_with_its_place(self) -> None:
        source = Source("test.conf", "a # one  \n  # two")
        comments = [token for token in tokenize(source, Report()) if token.kind is Kind.COMMENT]
        self.assertEqual(
            [(token.text, token.span.line, token.span.column) for token in comments], [("# one", 1, 3), ("# two", 2, 3)]
        )

    @given(st.text(alphabet='ab"\\{}()[]#;$ \n\r\t=é', max_size=60))
    @settings(max_examples=200, deadline=None)
    def test_every_token_is_where_its_span_says_and_in_order(self, text: str) -> None:
        source = Source("test.conf", text)
        position = 0
        for token in tokenize(source, Report()):
            self.assertGreaterEqual(token.span.start, position)
            self.assertGreaterEqual(token.span.end, token.span.start)
            self.assertEqual(source.locate(token.span.start), (token.span.line, token.span.column))
            if token.kind is Kind.WORD and not token.quoted:
                self.assertEqual(token.span.text, token.text)
            position = token.span.end

    @given(
        st.lists(
            st.text(min_size=1, max_size=8).filter(lambda t: not any(c in t for c in '\\\r"') and t.isprintable()), min_size=1
        )
    )
    @settings(max_examples=100, deadline=None)
    def test_whatever_is_quoted_comes_back(self, words: list[str]) -> None:
        report = Report()
        text = " ".join('"' + word + '"' for word in words)
        tokens = tokenize(Source("test.conf", text), report)
        self.assertEqual([token.text for token in tokens[:-1]], words)
        self.assertEqual(report.diagnostics, [])
