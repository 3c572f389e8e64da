"""The header section of a message as fields with their byte ranges (RFC 5322 2.2, 3.6.8 and 4.5.8).

Nothing is decoded and nothing is repaired: a field stays the bytes it was, and what is not touched goes out as it came in.
A line that is neither a field nor a continuation is an entry without a name, kept in its place with the continuation
lines behind it. Names compare without regard to case; white space before the colon, obsolete but alive, is no
part of the name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")
_TLS_REQUIRED = re.compile(rb"^tls-required[ \t]*:", re.IGNORECASE | re.MULTILINE)
_FOLD = re.compile(rb"\r?\n(?=[ \t])")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a section: ``section[start:end]`` with its line ends; the value begins at ``value_start``."""

    name: str
    """Lower case; "" for lines that are no field."""
    start: int
    value_start: int
    end: int


class Header:
    """A parsed header section (every line with its CRLF, without the empty line)."""

    __slots__ = ("fields", "section")

    def __init__(self, section: bytes) -> None:
        self.section = section
        self.fields: tuple[Field, ...] = tuple(_fields(section))

    def raw(self, field: Field) -> bytes:
        return self.section[field.start : field.end]

    def value(self, field: Field) -> bytes:
        """The body of the field, unfolded (RFC 5322 2.2.3), without white space around it."""
        return _FOLD.sub(b"", self.section[field.value_start : field.end]).strip(b" \t\r\n")

    def values(self, name: str) -> list[bytes]:
        """The bodies of all fields of that name, in order."""
        name = name.lower()
        return [self.value(field) for field in self.fields if field.name == name]

    def without(self, unwanted: Callable[[Field], bool]) -> bytes:
        """The section without some of its fields, everything else as it stands."""
        return b"".join(self.raw(field) for field in self.fields if not unwanted(field))


def _fields(section: bytes) -> Iterator[Field]:
    start = 0
    while start < len(section):
        match = _NAME.match(section, start)
        end = _end_of_line(section, start)
        while section[end : end + 1] in (b" ", b"\t"):
            end = _end_of_line(section, end)
        if match is None:
            yield Field("", start, start, end)
        else:
            yield Field(match[1].decode("ascii").lower(), start, match.end(), end)
        start = end


def _end_of_line(section: bytes, start: int) -> int:
    newline = section.find(b"\n", start)
    return len(section) if newline < 0 else newline + 1


# What only we may say

_TOKEN = re.compile(rb"[^\x00-\x20()<>@,;:\\\"/\[\]?=\x7f]+")
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_OWN_PREFIX = "x-mailgate-"
_SUSPECT = (b"\nauthentication-results", b"\nx-mailgate-")


def without_forgeries(section: bytes, names: Iterable[str]) -> bytes:
    """Take out the fields with which a sender would speak in our name: X-mailgate-* and Authentication-Results whose
    authserv-id is one of our names (RFC 8601 5). One whose authserv-id can't be read goes too: others may read it otherwise."""
    lowered = b"\n" + section.lower()
    if _SUSPECT[0] not in lowered and _SUSPECT[1] not in lowered:
        return section
    header = Header(section)
    ours = [name.lower().rstrip(".").encode() for name in names]

    def forged(candidate: Field) -> bool:
        if candidate.name != "authentication-results":
            return candidate.name.startswith(_OWN_PREFIX)
        claimed = authserv_id(header.value(candidate))
        return claimed is None or claimed.lower().rstrip(b".") in ours

    return header.without(forged)


def sendable(section: bytes, names: Iterable[str], max_received: int) -> bytes | None:
    """The section `without_forgeries`, or None if it has more than ``max_received`` Received fields. Nearly always one look
    for words is all it takes."""
    lowered = b"\n" + section.lower()
    if lowered.count(b"\nreceived") > max_received and received_count(section) > max_received:
        return None
    if _SUSPECT[0] in lowered or _SUSPECT[1] in lowered:
        return without_forgeries(section, names)
    return section


def authserv_id(value: bytes) -> bytes | None:
    """The first word of an Authentication-Results field behind any comments; None if there is none to be had."""
    place = _skip_comments(value)
    if place is None:
        return None
    if quoted := _QUOTED.match(value, place):
        return re.sub(rb"\\(.)", rb"\1", quoted[1], flags=re.DOTALL)
    token = _TOKEN.match(value, place)
    return token[0] if token else None


def own_results(section: bytes, name: str) -> str:
    """What our own Authentication-Results fields say behind our name, as one value, "" if nothing. Others with our name must have
    been taken out, as `without_forgeries` does."""
    if _SUSPECT[0] not in b"\n" + section.lower():
        return ""
    header = Header(section)
    ours = name.lower().rstrip(".").encode()
    said = []
    for field in header.fields:
        claimed = authserv_id(header.value(field)) if field.name == "authentication-results" else None
        if claimed is not None and claimed.lower().rstrip(b".") == ours:
            value = section[field.value_start : field.end].partition(b";")[2].strip(b" \t\r\n").decode("ascii", "replace")
            said += [value] if value != "none" else []
    return ";\r\n\t".join(said)


def _skip_comments(value: bytes) -> int | None:
    """Where the first word stands: behind white space and nested comments; None if a comment never ends."""
    place = depth = 0
    while place < len(value):
        character = value[place : place + 1]
        if character == b"(":
            depth += 1
        elif character == b")" and depth:
            depth -= 1
        elif character == b"\\" and depth:
            place += 1
        elif not depth and character not in b" \t\r\n":
            return place
        place += 1
    return None if depth else place


_RECEIVED = re.compile(rb"^received[ \t]*:", re.MULTILINE)


def received_count(section: bytes) -> int:
    """How many Received fields there are: what a loop grows."""
    return len(_RECEIVED.findall(section.lower()))


def tls_not_required(section: bytes) -> bool:
    """Whether it says `TLS-Required: No`, once and nothing else (RFC 8689 4.1)."""
    if _TLS_REQUIRED.search(section) is None:
        return False
    values = Header(section).values("tls-required")
    return len(values) == 1 and values[0].strip().lower() == b"no"
