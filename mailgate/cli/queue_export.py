"""Messages of queues as files: content in QUEUE-ID-NUMBER.eml, envelope in .json."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import click

from mailgate.cli.common import UNREADABLE
from mailgate.modules._queue_store import access_of
from mailgate.modules.target.queue import QueueTarget
from mailgate.queue.entry import Entry
from mailgate.queue.offline import files_of, messages_in
from mailgate.queue.selection import Candidate
from mailgate.queue.store import StoreError
from mailgate.registry import build
from mailgate.registry.directories import state_directory

FORMAT_VERSION = 1
_Reader = Callable[[], Iterator[tuple[Entry, Iterator[bytes]]]]


class Exporter:
    """Writes into a directory; it is made for its owner alone, as its files are. :raises OSError:"""

    def __init__(self, directory: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._directory = directory
        self.count = 0

    def write(self, entry: dict[str, Any], content: Iterable[bytes]) -> None:
        """The envelope comes last: where it is, the content is whole."""
        name = "".join(char if char.isalnum() or char in ".-_" else "_" for char in str(entry["id"])).lstrip(".")
        path = os.path.join(self._directory, f"{entry['queue']}-{name}-{entry['number']}")
        with open(f"{path}.eml", "wb", opener=_private) as file:
            file.writelines(content)
        with open(f"{path}.json", "w", encoding="utf-8", opener=_private) as file:
            json.dump({"version": FORMAT_VERSION, **entry}, file, indent=2, ensure_ascii=False)
        self.count += 1


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def remote_content(get: Callable[..., Any], entry: dict[str, Any]) -> Iterator[bytes]:
    """The content of an entry, piece by piece, from the gateway."""
    offset, size = 0, 1
    while offset < size:
        found = get("/v1/queue/content", queue=entry["queue"], number=entry["number"], offset=offset)
        piece = base64.b64decode(found["data"])
        size = found["size"]
        offset += len(piece)
        yield piece
        if not piece:
            return


def offline_entries(path: str, queue: str | None) -> Iterator[tuple[dict[str, Any], Iterator[bytes]]]:
    """Everything in the files of one queue, or of all that have files, configured or not; and in the databases of those that are
    configured."""
    try:
        root = os.path.join(state_directory(path), "queue")
        databases = {name: found for name, found in _databases(path).items() if queue in (None, name)}
        if queue is not None:
            names = [queue]
        else:
            names = sorted(os.listdir(root)) if os.path.isdir(root) or not databases else []
    except OSError as error:
        click.echo(f"error: can't read {error.filename or path}: {error.strerror or error}", err=True)
        sys.exit(UNREADABLE)
    parts: list[tuple[str, _Reader]] = [
        (name, partial(messages_in, file)) for name in names for file in files_of(os.path.join(root, name))
    ]
    parts += databases.items()
    if queue is not None and not parts:
        click.echo(f"error: there is no queue {queue} in {root}, nor in a database of the configuration", err=True)
        sys.exit(1)
    for name, messages in parts:
        try:
            for entry, content in messages():
                yield _envelope(name, entry), content
        except StoreError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)


def _databases(path: str) -> dict[str, _Reader]:
    """What reads the queues that the configuration keeps in PostgreSQL; none where it has errors."""
    configuration = build(path).configuration
    found: dict[str, _Reader] = {}
    for module in configuration.modules if configuration is not None else ():
        if isinstance(module, QueueTarget) and (access := access_of(module)) is not None:
            from mailgate.queue import postgres_offline

            found[module.context.name] = partial(postgres_offline.messages_in, access)
    return found


def _envelope(name: str, entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.message_id,
        "queue": name,
        "number": entry.id,
        "target": entry.target,
        "sender": str(entry.sender),
        "size": entry.size,
        "arrived": entry.arrived,
        "recipients": [
            {
                "address": str(row.address),
                "state": Candidate(name, entry, row, 0.0).state,
                "notify": sorted(row.parameters.notify),
            }
            for row in entry.recipients
        ],
    }
