"""One style for every file: `mailgate fmt`, and formatting in editors.

Four spaces a block, one directive a line, the braces of a block on its first and last line; at most one empty line in a row,
none at the edges of a block or file. Words stay as they were written, one space between them; an expression (`when`, `if`,
`else`) keeps its text but for runs of spaces outside of strings. A ``\\`` that joins two lines stays where the writer put it,
the second line eight spaces in.

Comments are kept word for word. One behind a directive stands two spaces behind it, those of neighbouring lines in one column;
one on a line of its own is indented like its block, or, if it goes on from the one above, stands under it.

A text that does not parse is not formatted. What comes out is parsed again and compared, so that a mistake of ours can never
change what a file means; formatting twice changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from mailgate.config.diagnostics import Diagnostic, Report
from mailgate.config.lexer import Kind, Token, tokenize
from mailgate.config.parser import Node, parse
from mailgate.config.source import Source

INDENT = "    "
GAP = 2
"""Spaces before a comment behind a directive."""

MAX_SHIFT = 30
"""Comments of neighbouring lines share a column unless the lines' lengths differ by more."""

EXPRESSIONS = frozenset({"when", "if", "else"})
"""Directives whose words are an expression: spaces mean nothing there outside of strings."""

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_STRING_OR_SPACE = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")|\s+', re.DOTALL)
_JOINED = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")|(?<!\S)\\[^\S\n]*\n', re.DOTALL)


class Unstable(Exception):
    """The formatted text would mean something else. A bug of this file; the text is left alone."""


def format_text(text: str, path: str = "<text>") -> tuple[str | None, list[Diagnostic]]:
    """The text in the one style, and no diagnostics; or None and why it does not parse.

    :raises Unstable: our own bug.
    """
    report = Report()
    source = Source(path, text)
    before = parse(source, report)
    if report.error_count:
        return None, report.diagnostics
    formatted = _Layout(tokenize(source, Report())).text()
    again = Report()
    after = parse(Source(path, formatted), again)
    if again.error_count or shape(before) != shape(after):
        raise Unstable(path)
    return formatted, []


def shape(nodes: list[Node]) -> list[Any]:
    """What a tree means, without places: what formatting must not change."""
    return [(node.kind, node.name.text, _words(node), None if node.block is None else shape(node.block)) for node in nodes]


def _words(node: Node) -> Any:
    source = node.name.span.source
    if node.name.text in EXPRESSIONS and node.arguments and source is not None:
        raw = source.text[node.arguments[0].span.start : node.last.end]
        return one_spaced(_JOINED.sub(lambda match: match.group(1) or " ", raw))
    return [(word.text, word.quoted) for word in node.arguments]


def one_spaced(expression: str) -> str:
    """An expression with one space for every run of them outside of its strings."""
    return _STRING_OR_SPACE.sub(lambda match: match.group(1) or " ", expression).replace("\r\n", "\n")


@dataclass(slots=True)
class _Line:
    """One line to be: ``follows`` a comment that goes on from the line above; ``width`` of the text's last line."""

    depth: int
    text: str = ""
    comment: str = ""
    blank_before: bool = False
    follows: bool = False
    column: int = field(default=0)

    @property
    def width(self) -> int:
        indent = len(INDENT) * self.depth
        _, newline, last = self.text.rpartition("\n")
        return len(last) if newline else indent + len(last)


class _Layout:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.lines: list[_Line] = []
        self.depth = 0
        self.words: list[list[Token]] = []
        """Of the directive at hand, by the lines that the writer joined."""
        self.joined = False
        self.newlines = 0
        self.comment_column = 0
        """Where in the source the comment of the last line began; 0 if it has none."""

    def text(self) -> str:
        for token in self.tokens:
            if token.kind is Kind.WORD:
                self._word(token)
            elif token.kind is Kind.JOIN:
                self.joined = bool(self.words)
            elif token.kind is Kind.COMMENT:
                self._comment(token)
            elif token.kind is Kind.OPEN:
                self._directive(" {")
                self.depth += 1
            elif token.kind is Kind.CLOSE:
                self._directive()
                self.depth -= 1
                self._add("}", blank=False)
            else:
                self._directive()
                self.newlines += 1
        for line in self.lines:
            if not line.comment and line.text.endswith(" \\"):
                line.comment = "#"  # a lone backslash that ended its line would join the next
        _align(self.lines)
        return "".join(map(_written, self.lines))

    def _word(self, token: Token) -> None:
        if not self.words or self.joined:
            self.words.append([])
        self.joined = False
        self.words[-1].append(token)

    def _comment(self, token: Token) -> None:
        column = token.span.column
        if self.words:
            self._directive()
        if self.lines and not self.newlines and not self.lines[-1].comment:
            self.lines[-1].comment = token.text
            self.comment_column = column
        elif self.lines and self.newlines == 1 and column == self.comment_column:
            self.lines.append(_Line(self.depth, comment=token.text, follows=True))
            self.newlines = 0
        else:
            self._add(token.text)

    def _directive(self, end: str = "") -> None:
        """The words gathered become a line."""
        if not self.words:
            return
        if self.words[0][0].text in EXPRESSIONS:
            parts = _expression(self.words)
        else:
            parts = [" ".join(word.span.text.replace("\r\n", "\n") for word in part) for part in self.words]
        self._add(f" \\\n{INDENT * (self.depth + 2)}".join(parts) + end)
        self.words = []
        self.joined = False

    def _add(self, text: str, *, blank: bool = True) -> None:
        first = not self.lines or self.lines[-1].text.endswith(" {")
        self.lines.append(_Line(self.depth, text, blank_before=blank and not first and self.newlines > 1))
        self.newlines = 0
        self.comment_column = 0


def _expression(parts: list[list[Token]]) -> list[str]:
    """The joined lines of a directive that is an expression. As one piece, word for word, if a join stands in a string."""
    source = parts[0][0].span.source
    assert source is not None
    raw = [source.text[part[0].span.start : part[-1].span.end] for part in parts]
    if any('"' in _STRING.sub("", part) for part in raw):
        return [source.text[parts[0][0].span.start : parts[-1][-1].span.end].replace("\r\n", "\n")]
    return [one_spaced(part) for part in raw]


def _align(lines: list[_Line]) -> None:
    """Give the comments behind directives their columns: one for each run of neighbouring lines of a block."""
    run: list[_Line] = []
    for line in lines:
        if line.follows:
            run.append(line)
            continue
        if run and (not line.comment or line.blank_before or line.depth != run[0].depth or not _near(line, run)):
            _settle(run)
            run = []
        if line.comment:
            run.append(line)
    _settle(run)


def _near(line: _Line, run: list[_Line]) -> bool:
    widths = [line.width, *(other.width for other in run if not other.follows)]
    return max(widths) - min(widths) <= MAX_SHIFT


def _settle(run: list[_Line]) -> None:
    column = max((line.width for line in run if not line.follows), default=0) + GAP
    for line in run:
        line.column = column


def _written(line: _Line) -> str:
    blank = "\n" if line.blank_before else ""
    if line.follows:
        return f"{blank}{' ' * line.column}{line.comment}\n"
    gap = " " * (line.column - line.width) + line.comment if line.comment else ""
    return f"{blank}{INDENT * line.depth}{line.text}{gap}\n"
