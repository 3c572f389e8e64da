"""What a check finds out about one message, beside passing or refusing it, and the header fields that say so.

Each check has a `Findings` of its own for each message (`Envelope.findings_of`), since what a check in a block for recipients
finds goes into the message of these recipients only. When the content has been judged the pipeline puts together those of all
checks that a recipient has passed:

- results of methods of authentication become one Authentication-Results field (RFC 8601), on top of our Received;
- `quarantine` becomes ``X-Mailgate-Quarantine: yes``, scores other than 0 their sum in X-Mailgate-Score, tags X-Mailgate-Tag;
- fields that a check adds stand as they are.

A filter may also change the message: fields of the header (`edits`), the body, the envelope. The pipeline does it
(`pipeline.content`); of two filters that replace the same thing, the last in written order does.

A field of these names that comes in from outside is taken out (`header.without_forgeries`), so that what stands there is ours.
What strangers have said (reasons, addresses) is quoted, printable ASCII, and cut: no value brings a line end into the header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from mailgate.message.body import Body
from mailgate.message.edits import Edit
from mailgate.smtp.address import Address
from mailgate.smtp.parameters import NO_RCPT_PARAMETERS, MailParameters, RcptParameters

MAX_VALUE = 320
"""Characters of one value: a local part of 64 and a domain of 255 (RFC 5321 4.5.3.1)."""
_LINE = 76
_PLAIN = re.compile(r"(?:[A-Za-z0-9!#$%&'*+.^_`{|}~-]*@)?[A-Za-z0-9!#$%&'*+.^_`{|}~-]+\Z")
"""What stands without quotes: a token, or an address of tokens (RFC 8601 2.2, RFC 2045 5.1)."""
_UNPRINTABLE = re.compile(r"[^ -~]")


class Verdict(Enum):
    """The gravest thing that checks have asked for and let pass."""

    PASS = "pass"
    TAG = "tag"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One result of a method (RFC 8601 2.2): ``spf=fail reason="…" smtp.mailfrom=ann@example.org``."""

    method: str
    result: str
    reason: str = ""
    properties: tuple[tuple[str, str], ...] = ()
    """``("smtp.mailfrom", "ann@example.org")``; those without a value are left out."""

    def __str__(self) -> str:
        return f"{self.method}={self.result}"


@dataclass(frozen=True, slots=True)
class NewSender:
    """Another reverse-path, and what is to stand in MAIL besides in place of the client's; None leaves that as it is."""

    address: Address
    ret: str | None = None
    envid: str | None = None
    auth: str | None = None

    def parameters(self, given: MailParameters) -> MailParameters:
        changed = {name: value for name in ("ret", "envid", "auth") if (value := getattr(self, name)) is not None}
        return replace(given, **changed) if changed else given


@dataclass(frozen=True, slots=True)
class AddedRecipient:
    address: Address
    parameters: RcptParameters = NO_RCPT_PARAMETERS


class Findings:
    """See the module's docstring."""

    __slots__ = (
        *("fields", "quarantined", "results", "score", "tags"),
        *("added", "body", "discarded", "edits", "removed", "sender"),
    )

    def __init__(self) -> None:
        self.results: list[MethodResult] = []
        self.score = 0.0
        """What this check counts; `count` keeps the highest of several."""
        self.quarantined = False
        self.tags: list[str] = []
        self.fields: list[bytes] = []
        """Whole header fields with CRLF: see `field`."""
        self.edits: list[Edit] = []
        """Changes of the header, in order."""
        self.body: Body | None = None
        """In place of what stands behind the header section: a content that begins with the empty line. Whoever made it releases
        it, when its check is closed."""
        self.sender: NewSender | None = None
        """In place of the reverse-path."""
        self.removed: list[Address] = []
        """Recipients that get nothing."""
        self.added: list[AddedRecipient] = []
        """Further recipients."""
        self.discarded = False
        """Nobody gets it, and the client hears 250."""

    def count(self, score: float) -> None:
        """A failure counts once, however often a check has found it."""
        self.score = max(self.score, score, key=abs)

    def tag(self, text: str) -> None:
        if text not in self.tags:
            self.tags.append(text)

    def add_field(self, name: str, value: str) -> None:
        """``name`` is ours, ``value`` may be anybody's."""
        self.fields.append(field(name, value))


