"""Changes of header fields that filters ask for, and how they are made in a header section.

Each filter sees the message as it came in, with what it has changed itself so far, and counts fields so; what other filters do
meanwhile does not move its counts. So the section is a list in which nothing loses its place: a field that was removed stays as
an empty entry, and who put in a new one is remembered.

- Values are cleaned, since they come from outside: CR, LF and NUL never get out of a field. A line break before white space is a
  fold, any other becomes one.
- `Insert` 0 is above everything, our own Received included; 1 is right below it, before the first field that the filter saw.
  Negative places count from the end: -1 is behind the last field that it saw; beyond the first it is 0.
- `Change` of a field that is not there adds it, as the milter protocol has it; removing what is not there does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mailgate.message.header import Header

_NAME = re.compile(rb"[!-9;-~]+\Z")
_BREAK = re.compile(rb"(?:\r\n|\r|\n)[ \t]*")


class BadField(ValueError):
    """What a filter wants to write is no header field."""


@dataclass(frozen=True, slots=True)
class Add:
    """A field at the end of the section."""

    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Insert:
    """A field at a place: see above."""

    index: int
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """Another value for the ``number``-th field of a name, from 1 on; from the end if it is negative. None removes it."""

    name: bytes
    number: int
    value: bytes | None


@dataclass(frozen=True, slots=True)
class RemoveAll:
    """Every field of a name."""

    name: bytes


Edit: TypeAlias = Add | Insert | Change | RemoveAll


def field(name: bytes, value: bytes) -> bytes:
    """One field with its line end. :raises BadField: it can't be one."""
    if not _NAME.match(name):
        raise BadField(f"{name!r} is no name of a field")
    clean = _BREAK.sub(b"\r\n\t", value.replace(b"\x00", b"").rstrip(b"\r\n \t"))
    clean = re.sub(rb"(?:\r\n\t)+(?=\r\n\t|\Z)", b"", clean)  # a line of white space alone ends nothing, and is not written
    return name + b": " + clean.lstrip(b" \t") + b"\r\n"


@dataclass(slots=True)
class _Entry:
    raw: bytes
    name: bytes
    by: int
    """Which filter has put it there; -1 for what came in."""


def edited(section: bytes, of_filters: Iterable[Sequence[Edit]]) -> bytes:
    """The section with the edits of each filter, in order. :raises BadField: one can't be made."""
    header = Header(section)
    entries = [_Entry(header.raw(one), one.name.encode(), -1) for one in header.fields]
    if entries:
        entries[0].name = b""  # our own trace field: filters have not seen it
    for number, edits in enumerate(of_filters):
        for edit in edits:
            _apply(entries, number, edit)
    return b"".join(entry.raw for entry in entries)


def _apply(entries: list[_Entry], by: int, edit: Edit) -> None:
    match edit:
        case Add(name, value):
            entries.append(_Entry(field(name, value), name.lower(), by))
        case Insert(index, name, value):
            seen = [place for place, entry in enumerate(entries) if entry.by in (-1, by)]
            index = index if index >= 0 else max(len(seen) + 1 + index, 0)
            place = seen[index] if index < len(seen) else len(entries)
            entries.insert(place if index else 0, _Entry(field(name, value), name.lower(), by))
        case Change(name, number, value):
            found = _named(entries, by, name)
            place = number - 1 if number > 0 else len(found) + number
            if number and 0 <= place < len(found):
                found[place].raw = b"" if value is None else field(name, value)
            elif value is not None:
                entries.append(_Entry(field(name, value), name.lower(), by))
        case RemoveAll(name):
            for entry in _named(entries, by, name):
                entry.raw = b""


def _named(entries: Sequence[_Entry], by: int, name: bytes) -> list[_Entry]:
    """Those of that name that the filter counts."""
    wanted = name.lower()
    return [entry for entry in entries if entry.name == wanted and entry.by in (-1, by)]
