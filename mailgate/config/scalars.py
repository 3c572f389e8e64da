"""The types of single values: yes and no, durations, sizes, numbers, texts, reply codes."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from mailgate.config.diagnostics import Problem
from mailgate.config.expression_types import BOOLEAN, DURATION, FLOAT, INTEGER, STRING, STRINGS, Type
from mailgate.config.lexer import Token
from mailgate.config.line import Line, Scope, Value
from mailgate.config.suggest import did_you_mean
from mailgate.smtp.reply import Reply

_BOOLEANS = {"yes": True, "on": True, "true": True, "1": True, "no": False, "off": False, "false": False, "0": False}


class Boolean(Value):
    """The name alone means yes."""

    metavar = "yes | no"

    @property
    def words(self) -> tuple[str, ...]:
        return ("yes", "no")

    def parse(self, line: Line) -> bool:
        return True if line.exhausted else self.parse_element(line)

    def show(self, value: Any) -> str:
        return "yes" if value else "no"

    @property
    def result(self) -> Type:
        return BOOLEAN

    def parse_word(self, word: Token, scope: Scope) -> bool:
        value = _BOOLEANS.get(word.text.casefold())
        if value is None:
            hint = did_you_mean(word.text, [name for name in _BOOLEANS if name.isalpha()])
            raise Problem(word.span, f"`{word.shown}` is neither yes nor no", code="E0501", hint=hint or "`yes` or `no`")
        return value


_UNITS = {
    "w": Fraction(604800),
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
    "us": Fraction(1, 1_000_000),
}
_DURATION_PART = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([^\W\d]*)")
_SIZE_PART = re.compile(r"(\d{1,15})([^\W\d]*)")
_SIZE_UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Duration(Value):
    """Seconds, as a float: ``1h5m``, ``1.5s``; several words are added where the directive takes exactly one duration."""

    metavar = "DURATION"

    def __init__(self, *, minimum: float = 0.0, maximum: float | None = None) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def parse(self, line: Line) -> float:
        words = [line.next(self.syntax), *line.rest()]
        seconds = float(sum((self._seconds(word) for word in words), Fraction()))
        self._check(seconds, words)
        return seconds

    def parse_word(self, word: Token, scope: Scope) -> float:
        seconds = float(self._seconds(word))
        self._check(seconds, [word])
        return seconds

    def show(self, value: Any) -> str:
        return format_duration(value)

    @property
    def result(self) -> Type:
        return DURATION

    def from_result(self, value: float) -> float:
        _check_result(value, self.minimum, self.maximum, format_duration)
        return value

    def _seconds(self, word: Token) -> Fraction:
        text = word.text
        if text == "0":
            return Fraction()
        if text.startswith("-") and text[1:2].isdigit():
            raise Problem(word.span, "a duration is never negative", code="E0502")
        total, position = Fraction(), 0
        for match in _DURATION_PART.finditer(text):
            number, unit = match.groups()
            if match.start() != position:
                break
            if not unit:
                hint = f"`{text}s` for seconds" if match.span() == (0, len(text)) else ""
                raise Problem(word.span, f"`{word.shown}` has no unit", code="E0502", hint=hint, notes=(_UNIT_NOTE,))
            if unit not in _UNITS:
                near = _unit_meant(unit)
                hint = f"did you mean `{number}{near}`?" if near else ""
                place = word.span.part(match.start(2), match.end(2)) if _plain(word) else word.span
                raise Problem(place, f"`{unit}` is no unit of time", code="E0502", hint=hint, notes=(_UNIT_NOTE,))
            total += Fraction(number) * _UNITS[unit]
            position = match.end()
        if position != len(text) or not text:
            raise Problem(word.span, f"`{word.shown}` is no duration", code="E0502", hint="such as `90s` or `1h30m`")
        return total

    def _check(self, seconds: float, words: list[Token]) -> None:
        if seconds < self.minimum:
            raise Problem(words[0].span, f"at least {format_duration(self.minimum)} is needed here", code="E0511")
        if self.maximum is not None and seconds > self.maximum:
            raise Problem(words[0].span, f"at most {format_duration(self.maximum)} is possible here", code="E0511")


_UNIT_NOTE = "units are w, d, h, m, s, ms and us"
_UNIT_NAMES = {"w": "week", "d": "day", "h": "hour", "m": "minute", "s": "second", "ms": "millisecond", "us": "microsecond"}


def _unit_meant(unit: str) -> str:
    folded = unit.casefold()
    for short, name in _UNIT_NAMES.items():
        if folded == short or folded in (name, name + "s", name[:3], name[:3] + "s"):
            return short
    return ""


def format_duration(seconds: float) -> str:
    """``1h30m``: the shortest form that reads back as the same number."""
    if not seconds:
        return "0"
    left = Fraction(round(seconds * 1_000_000), 1_000_000)
    parts = []
    for unit, length in _UNITS.items():
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or f"{float(seconds)}s"


class Size(Value):
    """Bytes, as an int: ``32M``; factor 1024."""

    metavar = "SIZE"

    def __init__(self, *, minimum: int = 0, maximum: int | None = None) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def parse(self, line: Line) -> int:
        words = [line.next(self.syntax), *line.rest()]
        size = sum(self._bytes(word) for word in words)
        self._check(size, words)
        return size

    def parse_word(self, word: Token, scope: Scope) -> int:
        size = self._bytes(word)
        self._check(size, [word])
        return size

    def show(self, value: Any) -> str:
        return format_size(value)

    @property
    def result(self) -> Type:
        return INTEGER

    def from_result(self, value: int) -> int:
        _check_result(value, self.minimum, self.maximum, format_size)
        return value

    def _bytes(self, word: Token) -> int:
        text = word.text
        if text == "0":
            return 0
        total, position = 0, 0
        for match in _SIZE_PART.finditer(text):
            number, unit = match.groups()
            if match.start() != position:
                break
            if not unit:
                hint = f"`{text}B` for bytes" if match.span() == (0, len(text)) else ""
                raise Problem(word.span, f"`{word.shown}` has no unit", code="E0503", hint=hint, notes=(_SIZE_NOTE,))
            if unit.upper() not in _SIZE_UNITS:
                meant = unit[0].upper() if unit[0].upper() in _SIZE_UNITS else ""
                hint = f"did you mean `{number}{meant}`?" if meant else ""
                place = word.span.part(match.start(2), match.end(2)) if _plain(word) else word.span
                raise Problem(place, f"`{unit}` is no unit of size", code="E0503", hint=hint, notes=(_SIZE_NOTE,))
            total += int(number) * _SIZE_UNITS[unit.upper()]
            position = match.end()
        if position != len(text) or not text:
            raise Problem(word.span, f"`{word.shown}` is no size", code="E0503", hint="such as `32M` or `512K`")
        return total

    def _check(self, size: int, words: list[Token]) -> None:
        if size < self.minimum:
            raise Problem(words[0].span, f"at least {format_size(self.minimum)} is needed here", code="E0511")
        if self.maximum is not None and size > self.maximum:
            raise Problem(words[0].span, f"at most {format_size(self.maximum)} is possible here", code="E0511")


_SIZE_NOTE = "units are G, M, K and B"


def format_size(size: int) -> str:
    """``32M``: with the largest unit that divides it."""
    for unit in "GMK":
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return f"{size}B"


class Integer(Value):
    """A whole number."""

    def __init__(self, metavar: str = "NUMBER", *, minimum: int | None = None, maximum: int | None = None) -> None:
        self.metavar = metavar
        self.minimum = minimum
        self.maximum = maximum

    def parse_word(self, word: Token, scope: Scope) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", word.text):
            raise Problem(word.span, f"`{word.shown}` is no whole number", code="E0504")
        value = int(word.text)
        _check_range(word, value, self.minimum, self.maximum)
        return value

    @property
    def result(self) -> Type:
        return INTEGER

    def from_result(self, value: int) -> int:
        _check_result(value, self.minimum, self.maximum, str)
        return value


class Float(Value):
    """A number."""

    def __init__(self, metavar: str = "NUMBER", *, minimum: float | None = None, maximum: float | None = None) -> None:
        self.metavar = metavar
        self.minimum = minimum
        self.maximum = maximum

    def parse_word(self, word: Token, scope: Scope) -> float:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?", word.text):
            raise Problem(word.span, f"`{word.shown}` is no number", code="E0504")
        value = float(word.text)
        _check_range(word, value, self.minimum, self.maximum)
        return value

    @property
    def result(self) -> Type:
        return FLOAT

    def from_result(self, value: float) -> float:
        _check_result(value, self.minimum, self.maximum, str)
        return value


def _check_range(word: Token, value: float, minimum: float | None, maximum: float | None) -> None:
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        if minimum is not None and maximum is not None:
            wanted = f"between {minimum} and {maximum}"
        else:
            wanted = f"{minimum} or more" if minimum is not None else f"{maximum} or less"
        raise Problem(word.span, f"`{word.shown}` is out of range", code="E0511", hint=f"it must be {wanted}")


def _check_result(value: Any, minimum: Any, maximum: Any, show: Callable[[Any], str]) -> None:
    """Of a computed value: it can't be checked before it is there."""
    if minimum is not None and value < minimum:
        raise ValueError(f"{show(value)} is less than {show(minimum)}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{show(value)} is more than {show(maximum)}")


