"""Header fields that we write: folded, encoded where they have to be, and put where they belong.

What a field of ours says is text of the configuration. Other than ASCII it becomes encoded words (RFC 2047), so that it needs no
SMTPUTF8 at the next hop. No line gets longer than 78 characters where there is white space to fold at (RFC 5322 2.1.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from email.header import Header as EncodedHeader

from mailgate.message.header import Field, Header

NAME = re.compile(r"[!-9;-~]{1,76}\Z")
WIDTH = 78
_SPACE = re.compile(r"[ \t]+(?=\S)")


def field(name: str, value: str) -> bytes:
    """``Name: value`` with its line end. ``value`` has no control characters."""
    value = value.strip(" \t")
    if not value.isascii():
        encoded = EncodedHeader(value, "utf-8", maxlinelen=WIDTH - 2, header_name=name, continuation_ws=" ")
        return f"{name}: {encoded.encode(linesep=chr(13) + chr(10))}\r\n".encode("ascii")
    return f"{_folded(f'{name}: {value}')}\r\n".encode("ascii")


def _folded(line: str) -> str:
    """With line breaks before white space, as far as there is any."""
    folded: list[str] = []
    while len(line) > WIDTH:
        places = [match.start() for match in _SPACE.finditer(line) if match.start() > line.find(":") + 1 or folded]
        fitting = [place for place in places if 0 < place <= WIDTH]
        place = fitting[-1] if fitting else next((place for place in places if place > WIDTH), 0)
        if not place:
            break
        folded.append(line[:place])
        line = line[place:]
    return "\r\n".join([*folded, line])


def matching(patterns: tuple[str, ...]) -> Callable[[Field], bool]:
    """Whether a field has one of these names; ``X-Spam-*`` is every name that begins so."""
    exact = frozenset(pattern.lower() for pattern in patterns if not pattern.endswith("*"))
    beginnings = tuple(pattern[:-1].lower() for pattern in patterns if pattern.endswith("*"))

    def matches(candidate: Field) -> bool:
        return candidate.name in exact or (bool(candidate.name) and candidate.name.startswith(beginnings))

    return matches if beginnings else lambda candidate: candidate.name in exact


def with_field(section: bytes, name: str, value: str) -> bytes:
    """With one more field, behind all others: trace fields stay on top."""
    return section + field(name, value)


def with_one(section: bytes, name: str, value: str) -> bytes:
    """With this field in the place of the first of its name, and no other of that name; behind all others if there is none."""
    header = Header(section)
    parts = []
    new = field(name, value)
    for one in header.fields:
        if one.name != name.lower():
            parts.append(header.raw(one))
        elif new:
            parts.append(new)
            new = b""
    return b"".join(parts) + new


def with_tagged_subject(section: bytes, tag: str) -> bytes:
    """With ``tag`` at the beginning of each Subject, once however often it passes here. A message without a subject gets one."""
    header = Header(section)
    words = field("Subject", tag)[len(b"Subject: ") : -2]
    if not any(one.name == "subject" for one in header.fields):
        return with_field(section, "Subject", tag)
    parts = []
    for one in header.fields:
        raw = header.raw(one)
        value = header.value(one)
        if one.name == "subject" and not value.startswith(words):
            start = one.value_start - one.start
            rest = raw[start:].lstrip(b" \t")  # it may begin with the fold, or be the line end alone
            gap = b"" if rest.startswith(b"\r\n") else b"\r\n " if len(raw) + len(words) > WIDTH else b" "
            raw = raw[:start] + b" " + words + gap + rest
        parts.append(raw)
    return b"".join(parts)
