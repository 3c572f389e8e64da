"""The Received field that every message gets in front (RFC 5321 4.4).

``Received: from HELO (name [address]) by HOST with ESMTPSA (TLS1.3 cipher) id ID for <recipient>; date``. The
with-keyword is of RFC 3848 (S for TLS, A for an authenticated client) and RFC 6531 4.3 (UTF8 in front). Whatever the
client said of itself is cut and cleaned to what a domain or address literal may hold, so that it can't end the
field, nest a comment or begin another line.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache

from mailgate.message.envelope import Session

_UNSAFE = re.compile(r"[^A-Za-z0-9.:_\[\]-]")
_UNSAFE_PATH = re.compile(r"[^\x20-\x7e]")
"""An address with more than ASCII is left out too: our own field must not be what makes a message need SMTPUTF8 (RFC 6532)."""
_MAX_WORD = 255
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(maxsize=64)
def with_keyword(protocol: str, *, tls: bool, authenticated: bool, utf8: bool) -> str:
    """``ESMTP``, ``ESMTPS``, ``UTF8SMTPSA``, ``LMTPA``, …; plain ``SMTP`` (after HELO) has no variants."""
    if protocol == "SMTP":
        return protocol
    base = f"UTF8{protocol.removeprefix('E')}" if utf8 else protocol
    return f"{base}{'S' if tls else ''}{'A' if authenticated else ''}"


def received(session: Session, hostname: str, message_id: str, recipient: str, when: float, *, utf8: bool = False) -> bytes:
    """The whole field with its CRLF. ``recipient`` is "" when there are several: one must not learn of another."""
    tls = session.tls
    opening = _opening(
        session.helo,
        session.client_name,
        session.client_ip,
        hostname,
        with_keyword(session.protocol, tls=tls is not None, authenticated=bool(session.auth_user), utf8=utf8),
        f" ({tls.version} {_word(tls.cipher)})" if tls is not None else "",
    )
    path = "" if not recipient or _UNSAFE_PATH.search(recipient) else f"\r\n\tfor <{recipient}>"
    return f"{opening}{message_id}{path};\r\n\t{date_time(int(when))}\r\n".encode()


@lru_cache(maxsize=256)
def _opening(helo: str, name: str, address: str, hostname: str, keyword: str, cipher: str) -> str:
    """What is the same for all messages of a session."""
    literal = f"[IPv6:{address}]" if ":" in address else f"[{address}]"
    peer = f"{_word(name)} {literal}" if address else "local"
    return f"Received: from {_word(helo)} ({peer})\r\n\tby {hostname} with {keyword}{cipher}\r\n\tid "


def _word(text: str) -> str:
    return _UNSAFE.sub("?", text[:_MAX_WORD]) if text else "unknown"


@lru_cache(maxsize=4)
def date_time(when: int) -> str:
    """RFC 5322 3.3, in UTC, whatever the locale."""
    now = time.gmtime(when)
    return (
        f"{_DAYS[now.tm_wday]}, {now.tm_mday} {_MONTHS[now.tm_mon - 1]} {now.tm_year}"
        f" {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02} +0000"
    )
