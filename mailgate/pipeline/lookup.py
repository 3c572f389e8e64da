"""Asking a table on the message path, and the form of its keys."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.events import Event, EventLog
from mailgate.pipeline.router import place, rule_keys
from mailgate.smtp.address import AddressError, parse_address
from mailgate.smtp.reply import MailError, TemporaryError

_log = EventLog("mailgate.pipeline")


def table_key(text: str) -> str:
    """How a table that compares keys keeps them: an address in the form in which the pipeline asks for it, anything else
    case-folded."""
    if "@" in text:
        try:
            return rule_keys(parse_address(text, strict=False))[0]
        except AddressError:
            pass
    return unicodedata.normalize("NFC", text.casefold())


async def look_up(table: Any, key: str) -> tuple[str, ...]:
    """The values of a key, () without a match.

    :raises MailError: the table can't answer: 451 for this address, the reason in the log alone.
    """
    try:
        values = table.lookup(key)
        if not isinstance(values, tuple):
            values = tuple(await values)
    except (MailError, CancelledError):
        raise
    except Exception as error:
        label = getattr(table, "label", "")
        _log.error(Event.TABLE_FAILED, table=label, reason=repr(error))
        where = place(getattr(table, "span", None))
        raise TemporaryError("Temporary lookup failure", reason=f"table {label} failed: {error!r}", where=where) from error
    return values


_DOT_STRING = re.compile(r"[^\x00-\x20\x7f()<>\[\]:;@\\,\".]+(?:\.[^\x00-\x20\x7f()<>\[\]:;@\\,\".]+)*\Z")


def quoted_local_part(text: str) -> str:
    """A local part as it stands in an address: keys have lost their quotes, some can't do without (RFC 5321 4.1.2)."""
    if _DOT_STRING.match(text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
