"""XCLIENT and XFORWARD: in which a trusted client says for whom it speaks (Postfix's XCLIENT_README and XFORWARD_README).

Both take ``NAME=value`` pairs; values are xtext (RFC 3461 4), ``[UNAVAILABLE]`` and ``[TEMPUNAVAIL]`` say that there is none.
`parse` reads a whole command before anything follows from it, so a mistake in the last pair undoes the first; `encode`
writes the commands that say a set of values. Whom to believe is not decided here.

Values are plain and checked: addresses in their shortest form without ``IPV6:`` and out of IPv6 clothes (``::ffff:``), names in
lower case, ports as decimals, and "" for what is unavailable.

Refused: an unknown attribute, one given twice, one without a value; what does not decode to UTF-8; control characters, in
any value: each goes into logs, some into header fields and commands.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from mailgate.smtp.proxy_protocol import plain_address
from mailgate.smtp.reply import MailError, Reply

UNAVAILABLE = "[UNAVAILABLE]"
_WITHOUT_VALUE = frozenset({UNAVAILABLE, "[TEMPUNAVAIL]"})

UNKNOWN_ADDRESS = "0.0.0.0"
"""Stands for the address of a client of whom nobody knows it: in no network that an operator would trust."""

MAX_VALUE = 255
"""Octets of a value, decoded: what a host name may have (RFC 1035 2.3.4). A login may have no more either."""
MAX_LINE = 510
"""Octets of a command that we write, without CRLF: longer sets of values are several commands (XCLIENT_README)."""

_PAIR = re.compile(rb"([A-Za-z]{1,16})=([!-*,-<>-~]|\+[0-9A-Fa-f]{2})+")
_ESCAPE = re.compile(rb"\+([0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\.?", re.IGNORECASE)
_IDENT = re.compile(r"[!-~]+")


def _address(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text[5:] if text[:5].upper() == "IPV6:" else text)
    except ValueError:
        return None
    return None if "%" in text else plain_address(address)


def _host_name(text: str) -> str | None:
    return text.lower() if _NAME.fullmatch(text) else None


def _port(text: str) -> str | None:
    return text if _PORT.fullmatch(text) and int(text) <= 65535 else None


def _one_of(*words: str) -> Callable[[str], str | None]:
    return lambda text: text.upper() if text.upper() in words else None


def _text(text: str) -> str | None:
    return text


_PROTOCOL = _one_of("SMTP", "ESMTP", "LMTP")

Attributes = Mapping[str, Callable[[str], str | None]]
"""What a command takes: each attribute, and what reads its decoded value (None: it is none)."""

XCLIENT: Attributes = {
    "NAME": _host_name,
    "ADDR": _address,
    "PORT": _port,
    "PROTO": _PROTOCOL,
    "HELO": _text,
    "LOGIN": _text,
    "DESTADDR": _address,
    "DESTPORT": _port,
}
XFORWARD: Attributes = {
    "NAME": _host_name,
    "ADDR": _address,
    "PORT": _port,
    "PROTO": _PROTOCOL,
    "HELO": _text,
    "IDENT": lambda text: text if _IDENT.fullmatch(text) else None,
    "SOURCE": _one_of("LOCAL", "REMOTE"),
}
_KNOWN_BY: Mapping[str, Attributes] = {"XCLIENT": XCLIENT, "XFORWARD": XFORWARD}


@dataclass(frozen=True, slots=True)
class Identity:
    """Values of attributes, by their names. One that was not given is not in it; "" is one that nobody knows."""

    values: Mapping[str, str]

    def get(self, attribute: str) -> str | None:
        return self.values.get(attribute)

    def with_more(self, later: Identity) -> Identity:
        """Those of a later command go before."""
        return Identity({**self.values, **later.values})

    def without(self, attribute: str) -> Identity:
        return Identity({name: value for name, value in self.values.items() if name != attribute})


NOTHING = Identity({})


def parse(verb: str, argument: bytes) -> Identity:
    """The values of one command.

    :raises MailError: 501 5.5.4, naming the attribute.
    """
    known = _KNOWN_BY[verb]
    values: dict[str, str] = {}
    for word in argument.split():
        match = _PAIR.fullmatch(word)
        name = match[1].decode().upper() if match is not None else ""
        if name not in known:
            raise _refusal(f"{verb} takes {' '.join(known)}, each with =VALUE")
        if name in values:
            raise _refusal(f"{name} is there twice")
        value = _read(word[len(name) + 1 :], known[name])
        if value is None:
            raise _refusal(f"Bad value of {name}")
        values[name] = value
    if not values:
        raise _refusal(f"{verb} needs an attribute")
    return Identity(values)


def _read(raw: bytes, read: Callable[[str], str | None]) -> str | None:
    if raw.upper().decode() in _WITHOUT_VALUE:
        return ""
    try:
        text = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), raw).decode()
    except UnicodeDecodeError:
        return None
    return checked(text, read)


def checked(text: str, read: Callable[[str], str | None]) -> str | None:
    """The value of an attribute, which ``read`` knows, in its plain form; None if it can't be one."""
    try:
        if not text or len(text.encode()) > MAX_VALUE or _CONTROL.search(text):
            return None
    except UnicodeEncodeError:
        return None
    return read(text)


def _refusal(text: str) -> MailError:
    return MailError(Reply(501, "5.5.4", text))


def encode(verb: str, identity: Identity, offered: Collection[str]) -> list[bytes]:
    """The commands, without CRLF, that say those of the values whose attributes the peer has ``offered``: as few as will hold
    them, ADDR in the last, since it may be the one that changes what the peer lets us do."""
    pairs = [
        f"{name}={_write(name, value)}".encode()
        for name in sorted(_KNOWN_BY[verb], key=lambda name: name == "ADDR")
        if name in offered and (value := identity.get(name)) is not None
    ]
    lines: list[bytes] = []
    for pair in pairs:
        if lines and len(lines[-1]) + 1 + len(pair) <= MAX_LINE:
            lines[-1] += b" " + pair
        else:
            lines.append(verb.encode() + b" " + pair)
    return lines


def _write(name: str, value: str) -> str:
    if not value:
        return UNAVAILABLE
    if name in ("ADDR", "DESTADDR") and ":" in value:
        value = f"IPV6:{value}"
    if value.upper() in _WITHOUT_VALUE:
        return f"+5B{value[1:]}"  # it is a value, however it looks
    return "".join(chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}" for octet in value.encode())
