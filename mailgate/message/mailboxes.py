"""Address lists of header fields (RFC 5322 3.4, with the obsolete forms of 4.4; RFC 6532: UTF-8 wherever a word may have ASCII).

`read_addresses` says what stands in a field: for each address of the list its mailboxes, one, or those of a group. Comments,
names and routes are read over. A field that is no such list raises `AddressSyntax`: what can't be read is nobody's address.
Without recursion and in linear time, since anybody may write the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mailgate.smtp.address import Address, AddressError, parse_address

_TOKEN = re.compile(
    rb"""(?P<space>[ \t\r\n]+)
    |(?P<word>[^\x00-\x20()<>\[\]:;@\\,".\x7f]+|"(?:[^"\\\x00-\x08\x0a-\x1f]|\\[^\x00\r\n])*")
    |(?P<literal>\[[^\[\]\\\x00-\x1f]*\])
    |(?P<special>[<>@,.:;])
    |(?P<comment>\()""",
    re.VERBOSE,
)
_COMMENT = re.compile(rb"[^()\\]+|\\[\s\S]|[()]")


class AddressSyntax(Exception):
    """A field is no list of addresses; the text says why."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a field may hold."""

    groups: bool = True
    most: int = 0
    """Addresses; 0 is any number."""


def read_addresses(value: bytes, rule: Rule) -> list[list[bytes]]:
    """The mailboxes of each address. :raises AddressSyntax: the field is no list of them."""
    tokens = _Tokens(value)
    found: list[list[bytes]] = []
    while True:
        if tokens.peek() not in (b",", b""):  # obs-addr-list: places between commas may be empty
            found.append(_address(tokens, rule.groups))
        if not tokens.take(b","):
            break
    if tokens.peek():
        raise AddressSyntax("has something behind an address that is no comma")
    if not found:
        raise AddressSyntax("has no address")
    if rule.most and len(found) > rule.most:
        raise AddressSyntax("has more than one address")
    return found


def count_addresses(value: bytes, rule: Rule) -> int:
    """How many mailboxes (and groups, each as one) a field has. :raises AddressSyntax: it is no list of them."""
    return len(read_addresses(value, rule))


def mailboxes(value: bytes, rule: Rule) -> list[Address]:
    """All mailboxes of a field. :raises AddressSyntax: it is no list of them, or one is none that mail could have."""
    try:
        return [parse_address(one.decode(), strict=False) for address in read_addresses(value, rule) for one in address]
    except AddressError as error:
        raise AddressSyntax(f"has an address that can't be one: {error}") from error


def _address(tokens: _Tokens, groups: bool) -> list[bytes]:
    words = tokens.words()
    if tokens.take(b"<"):
        return [_angle(tokens)]
    if tokens.take(b"@"):
        return [_local_part(words) + b"@" + _domain(tokens)]
    if groups and words and tokens.take(b":"):
        return _group(tokens)
    raise AddressSyntax("has an address without a domain" if words else "is no list of addresses")


def _group(tokens: _Tokens) -> list[bytes]:
    members: list[bytes] = []
    while not tokens.take(b";"):
        if not tokens.take(b","):
            members += _address(tokens, groups=False)
            if tokens.peek() not in (b",", b";"):
                raise AddressSyntax("has a group without an end")
    return members


def _angle(tokens: _Tokens) -> bytes:
    """What stands between < and >, an obsolete source route in front of it included."""
    if tokens.peek() == b"@":
        while not tokens.take(b":"):
            if not tokens.take(b","):
                if not tokens.take(b"@"):
                    raise AddressSyntax("has a damaged route")
                _domain(tokens)
    mailbox = _local_part(tokens.words())
    if not tokens.take(b"@"):
        raise AddressSyntax("has an address without a domain")
    mailbox += b"@" + _domain(tokens)
    if not tokens.take(b">"):
        raise AddressSyntax("has an address without its closing >")
    return mailbox


def _local_part(words: list[bytes]) -> bytes:
    """Words with dots between them. Quoted ones among several (an obsolete form) are one quoted string: they mean the same."""
    if len(words) % 2 == 0 or any((word == b".") is (number % 2 == 0) for number, word in enumerate(words)):
        raise AddressSyntax("has a local part that can't be one")
    if len(words) > 1 and any(word.startswith(b'"') for word in words):
        return b'"' + b"".join(word[1:-1] if word.startswith(b'"') else word for word in words) + b'"'
    return b"".join(words)


def _domain(tokens: _Tokens) -> bytes:
    literal = tokens.peek()
    if tokens.take_literal():
        return literal
    labels = tokens.words()
    if len(labels) % 2 == 0 or any((label == b".") is (number % 2 == 0) for number, label in enumerate(labels)):
        raise AddressSyntax("has a domain that can't be one")
    if any(label.startswith(b'"') for label in labels):
        raise AddressSyntax("has a quoted domain")
    return b"".join(labels)


class _Tokens:
    """The words and signs of a field, without white space and comments."""

    def __init__(self, value: bytes) -> None:
        try:
            value.decode()
        except UnicodeDecodeError as error:
            raise AddressSyntax("is not UTF-8") from error
        self._tokens = list(_tokens(value))
        self._place = 0

    def peek(self) -> bytes:
        """b"" at the end."""
        return self._tokens[self._place][1] if self._place < len(self._tokens) else b""

    def take(self, special: bytes) -> bool:
        found = self.peek() == special and self._tokens[self._place][0] == "special"
        self._place += found
        return found

    def take_literal(self) -> bool:
        found = self._place < len(self._tokens) and self._tokens[self._place][0] == "literal"
        self._place += found
        return found

    def words(self) -> list[bytes]:
        """Words and dots, as many as there are."""
        words = []
        while self._place < len(self._tokens):
            kind, text = self._tokens[self._place]
            if kind != "word" and text != b".":
                break
            words.append(text)
            self._place += 1
        return words


def _tokens(value: bytes) -> Iterator[tuple[str, bytes]]:
    place = 0
    while place < len(value):
        match = _TOKEN.match(value, place)
        if match is None:
            raise AddressSyntax("has a character or quote out of place")
        place = match.end()
        kind = match.lastgroup or ""
        if kind == "comment":
            place = _end_of_comment(value, place)
        elif kind != "space":
            yield kind, match[0]


def _end_of_comment(value: bytes, place: int) -> int:
    depth = 1
    while depth:
        match = _COMMENT.match(value, place)
        if match is None:
            raise AddressSyntax("has a comment without an end")
        depth += {b"(": 1, b")": -1}.get(match[0], 0)
        place = match.end()
    return place
