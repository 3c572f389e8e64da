"""What a store does alike wherever its rows lie: content in pieces, damage, and what operators ask.

`SqliteStore` and `PostgresStore` say how a job gets at the rows. Both have the same ``statements`` by the same names, functions
of a connection; those of ``inspection`` are for operators: they may take long, and don't stand in the way of deliveries.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, ClassVar

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.message.message import Message
from mailgate.queue.content import PIECE, StoredContent
from mailgate.queue.entry import Entry
from mailgate.queue.store import Damaged, Line
from mailgate.queue.survey import Summary, Survey


class RowStore:
    """See the module's docstring. ``place`` is what stands in the log for the store."""

    statements: ClassVar[Any]
    inspection: ClassVar[Any]

    def __init__(self, place: str, adapters: Adapters, log: EventLog | None) -> None:
        self._place = place
        self._adapters = adapters
        self._log = log or EventLog("mailgate.queue")
        self._leased: set[tuple[int, int]] = set()

    # How rows are got at

    def _submit(self, write: Any) -> Any:
        """A write, in the order of all writes."""
        raise NotImplementedError

    async def _read(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """``work(connection, *arguments)`` in a thread."""
        raise NotImplementedError

    def _inspect_now(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """The same in the caller's thread, on a connection of its own."""
        raise NotImplementedError

    async def _inspect(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """For operators: what may take long does not stand in the way of deliveries."""
        return await self._adapters.run_in_thread(self._inspect_now, work, *arguments)

    # Content

    async def _store_pieces(self, message: Message, body: int, begin: Any) -> int:
        """Content that is not in memory, piece by piece, in transactions of their own, ``begin`` first. Nobody sees it before
        it is complete."""
        start, size = len(message.header), message.size - len(message.header)
        await self._submit(begin)
        try:
            for number in range(-(-size // PIECE)):
                reading = message.read(start + number * PIECE, PIECE)
                piece = reading if isinstance(reading, bytes) else await reading
                await self._submit(partial(self.statements.insert_piece, body=body, number=number, piece=piece))
        except BaseException:
            self._forget_bodies([body])
            raise
        return body

    def _forget_bodies(self, bodies: Iterable[int]) -> None:
        """Content that no entry got."""
        raise NotImplementedError

    async def message(self, entry: Entry) -> Message:
        """See `Store`."""
        try:
            shape, data = await self._read(self.statements.read_body, entry.body)
        except Damaged as error:
            await self._set_aside([(entry.id, str(error))])
            raise
        content = StoredContent(shape, data, None if data is not None else self._fetcher(entry.body))
        return Message(entry.header, content)  # type: ignore[arg-type]

    def _fetcher(self, body: int) -> Callable[[int], Awaitable[bytes]]:
        return lambda number: self._read(self.statements.read_piece, body, number)

    async def _set_aside(self, damaged: Iterable[tuple[int, str]]) -> None:
        """Take damaged entries out of the queue, with their bytes."""
        now = self._adapters.wall_time()
        for entry, why in damaged:
            self._log.error(Event.QUEUE_DAMAGED, file=self._place, entry=entry, error=why)
            await self._submit(partial(self.statements.set_aside, entry=entry, why=why, now=now))
            self._leased.difference_update([key for key in self._leased if key[0] == entry])

    # For operators, as in `Store`

    async def browse(self, after: int, limit: int) -> list[Entry]:
        entries, _ = await self.page(after, limit)
        return entries

    async def page(self, after: int, limit: int) -> tuple[list[Entry], int | None]:
        entries, damaged, following = await self._inspect(self.inspection.page, after, limit)
        await self._set_aside(damaged)
        return list(entries), following

    async def entry(self, number: int) -> Entry | None:
        entries, _ = await self.page(number - 1, 1)
        return entries[0] if entries and entries[0].id == number else None

    def cursor(self, number: int) -> int:
        return number

    async def survey(self, now: float) -> Survey:
        found: Survey = await self._inspect(self.inspection.survey, now)
        return found

    async def summary(self) -> Summary:
        found: Summary = await self._inspect(self.inspection.summary)
        return found

    def summary_now(self) -> Summary:
        found: Summary = self._inspect_now(self.inspection.summary)
        return found

    def is_leased(self, entry: int, number: int) -> bool:
        return (entry, number) in self._leased

    async def find(self, message_id: str) -> list[Entry]:
        entries, damaged = await self._read(self.statements.find, message_id)
        await self._set_aside(damaged)
        return list(entries)

    async def history(self, entry: int) -> list[Line]:
        lines: list[Line] = await self._read(self.statements.history, entry)
        return lines

    async def purge(self, before: float) -> int:
        return int(await self._submit(partial(self.statements.purge, before=before)))
