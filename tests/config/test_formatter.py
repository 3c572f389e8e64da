"""`mailgate fmt` without files: the style, and that it never changes what a file means."""

from __future__ import annotations

import textwrap
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.diagnostics import Report
from mailgate.config.formatter import format_text, shape
from mailgate.config.lexer import Kind, tokenize
from mailgate.config.parser import parse
from mailgate.config.source import Source
from tests.support.examples import complete_examples

ROOT = Path(__file__).parents[2]
EXAMPLES = (Path(__file__).parent / "examples.conf").read_text()

_WORDS = st.sampled_from(
    [
        "a",
        "when",
        "if",
        "$(m)",
        '"quoted text"',
        '"a\n  b"',
        "[1,  2]",
        "f(x,  y)",
        "\\",
        "x#y",
        '"#"',
        "{}",
        "{env:A:-b}",
        "==",
        '"a  b"',
        "then",
        "ä",
        "😀",
        "&ref",
        '"\\""',
        '"{"',
        "c:\\",
        '["a  b", 3]',
        'x=="a',
    ]
)
_NAMES = st.sampled_from(["name", "when", "if", "else", "import", "x.y", "(snip)", "$(m)"])
_SPACES = st.sampled_from([" ", "  ", "\t", " \\\n ", "\\\n", "\u00a0", " \\\r\n\t"])
_ENDS = st.sampled_from(["\n", "\n\n\n", "  # behind\n", "\n  # alone\n", " #\n\n# two\n", "\r\n", " # a\n      # b\n", "\n\f\n"])
_PIECES = st.sampled_from(
    [" ", "\n", "#", '"', "\\", "{", "}", " { ", " }\n", "a", "(", "]", ";", "\r", "# c\n", "\\\n", "when "]
)


@st.composite
def files(draw: st.DrawFn, depth: int = 0) -> str:
    """Files that mostly parse, laid out as badly as possible."""
    text = draw(st.sampled_from(["", "\n", "# first\n", "\n\n   # first\n"]))
    for _ in range(draw(st.integers(0, 4))):
        name = draw(_NAMES)
        words = [name, *(["="] if name == "$(m)" else []), *([] if name == "(snip)" else draw(st.lists(_WORDS, max_size=4)))]
        line = words[0] + "".join(" " + draw(_SPACES) + " " + word for word in words[1:])
        text += draw(st.sampled_from(["", " ", "\t\t", "\\\n"])) + line
        if name != "$(m)" and (name == "(snip)" or (depth < 3 and draw(st.booleans()))):
            text += " {" + draw(st.sampled_from([" ", "\n", " # open\n", "\n\n"])) + draw(files(depth + 1)) + " }"
        text += draw(_ENDS) if depth == 0 or draw(st.booleans()) else " \n"
    return text


def comments(text: str) -> list[str]:
    return [token.text for token in tokenize(Source("x", text), Report()) if token.kind is Kind.COMMENT]


def tree(text: str) -> object:
    return shape(parse(Source("x", text), Report()))


