"""Delivery status notifications: what they say, as the octets of a message.

`compose` makes a whole message (RFC 3461 6, RFC 3464, RFC 6533 where an address or the returned header is not ASCII): a text for
people, one group of fields per recipient for programs, and what is returned of the message. A report goes out as
internationalized mail only to a sender who has shown that he can do that: by his address, or by having sent so. Others get the
ASCII forms of RFC 6533 3, and 8-bit header sections as they came. Everything that came from somewhere else (reply texts, names,
header sections) is cleaned before it is put in a line: no reply of a next hop makes a field of ours.

Nothing here decides whether a report is due; see queue/reports.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate

from mailgate.smtp.address import Address
from mailgate.smtp.parameters import decode_unitext, decode_xtext, orcpt_of

ACTIONS = ("failed", "delayed", "delivered", "relayed", "expanded")
MAX_TEXT = 900
"""Octets of a diagnostic text: a report is for people, and its lines are those of RFC 5322 2.1.1."""
LINE = 76

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class RecipientReport:
    """One recipient. ``status`` is our judgement, an enhanced code; ``diagnostic`` a reply's or our own text (``remote`` tells
    which), and ``code`` and ``said`` the codes of that reply as they came (RFC 3464 2.3.6)."""

    final: Address
    action: str
    status: str
    original: str = ""
    """ORCPT as given, ``type;xtext``, or "" when the address was the client's own."""
    diagnostic: str = ""
    code: int = 0
    said: str = ""
    remote: bool = False
    remote_mta: str = ""
    last_attempt: float = 0.0
    retry_until: float = 0.0
    """Of a delayed one: when it will be given up; seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class StatusReport:
    """One notification. ``returned`` is the header section or the whole message; ``full`` tells which."""

    hostname: str
    sender: Address
    """Who is told: the reverse-path of the message it is about."""
    message_id: str
    """Ours, of the message it is about."""
    recipients: Sequence[RecipientReport]
    arrived: float
    now: float
    boundary: str
    own_id: str
    """For Message-ID of the report."""
    envid: str = ""
    """As given: xtext."""
    received_from: str = ""
    returned: bytes = b""
    full: bool = False
    texts: Mapping[str, str] | None = None
    """Templates for the part that people read, by action; see `TEXTS`."""
    from_address: str = ""
    smtputf8: bool = False
    """The message came as internationalized mail."""

    @property
    def needs_utf8(self) -> bool:
        """Whether the report itself is internationalized mail (RFC 6533 6)."""
        if not self.sender.is_ascii:
            return True
        header = self.returned.partition(b"\r\n\r\n")[0] if self.full else self.returned
        return self.smtputf8 and not (header.isascii() and all(one.final.is_ascii for one in self.recipients))


TEXTS = {
    "subject_failed": "Undelivered mail returned to sender",
    "subject_delayed": "Delayed mail, still being retried",
    "subject_success": "Mail was delivered or passed on",
    "failed": (
        "This is the mail gateway at {hostname}.\n\n"
        "Your message could not be delivered to the recipients below. It will not be tried again.\n"
    ),
    "delayed": (
        "This is the mail gateway at {hostname}.\n\n"
        "THIS IS A WARNING ONLY. YOU DO NOT NEED TO SEND YOUR MESSAGE AGAIN.\n\n"
        "Your message has not been delivered yet to the recipients below. It will be tried until {until}.\n"
    ),
    "success": ("This is the mail gateway at {hostname}.\n\nYou asked to be told: your message was passed on as follows.\n"),
    "recipient": "\n<{address}>: {action}{by}\n    {diagnostic}\n",
}
"""The words of a report. Placeholders: hostname, until, sender, message_id; in `recipient` address, action, by, diagnostic."""

_VERBS = {
    "failed": "not delivered",
    "delayed": "not delivered yet",
    "delivered": "delivered",
    "relayed": "passed on to a system that may not report",
    "expanded": "passed on to several addresses",
}


def compose(report: StatusReport) -> bytes:
    """The notification as a message with CRLF line ends."""
    utf8 = report.needs_utf8
    kind = _kind(report)
    texts = {**TEXTS, **(report.texts or {})}
    head = [
        f"From: Mail delivery <{_clean(report.from_address) or 'postmaster@' + report.hostname}>",
        f"To: <{_clean(str(report.sender))}>",
        f"Subject: {_clean(texts['subject_' + kind])}",
        f"Date: {formatdate(report.now)}",
        f"Message-ID: <{report.own_id}@{report.hostname}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report;",
        f' report-type={"global-delivery-status" if utf8 else "delivery-status"}; boundary="{report.boundary}"',
    ]
    parts = [
        (["Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit"], _text(report, texts, kind)),
        _status_part(report, utf8),
        _returned_part(report, utf8),
    ]
    eight_bit = utf8 or any(not body.isascii() for _, body in parts)
    if eight_bit:
        head.append("Content-Transfer-Encoding: 8bit")
    lines = _join(head) + b"\r\nThis is a delivery status notification in MIME format.\r\n"
    for fields, body in parts:
        lines += f"\r\n--{report.boundary}\r\n".encode() + _join(fields) + b"\r\n" + body
        if not body.endswith(b"\r\n"):
            lines += b"\r\n"
    return lines + f"\r\n--{report.boundary}--\r\n".encode()


def _kind(report: StatusReport) -> str:
    actions = {one.action for one in report.recipients}
    return "failed" if "failed" in actions else "delayed" if "delayed" in actions else "success"


def _text(report: StatusReport, texts: Mapping[str, str], kind: str) -> bytes:
    until = max((one.retry_until for one in report.recipients), default=0.0)
    words = {
        "hostname": report.hostname,
        "until": formatdate(until) if until else "",
        "sender": _clean(str(report.sender)),
        "message_id": report.message_id,
    }
    text = _fill(texts[kind], words)
    for one in report.recipients:
        text += _fill(
            texts["recipient"],
            {
                **words,
                "address": _clean(str(one.final)),
                "action": _VERBS.get(one.action, one.action),
                "by": f" (by {_clean(one.remote_mta)})" if one.remote_mta else "",
                "diagnostic": _diagnostic(one) or one.status,
            },
        )
    text += f"\nOur id of the message: {report.message_id}\n"
    return text.replace("\r\n", "\n").replace("\n", "\r\n").encode()


def _fill(template: str, words: Mapping[str, str]) -> str:
    """Placeholders by name; every other brace stands for itself, whoever wrote the template."""
    return re.sub(r"\{(\w+)\}", lambda found: words.get(found.group(1), found.group()), template)


def _status_part(report: StatusReport, utf8: bool) -> tuple[list[str], bytes]:
    fields = [f"Reporting-MTA: dns; {report.hostname}"]
    if report.envid:
        fields.append(f"Original-Envelope-Id: {_clean(decode_xtext(report.envid))}")
    if report.received_from:
        fields.append(f"Received-From-MTA: dns; {_clean(report.received_from)}")
    fields.append(f"Arrival-Date: {formatdate(report.arrived)}")
    body = _join(fields)
    for one in report.recipients:
        body += b"\r\n" + _join(_recipient_fields(one, utf8))
    if not utf8:
        body = body.decode().encode("ascii", "replace")
    kind = "global-delivery-status" if utf8 else "delivery-status"
    head = [f"Content-Type: message/{kind}"]
    if utf8:
        head.append("Content-Transfer-Encoding: 8bit")
    return head, body


def _recipient_fields(one: RecipientReport, utf8: bool) -> list[str]:
    final = f"rfc822; {_clean(str(one.final))}"
    if not one.final.is_ascii:
        final = f"utf-8; {_clean(str(one.final))}" if utf8 else orcpt_of(one.final).replace(";", "; ", 1)
    fields = []
    if one.original:
        kind, _, value = one.original.partition(";")
        if kind.lower() == "utf-8":
            value = decode_unitext(value) if utf8 else value
        else:
            value = decode_xtext(value)
        fields.append(f"Original-Recipient: {_clean(kind)}; {_clean(value)}")
    fields.append(f"Final-Recipient: {final}")
    fields.append(f"Action: {one.action}")
    fields.append(f"Status: {one.status}")
    if one.remote_mta:
        fields.append(f"Remote-MTA: dns; {_clean(one.remote_mta)}")
    diagnostic = _diagnostic(one)
    if diagnostic and one.action in ("failed", "delayed"):
        fields.append(_fold(f"Diagnostic-Code: {'smtp' if one.remote else 'X-Mailgate'}; {diagnostic}"))
    if one.last_attempt:
        fields.append(f"Last-Attempt-Date: {formatdate(one.last_attempt)}")
    if one.action == "delayed" and one.retry_until:
        fields.append(f"Will-Retry-Until: {formatdate(one.retry_until)}")
    return fields


def _diagnostic(one: RecipientReport) -> str:
    text = _clean(one.diagnostic.replace("\n", " / "))
    if not one.remote:
        return text[:MAX_TEXT]
    return " ".join(filter(None, (str(one.code or ""), one.said, text)))[:MAX_TEXT]


def _returned_part(report: StatusReport, utf8: bool) -> tuple[list[str], bytes]:
    header, _, _ = report.returned.partition(b"\r\n\r\n")
    eight_bit = not report.returned.isascii()
    if report.full:
        kind = "message/global" if utf8 and not header.isascii() else "message/rfc822"
    else:
        kind = "message/global-headers" if utf8 and eight_bit else "text/rfc822-headers"
    fields = [f"Content-Type: {kind}"]
    if eight_bit:
        fields.append("Content-Transfer-Encoding: 8bit")
    return fields, report.returned


def _clean(text: str) -> str:
    return _CONTROL.sub(" ", text).strip()


def _fold(line: str) -> str:
    """Folded at spaces, so that no line is longer than RFC 5322 allows; a word that is longer is cut."""
    lines = [""]
    for word in line.split(" "):
        while len(word) > 900:
            lines.append(" " + word[:900])
            word = word[900:]
        if len(lines[-1]) + len(word) + 1 > LINE and lines[-1].strip():
            lines.append(" " + word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return "\r\n".join(lines)


def _join(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode()
