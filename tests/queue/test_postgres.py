"""The store in PostgreSQL: the contract of stores, and one node of its own."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import DeferredList
from twisted.trial.unittest import TestCase

from mailgate.config.places import SecretText
from mailgate.net.waiting import spawn
from tests.queue.contract import StoreContract
from tests.queue.support import World
from tests.support.postgres import shared


class PostgresTests(StoreContract, TestCase):
    def setUp(self) -> None:
        self.server = shared()
        self.dsn = self.server.database()
        self.world = World()

    def new_store(self, name: str = "node", **options: Any) -> Any:
        from mailgate.queue.postgres import Access, PostgresStore

        return PostgresStore(Access(SecretText(self.dsn), "mailgate_out"), name, self.world.adapters, **options)

    async def make_store(self) -> Any:
        store = self.new_store()
        await store.open()
        return store

    async def test_what_waits_together_is_committed_together(self) -> None:
        store = await self.make_store()
        drafts = [await self.world.draft(f"m{number}") for number in range(40)]
        before = store._writer.commits
        await DeferredList([spawn(store.accept([draft])) for draft in drafts], fireOnOneErrback=True)
        self.assertLessEqual(store._writer.commits - before, 3)
        self.assertEqual((await store.summary()).waiting, 40)
        await store.close()
