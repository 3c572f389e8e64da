"""Asking a table on the message path."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.events import Event, EventLog
from mailgate.pipeline.router import place
from mailgate.smtp.reply import MailError, TemporaryError

_log = EventLog("mailgate.pipeline")


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
