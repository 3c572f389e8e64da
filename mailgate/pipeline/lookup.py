"""Asking a table on the message path, and the form of its keys; and, for a dry run, which tables may be asked at all.

A table module says with ``kept`` where its answers come from (`Kept`); one that does not is asked over the network. A dry run
(`explain`, `try`, `test` blocks) opens `Lookups` over the tables of its configuration: every question to a table, whoever asks
it, is written down, and one that this run may not ask is answered from ``given`` or raises `NotAsked`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.config.text_forms import table_key
from mailgate.events import Event, EventLog
from mailgate.pipeline.router import place
from mailgate.smtp.reply import MailError, TemporaryError

_log = EventLog("mailgate.pipeline")


class Kept(Enum):
    """Where the answers of a table come from: its ``kept``."""

    IN_CONFIGURATION = "configuration"
    IN_FILE = "file"
    """Read by `configure`: asking costs no I/O, but what is in it is not the configuration's."""
    ELSEWHERE = "elsewhere"


WITHOUT_IO = frozenset((Kept.IN_CONFIGURATION, Kept.IN_FILE))


def kept(module: Any) -> Kept:
    where: Kept = getattr(module, "kept", Kept.ELSEWHERE)
    return where


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


class NotAsked(TemporaryError):
    """A dry run that may not ask this table: what would happen is not known."""

    def __init__(self, table: Any, key: str) -> None:
        self.table = table
        self.key = key
        self.label = str(getattr(table, "label", "") or "a table")
        super().__init__("Not asked", reason=f"{self.label} was not asked for {key!r}", where=place(getattr(table, "span", None)))


def not_asked(error: BaseException | None) -> NotAsked | None:
    """The question that was not asked, if an error comes of one."""
    while error is not None and not isinstance(error, NotAsked):
        error = error.__cause__
    return error


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """One question to a table: ``values`` is None if it could not answer, ``where`` the place of the entry that did."""

    table: Any
    key: str
    values: tuple[str, ...] | None
    where: str = ""


Answers = Mapping[str | None, tuple[str, ...]]
"""Values by key, in the form of `table_key`; those of None are for every other key."""


class Lookups:
    """A context in which the tables are listened to, and asked only if ``may_ask`` has where they keep their answers."""

    def __init__(
        self, tables: Iterable[Any], may_ask: frozenset[Kept] = WITHOUT_IO, given: Mapping[int, Answers] | None = None
    ) -> None:
        self._tables = list(tables)
        self._may_ask = may_ask
        self._given = given or {}
        self._made: list[Lookup] = []

    def __len__(self) -> int:
        return len(self._made)

    def since(self, number: int) -> list[Lookup]:
        return self._made[number:]

    @property
    def unanswered(self) -> bool:
        """Whether some table could not answer, or was not asked."""
        return any(lookup.values is None for lookup in self._made)

    def __enter__(self) -> Lookups:
        for table in self._tables:
            vars(table)["lookup"] = self._listening(table)
        return self

    def __exit__(self, *_: object) -> None:
        for table in self._tables:
            del vars(table)["lookup"]

    def _listening(self, table: Any) -> Any:
        live = table.lookup
        given = self._given.get(id(table), {})
        is_open = kept(table) in self._may_ask

        async def lookup(key: str) -> tuple[str, ...]:
            answer = given.get(table_key(key), given.get(None))
            if answer is not None:
                self._made.append(Lookup(table, key, answer))
                return answer
            if not is_open:
                self._made.append(Lookup(table, key, None))
                raise NotAsked(table, key)
            values: tuple[str, ...] | None = None
            try:
                found = live(key)
                values = found if isinstance(found, tuple) else tuple(await found)
                return values
            finally:
                self._made.append(Lookup(table, key, values, _entry(table, key) if values else ""))

        return lookup


def _entry(table: Any, key: str) -> str:
    """``file:line`` of an entry, where the table knows it; else the table's own."""
    entry_place = getattr(table, "entry_place", None)
    return (entry_place(key) if entry_place is not None else "") or place(getattr(table, "span", None))
