"""Replies: the one currency between every layer (RFC 5321 4.2, RFC 2034, RFC 3463).

A `Reply` is what some peer is told. A `MailError` is an exception that *is* a reply, with the private reason for the log.
`reply_for` is the one place where an exception becomes a reply: what nobody foresaw is 451 4.3.0 with an incident id.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from mailgate.values import value

MAX_TEXT_LINE = 450
"""Octets of text in one reply line, below the 512 of RFC 5321 4.5.3.1.5 with code and enhanced code in front."""

_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\Z")
_is_plain_text = re.compile(rf"[ -~]{{0,{MAX_TEXT_LINE - 1}}}[!-~]").fullmatch
"""One short line of printable ASCII without spaces at its end: nearly every text."""
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@value
class Reply:
    """Code, enhanced status code ("" for none: greetings, 354, hello) and text; "\\n" in the text separates lines."""

    code: int
    enhanced: str = ""
    text: str = ""

    @property
    def is_success(self) -> bool:
        return 200 <= self.code < 300

    @property
    def is_temporary(self) -> bool:
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        return 500 <= self.code < 600

    def encode(self, *, enhanced: bool = True, utf8: bool = False) -> bytes:
        """The bytes of this reply, every line wrapped below 512 octets and free of control characters; characters
        outside printable ASCII become "?" unless ``utf8``. The enhanced code stands once in each line (RFC 2034)."""
        if _is_plain_text(self.text):  # cheaper than a look into the cache
            status = f"{self.enhanced} " if enhanced and self.enhanced else ""
            return f"{self.code} {status}{self.text}\r\n".encode()
        return _encode(self, enhanced, utf8)

    def with_text(self, text: str) -> Reply:
        return replace(self, text=text)

    def __str__(self) -> str:
        if self.enhanced and self.text:
            line = f"{self.code} {self.enhanced} {self.text}"
            return line.replace("\n", " / ") if "\n" in line else line
        return " ".join(part for part in (str(self.code), self.enhanced, self.text.replace("\n", " / ")) if part)


@lru_cache(maxsize=512)
def _encode(reply: Reply, enhanced: bool, utf8: bool) -> bytes:
    status = f"{reply.enhanced} " if enhanced and reply.enhanced else ""
    lines = [piece for line in reply.text.split("\n") for piece in _wrap(_clean(line, utf8))] or [""]
    last = len(lines) - 1
    return b"".join(
        f"{reply.code}{' ' if number == last else '-'}{status}{line}".rstrip(" ").encode() + b"\r\n"
        if number == last or line or status
        else f"{reply.code}-\r\n".encode()
        for number, line in enumerate(lines)
    )


def _clean(line: str, utf8: bool) -> str:
    return _CONTROL.sub("?", line) if utf8 else _UNPRINTABLE.sub("?", line)


def _wrap(line: str) -> list[str]:
    pieces = []
    while len(line.encode()) > MAX_TEXT_LINE:
        cut = MAX_TEXT_LINE
        while len(line[:cut].encode()) > MAX_TEXT_LINE:
            cut -= 1
        space = line.rfind(" ", 0, cut)
        cut = space if space > 0 else cut
        pieces.append(line[:cut])
        line = line[cut:].lstrip(" ")
    pieces.append(line)
    return pieces


def default_enhanced(code: int) -> str:
    """The class of ``code`` with ".0.0", or "" where no enhanced code belongs (1yz, 3yz)."""
    return f"{code // 100}.0.0" if code // 100 in (2, 4, 5) else ""


def split_enhanced(code: int, text: str) -> tuple[str, str]:
    """Separate the enhanced code of a reply's first words from its text; one of another class than ``code`` is dropped."""
    word, _, rest = text.partition(" ")
    if not _ENHANCED.match(word):
        return "", text
    return (word if word[0] == str(code)[0] else ""), rest


class MailError(Exception):
    """A refusal: ``reply`` for the peer, ``reason`` for the log alone, ``where`` (target, endpoint, stage) if known."""

    def __init__(self, reply: Reply, reason: str = "", where: str = "") -> None:
        super().__init__(reason or str(reply))
        self.reply = reply
        self.reason = reason or str(reply)
        self.where = where


class TemporaryError(MailError):
    """The same message may pass later."""

    def __init__(self, text: str, *, code: int = 451, enhanced: str = "4.3.0", reason: str = "", where: str = "") -> None:
        super().__init__(Reply(code, enhanced, text), reason, where)


class PermanentError(MailError):
    """The same message will never pass."""

    def __init__(self, text: str, *, code: int = 550, enhanced: str = "5.0.0", reason: str = "", where: str = "") -> None:
        super().__init__(Reply(code, enhanced, text), reason, where)


def reply_for(error: BaseException, incident: str) -> Reply:
    """The reply that an exception is for the peer. Anything that carries none is our own fault: temporary, and the
    text names the incident under which the log has the traceback."""
    if isinstance(error, MailError):
        return error.reply
    return Reply(451, "4.3.0", f"Internal error, incident {incident}")