class StyleTests(SynchronousTestCase):
    def assert_formatted(self, before: str, after: str) -> None:
        formatted, diagnostics = format_text(textwrap.dedent(before).lstrip("\n"))
        self.assertEqual(diagnostics, [])
        self.assertEqual(formatted, textwrap.dedent(after).lstrip("\n"))

    def test_indentation_and_spaces(self) -> None:
        self.assert_formatted("a   b\t{\nc {\n  d\n\t}\n }", "a b {\n    c {\n        d\n    }\n}\n")

    def test_one_directive_a_line(self) -> None:
        self.assert_formatted("a { b { c } d }  e { }", "a {\n    b {\n        c\n    }\n    d\n}\ne {\n}\n")

    def test_empty_lines(self) -> None:
        self.assert_formatted("\n\na\n\n\n\nb {\n\n c\n\n}\n\nd\n\n", "a\n\nb {\n    c\n}\n\nd\n")

    def test_comments_behind_neighbouring_lines_share_a_column(self) -> None:
        self.assert_formatted(
            """
            a {     # opens
            b # one
            long word    # two
            c
            d # three

            e e # four
            }  # closes
            """,
            """
            a {  # opens
                b          # one
                long word  # two
                c
                d  # three

                e e  # four
            }  # closes
            """,
        )

    def test_a_very_long_line_does_not_push_the_comments_of_its_neighbours(self) -> None:
        long = "w" * 60
        self.assert_formatted(f"a # x\nb {long}    # y\n", f"a  # x\nb {long}  # y\n")

    def test_a_comment_that_goes_on_stands_under_its_beginning(self) -> None:
        self.assert_formatted(
            "a b      # begins\n         # goes on\n# of its own\nc\n",
            "a b  # begins\n     # goes on\n# of its own\nc\n",
        )

    def test_comments_of_their_own(self) -> None:
        self.assert_formatted("a {\n# in\n  b\n      # end\n}\n# last", "a {\n    # in\n    b\n    # end\n}\n# last\n")

    def test_joined_lines_stay_joined(self) -> None:
        self.assert_formatted("a {\nb c \\\n  d \\\n\te\n}\n", "a {\n    b c \\\n            d \\\n            e\n}\n")

    def test_a_join_that_joins_nothing_goes(self) -> None:
        self.assert_formatted("a b \\\n\nc \\\n{\nd\n}\n", "a b\nc {\n    d\n}\n")

    def test_a_word_that_is_a_backslash_does_not_become_a_join(self) -> None:
        self.assert_formatted("a { b \\ } c\n", "a {\n    b \\  #\n}\nc\n")

    def test_quoted_texts_stay_as_they_are(self) -> None:
        self.assert_formatted('a   "b  \n   c"   d\n', 'a "b  \n   c" d\n')

    def test_expressions(self) -> None:
        self.assert_formatted(
            'when  client_ip   in [10.0.0.0/8,   192.168.0.0/16]   and helo ==  "a   b" {\nx   [1,   2]\n}\n',
            'when client_ip in [10.0.0.0/8, 192.168.0.0/16] and helo == "a   b" {\n    x [1,   2]\n}\n',
        )
        self.assert_formatted(
            "y {\nif  retry_num ==   0 then  a\n  else   b\n}\n", "y {\n    if retry_num == 0 then a\n    else b\n}\n"
        )

    def test_line_ends_and_byte_order_mark(self) -> None:
        self.assert_formatted("\ufeffa {\r\n  b # c\r\n}\r\n", "a {\n    b  # c\n}\n")

    def test_the_examples(self) -> None:
        formatted, _ = format_text(EXAMPLES)
        assert formatted is not None
        self.assertIn("    servers 127.0.0.1:53  # address or address:port\n", formatted)
        self.assertEqual(comments(formatted), comments(EXAMPLES))

    def test_what_does_not_parse_is_not_formatted(self) -> None:
        formatted, diagnostics = format_text("a {\n b;\n", "bad.conf")
        self.assertIsNone(formatted)
        self.assertEqual([str(diagnostic.span) for diagnostic in diagnostics], ["bad.conf:1:3", "bad.conf:2:3"])


class InvariantTests(SynchronousTestCase):
    def assert_invariant(self, text: str) -> bool:
        formatted, diagnostics = format_text(text)
        if formatted is None:
            self.assertTrue(diagnostics)
            return False
        self.assertEqual(tree(formatted), tree(text))
        self.assertEqual(format_text(formatted)[0], formatted)
        self.assertEqual([c for c in comments(formatted) if c != "#"], [c for c in comments(text) if c != "#"])
        self.assertFalse([line for line in formatted.split("\n") if line.isspace()] if '"' not in text else [])
        return True

    @settings(max_examples=200, deadline=None)
    @given(files())
    def test_badly_laid_out_files(self, text: str) -> None:
        self.assert_invariant(text)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(_PIECES | _WORDS, max_size=30).map("".join))
    def test_texts_at_random(self, text: str) -> None:
        self.assert_invariant(text)

    def test_fuzzed_examples(self) -> None:
        parsed = 0
        for seed in range(40):
            random = Random(seed)
            lines = EXAMPLES.split("\n")
            for _ in range(12):
                place = random.randrange(len(lines))
                line = lines[place]
                changes = [
                    line + "  # a comment",
                    "\t" + line,
                    line.replace(" ", "   "),
                    line + "\n\n\n",
                    line.strip(),
                    "# alone\n" + line,
                ]
                lines[place] = random.choice([*changes, line.replace(" ", " \\\n", 1) if "#" not in line else line])
            parsed += self.assert_invariant("\n".join(lines))
        self.assertGreater(parsed, 25)


class OurFilesTests(SynchronousTestCase):
    def test_the_files_we_ship_are_in_the_style(self) -> None:
        files = [*(ROOT / "etc").rglob("*.conf"), *(ROOT / "docs").rglob("*.conf")]
        self.assertTrue(files)
        for path in files:
            self.assertEqual(format_text(path.read_text(), str(path))[0], path.read_text(), path)

    def test_the_examples_of_the_pages_are_in_the_style(self) -> None:
        for path, text in complete_examples():
            self.assertEqual(format_text(text, str(path))[0], text, path.name)
