"""SASLprep (RFC 4013): user names and passwords in the form in which both ends compute with them."""

from __future__ import annotations

import stringprep
import unicodedata

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,  # unassigned: a stored string must not have them (RFC 3454 7)
)


def saslprep(text: str) -> str:
    """:raises ValueError: for a character that has no place in a name or password, controls among them."""
    if text.isascii() and text.isprintable():  # nearly always
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)  # commonly mapped to nothing
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibited(character) for character in prepared for prohibited in _PROHIBITED):
        raise ValueError("a character that SASLprep prohibits")
    if any(map(stringprep.in_table_d1, prepared)):  # right-to-left: RFC 3454 6
        outer = stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])
        if not outer or any(map(stringprep.in_table_d2, prepared)):
            raise ValueError("text of mixed direction")
    return prepared