class String(Value):
    """One word, or a quoted text."""

    def show(self, value: Any) -> str:
        return quote(value)

    def __init__(self, metavar: str = "TEXT") -> None:
        self.metavar = metavar

    def parse_word(self, word: Token, scope: Scope) -> str:
        return word.text

    @property
    def result(self) -> Type:
        return STRING


class ReplyText(String):
    """A text that is said in replies: printable ASCII (RFC 5321 4.2)."""

    def parse_word(self, word: Token, scope: Scope) -> str:
        return _said(word)


def _said(word: Token) -> str:
    wrong = next((character for character in word.text if not " " <= character <= "~" and character != "\n"), "")
    if wrong:
        hint = "printable ASCII: `ue` for `ü`" if wrong.isprintable() else "printable ASCII"
        raise Problem(word.span, f"`{word.shown}` can't be said in a reply", code="E0514", hint=hint)
    return word.text


class Strings(Value):
    """All words that are left, as a tuple."""

    def __init__(self, metavar: str = "TEXT", *, minimum: int = 1) -> None:
        self.metavar = metavar
        self.minimum = minimum

    @property
    def syntax(self) -> str:
        return f"{self.metavar}…" if self.minimum else f"[{self.metavar}…]"

    def parse_element(self, line: Line) -> tuple[str, ...]:
        words = [line.next(self.metavar) for _ in range(self.minimum)]
        return tuple(word.text for word in (*words, *line.rest()))

    def show(self, value: Any) -> str:
        return " ".join(map(quote, value))

    @property
    def result(self) -> Type:
        return STRINGS

    def from_result(self, value: Any) -> tuple[str, ...]:
        if len(value) < self.minimum:
            raise ValueError(f"at least {self.minimum} are needed")
        return tuple(value)