@dataclass(frozen=True, slots=True)
class Judgement:
    """The findings of all checks that a recipient has passed."""

    results: tuple[MethodResult, ...] = ()
    score: float = 0.0
    tags: tuple[str, ...] = ()
    quarantined: bool = False
    fields: tuple[bytes, ...] = ()
    edits: tuple[tuple[Edit, ...], ...] = ()
    """Of each check."""
    body: Body | None = None
    sender: NewSender | None = None
    removed: tuple[Address, ...] = ()
    added: tuple[AddedRecipient, ...] = ()
    discarded: bool = False

    @property
    def verdict(self) -> Verdict:
        if self.quarantined:
            return Verdict.QUARANTINE
        return Verdict.TAG if self.tags else Verdict.PASS

    def header(self, authserv_id: str) -> bytes:
        """The fields that say it."""
        section = b"".join(self.fields)
        section += b"".join(field("X-Mailgate-Tag", tag) for tag in self.tags)
        if self.score:
            section += field("X-Mailgate-Score", f"{self.score:g}")
        if self.quarantined:
            section += field("X-Mailgate-Quarantine", "yes")
        return authentication_results(authserv_id, self.results) + section if self.results else section


def judgement(findings: Iterable[Findings]) -> Judgement:
    listed = list(findings)
    return Judgement(
        tuple(dict.fromkeys(result for one in listed for result in one.results)),
        sum(one.score for one in listed),
        tuple(dict.fromkeys(tag for one in listed for tag in one.tags)),
        any(one.quarantined for one in listed),
        tuple(raw for one in listed for raw in one.fields),
        tuple(tuple(one.edits) for one in listed),
        next((one.body for one in reversed(listed) if one.body is not None), None),
        next((one.sender for one in reversed(listed) if one.sender is not None), None),
        tuple(address for one in listed for address in one.removed),
        tuple(recipient for one in listed for recipient in one.added),
        any(one.discarded for one in listed),
    )


def change_envelopes(findings: Iterable[Findings]) -> bool:
    """Whether some filter wants another sender or other recipients."""
    return any(one.sender is not None or one.removed or one.added or one.discarded for one in findings)


def authentication_results(authserv_id: str, results: Sequence[MethodResult], name: str = "Authentication-Results") -> bytes:
    """The field, one result a line and folded where it is long; ``none`` without results."""
    return f"{name}: {results_text(authserv_id, results)}\r\n".encode("ascii", "replace")


def results_text(authserv_id: str, results: Sequence[MethodResult]) -> str:
    """The value of the field, folded."""
    if not results:
        return f"{value(authserv_id)}; none"
    return ";\r\n\t".join([value(authserv_id), *map(_folded, results)])


def _folded(one: MethodResult) -> str:
    words = [f"{one.method}={one.result}"]
    if one.reason:
        words.append(f"reason={quoted(one.reason)}")
    words += [f"{name}={value(text)}" for name, text in one.properties if text]
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) < _LINE:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\r\n\t ".join(lines)


def value(text: str) -> str:
    """A value of a property: as it is, or in quotes."""
    return text if len(text) <= MAX_VALUE and _PLAIN.match(text) else quoted(text)


def quoted(text: str) -> str:
    cleaned = _UNPRINTABLE.sub("?", text)[:MAX_VALUE]
    return '"' + cleaned.replace("\\", "\\\\").replace('"', '\\"') + '"'


def field(name: str, text: str) -> bytes:
    """A header field of one line with what may be a stranger's text."""
    return f"{name}: {_UNPRINTABLE.sub('?', text)[: 2 * MAX_VALUE]}\r\n".encode("ascii")
