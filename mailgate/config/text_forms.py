"""The normal forms of texts in expressions: addresses, domains, closed sets of words, keys of tables.

What a variable gives is in its form, and the literals that it is compared with are brought to it at load (expression_types.py).
"""

from __future__ import annotations

import unicodedata

from mailgate.config.expression_types import Kind, NeverEqual, Normal, Type
from mailgate.smtp.address import AddressError, domain_key, parse_address, rule_keys


def folded(text: str) -> str:
    return unicodedata.normalize("NFC", text.casefold())


def domain(text: str) -> str:
    if "@" in text:
        raise NeverEqual("a domain has no @ in it", f'did you mean "{text.rpartition("@")[2]}"?')
    if text:
        try:
            parse_address(f"x@{text}")
        except AddressError as error:
            raise NeverEqual(f"no domain is like this: {error}") from None
    return domain_key(text)


def address(text: str) -> str:
    if text in ("", "<>"):
        return ""
    if text.lower() == "postmaster":
        return "postmaster"
    if "@" not in text:
        raise NeverEqual("an address has an @ in it", "to compare its domain, ask sender_domain or rcpt_domain")
    try:
        return rule_keys(parse_address(text.removeprefix("<").removesuffix(">")))[0]
    except AddressError as error:
        raise NeverEqual(f"no address is like this: {error}") from None


def one_of(*words: str) -> Normal:
    known = {word.casefold(): word for word in words}

    def normal(text: str) -> str:
        if text.casefold() not in known:
            raise NeverEqual(f'it is never "{text}"', f"possible: {', '.join(words)}")
        return known[text.casefold()]

    return normal


def text_type(normal: Normal | None = None, *, optional: bool = False) -> Type:
    return Type(Kind.STRING, optional=optional, normal=normal)


def table_key(text: str) -> str:
    """How a table that compares keys keeps them: an address in the form in which the pipeline asks for it, anything else
    case-folded."""
    if "@" in text:
        try:
            return rule_keys(parse_address(text, strict=False))[0]
        except AddressError:
            pass
    return folded(text)
