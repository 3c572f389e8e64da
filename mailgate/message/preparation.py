"""What a submission server does to a message before it goes out into the world (RFC 6409 8): it completes the header, and refuses
one that others would refuse for it.

Message-ID and Date are added when they are missing. From, Sender, To, Cc and Reply-To must have the syntax of RFC 5322 3.4 (in
its obsolete forms too, which old clients still write), stand once, and be there where RFC 5322 3.6.2 wants them; the refusal is
554 5.6.0 and names the field. Nothing else is touched, and what is there stays as it is, octet for octet. Without I/O.
"""

from __future__ import annotations

from collections.abc import Mapping

from mailgate.message.header import Header
from mailgate.message.mailboxes import AddressSyntax, Rule, count_addresses
from mailgate.message.received import date_time
from mailgate.smtp.reply import MailError, Reply

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
