"""A text file that is read again when it changes, for modules that keep what is in it.

The file must be there and good at the start. Later the old content stays whenever the new can't be had: a file that disappears,
can't be read or is wrong changes nothing and says so once. A change is seen by inode, size and times, in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from twisted.internet.task import LoopingCall

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog

T = TypeVar("T")


class FileProblem(Exception):
    """The file can't be used. ``lines`` are (number, what is wrong with it), empty if it is the whole file."""

    def __init__(self, text: str, lines: tuple[tuple[int, str], ...] = ()) -> None:
        super().__init__(text)
        self.lines = lines


@dataclass(frozen=True, slots=True)
class _Snapshot(Generic[T]):
    content: T
    signature: tuple[int, ...]


class WatchedFile(Generic[T]):
    """``parse`` makes something of the text, or raises `FileProblem`. ``fields`` stand in the log events ``changed`` (with the
    number of ``entries``) and ``failed`` (with the reason)."""

    def __init__(
        self,
        path: str,
        parse: Callable[[str], T],
        log: EventLog,
        changed: Event,
        failed: Event,
        fields: dict[str, str],
        entries: Callable[[T], int],
    ) -> None:
        self._path = path
        self._parse = parse
        self._log = log
        self._changed = changed
        self._failed = failed
        self._fields = fields
        self._entries = entries
        self._snapshot: _Snapshot[T] | None = None
        self._trouble = ""
        self._looking: LoopingCall | None = None
        self._run_in_thread: Any = None

    @property
    def content(self) -> T:
        """As it is now; there is one after `load`."""
        assert self._snapshot is not None
        return self._snapshot.content

    def load(self) -> None:
        """Read it for the first time. Blocking. :raises FileProblem:"""
        self._snapshot = self._read(None)

    def watch(self, adapters: Adapters, interval: float) -> None:
        self._run_in_thread = adapters.run_in_thread
        self._looking = LoopingCall(self._look)
        self._looking.clock = adapters.reactor
        self._looking.start(interval, now=False)

    def stop(self) -> None:
        if self._looking is not None and self._looking.running:
            self._looking.stop()

    def _read(self, known: tuple[int, ...] | None) -> _Snapshot[T] | None:
        """None if it is what ``known`` says."""
        try:
            if known is not None and _signature(os.stat(self._path)) == known:
                return None
            with open(self._path, encoding="utf-8", newline="\n") as file:
                signature = _signature(os.fstat(file.fileno()))
                return _Snapshot(self._parse(file.read()), signature)
        except OSError as error:
            raise FileProblem(error.strerror or str(error)) from error
        except UnicodeDecodeError as error:
            raise FileProblem(f"not UTF-8: {error.reason} at byte {error.start}") from error

    def _look(self) -> Any:
        known = self._snapshot.signature if self._snapshot is not None else None
        return self._run_in_thread(self._read, known).addCallbacks(self._took, self._kept)

    def _took(self, snapshot: _Snapshot[T] | None) -> None:
        self._trouble = ""
        if snapshot is not None:
            self._snapshot = snapshot
            self._log.info(self._changed, path=self._path, entries=self._entries(snapshot.content), **self._fields)

    def _kept(self, failure: Any) -> None:
        """Whatever went wrong, the old content stays; the same trouble is said once."""
        trouble = str(failure.value)
        if trouble != self._trouble:
            self._trouble = trouble
            self._log.error(self._failed, path=self._path, reason=f"{trouble}; the old entries stay", **self._fields)


def _signature(stat: os.stat_result) -> tuple[int, ...]:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
