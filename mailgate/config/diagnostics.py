"""What is wrong with a configuration, where, and what would be right.

A `Report` gathers diagnostics; rooms and modules call `error` and `warning` with a span and go on. They come out sorted by place,
each said once; `render` prints them:

    error: unknown directive `deliver_too`
      --> mailgate.conf:31:9
       |
    31 |         deliver_too &mailstore
       |         ^^^^^^^^^^^ did you mean `deliver_to`?
       = in `destination example.org`, line 30; directives allowed here: check, copy_to, deliver_to, …
       = code E0401

Carets stand under what they mean whatever the line holds: tabs are shown as spaces, wide characters count twice, control
characters are shown as symbols, long lines are cut around the place, and literal secrets are blanked.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mailgate.config.source import Span, Via

TAB = 4
"""Columns a tab is shown as."""

MAX_WIDTH = 160
"""Columns of a source line that are shown."""

SECRET = "***"

_UNREADABLE = frozenset({"E0105", "E0108"})
"""Mistakes after which the meaning of a line is a guess: nothing else is said of it."""


class Severity(Enum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. ``code`` is stable; ``hint`` stands beside the caret; ``notes`` below, each with ``=``."""

    severity: Severity
    code: str
    message: str
    span: Span | None
    hint: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_error(self) -> bool:
        return self.severity is Severity.ERROR

    def __str__(self) -> str:
        place = f"{self.span}: " if self.span else ""
        return f"{place}{self.severity.value}: {self.message}"


