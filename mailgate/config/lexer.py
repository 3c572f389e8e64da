"""Text to tokens.

- Whitespace separates tokens; a line's end is a token of its own, comments are tokens too (the formatter keeps them).
- ``"…"`` quotes a token at its start only, newlines inside are kept; ``\\"`` is a quote, any other backslash stays. Behind the
  closing quote stands whitespace, a brace or the end of the line.
- ``#`` begins a comment only where a token could begin. ``{`` and ``}`` are structure when they stand alone and unquoted.
- A lone ``\\`` at the end of a line joins the next.
- A word that opens ``(`` or ``[`` runs to its match on that line: spaces, commas, ``#`` and ``"…"`` inside belong to it.
- In the condition of a ``when``, up to its ``{``, or of an ``if``, up to its ``then``, ``"…"`` also stands inside words:
  ``domain(sender)=="a b.test"&&tls`` is one.

Refused, each where it stands: a quote that is never closed, text glued to a closing quote or to a brace, a bracket without
its match, ``;`` at the end of a word, control characters. After each error the lexer goes on as the writer most likely
meant it, so that one mistake is one diagnostic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from mailgate.config.diagnostics import Report
from mailgate.config.source import Source, Span


class Kind(Enum):
    WORD = "word"
    OPEN = "{"
    CLOSE = "}"
    NEWLINE = "newline"
    COMMENT = "comment"
    JOIN = "\\"
    END = "end"


@dataclass(frozen=True, slots=True)
class Token:
    """One token: ``text`` is its value, ``span.text`` how it was written. ``literal`` is False once a macro or the
    environment had a part in the text, so that messages can quote what the operator wrote."""

    kind: Kind
    text: str
    span: Span
    quoted: bool = False
    literal: bool = True

    @property
    def shown(self) -> str:
        """How messages quote it."""
        return self.text if self.literal else self.span.text or self.text


_SPACE = re.compile(r"[^\S\n]+")
_PLAIN = re.compile(r"[^\s(\[]*")
"""What a word runs through before whitespace or a bracket that has to be matched."""
_JOIN = re.compile(r"\\[^\S\n]*(?:\n|\Z)")
_QUOTED = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_EXPRESSION_WORDS = frozenset({"when", "if"})
"""Directives with an expression on their line."""
_EXPRESSION_PLAIN = re.compile(r'[^\s(\["]*')
_UNCLOSED = re.compile(r"\s*(?:\s\{\s*)?\Z")
"""What ends the line of an unclosed quote and was not meant to be in it."""
_GLUED = re.compile(r"[^\s{}]\S*")
_WORD = re.compile(r"\S+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\r(?!\n)")
"""Also lone carriage returns, and the characters that make a line read differently from what it is."""
_CLOSERS = {"(": ")", "[": "]"}
_AFTER_INNER_QUOTE = frozenset(" \t)],")


def tokenize(source: Source, report: Report) -> list[Token]:
    """All tokens of a source, END last. Errors go to the report; the tokens are then the likely meaning."""
    return _Lexer(source, report).run()


class _Lexer:
    def __init__(self, source: Source, report: Report) -> None:
        self.source = source
        self.text = source.text
        self.report = report
        self.tokens: list[Token] = []
        self.separated = False
        self.in_expression = False

    def run(self) -> list[Token]:
        text = self.text
        for match in _CONTROL.finditer(text):
            self._error(
                match.start(),
                match.end(),
                f"control character U+{ord(match.group()):04X}",
                "E0108",
                "remove it: only tabs and line ends are allowed",
            )
        position = 1 if text.startswith("\ufeff") else 0
        length = len(text)
        while position < length:
            space = _SPACE.match(text, position)
            if space:
                position = space.end()
                continue
            character = text[position]
            if character == "\n":
                self._add(Kind.NEWLINE, "\n", position, position + 1)
                position += 1
            elif character == "#":
                position = self._comment(position)
            elif character == '"' and not (self.in_expression and self._is_glued(position)):
                position = self._quoted(position)
            elif character == "\\" and (join := _JOIN.match(text, position)):
                self._add(Kind.JOIN, "\\", position, position + 1)
                position = join.end()
            else:
                position = self._word(position)
                if self.separated:
                    # Behind it the writer meant the next directive to stand.
                    self._add(Kind.NEWLINE, "", position, position)
                    self.separated = False
        self._add(Kind.END, "", length, length)
        return self.tokens

    def _add(self, kind: Kind, text: str, start: int, end: int, quoted: bool = False) -> None:
        if kind is Kind.WORD:
            if text in _EXPRESSION_WORDS and not quoted:
                before = next((token.kind for token in reversed(self.tokens) if token.kind is not Kind.JOIN), Kind.NEWLINE)
                self.in_expression = before is not Kind.WORD
            elif text == "then" and not quoted:
                self.in_expression = False
        elif kind in (Kind.OPEN, Kind.NEWLINE):
            self.in_expression = False
        self.tokens.append(Token(kind, text, self.source.span(start, end), quoted))

    def _error(self, start: int, end: int, message: str, code: str, hint: str = "", notes: tuple[str, ...] = ()) -> None:
        self.report.error(self.source.span(start, end), message, code=code, hint=hint, notes=notes)

    def _line_end(self, position: int) -> int:
        end = self.text.find("\n", position)
        end = len(self.text) if end < 0 else end
        return end - 1 if end > position and self.text[end - 1] == "\r" else end

    def _comment(self, start: int) -> int:
        end = self._line_end(start)
        self._add(Kind.COMMENT, self.text[start:end].rstrip(), start, end)
        return end

    def _is_glued(self, start: int) -> bool:
        """Whether something stands right behind the quoted text that begins here."""
        match = _QUOTED.match(self.text, start, self._line_end(start))
        return match is not None and _GLUED.match(self.text, match.end()) is not None

    def _quoted(self, start: int) -> int:
        match = _QUOTED.match(self.text, start)
        line_end = self._line_end(start)
        glued = _GLUED.match(self.text, match.end()) if match else None
        if match is None or (glued and match.end() > line_end):
            # The rest of its first line is the likely meaning; what follows is read as if the quote had ended there.
            self._error(start, start + 1, "this quote is never closed", "E0103", 'close it with `"`')
            end = start + len(_UNCLOSED.sub("", self.text[start:line_end]))
            self._add(Kind.WORD, _unescape(self.text[start + 1 : end]), start, end, quoted=True)
            return end
        self._add(Kind.WORD, _unescape(match.group()[1:-1]), start, match.end(), quoted=True)
        if glued is None:
            return match.end()
        notes = ('a quote inside a quoted text is written `\\"`',)
        self._error(*glued.span(), "text right behind a closing quote", "E0104", "put a space before it", notes)
        return glued.end()

    def _word(self, start: int) -> int:
        end = self._word_end(start)
        text = self.text[start:end]
        brace = text.rstrip(";")
        if brace in ("{", "}"):
            self._add(Kind.OPEN if brace == "{" else Kind.CLOSE, brace, start, start + 1)
            if brace != text:
                self._semicolon(start + 1, end)
            return end
        if text.endswith("{"):
            self._error(end - 1, end, "a brace must stand alone", "E0107", "put a space before it", _QUOTE_NOTE)
            self._plain(start, end - 1)
            self._add(Kind.OPEN, "{", end - 1, end)
            return end
        if text.endswith("}") and text.count("}") > text.count("{"):
            first = end - (len(text) - len(text.rstrip("}")))
            self._error(first, end, "a brace must stand alone", "E0107", "put a space before it", _QUOTE_NOTE)
            if first > start:
                self._plain(start, first)
            for place in range(first, end):
                self._add(Kind.CLOSE, "}", place, place + 1)
            return end
        if text[0] == "}" or (text[0] == "{" and "}" not in text and not text.startswith("{env:")):
            self._error(start, start + 1, "a brace must stand alone", "E0107", "put a space behind it", _QUOTE_NOTE)
            self._add(Kind.OPEN if text[0] == "{" else Kind.CLOSE, text[0], start, start + 1)
            return start + 1
        self._plain(start, end)
        return end

    def _plain(self, start: int, end: int) -> None:
        text = self.text[start:end]
        if text.endswith(";"):
            bare = text.rstrip(";")
            self._semicolon(start + len(bare), end)
            if bare:
                self._add(Kind.WORD, bare, start, start + len(bare))
            return
        self._add(Kind.WORD, text, start, end)

    def _semicolon(self, start: int, end: int) -> None:
        notes = ("a value that really ends in `;` is written in quotes",)
        self._error(start, end, "`;` does not end a directive", "E0106", "remove it: a directive ends with its line", notes)
        self.separated = True

    def _word_end(self, start: int) -> int:
        position = start
        while True:
            match = (_EXPRESSION_PLAIN if self.in_expression else _PLAIN).match(self.text, position)
            assert match is not None
            position = match.end()
            if self.in_expression and self.text.startswith('"', position):
                position = self._inner_quote_end(position)
                continue
            if position >= len(self.text) or self.text[position] not in _CLOSERS:
                return position
            closed = self._bracket_end(position)
            if closed < 0:
                rest = _WORD.match(self.text, position)
                assert rest is not None
                return rest.end()
            position = closed

    def _inner_quote_end(self, start: int) -> int:
        line_end = self._line_end(start)
        match = _QUOTED.match(self.text, start, line_end)
        if match is not None:
            return match.end()
        self._error(start, start + 1, "this quote is never closed", "E0103", 'close it with `"`')
        return start + len(_UNCLOSED.sub("", self.text[start:line_end]))

    def _bracket_end(self, start: int) -> int:
        """Offset behind the match of the bracket at ``start``; -1, reported, if its line has none."""
        text, line_end = self.text, self._line_end(start)
        expected = [_CLOSERS[text[start]]]
        position = start + 1
        while position < line_end:
            character = text[position]
            position += 1
            if character == '"':
                match = _QUOTED.match(text, position - 1, line_end)
                if match is None:
                    break
                position = match.end()
                if position < line_end and text[position] not in _AFTER_INNER_QUOTE and not self.in_expression:
                    self._error(position, position + 1, "text right behind a closing quote", "E0104", "put a space before it")
            elif character in _CLOSERS:
                expected.append(_CLOSERS[character])
            elif character in ")]":
                if character != expected.pop():
                    break
                if not expected:
                    return position
        self._error(
            start,
            start + 1,
            f"this `{text[start]}` has no matching `{_CLOSERS[text[start]]}` on its line",
            "E0105",
            "",
            ("a value with a lone bracket in it is written in quotes",),
        )
        return -1


_QUOTE_NOTE = ("a value with a brace in it is written in quotes",)


def _unescape(body: str) -> str:
    return body.replace('\\"', '"').replace("\r\n", "\n")
