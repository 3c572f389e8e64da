"""Files of queues with very many entries, written directly, as the store would have written them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailgate.queue.batch import Values
from mailgate.queue.codec import checksum, encode_facts
from mailgate.queue.content import Shape
from mailgate.queue.entry import Origin, Standing, Waiting
from mailgate.queue.records import entry_checksum, recipient_values
from mailgate.queue.rows import ENTRY_COLUMNS, RECIPIENT_COLUMNS
from mailgate.queue.schema import upgrade
from mailgate.smtp.address import parse_address
from mailgate.smtp.parameters import NO_MAIL_PARAMETERS

HEADER = b"Received: from client.test by gateway.test; Sun, 22 Nov 2026 08:00:00 +0000\r\nSubject: one of many\r\n"
BODY = b"\r\n" + b"It waits.\r\n" * 20
BODY_COLUMNS = "id, size, flags, complete, checksum, data"


@dataclass(frozen=True)
class Crowd:
    """``count`` entries for ``target``, one recipient each, in turn to the destinations, given by name and address. ``arrived``
    and ``due`` are told where in the crowd an entry is, from 0 to 1."""

    count: int
    target: str
    destinations: Sequence[tuple[str, str]]
    arrived: Callable[[float], float]
    due: Callable[[float], float]
    retries: int = 0

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, mode=0o700)
        connection = sqlite3.connect(path, isolation_level=None)
        upgrade(connection)
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.execute("BEGIN")
        for table, columns, rows in (
            ("entry", ENTRY_COLUMNS, self._entries()),
            ("recipient", RECIPIENT_COLUMNS, self._recipients()),
            ("body", BODY_COLUMNS, self._bodies()),
        ):
            places = ", ".join("?" * (columns.count(",") + 1))
            connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)
        connection.execute("COMMIT")
        for _, statement in indexes:
            connection.execute(statement)
        connection.close()
        os.chmod(path, 0o600)

    def _entries(self) -> Iterator[Values]:
        origin = Origin("s", "tcp://[::]:25", "192.0.2.1")
        facts = encode_facts(parse_address("sender@client.test"), NO_MAIL_PARAMETERS, origin, 0)
        for number in range(1, self.count + 1):
            name, arrived = f"old.{number}", self.arrived(number / self.count)
            check = entry_checksum(name, self.target, arrived, facts, HEADER)
            yield number, 1, name, self.target, arrived, number, facts, HEADER, check

    def _recipients(self) -> Iterator[Values]:
        kinds = []
        for destination, address in self.destinations:
            row = Waiting(0, parse_address(address), destination, retries=self.retries)
            kinds.append(recipient_values(row, Standing.WAITING))
        for number in range(1, self.count + 1):
            place, destination, standing, _, facts, check = kinds[number % len(kinds)]
            yield number, place, destination, standing, self.due(number / self.count), 0, facts, check

    def _bodies(self) -> Iterator[Values]:
        shape, check = Shape(len(BODY), eight_bit=False, has_dots=False, ends_with_newline=True), checksum(BODY)
        for number in range(1, self.count + 1):
            yield number, len(BODY), shape.pack(), 1, check, BODY
