"""`table.file`: a table in a text file that is read again when it changes.

One entry a line, ``key: value, value``; a key alone has an empty value, a key on several lines has the values of all. Lines that
begin with ``#`` and empty lines are nothing. There is no quoting: the key ends at the first colon.

The file must be there and good at the start. Later the old data stay whenever the new can't be had: a file that disappears, can't
be read or has a bad line changes nothing and says so once. A change is seen by inode, size and times, in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from twisted.internet.task import LoopingCall
from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Argument, Directive
from mailgate.config.text_forms import table_key
from mailgate.events import Event, EventLog
from mailgate.interfaces import ITable
from mailgate.pipeline.lookup import Kept
from mailgate.registry import Module, ModuleContext

_log = EventLog("mailgate.table")


class TableFileError(Exception):
    """The file can't be used; the text says why, with the line."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a file held, and how to know that it is still the same file."""

    entries: dict[str, tuple[str, ...]]
    signature: tuple[int, ...]


def parse(text: str) -> dict[str, tuple[str, ...]]:
    """:raises TableFileError: a line without a key."""
    entries: dict[str, list[str]] = {}
    for _, key, values in _lines(text):
        entries.setdefault(key, []).extend(value for value in map(str.strip, values.split(",")) if value)
    return {key: tuple(values) or ("",) for key, values in entries.items()}


def _lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Number, key and values of each entry. :raises TableFileError: a line without a key."""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, _, values = line.partition(":")
        key = table_key(key.strip())
        if not key:
            raise TableFileError(f"line {number} has no key")
        yield number, key, values


def read(path: str, known: tuple[int, ...] | None = None) -> Snapshot | None:
    """Read the file; None if it is what ``known`` says. Blocking.

    :raises TableFileError: it can't be read, or a line is bad.
    """
    try:
        if known is not None and _signature(os.stat(path)) == known:
            return None
        with open(path, encoding="utf-8", newline="\n") as file:
            signature = _signature(os.fstat(file.fileno()))
            return Snapshot(parse(file.read()), signature)
    except OSError as error:
        raise TableFileError(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise TableFileError(f"not UTF-8: {error.reason} at byte {error.start}") from error


def _signature(stat: os.stat_result) -> tuple[int, ...]:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@implementer(ITable)
class FileTable(Module):
    """Keys and values in a text file, read again when it changes."""

    name = "table.file"
    kept = Kept.IN_FILE
    path = Argument("PATH", v.Path(), doc="The file: `key: value, value` a line.", origin="maddy")
    reload_interval = Directive(
        "reload_interval", v.Duration(minimum=0.1), default=5.0, doc="How often to look whether the file has changed."
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._snapshot = Snapshot({}, ())
        self._trouble = ""
        self._looking: LoopingCall | None = None

    def configure(self, report: Report) -> None:
        try:
            self._snapshot = read(self.path) or self._snapshot
        except TableFileError as error:
            report.error(self.span, f"the table `{self.path}` can't be used: {error}", code="E0810")

    async def start(self) -> None:
        self._looking = LoopingCall(self._look)
        self._looking.clock = self.context.adapters.reactor  # type: ignore[union-attr]
        self._looking.start(self.reload_interval, now=False)

    async def stop(self) -> None:
        if self._looking is not None and self._looking.running:
            self._looking.stop()

    def sample_keys(self, stranger: str) -> Iterable[str]:
        """The keys that it has now."""
        return self._snapshot.entries

    def lookup(self, key: str) -> tuple[str, ...]:
        entries = self._snapshot.entries
        values = entries.get(key)
        return entries.get(table_key(key), ()) if values is None else values

    def entry_place(self, key: str) -> str:
        """``file:line`` of the first entry of a key, as the file is now; "" if it can't be had. Blocking: for people only."""
        wanted = {key, table_key(key)}
        try:
            with open(self.path, encoding="utf-8", newline="\n") as file:
                return next((f"{self.path}:{number}" for number, known, _ in _lines(file.read()) if known in wanted), "")
        except (OSError, UnicodeDecodeError, TableFileError):
            return ""

    def _look(self) -> Any:
        assert self.context.adapters is not None
        looking = self.context.adapters.run_in_thread(read, self.path, self._snapshot.signature)
        return looking.addCallbacks(self._took, self._kept)

    def _took(self, snapshot: Snapshot | None) -> None:
        if snapshot is None:
            self._trouble = ""
            return
        self._snapshot, self._trouble = snapshot, ""
        _log.info(Event.TABLE_RELOADED, table=self.label, path=self.path, entries=len(snapshot.entries))

    def _kept(self, failure: Any) -> None:
        """Whatever went wrong, the old data stay; the same trouble is said once."""
        trouble = str(failure.value)
        if trouble != self._trouble:
            self._trouble = trouble
            _log.error(Event.TABLE_FAILED, table=self.label, path=self.path, reason=f"{trouble}; the old entries stay")