def quote(text: str) -> str:
    """``text`` as one word of the language, in quotes where they are needed."""
    if text and re.fullmatch(r"[^\s\"#{}()\[\]$&;\\][^\s\"{}()\[\]$;]*", text):
        return text
    return '"' + text.replace('"', '\\"') + '"'


_TEXTS = {
    421: "service not available, closing",
    450: "try again later",
    451: "local error, try again later",
    452: "too much at once, try again later",
    550: "rejected by policy",
    551: "user not local",
    552: "message too large",
    553: "address not allowed",
    554: "transaction failed",
}
_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})\Z")


class ReplyCode(Value):
    """A refusal, ``[CODE] [ENHANCED] ["TEXT"]``: what is missing follows from the rest; nothing at all is 550 5.7.1."""

    metavar = '[CODE] [ENHANCED] ["TEXT"]'

    def parse_element(self, line: Line) -> Reply:
        code, enhanced, text = 0, "", ""
        word = line.peek()
        if word is not None and not word.quoted and word.text.isdigit():
            code = self._code(line.next("CODE"))
            word = line.peek()
        if word is not None and not word.quoted and re.match(r"\d+\.", word.text):
            enhanced = self._enhanced(line.next("ENHANCED"), code)
            word = line.peek()
        if word is not None:
            text = self._text(line.next("TEXT"))
        code = code or (int(enhanced[0]) * 100 + 50 if enhanced else 550)
        return Reply(code, enhanced or f"{code // 100}.7.1", text or _TEXTS.get(code, _TEXTS[code // 100 * 100 + 50]))

    def _code(self, word: Token) -> int:
        if not re.fullmatch(r"[45][0-9]{2}", word.text):
            raise Problem(word.span, f"`{word.shown}` is no code to refuse with", code="E0509", hint="400 to 599")
        return int(word.text)

    def _enhanced(self, word: Token, code: int) -> str:
        match = _ENHANCED.match(word.text)
        if not match or match.group(1) == "2":
            hint = "such as `5.7.1` or `4.7.1`"
            raise Problem(word.span, f"`{word.shown}` is no enhanced code to refuse with", code="E0509", hint=hint)
        if code and match.group(1) != str(code)[0]:
            hint = f"did you mean `{str(code)[0]}{word.text[1:]}`?"
            message = f"{code} and {word.text} disagree: one says {_SAYS[str(code)[0]]}, the other {_SAYS[match.group(1)]}"
            raise Problem(word.span, message, code="E0509", hint=hint)
        return word.text

    def _text(self, word: Token) -> str:
        if not word.quoted:
            notes = (f"expected: {self.metavar}",)
            raise Problem(word.span, "the text of a reply is written in quotes", code="E0509", notes=notes)
        return _said(word)


_SAYS = {"4": "temporary", "5": "permanent"}


def _plain(word: Token) -> bool:
    """Whether offsets into the text are offsets into what stands in the file."""
    return not word.quoted and word.span.text == word.text
