"""A report of TLS-RPT as a message (RFC 8460 5.3): multipart/report with the compressed JSON."""

from __future__ import annotations

from datetime import date

from mailgate.outbound.report_mail import Attachment, Author, Letter
from mailgate.outbound.tls_report import report_id
from mailgate.smtp.address import Address

GZIP = "application/tlsrpt+gzip"


def file_name(author: Author, domain: str, day: date) -> str:
    """``sender!policy-domain!begin!end.json.gz`` (section 5.1), times in seconds; with a ``!part`` behind the first one."""
    begin = (day - date(1970, 1, 1)).days * 86400
    part = f"!{author.part}" if author.part > 1 else ""
    return f"{author.domain}!{domain}!{begin}!{begin + 86399}{part}.json.gz"


def letter(author: Author, sender: str, to: Address, domain: str, day: date, packed: bytes, now: float, boundary: str) -> Letter:
    """It says itself that broken TLS must not keep it away (RFC 8689)."""
    return Letter(
        author,
        sender,
        to,
        domain,
        report_id(author, domain, day),
        f"This is an aggregate report of how TLS fared between {author.domain} and {domain}\non {day.isoformat()} (UTC).",
        Attachment(packed, GZIP, file_name(author, domain, day)),
        now,
        boundary,
        'multipart/report; report-type="tlsrpt"',
        {"TLS-Report-Domain": domain, "TLS-Report-Submitter": author.domain, "TLS-Required": "No"},
    )