class Problem(Exception):
    """One thing is wrong with the value at hand; the checker reports it and goes on with the next."""

    def __init__(self, span: Span | None, message: str, *, code: str, hint: str = "", notes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.span = span
        self.message = message
        self.code = code
        self.hint = hint
        self.notes = tuple(notes)


class Report:
    """Gathers diagnostics."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], Diagnostic] = {}
        self._unread: set[tuple[str, int]] = set()
        self._unsaid = 0
        self.files: list[str] = []
        """In the order they were read; diagnostics are sorted by it."""

    def error(self, span: Span | None, message: str, *, code: str = "E0700", hint: str = "", notes: Sequence[str] = ()) -> None:
        self._add(Diagnostic(Severity.ERROR, code, message, span, hint, tuple(notes)))

    def warning(self, span: Span | None, message: str, *, code: str = "W0700", hint: str = "", notes: Sequence[str] = ()) -> None:
        self._add(Diagnostic(Severity.WARNING, code, message, span, hint, tuple(notes)))

    def problem(self, problem: Problem) -> None:
        self.error(problem.span, problem.message, code=problem.code, hint=problem.hint, notes=problem.notes)

    def _add(self, diagnostic: Diagnostic) -> None:
        # A snippet that is imported twice has its mistakes once.
        span = diagnostic.span
        if span is not None and diagnostic.code in _UNREADABLE:
            self._unread.add((span.path, span.line))
        elif span is not None and (span.path, span.line) in self._unread:
            self._unsaid += diagnostic.is_error
            return
        place = (span.path, span.line, span.column) if span else None
        self._found.setdefault((place, diagnostic.code, diagnostic.message), diagnostic)

    @property
    def error_count(self) -> int:
        """Those that are not said of a line that could not be read count too."""
        return self._unsaid + sum(diagnostic.is_error for diagnostic in self._found.values())

    @property
    def diagnostics(self) -> list[Diagnostic]:
        """All of them, by file in the order they were read, then by place."""
        return in_order(self._found.values(), self.files)


def in_order(diagnostics: Iterable[Diagnostic], files: Sequence[str] = ()) -> list[Diagnostic]:
    """Sorted by place; files in the order given, then in that of their first diagnostic."""
    found = list(diagnostics)
    order = dict.fromkeys((*files, *(d.span.path for d in found if d.span)))
    numbers = {path: number for number, path in enumerate(order)}
    return sorted(found, key=lambda d: (numbers[d.span.path], d.span.line, d.span.column) if d.span else (-1, 0, 0))


_COLORS = {Severity.ERROR: "\x1b[1;31m", Severity.WARNING: "\x1b[1;33m"}
_BOLD, _BLUE, _RESET = "\x1b[1m", "\x1b[1;34m", "\x1b[0m"


def render(diagnostics: Iterable[Diagnostic], *, color: bool = False) -> str:
    """All of them as text, an empty line between each two."""
    return "\n\n".join(_one(diagnostic, color) for diagnostic in diagnostics)


def as_dict(diagnostic: Diagnostic) -> dict[str, Any]:
    """One diagnostic for ``--format json``; places count from 1, columns in characters."""
    span = diagnostic.span
    return {
        "severity": diagnostic.severity.value,
        "code": diagnostic.code,
        "message": diagnostic.message,
        "file": span.path if span else None,
        "line": span.line if span else None,
        "column": span.column if span else None,
        "length": span.length if span else None,
        "hint": diagnostic.hint or None,
        "notes": list(diagnostic.notes),
        "via": [
            {"kind": step.kind, "name": step.name, "file": step.span.path, "line": step.span.line, "column": step.span.column}
            for step in (span.via.chain() if span and span.via else ())
        ],
    }


def _one(diagnostic: Diagnostic, color: bool) -> str:
    def paint(text: str, style: str) -> str:
        return f"{style}{text}{_RESET}" if color and text else text

    severity = _COLORS[diagnostic.severity]
    lines = [f"{paint(diagnostic.severity.value, severity)}{paint(': ' + printable(diagnostic.message), _BOLD)}"]
    span = diagnostic.span
    margin = " " * (len(str(span.line)) if span else 1)
    if span is not None:
        lines.append(f"{margin}{paint('-->', _BLUE)} {span}")
        if span.source is not None:
            text, column, width = _excerpt(span)
            caret = paint("^" * width + (f" {printable(diagnostic.hint)}" if diagnostic.hint else ""), severity)
            bar = paint("|", _BLUE)
            lines += [
                f"{margin} {bar}",
                f"{paint(str(span.line), _BLUE)} {bar} {text}".rstrip(),
                f"{margin} {bar} {' ' * column}{caret}",
            ]
    notes = [*diagnostic.notes, *(() if span is None or span.via is None else map(_step, span.via.chain()))]
    if diagnostic.hint and (span is None or span.source is None):
        notes.insert(0, diagnostic.hint)
    notes.append(f"code {diagnostic.code}")
    lines += [f"{margin} {paint('=', _BLUE)} {printable(note)}" for note in notes]
    return "\n".join(lines)


def _step(step: Via) -> str:
    if step.kind == "macro":
        return f"`{step.name}` is defined at {step.span}"
    what = f"{step.name} is" if step.kind == "import" else f"snippet `{step.name}` is"
    return f"{what} imported at {step.span}"


def _excerpt(span: Span) -> tuple[str, int, int]:
    """The source line as it is shown, and where under it the caret begins and how wide it is."""
    assert span.source is not None
    line = span.source.line(span.line)
    start = span.source.line_start(span.line)
    cells = _blank(line, start, span.source.secrets)
    begin = min(span.column - 1, len(cells))
    end = min(begin + max(span.length, 1), len(cells))
    column = sum(map(_width, cells[:begin]))
    width = max(sum(map(_width, cells[begin:end])), 1)
    text = "".join(cells)
    if sum(map(_width, cells)) <= MAX_WIDTH:
        return text, column, width
    first = begin
    while first > 0 and sum(map(_width, cells[first - 1 : begin])) < MAX_WIDTH // 3:
        first -= 1
    last, shown = first, 0
    while last < len(cells) and shown < MAX_WIDTH:
        shown += _width(cells[last])
        last += 1
    head = "…" if first else ""
    column = sum(map(_width, cells[first:begin])) + len(head)
    width = min(width, max(shown + len(head) - column, 1))
    return head + "".join(cells[first:last]) + ("…" if last < len(cells) else ""), column, width


def _blank(line: str, start: int, secrets: list[tuple[int, int]]) -> list[str]:
    """One cell per character: what is shown for it."""
    cells = [_cell(character) for character in line]
    for begin, end in secrets:
        first, last = max(begin - start, 0), min(end - start, len(cells))
        if first < last:
            cells[first:last] = [SECRET] + [""] * (last - first - 1)
    return cells


def _cell(character: str) -> str:
    if character == "\t":
        return " " * TAB
    return printable(character)


def printable(text: str) -> str:
    """``text`` without characters that a terminal would obey; tabs and line ends become spaces."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable()
        else " "
        if character in "\t\r\n"
        else chr(0x2400 + ord(character))
        if ord(character) < 32
        else "\ufffd"
        for character in text
    )


def _width(cell: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in cell)
