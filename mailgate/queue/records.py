"""Entries and recipients as rows of a table, and back: columns, with the codec's text and a checksum over what belongs together.

Every store of ours in SQL has the same columns, in this order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mailgate.queue.codec import checksum, decode_facts, decode_recipient, encode_recipient
from mailgate.queue.entry import Entry, Standing, Waiting
from mailgate.queue.store import Damaged


def entry_of(stored: tuple[Any, ...], rows: tuple[Waiting, ...], size: int) -> Entry:
    number, message_id, target, arrived, body, facts, header, check = stored
    try:
        if entry_checksum(message_id, target, arrived, facts, header) != check:
            raise Damaged("the entry is not what was written")
    except (TypeError, AttributeError) as error:
        raise Damaged("the entry is not what was written") from error
    sender, parameters, origin, priority = decode_facts(facts)
    return Entry(number, message_id, target, sender, parameters, origin, arrived, header, body, size, rows, priority)


def entry_checksum(message_id: str, target: str, arrived: float, facts: bytes, header: bytes) -> int:
    return checksum(message_id.encode(), target.encode(), repr(float(arrived)).encode(), facts, header)


def recipient_of(stored: tuple[Any, ...]) -> Waiting:
    _, number, destination, standing, due, intent, facts, check = stored
    try:
        if checksum(facts, destination.encode()) != check:
            raise Damaged(f"recipient {number} is not what was written")
    except (TypeError, AttributeError) as error:
        raise Damaged(f"recipient {number} is not what was written") from error
    row = decode_recipient(number, destination, standing, due, facts)
    return replace(row, in_doubt=True) if intent and not row.in_doubt else row


def recipient_values(row: Waiting, standing: Standing) -> tuple[Any, ...]:
    facts = encode_recipient(row)
    return (row.number, row.destination, int(standing), row.due, facts, checksum(facts, row.destination.encode()))
