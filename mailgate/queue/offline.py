"""A queue's files without a gateway: what `mailgate queue export --offline` reads, and whether a file holds mail at all.

Nothing is changed: the files are opened for reading only, and what is damaged is passed over by name.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import quote

from mailgate.queue import inspection
from mailgate.queue.content import PIECE
from mailgate.queue.entry import Entry
from mailgate.queue.rows import read_body, read_piece
from mailgate.queue.store import Unavailable
from mailgate.sqlite import one

PAGE = 200
_FILE = re.compile(r"(\d+)\.sqlite\Z")


def files_of(directory: str) -> list[str]:
    """The files of a queue, ``1.sqlite``, ``2.sqlite``, …, by their numbers; none where there is no directory."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    numbered = sorted((int(match.group(1)), name) for name in names if (match := _FILE.match(name)))
    return [os.path.join(directory, name) for _, name in numbered]


def files_for(directory: str, worker: int, workers: int) -> list[str]:
    """The files of which one of several workers takes care, the one for new mail first: ``worker.sqlite``, and of those with
    higher numbers, which more workers have left, its part."""
    own = os.path.join(directory, f"{worker}.sqlite")
    if workers == 1:
        return files_of(directory) or [own]
    others = [path for path in files_of(directory) if path != own and (_number(path) - worker) % workers == 0]
    return [own, *others]


def _number(path: str) -> int:
    return int(os.path.basename(path).partition(".")[0])


def recipients_in(path: str) -> int:
    """How many recipients a file holds, however they stand. :raises Unavailable: it can't be read."""
    try:
        with closing(_open(path)) as connection:
            (count,) = one(connection, "SELECT COUNT(*) FROM recipient WHERE standing <> 0")
            return int(count)
    except sqlite3.Error as error:
        raise Unavailable(f"{path}: {error}") from error


def messages_in(path: str) -> Iterator[tuple[Entry, Iterator[bytes]]]:
    """Every entry, with its content in pieces. :raises Unavailable: it can't be read."""
    try:
        with closing(_open(path)) as connection:
            after: int | None = 0
            while after is not None:
                entries, _, after = inspection.page(connection, after, PAGE)
                for entry in entries:
                    yield entry, _content(connection, entry)
    except sqlite3.Error as error:
        raise Unavailable(f"{path}: {error}") from error


def _content(connection: sqlite3.Connection, entry: Entry) -> Iterator[bytes]:
    """:raises Damaged: it is not what was written."""
    shape, data = read_body(connection, entry.body)
    yield entry.header
    if data is not None:
        yield data
        return
    for number in range(-(-shape.size // PIECE)):
        yield read_piece(connection, entry.body, number)


def _open(path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=10.0, check_same_thread=False)
