"""Reports by mail: a few words for people, and the compressed report attached (RFC 7489 7.2.1.1, RFC 8460 5.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate

from mailgate.smtp.address import Address


@dataclass(frozen=True, slots=True)
class Author:
    """Who reports."""

    organization: str
    contact: str
    domain: str
    """Stands behind the @ in report ids, and is called the submitter."""
    part: int = 1
    """Of several processes that are one gateway, each may report what it saw itself."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """``kind``: a content type."""

    content: bytes
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Letter:
    """One report on its way to one address. ``domain`` is what it is about, ``identity`` its report id."""

    author: Author
    sender: str
    to: Address
    domain: str
    identity: str
    text: str
    attachment: Attachment
    now: float
    boundary: str
    content_type: str = "multipart/mixed"
    fields: Mapping[str, str] = field(default_factory=dict)


def as_message(letter: Letter) -> bytes:
    """With CRLF line ends."""
    submitter, attachment = letter.author.domain, letter.attachment
    message = EmailMessage(policy=SMTP.clone(max_line_length=900))
    message["From"] = letter.sender
    message["To"] = str(letter.to)
    message["Date"] = formatdate(letter.now)
    message["Message-ID"] = f"<{letter.identity}>"
    message["Subject"] = f"Report Domain: {letter.domain} Submitter: {submitter} Report-ID: <{letter.identity}>"
    for name, value in letter.fields.items():
        message[name] = value
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(f"{letter.text} Questions: {letter.author.contact}\n", cte="7bit")
    message.make_mixed(boundary=letter.boundary)
    kind, _, subtype = attachment.kind.partition("/")
    message.add_attachment(attachment.content, maintype=kind, subtype=subtype, filename=attachment.name)
    message.replace_header("Content-Type", f'{letter.content_type}; boundary="{letter.boundary}"')
    return message.as_bytes()
