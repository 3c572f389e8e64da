"""Several files of one queue as one store.

A queue's directory may hold more files than the one that takes new mail: of processes that ran side by side, or put there by
hand. Each is a store of its own; here they are one. Numbers of entries are kept apart by the shelf they stand on: an entry's
number here is ``number * SHELVES + shelf``, so that what comes later has the higher number on each shelf. New mail goes to the
first. The order of a listing is that of the numbers on each shelf, one shelf after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from typing import Any

from mailgate.queue.entry import Draft, Entry, Lease, Settled, Waiting
from mailgate.queue.store import Line, Unavailable
from mailgate.queue.survey import Summary, Survey

SHELVES = 1 << 10
_PLACES = 1 << 50
"""Of a cursor: the shelf is its upper part."""


class Shelves:
    """See the module's docstring and `store.Store`."""

    def __init__(self, stores: Sequence[Any]) -> None:
        if len(stores) > SHELVES:
            raise Unavailable(f"a queue has at most {SHELVES} files")
        self._stores = list(stores)

    @property
    def on_trouble(self) -> Any:
        return self._stores[0].on_trouble

    @on_trouble.setter
    def on_trouble(self, hears: Callable[[BaseException], None]) -> None:
        for store in self._stores:
            store.on_trouble = hears

    async def open(self) -> None:
        opened: list[Any] = []
        try:
            for store in self._stores:
                await store.open()
                opened.append(store)
        except BaseException:
            for store in opened:
                await store.close()
            raise

    async def close(self) -> None:
        for store in self._stores:
            await store.close()

    async def reopen(self) -> None:
        for store in self._stores:
            await store.reopen()

    # Accepting

    async def accept(
        self, drafts: Sequence[Draft], *, prepared: bool = False, intended: Container[str] = ()
    ) -> tuple[Entry, ...]:
        entries = await self._stores[0].accept(drafts, prepared=prepared, intended=intended)
        return tuple(self._out(0, entry) for entry in entries)

    async def commit(self, entries: Sequence[int]) -> None:
        await self._stores[0].commit([number // SHELVES for number in entries])

    async def abort(self, entries: Sequence[int]) -> None:
        await self._stores[0].abort([number // SHELVES for number in entries])

    # Delivering

    async def destinations(self) -> list[tuple[str, float]]:
        found: dict[str, float] = {}
        for store in self._stores:
            for name, due in await store.destinations():
                found[name] = min(due, found.get(name, due))
        return sorted(found.items())

    async def lease(self, destination: str, now: float, limit: int) -> tuple[list[Lease], float]:
        leases: list[Lease] = []
        following = float("inf")
        for shelf, store in enumerate(self._stores):
            if len(leases) >= limit:
                following = min(following, now)  # whether somebody is due there is seen next time
                break
            found, due = await store.lease(destination, now, limit - len(leases))
            leases += [self._lease_out(shelf, lease) for lease in found]
            following = min(following, due)
        return leases, following

    def take(self, entry: Entry, destination: str, *, intended: bool = False) -> Lease:
        shelf, inner = self._in(entry)
        return self._lease_out(shelf, self._stores[shelf].take(inner, destination, intended=intended))

    def drop(self, lease: Lease) -> None:
        shelf, inner = self._lease_in(lease)
        self._stores[shelf].drop(inner)

    async def overdue(self, destination: str, arrived_before: float, after: int, limit: int) -> list[Lease]:
        """In the order of the numbers here: a few of each shelf, those with the lowest numbers first."""
        leases = []
        for shelf, store in enumerate(self._stores):
            beyond = (after - shelf) // SHELVES if after else 0
            found = await store.overdue(destination, arrived_before, beyond, limit)
            leases += [self._lease_out(shelf, lease) for lease in found]
        leases.sort(key=lambda lease: lease.entry.id)
        for lease in leases[limit:]:
            self.drop(lease)
        return leases[:limit]

    async def renew(self, lease: Lease) -> Lease:
        shelf, inner = self._lease_in(lease)
        return self._lease_out(shelf, await self._stores[shelf].renew(inner))

    async def intend(self, lease: Lease) -> None:
        shelf, inner = self._lease_in(lease)
        await self._stores[shelf].intend(inner)

    async def settle(self, lease: Lease, results: Sequence[Settled]) -> None:
        shelf, inner = self._lease_in(lease)
        await self._stores[shelf].settle(inner, results)

    async def owed(self, now: float, limit: int) -> tuple[list[Lease], float]:
        leases: list[Lease] = []
        following = float("inf")
        for shelf, store in enumerate(self._stores):
            if len(leases) >= limit:
                return leases, now  # whether somebody is due there is seen next time
            found, due = await store.owed(now, limit - len(leases))
            leases += [self._lease_out(shelf, lease) for lease in found]
            following = min(following, due)
        return leases, following

    async def message(self, entry: Entry) -> Any:
        shelf, inner = self._in(entry)
        return await self._stores[shelf].message(inner)

    # For operators

    async def browse(self, after: int, limit: int) -> list[Entry]:
        entries, _ = await self.page(after, limit)
        return entries

    async def page(self, after: int, limit: int) -> tuple[list[Entry], int | None]:
        """``after`` is a cursor: shelf and number there, not the number of an entry here."""
        shelf, number = divmod(after, _PLACES)
        entries, following = await self._stores[shelf].page(number, limit)
        found = [self._out(shelf, entry) for entry in entries]
        if following is not None:
            return found, shelf * _PLACES + following
        return found, (shelf + 1) * _PLACES if shelf + 1 < len(self._stores) else None

    def cursor(self, number: int) -> int:
        """See `Store`."""
        place, shelf = divmod(number, SHELVES)
        return shelf * _PLACES + place

    async def entry(self, number: int) -> Entry | None:
        place, shelf = divmod(number, SHELVES)
        entry = await self._stores[shelf].entry(place) if shelf < len(self._stores) else None
        return self._out(shelf, entry) if entry is not None else None

    async def find(self, message_id: str) -> list[Entry]:
        return [self._out(shelf, entry) for shelf, store in enumerate(self._stores) for entry in await store.find(message_id)]

    async def history(self, entry: int) -> list[Line]:
        place, shelf = divmod(entry, SHELVES)
        lines: list[Line] = await self._stores[shelf].history(place)
        return lines

    def is_leased(self, entry: int, number: int) -> bool:
        place, shelf = divmod(entry, SHELVES)
        return bool(self._stores[shelf].is_leased(place, number))

    async def change(self, entry: int, edit: Callable[[Waiting], Waiting | None], note: str) -> int:
        place, shelf = divmod(entry, SHELVES)
        return int(await self._stores[shelf].change(place, edit, note))

    async def move(self, entry: int, edit: Callable[[Waiting], Waiting | None], target: str, note: str) -> int:
        place, shelf = divmod(entry, SHELVES)
        return int(await self._stores[shelf].move(place, edit, target, note))

    async def survey(self, now: float) -> Survey:
        whole = Survey()
        for store in self._stores:
            whole.merge(await store.survey(now))
        return whole

    async def summary(self) -> Summary:
        whole = Summary()
        for store in self._stores:
            whole = whole.plus(await store.summary())
        return whole

    def summary_now(self) -> Summary:
        """See `Store`."""
        whole = Summary()
        for store in self._stores:
            whole = whole.plus(store.summary_now())
        return whole

    async def purge(self, before: float) -> int:
        return sum([await store.purge(before) for store in self._stores])

    # Numbers

    def _out(self, shelf: int, entry: Entry) -> Entry:
        return replace(entry, id=entry.id * SHELVES + shelf)

    def _in(self, entry: Entry) -> tuple[int, Entry]:
        place, shelf = divmod(entry.id, SHELVES)
        return shelf, replace(entry, id=place)

    def _lease_out(self, shelf: int, lease: Lease) -> Lease:
        return replace(lease, entry=self._out(shelf, lease.entry))

    def _lease_in(self, lease: Lease) -> tuple[int, Lease]:
        shelf, entry = self._in(lease.entry)
        return shelf, replace(lease, entry=entry)
