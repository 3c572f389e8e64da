"""What a submission server does to a message before it goes out into the world (RFC 6409 8): it completes the header, and refuses
one that others would refuse for it.

Message-ID and Date are added when they are missing. From, Sender, To, Cc and Reply-To must have the syntax of RFC 5322 3.4 (in
its obsolete forms too, which old clients still write), stand once, and be there where RFC 5322 3.6.2 wants them; the refusal is
554 5.6.0 and names the field. Nothing else is touched, and what is there stays as it is, octet for octet. Without I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mailgate.message.header import Header
from mailgate.message.received import date_time
from mailgate.smtp.reply import MailError, Reply

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


_RULES: Mapping[str, Rule] = {
    "from": Rule(groups=False),
    "sender": Rule(groups=False, most=1),
    "to": Rule(),
    "cc": Rule(),
    "reply-to": Rule(),
}


def prepare(section: bytes, message_id: str, hostname: str, when: float) -> bytes:
    """The header section, completed. ``message_id`` is unique on ``hostname``; ``when`` is seconds since the epoch.

    :raises MailError: 554 5.6.0: a field is wrong or missing.
    """
    header = Header(section)
    names = {field.name for field in header.fields}
    addresses: dict[str, int] = {}
    for field in header.fields:
        rule = _RULES.get(field.name)
        if rule is None:
            continue
        if field.name in addresses:
            raise _refused(field.name, "stands twice")
        try:
            addresses[field.name] = count_addresses(header.value(field), rule)
        except AddressSyntax as error:
            raise _refused(field.name, str(error)) from error
    if "from" not in names:
        raise _refused("from", "is missing")
    if addresses["from"] > 1 and "sender" not in names:
        raise _refused("sender", "is missing, and there are several authors in From")
    added = b""
    if "date" not in names:
        added += f"Date: {date_time(int(when))}\r\n".encode()
    if "message-id" not in names:
        added += f"Message-ID: <{message_id}@{hostname}>\r\n".encode()
    return section + added


def _refused(name: str, problem: str) -> MailError:
    return MailError(Reply(554, "5.6.0", f"The header field {name.title()} {problem}"), f"preparation: {name} {problem}")


# Addresses (RFC 5322 3.4, 4.4; RFC 6532: UTF-8 wherever a word may have ASCII)


def count_addresses(value: bytes, rule: Rule) -> int:
    """How many mailboxes (and groups, each as one) a field has. :raises AddressSyntax: it is no list of them."""
    tokens = _Tokens(value)
    count = 0
    while True:
        if tokens.peek() not in (b",", b""):  # obs-addr-list: places between commas may be empty
            _address(tokens, rule.groups)
            count += 1
        if not tokens.take(b","):
            break
    if tokens.peek():
        raise AddressSyntax("has something behind an address that is no comma")
    if not count:
        raise AddressSyntax("has no address")
    if rule.most and count > rule.most:
        raise AddressSyntax("has more than one address")
    return count


def _address(tokens: _Tokens, groups: bool) -> None:
    words = tokens.words()
    if tokens.take(b"<"):
        _angle(tokens)
    elif tokens.take(b"@"):
        _local_part(words)
        _domain(tokens)
    elif groups and words and tokens.take(b":"):
        _group(tokens)
    else:
        raise AddressSyntax("has an address without a domain" if words else "is no list of addresses")


def _group(tokens: _Tokens) -> None:
    while not tokens.take(b";"):
        if not tokens.take(b","):
            _address(tokens, groups=False)
            if tokens.peek() not in (b",", b";"):
                raise AddressSyntax("has a group without an end")


def _angle(tokens: _Tokens) -> None:
    """What stands between < and >, an obsolete source route in front of it included."""
    if tokens.peek() == b"@":
        while not tokens.take(b":"):
            if not tokens.take(b","):
                if not tokens.take(b"@"):
                    raise AddressSyntax("has a damaged route")
                _domain(tokens)
    _local_part(tokens.words())
    if not tokens.take(b"@"):
        raise AddressSyntax("has an address without a domain")
    _domain(tokens)
    if not tokens.take(b">"):
        raise AddressSyntax("has an address without its closing >")


def _local_part(words: list[bytes]) -> None:
    """Words with dots between them."""
    if len(words) % 2 == 0 or any((word == b".") is (number % 2 == 0) for number, word in enumerate(words)):
        raise AddressSyntax("has a local part that can't be one")


def _domain(tokens: _Tokens) -> None:
    if tokens.take_literal():
        return
    labels = tokens.words()
    if len(labels) % 2 == 0 or any((label == b".") is (number % 2 == 0) for number, label in enumerate(labels)):
        raise AddressSyntax("has a domain that can't be one")
    if any(label.startswith(b'"') for label in labels):
        raise AddressSyntax("has a quoted domain")


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
