"""A store that several workers of one gateway share, as all but the first of them show it: the first shows what is in it, and
added up it must not be there twice. What is done with it for mail is the store's own affair, and every worker's.
"""

from __future__ import annotations

from typing import Any

from mailgate.queue.entry import Entry
from mailgate.queue.survey import Summary, Survey


class Partner:
    """See `store.Store`: to operators it is empty."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def browse(self, after: int, limit: int) -> list[Entry]:
        return []

    async def page(self, after: int, limit: int) -> tuple[list[Entry], int | None]:
        return [], None

    async def find(self, message_id: str) -> list[Entry]:
        return []

    async def survey(self, now: float) -> Survey:
        return Survey()

    async def summary(self) -> Summary:
        return Summary()

    def summary_now(self) -> Summary:
        """See `Store`."""
        return Summary()
