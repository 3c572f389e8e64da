"""What MAIL and RCPT carry besides the address, parsed and typed.

RFC 1870 (SIZE), 6152 and 3030 (BODY), 6531 (SMTPUTF8), 3461 (RET, ENVID, NOTIFY, ORCPT), 4954 (AUTH=), 8689 (REQUIRETLS),
6710 (MT-PRIORITY), 4865 (HOLDFOR, HOLDUNTIL), 2852 (BY).

Each parameter is one row: its name, the extension that must be offered for it, and its parser. A keyword that has no row,
or whose extension is not offered on this connection, is 555 5.5.4; a bad value, or the same keyword twice, 501 5.5.4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from mailgate.smtp.address import Address
from mailgate.smtp.reply import PermanentError


class BodyType(Enum):
    SEVEN_BIT = "7BIT"
    EIGHT_BIT = "8BITMIME"
    BINARY = "BINARYMIME"


@dataclass(frozen=True, slots=True)
class DeliverBy:
    """By when a message should be delivered (RFC 2852)."""

    seconds: int
    """From MAIL on; negative when it is late already, which only a notice can follow."""
    returns: bool
    """It is returned when it is late; else its sender is told, and it is tried on."""
    trace: bool = False
    """Each relaying is to be reported."""

    def __str__(self) -> str:
        return f"{self.seconds};{'R' if self.returns else 'N'}{'T' if self.trace else ''}"


@dataclass(frozen=True, slots=True)
class MailParameters:
    """Parameters of MAIL. None means that the client did not give it."""

    size: int | None = None
    body: BodyType | None = None
    smtputf8: bool = False
    requiretls: bool = False
    ret: str | None = None
    """``FULL`` or ``HDRS``."""
    envid: str | None = None
    """As the client wrote it: xtext, validated, not decoded."""
    auth: str | None = None
    """As the client wrote it: xtext or ``<>``, validated."""
    priority: int | None = None
    """-9 to 9, at most what the listener grants."""
    priority_lowered: bool = False
    """More was asked for."""
    hold_for: int | None = None
    """Seconds until the message may be sent on."""
    hold_until: float | None = None
    """The same as a time, seconds since the epoch."""
    by: DeliverBy | None = None


@dataclass(frozen=True, slots=True)
class RcptParameters:
    """Parameters of RCPT."""

    notify: frozenset[str] = field(default_factory=frozenset)
    """Of NEVER, SUCCESS, FAILURE, DELAY; empty when not given."""
    orcpt: str | None = None
    """``type;xtext`` as the client wrote it, validated; where it wrote other than ASCII, in the form of RFC 6533 3 that is."""


NO_MAIL_PARAMETERS = MailParameters()
NO_RCPT_PARAMETERS = RcptParameters()

MAX_ENVID = 100
"""Characters, RFC 3461 4.4."""
MAX_ORCPT = 500
"""Characters, RFC 3461 4.2."""

_KEYWORD = re.compile(r"[A-Z0-9][A-Z0-9-]*")
_VALUE = re.compile(r"[\x21-\x3c\x3e-\x7e]+")
_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")
_PRIORITY = re.compile(r"-?[1-9]|0")
_SECONDS = re.compile(r"[1-9][0-9]{0,8}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})")
_BY = re.compile(r"([+-]?[0-9]{1,9});([NnRr])([Tt]?)")
_SIZE = re.compile(r"[0-9]{1,20}")
_UTF8_VALUE = re.compile(r"[\x21-\x3c\x3e-\x7e\xa0-\U0010ffff]+")
_ORCPT = re.compile(r"[A-Za-z0-9-]+;(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})+")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_UNICODE = re.compile(r"\\x\{([0-9A-F]{2,6})\}")
_PRINTABLE = range(0x20, 0x7F)
_NOT_XTEXT = re.compile(r"[^\x21-\x2a\x2c-\x3c\x3e-\x7e]")
_NOT_QCHAR = re.compile(r"[^\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e]")
_UNPRINTABLE_XTEXT = re.compile(r"\+(?:[01][0-9A-F]|7F)")

_BODY_TYPES = {body.value: body for body in BodyType}
_NOTIFY = frozenset({"NEVER", "SUCCESS", "FAILURE", "DELAY"})


def is_xtext(text: str) -> bool:
    """Whether ``text`` is RFC 3461 4 xtext that decodes to printable characters."""
    return _XTEXT.fullmatch(text) is not None and _UNPRINTABLE_XTEXT.search(text) is None


def decode_xtext(text: str) -> str:
    """What xtext stands for; as it is where that would not be ASCII."""
    decoded = _HEXCHAR.sub(lambda found: chr(int(found[1], 16)), text)
    return decoded if decoded.isascii() else text


def decode_unitext(text: str) -> str:
    """What an address in the form of RFC 6533 3 stands for: ``\\x{FC}ser@example.org``. Control characters stay encoded."""

    def character(found: re.Match[str]) -> str:
        number = int(found[1], 16)
        return chr(number) if number in _PRINTABLE or 0xA0 <= number < 0xD800 or 0xDFFF < number < 0x110000 else found[0]

    return _UNICODE.sub(character, text)


def orcpt_of(address: Address) -> str:
    """The value of ORCPT for an address that came without one."""
    text = str(address)
    if text.isascii():
        return "rfc822;" + _NOT_XTEXT.sub(lambda found: f"+{ord(found[0]):02X}", text)
    return "utf-8;" + _NOT_QCHAR.sub(lambda found: f"\\x{{{ord(found[0]):02X}}}", text)


def _size(value: str) -> int | None:
    return int(value) if _SIZE.fullmatch(value) else None


def _body(value: str) -> BodyType | None:
    return _BODY_TYPES.get(value.upper())


def _ret(value: str) -> str | None:
    return value.upper() if value.upper() in ("FULL", "HDRS") else None


def _envid(value: str) -> str | None:
    return value if len(value) <= MAX_ENVID and is_xtext(value) else None


def _auth(value: str) -> str | None:
    return value if value == "<>" or is_xtext(value) else None


def _priority(value: str) -> int | None:
    return int(value) if _PRIORITY.fullmatch(value) else None


def _seconds(value: str) -> int | None:
    return int(value) if _SECONDS.fullmatch(value) else None


def _time(value: str) -> float | None:
    """RFC 3339."""
    if not _TIME.fullmatch(value):
        return None
    try:
        return datetime.fromisoformat(value.upper().replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None


def _by(value: str) -> DeliverBy | None:
    found = _BY.fullmatch(value)
    if found is None:
        return None
    seconds, mode, trace = int(found[1]), found[2].upper(), bool(found[3])
    return DeliverBy(seconds, mode == "R", trace) if mode == "N" or seconds > 0 else None


def _notify(value: str) -> frozenset[str] | None:
    words = value.upper().split(",")
    chosen = frozenset(words)
    return chosen if chosen <= _NOTIFY and len(words) == len(chosen) and ("NEVER" not in chosen or len(chosen) == 1) else None


def _orcpt(value: str) -> str | None:
    if not value.isascii():
        if not value.lower().startswith("utf-8;"):
            return None
        value = "".join(one if one.isascii() else f"\\x{{{ord(one):02X}}}" for one in value)
    return value if len(value) <= MAX_ORCPT and _ORCPT.fullmatch(value) and not _UNPRINTABLE_XTEXT.search(value) else None


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row: ``attribute`` of the dataclass, ``extension`` that offers it, and ``parse``: value to what is stored,
    or None for a bad one. A parameter without ``parse`` is a flag and takes no value. ``form`` are the characters of a value."""

    attribute: str
    extension: str
    parse: Callable[[str], Any] | None = None
    form: re.Pattern[str] = _VALUE


