"""Where text came from: a `Source` is one file, a `Span` a stretch of it, a `Via` one step of the way that led there."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace


class Source:
    """One text with its path *as given* (what diagnostics print) and the offsets of its lines."""

    __slots__ = ("_starts", "path", "secrets", "text")

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self._starts = [0]
        position = text.find("\n")
        while position >= 0:
            self._starts.append(position + 1)
            position = text.find("\n", position + 1)
        self.secrets: list[tuple[int, int]] = []
        """Offsets of literal secrets: whoever prints a line blanks them."""

    def locate(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1; columns count characters."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def line_start(self, line: int) -> int:
        return self._starts[line - 1]

    def line(self, number: int) -> str:
        """The text of one line without its end."""
        if not 0 < number <= len(self._starts):
            return ""
        start = self._starts[number - 1]
        end = self._starts[number] - 1 if number < len(self._starts) else len(self.text)
        return self.text[start:end].removesuffix("\r")

    def span(self, start: int, end: int, via: Via | None = None) -> Span:
        line, column = self.locate(start)
        newline = self.text.find("\n", start, end)
        return Span(self.path, line, column, (end if newline < 0 else newline) - start, self, start, end, via)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a source. ``length`` counts the characters on its first line; ``start`` and ``end`` are offsets."""

    path: str
    line: int
    column: int
    length: int
    source: Source | None = field(default=None, compare=False, repr=False)
    start: int = field(default=0, repr=False)
    end: int = field(default=0, repr=False)
    via: Via | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"

    @property
    def place(self) -> str:
        """``path:line``, for logs and replies."""
        return f"{self.path}:{self.line}"

    @property
    def text(self) -> str:
        """What stands there, as written."""
        return self.source.text[self.start : self.end] if self.source is not None else ""

    def behind(self) -> Span:
        """The empty place right after it: where something is missing."""
        if self.source is None or "\n" in self.text:
            return self
        return replace(self, column=self.column + self.length, length=1, start=self.end, end=self.end)

    def part(self, start: int, end: int) -> Span:
        """A piece of it, by character offsets into what stands there; itself if that is not one plain line."""
        if self.source is None or "\n" in self.text or not 0 <= start <= self.end - self.start:
            return self
        stop = max(min(self.start + end, self.end), self.start + start)
        length = max(stop - self.start - start, 1)
        return replace(self, column=self.column + start, length=length, start=self.start + start, end=stop)


@dataclass(frozen=True, slots=True)
class Via:
    """One step of the way to a span. ``kind`` is "import", "snippet" or "macro"; ``span`` is where the import stands or the
    macro is defined; ``outer`` how the place that uses the macro was reached."""

    kind: str
    name: str
    span: Span
    outer: Via | None = None

    def chain(self) -> tuple[Via, ...]:
        """From the nearest step to the farthest."""
        inner = self.span.via.chain() if self.span.via is not None else ()
        outer = self.outer.chain() if self.outer is not None else ()
        return tuple(dict.fromkeys((self, *inner, *outer)))
