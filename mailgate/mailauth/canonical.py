"""The canonical forms of DKIM (RFC 6376 3.4), of fields and of a body that comes piece by piece.

`simple` leaves a field as it is; of a body it takes off the empty lines at the end. `relaxed` also makes one space of white
space, takes it off at the end of lines, and writes names in lower case. Where the pieces are cut makes no difference: trailing
white space and line ends are held back, empty lines as a mere count, so nothing grows with what a sender puts there.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from enum import Enum

_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")
_SPACES = re.compile(rb"  +")
_BARE = re.compile(rb"\r(?!\n|\Z)|(?<!\r)\n")
"""A CR or LF that ends no line; clean content has it in binary MIME only."""
_EMPTY_LINES = re.compile(rb"\A(?:\r\n)*")
_LINE = re.compile(rb"[^\n]*\n|[^\n]+\Z")
_BATCH = 1 << 12
"""Empty lines that are hashed at once."""


class Form(Enum):
    SIMPLE = "simple"
    RELAXED = "relaxed"


def canonical_field(raw: bytes, form: Form) -> bytes:
    """A field with its CRLF."""
    if form is Form.SIMPLE:
        return raw
    name, _, value = raw.partition(b":")
    return name.rstrip(b" \t").lower() + b":" + _one_space(value.replace(b"\r\n", b"")).strip(b" ") + b"\r\n"


def _one_space(text: bytes) -> bytes:
    text = text.replace(b"\t", b" ")
    return _SPACES.sub(b" ", text) if b"  " in text else text


class Fields:
    """The fields of a header section by name, to be taken from the bottom up (RFC 6376 5.4.2)."""

    def __init__(self, section: bytes) -> None:
        self._by_name: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for raw in split_fields(section):
            if match := _NAME.match(raw):
                self._by_name[match[1].lower()].append(raw)

    def named(self, name: bytes) -> list[bytes]:
        """Fields of a name in lower case, top first."""
        return list(self._by_name.get(name, ()))

    def selected(self, names: list[bytes]) -> list[bytes]:
        """What a list of names signs: each name takes the lowest field that is left, or nothing."""
        left: dict[bytes, int] = {}
        taken = []
        for name in names:
            fields = self._by_name.get(name, ())
            rest = left.get(name, len(fields))
            if rest:
                taken.append(fields[rest - 1])
                left[name] = rest - 1
        return taken


def split_fields(section: bytes) -> list[bytes]:
    """Each field with its continuation lines and its CRLF."""
    fields: list[bytes] = []
    for line in _LINE.findall(section):
        if fields and line[:1] in (b" ", b"\t"):
            fields[-1] += line
        else:
            fields.append(line)
    return fields


class BodyDigest:
    """The hash of a body in one form: ``update`` with its pieces, then ``digest``.

    ``limit`` hashes no more than that many octets of the canonical body (``l=``); ``size`` is how many it has.
    """

    def __init__(self, form: Form, limit: int | None = None) -> None:
        self._relaxed = form is Form.RELAXED
        self._trailing = b" \t\r\n" if self._relaxed else b"\r\n"
        self._hash = hashlib.sha256()
        self._limit = limit
        self._empty_lines = 0
        self._held = b""
        self.size = 0

    def update(self, piece: bytes) -> None:
        piece = self._held + piece
        cut = len(piece.rstrip(self._trailing))
        for bare in _BARE.finditer(piece, cut):
            cut = bare.end()
        held = self._canonical(piece[cut:])
        if cut:
            self._flush()
            self._put(self._canonical(piece[:cut]))
        rest = _EMPTY_LINES.sub(b"", held, 1)
        self._empty_lines += (len(held) - len(rest)) // 2
        self._held = rest

    def digest(self) -> bytes:
        """The body is complete."""
        rest = self._held.rstrip(b" ") if self._relaxed else self._held
        if rest:
            self._flush()
            self._put(rest)
        self._held, self._empty_lines = b"", 0
        if self.size or not self._relaxed:
            self._put(b"\r\n")
        return self._hash.digest()

    def _canonical(self, text: bytes) -> bytes:
        return _one_space(text).replace(b" \r\n", b"\r\n") if self._relaxed else text

    def _flush(self) -> None:
        """The line ends that were held back are no trailing ones."""
        while self._empty_lines:
            number = min(self._empty_lines, _BATCH)
            self._put(b"\r\n" * number)
            self._empty_lines -= number

    def _put(self, text: bytes) -> None:
        if self._limit is None:
            self._hash.update(text)
        elif self.size < self._limit:
            self._hash.update(text[: self._limit - self.size])
        self.size += len(text)