MAIL_PARAMETERS: Mapping[str, Parameter] = {
    "SIZE": Parameter("size", "SIZE", _size),
    "BODY": Parameter("body", "8BITMIME", _body),
    "SMTPUTF8": Parameter("smtputf8", "SMTPUTF8"),
    "REQUIRETLS": Parameter("requiretls", "REQUIRETLS"),
    "RET": Parameter("ret", "DSN", _ret),
    "ENVID": Parameter("envid", "DSN", _envid),
    "AUTH": Parameter("auth", "AUTH", _auth),
    "MT-PRIORITY": Parameter("priority", "MT-PRIORITY", _priority),
    "HOLDFOR": Parameter("hold_for", "FUTURERELEASE", _seconds),
    "HOLDUNTIL": Parameter("hold_until", "FUTURERELEASE", _time),
    "BY": Parameter("by", "DELIVERBY", _by),
}
RCPT_PARAMETERS: Mapping[str, Parameter] = {
    "NOTIFY": Parameter("notify", "DSN", _notify),
    "ORCPT": Parameter("orcpt", "DSN", _orcpt, _UTF8_VALUE),
}


def parse_mail_parameters(text: str, offered: Set[str]) -> MailParameters:
    """Parameters of MAIL; ``text`` is what stands behind the path, ``offered`` the extensions this connection has.

    :raises PermanentError: with the reply for the client.
    """
    return MailParameters(**_parse(text, MAIL_PARAMETERS, offered)) if text else NO_MAIL_PARAMETERS


def parse_rcpt_parameters(text: str, offered: Set[str]) -> RcptParameters:
    """As `parse_mail_parameters`, for RCPT."""
    return RcptParameters(**_parse(text, RCPT_PARAMETERS, offered)) if text else NO_RCPT_PARAMETERS


def _parse(text: str, table: Mapping[str, Parameter], offered: Set[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for word in text.split(" "):
        if not word:
            continue
        keyword, equals, value = word.partition("=")
        keyword = keyword.upper()
        parameter = table.get(keyword)
        if parameter is None or parameter.extension not in offered:
            raise _refusal(keyword)
        if parameter.parse is None:
            parsed: Any = None if equals else True
        else:
            parsed = parameter.parse(value) if parameter.form.fullmatch(value) else None
        if parsed is None or parameter.attribute in values:
            raise PermanentError(f"Bad value of parameter {keyword}", code=501, enhanced="5.5.4")
        values[parameter.attribute] = parsed
    return values


def _refusal(keyword: str) -> PermanentError:
    if not _KEYWORD.fullmatch(keyword):
        return PermanentError("Bad parameter syntax", code=501, enhanced="5.5.4")
    return PermanentError(f"Parameter {keyword[:40]} is not supported", code=555, enhanced="5.5.4")
