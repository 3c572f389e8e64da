"""One letter missing, everywhere: of each keyword and each word of a closed set in our example files, the middle letter is
dropped, one at a time. All must be found where they stand, and nearly always the right word is the first suggestion.

HAProxy, the best of its kind, finds the line of all and suggests 94 % of the keywords; others suggest nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailgate.config import load
from mailgate.config.diagnostics import Diagnostic, Report
from mailgate.config.lexer import Token
from mailgate.config.parser import Node, parse
from mailgate.config.source import Source
from mailgate.registry import build
from mailgate.registry.outline import outline
from tests.support.examples import ROOT, complete_examples, reference_files

KEYWORDS = 0.95
VALUES = 0.90


@dataclass(frozen=True)
class Typo:
    path: Path
    text: str
    line: int
    column: int
    right: str

    @property
    def wrong(self) -> str:
        return without_middle(self.right)


def without_middle(word: str) -> str:
    return word[: len(word) // 2] + word[len(word) // 2 + 1 :]


def typos_of(path: Path) -> tuple[list[Typo], list[Typo]]:
    """Of the keywords, and of the words of closed sets."""
    source = Source(str(path), path.read_text())
    loaded = load(str(path), environment={})
    keywords: dict[int, Token] = {}
    values: dict[int, Token] = {}
    for row in outline(loaded.tree):
        keywords[row.node.name.span.start] = row.node.name
        keywords.update({used.word.span.start: used.word for used in row.modules})
        values.update({word.span.start: word for word, _ in row.choices})
    keywords.update({node.name.span.start: node.name for node in _imports(parse(source, Report()))})
    found = []
    for words in (keywords, values):
        typos = []
        for start, word in words.items():
            written = word.span.text
            if word.span.path == str(path) and len(written) > 1:
                place = start + len(written) // 2
                broken = source.text[:place] + source.text[place + 1 :]
                typos.append(Typo(path, broken, word.span.line, word.span.column, written))
        found.append(typos)
    return found[0], found[1]


def _imports(nodes: list[Node]) -> Iterator[Node]:
    for node in nodes:
        if node.name.text == "import":
            yield node
        yield from _imports(node.block or [])


class TypoTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp())
        files = reference_files(directory)
        texts = [(path.name, path.read_text()) for path in sorted((ROOT / "etc").glob("*.conf"))]
        # A key made anew for each typo would take most of the time.
        texts = [(name, text.replace("tls self_signed", "tls off")) for name, text in texts]
        texts += [(f"{number}-{page.stem}.conf", text) for number, (page, text) in enumerate(complete_examples())]
        for name, text in texts:
            files.append(directory / name)
            files[-1].write_text(text)
        found = [typos_of(path) for path in files]
        self.keywords = [typo for keywords, _ in found for typo in keywords]
        self.values = [typo for _, values in found for typo in values]

    def judge(self, typos: list[Typo]) -> tuple[list[str], list[str]]:
        """Those that were not found where they stand, and those whose first suggestion is wrong."""
        missed, misled = [], []
        for typo in typos:
            typo.path.write_text(typo.text)
            errors = [found for found in build(typo.path, environment={}).diagnostics if found.is_error]
            here = [error for error in errors if str(error.span) == f"{typo.path}:{typo.line}:{typo.column}"]
            shown = f"{typo.path.name}:{typo.line}:{typo.column} {typo.right} → {typo.wrong}"
            if not here:
                missed.append(f"{shown}: {[str(error) for error in errors]}")
            elif not any(suggests(error, typo.right) for error in here):
                misled.append(f"{shown}: {[error.hint for error in here]}")
        return missed, misled

    def test_keywords(self) -> None:
        missed, misled = self.judge(self.keywords)
        self.assertGreater(len(self.keywords), 250)
        self.assertEqual(missed, [])
        self.assertLessEqual(len(misled) / len(self.keywords), 1 - KEYWORDS, "\n".join(misled))

    def test_words_of_closed_sets(self) -> None:
        missed, misled = self.judge(self.values)
        self.assertGreater(len(self.values), 40)
        self.assertEqual(missed, [])
        self.assertLessEqual(len(misled) / len(self.values), 1 - VALUES, "\n".join(misled))


def suggests(error: Diagnostic, word: str) -> bool:
    return error.hint.startswith(f"did you mean `{word}`")
