"""Mail addresses: what a path may look like, when two addresses are the same, and how one goes on the wire.

RFC 5321 4.1.2 and 4.1.3 (paths, literals, quoted strings), 4.5.3.1 (lengths), appendix C (source routes: accepted and
stripped), RFC 6531 3.3 (non-ASCII), RFC 5890 (A-labels, U-labels).

An `Address` keeps what the client wrote, because the local part means something only to its owner. Nothing that could
break out of the place it is put in ever gets into one: control characters and characters nobody can see are refused in both
grammars, quoted or not, SMTPUTF8 or not.

- *strict* (default): the RFC's grammar, but underscores in domains are fine and one dot at a domain's end is dropped;
- *lenient* (``strict_addresses no``): also bare addresses, spaces around brackets, local parts with odd dots or over 64
  octets. Structure, literals and domains are checked all the same.

`match_key` is the one notion of "the same address" (routes, tables, limits); `encode_path` the one way to the wire, and
it checks again, since addresses also come from tables and filters.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import idna

MAX_LOCAL_PART = 64
"""Octets, RFC 5321 4.5.3.1.1."""
MAX_DOMAIN = 255
"""Octets, RFC 5321 4.5.3.1.2; of its A-label form."""
MAX_PATH = 256
"""Octets with the angle brackets, RFC 5321 4.5.3.1.3."""

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_ATOM = rf"[{_ATEXT}\u0080-\U0010ffff]+"
_DOT_STRING = rf"{_ATOM}(?:\.{_ATOM})*"
_QUOTED_STRING = r'"(?:[^"\\]|\\.)*"'
_LABEL = r"[A-Za-z0-9_\u0080-\U0010ffff](?:[A-Za-z0-9_\u0080-\U0010ffff-]*[A-Za-z0-9_\u0080-\U0010ffff])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_LITERAL = r"\[[^\[\]\\\s]*\]"

_PLAIN = re.compile(
    rf"<([{_ATEXT}]+(?:\.[{_ATEXT}]+)*)@"
    r"([A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*)>"
)
"""The fast path: a plain ASCII mailbox in brackets. Lengths are left to the slow path."""
_ROUTE = re.compile(rf"@(?:{_DOMAIN}|{_LITERAL})(?:,@(?:{_DOMAIN}|{_LITERAL}))*:")
_STRICT_LOCAL = re.compile(rf"{_DOT_STRING}|{_QUOTED_STRING}")
_LENIENT_LOCAL = re.compile(rf"[{_ATEXT}.\u0080-\U0010ffff]+|{_QUOTED_STRING}")
_DOMAIN_PART = re.compile(rf"({_DOMAIN})\.?|{_LITERAL}")
_POSTMASTER = re.compile(r"postmaster(?=[> ]|\Z)", re.IGNORECASE)
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\u2060\ufeff\ud800-\udfff]")
"""C0, DEL, C1, the invisible characters and line separators; lone surrogates have no UTF-8 form."""


class AddressError(ValueError):
    """Not an address, or not one that may go where it should."""


@dataclass(slots=True, unsafe_hash=True)
class Address:
    """One reverse-path or forward-path without its brackets and source route. It is a value: nobody writes to one, but
    a frozen class would cost a call for each field, in every command.

    ``local_part`` stands as it was received, quotes included; ``domain`` as received, without a trailing dot, or an
    address literal with its brackets. Both are "" for the null reverse-path; ``domain`` alone is "" for ``<Postmaster>``.
    """

    local_part: str
    domain: str

    @property
    def is_null(self) -> bool:
        return not self.local_part and not self.domain

    @property
    def is_ascii(self) -> bool:
        """Whether it can be sent without SMTPUTF8 as it stands."""
        return self.local_part.isascii() and self.domain.isascii()

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}" if self.domain else self.local_part


NULL_ADDRESS = Address("", "")


def read_path(text: str, *, strict: bool = True) -> tuple[Address, str]:
    """The path at the start of ``text`` and what follows it (parameters, with the space before them, or "").

    ``<>`` gives `NULL_ADDRESS` and ``<Postmaster>`` an address without domain: whether they are allowed here is the
    caller's to say.

    :raises AddressError: when no path stands there.
    """
    plain = _PLAIN.match(text)
    if plain is not None:
        local_part, domain = plain.groups()
        # 63 octets: no label can be too long
        if len(local_part) <= MAX_LOCAL_PART and len(domain) <= 63:
            rest = text[plain.end() :]
            if not rest or rest[0] == " ":
                return Address(local_part, domain), rest
    return _read_path(text, strict)


def parse_address(text: str, *, strict: bool = True) -> Address:
    """One mailbox without brackets, as tables and configurations have it; "postmaster" alone counts.

    :raises AddressError: when it is none; the null address is none.
    """
    address, rest = _read_path(f"<{text}>", strict)
    if rest or address.is_null:
        raise AddressError("not a mail address")
    return address


def _read_path(whole: str, strict: bool) -> tuple[Address, str]:
    unsafe = _UNSAFE.search(whole)
    text = whole if unsafe is None else whole[: unsafe.start()]
    bracketed = text.startswith("<")
    if not bracketed and strict:
        raise AddressError("no angle brackets")
    position = 1 if bracketed else 0
    if not strict:
        position = _skip_spaces(text, position)
    if bracketed and text.startswith(">", position):
        return NULL_ADDRESS, _rest(whole, position + 1)
    route = _ROUTE.match(text, position)
    if route is not None:
        position = route.end()
    postmaster = _POSTMASTER.match(text, position)
    if postmaster is not None and route is None:
        address, end = Address(postmaster.group(), ""), postmaster.end()
    else:
        address, end = _read_mailbox(text, position, strict)
    if bracketed:
        if not strict:
            end = _skip_spaces(text, end)
        if not text.startswith(">", end):
            raise AddressError("no closing angle bracket behind the address")
        end += 1
        if strict and len(text[:end].encode()) > MAX_PATH:
            raise AddressError("path is too long")
    return address, _rest(whole, end)


def _skip_spaces(text: str, position: int) -> int:
    while text.startswith(" ", position):
        position += 1
    return position


def _rest(text: str, end: int) -> str:
    if len(text) > end and text[end] != " ":
        raise AddressError("something stands behind the address")
    return text[end:]


def _read_mailbox(text: str, position: int, strict: bool) -> tuple[Address, int]:
    local = (_STRICT_LOCAL if strict else _LENIENT_LOCAL).match(text, position)
    if local is None or not text.startswith("@", local.end()):
        raise AddressError("no local part and @")
    domain = _DOMAIN_PART.match(text, local.end() + 1)
    if domain is None:
        raise AddressError("no domain")
    if strict and len(local.group().encode()) > MAX_LOCAL_PART:
        raise AddressError("local part is too long")
    name = domain.group(1)
    if name is None:
        _check_literal(domain.group())
        return Address(local.group(), domain.group()), domain.end()
    if ascii_domain(name) is None:
        raise AddressError("no such domain can exist")
    return Address(local.group(), name), domain.end()


def _check_literal(literal: str) -> None:
    """``[192.0.2.1]`` and ``[IPv6:2001:db8::1]``; no other tag is registered (RFC 5321 4.1.3)."""
    inner = literal[1:-1]
    try:
        if inner[:5].lower() == "ipv6:" and "%" not in inner:
            ipaddress.IPv6Address(inner[5:])
        else:
            ipaddress.IPv4Address(inner)
    except ValueError:
        raise AddressError("bad address literal") from None


@lru_cache(maxsize=4096)
def ascii_domain(domain: str) -> str | None:
    """``domain`` in lower case with A-labels, or None if it has no such form (IDNA, or lengths of RFC 1035)."""
    if domain.isascii():
        name = domain.lower()
    else:
        try:
            name = idna.encode(domain, uts46=True).decode().lower()
        except (idna.IDNAError, UnicodeError):
            return None
    if len(name) > MAX_DOMAIN or any(not 0 < len(label) <= 63 for label in name.split(".")):
        return None
    return name


@lru_cache(maxsize=4096)
def domain_key(domain: str) -> str:
    """What two spellings of one domain have in common: lower case, NFC, U-labels, no dot at the end; literals canonical."""
    if domain.startswith("["):
        return _literal_key(domain)
    name = domain.removesuffix(".")
    if name.isascii() and "xn--" not in name.lower():
        return name.lower()
    ascii_name = ascii_domain(name)
    if ascii_name is None:
        return unicodedata.normalize("NFC", name.casefold())
    return ".".join(_u_label(label) for label in ascii_name.split("."))


def _u_label(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        return unicodedata.normalize("NFC", idna.ulabel(label))
    except (idna.IDNAError, UnicodeError):
        return label  # only looks like an A-label


def _literal_key(literal: str) -> str:
    inner = literal.strip("[]").lower()
    try:
        address = ipaddress.ip_address(inner.removeprefix("ipv6:"))
    except ValueError:
        return literal.lower()
    return f"[ipv6:{address}]" if address.version == 6 else f"[{address}]"


def match_key(address: Address) -> tuple[str, str]:
    """(local part, domain) as routes, tables and limits compare them: folded, NFC, quotes that change nothing removed."""
    local_part = address.local_part
    if local_part[:1] != '"' and local_part.isascii():
        return local_part.lower(), domain_key(address.domain)
    if local_part.startswith('"'):
        local_part = re.sub(r"\\(.)", r"\1", local_part[1:-1], flags=re.DOTALL)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", local_part).casefold()), domain_key(address.domain)


def rule_keys(address: Address) -> tuple[str, str]:
    """(whole address, domain) as rules, tables and expressions compare them: see `match_key`. The null address is "", the bare
    postmaster ``postmaster``."""
    local_part = address.local_part
    if local_part[:1] != '"' and local_part.isascii():  # as `match_key`, without the call
        local_part, domain = local_part.lower(), domain_key(address.domain)
    else:
        local_part, domain = match_key(address)
    return (f"{local_part}@{domain}" if domain else local_part), domain


def to_ascii(address: Address) -> Address | None:
    """The address for a peer without SMTPUTF8: domain in A-labels; None if the local part is not ASCII."""
    if address.is_ascii:
        return address
    domain = ascii_domain(address.domain)
    return Address(address.local_part, domain) if domain is not None and address.local_part.isascii() else None


def encode_path(address: Address, *, smtputf8: bool = False) -> bytes:
    """``<path>`` for MAIL, RCPT and trace fields. Non-ASCII stands as UTF-8 with ``smtputf8``; without, the domain
    goes as A-labels.

    :raises AddressError: when the address can't be said safely, or not without SMTPUTF8.
    """
    sayable = address if smtputf8 else to_ascii(address)
    if sayable is None:
        raise AddressError("needs SMTPUTF8")
    text = f"<{sayable}>"
    if _PLAIN.fullmatch(text) is None and not sayable.is_null:
        # from a table, a filter or a lenient client: only the form is judged here, not lengths
        local = _LENIENT_LOCAL.fullmatch(sayable.local_part)
        domain = not sayable.domain or _DOMAIN_PART.fullmatch(sayable.domain)
        if local is None or not domain or _UNSAFE.search(text):
            raise AddressError("not a mail address")
    return text.encode()
