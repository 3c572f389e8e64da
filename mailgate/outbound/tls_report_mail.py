"""A report of TLS-RPT as a message (RFC 8460 5.3): multipart/report with the compressed JSON behind a few words for people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate

from mailgate.outbound.tls_report import Author, report_id
from mailgate.smtp.address import Address

GZIP = "application/tlsrpt+gzip"


@dataclass(frozen=True, slots=True)
class Letter:
    """One report on its way to one address. ``packed`` is the report, compressed."""

    author: Author
    sender: str
    to: Address
    domain: str
    day: date
    packed: bytes
    now: float
    boundary: str


def file_name(author: Author, domain: str, day: date) -> str:
    """``sender!policy-domain!begin!end.json.gz`` (section 5.1), times in seconds; with a ``!part`` behind the first one."""
    begin = (day - date(1970, 1, 1)).days * 86400
    part = f"!{author.part}" if author.part > 1 else ""
    return f"{author.domain}!{domain}!{begin}!{begin + 86399}{part}.json.gz"


def as_message(letter: Letter) -> bytes:
    """With CRLF line ends. It says itself that broken TLS must not keep it away (RFC 8689)."""
    author, identity = letter.author, report_id(letter.author, letter.domain, letter.day)
    message = EmailMessage(policy=SMTP.clone(max_line_length=900))
    message["From"] = letter.sender
    message["To"] = str(letter.to)
    message["Date"] = formatdate(letter.now)
    message["Message-ID"] = f"<{identity}>"
    message["Subject"] = f"Report Domain: {letter.domain} Submitter: {author.domain} Report-ID: <{identity}>"
    message["TLS-Report-Domain"] = letter.domain
    message["TLS-Report-Submitter"] = author.domain
    message["TLS-Required"] = "No"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(
        f"This is an aggregate report of how TLS fared between {author.domain} and {letter.domain}\n"
        f"on {letter.day.isoformat()} (UTC). Questions: {author.contact}\n",
        cte="7bit",
    )
    message.make_mixed(boundary=letter.boundary)
    kind, _, subtype = GZIP.partition("/")
    message.add_attachment(letter.packed, maintype=kind, subtype=subtype, filename=file_name(author, letter.domain, letter.day))
    message.replace_header("Content-Type", f'multipart/report; report-type="tlsrpt"; boundary="{letter.boundary}"')
    return message.as_bytes()
