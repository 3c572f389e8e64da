"""What is wrong with a configuration, where, and what would be right.

A `Report` gathers diagnostics; rooms and modules call `error` and `warning` with a span and go on. Nothing is printed here but
by `render` (text, as docs show it) and `as_json` (for editors): sorted by place, each said once.
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

    def error(
        self, span: Span | None, message: str, *, code: str = "E0700", hint: str = "", notes: Sequence[str] = ()
    ) -> None:
        self._add(Diagnostic(Severity.ERROR, code, message, span, hint, tuple(notes)))

    def warning(
        self, span: Span | None, message: str, *, code: str = "W0700", hint: str = "", notes: Sequence[str] = ()
    ) -> None:
        self._add(Diagnostic(Severity.WARNING, code, message, span, hint, tuple(notes)))

    def problem(self, problem: Problem) -> None:
        self.error(problem.span, problem.message, code=problem.code, hint=problem.hint, notes=problem.notes)

    def _add(self, diagnostic: Diagnostic) -> None:
        self._found.setdefault((diagnostic.span, diagnostic.code, diagnostic.message), diagnostic)

    @property
    def error_count(self) -> int:
        return sum(diagnostic.is_error for diagnostic in self._found.values())

    @property
    def diagnostics(self) -> list[Diagnostic]:
        """All of them, by file in order of first appearance, then by place."""
        files: dict[str, int] = {}
        for diagnostic in self._found.values():
            if diagnostic.span:
                files.setdefault(diagnostic.span.path, len(files))
        return sorted(
            self._found.values(),
            key=lambda d: (files[d.span.path], d.span.line, d.span.column) if d.span else (-1, 0, 0),
        )
