"""Several files as one store: what every store must do, and what is particular to it."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from mailgate.net.waiting import spawn
from mailgate.queue.shelves import Shelves
from mailgate.queue.sqlite import SqliteStore
from tests.queue.support import NOW, World


class ShelvesTests(TestCase):
    def test_leases_of_all_files_keep_apart(self) -> Deferred[None]:
        return spawn(self._keep_apart())

    async def _keep_apart(self) -> None:
        world = World()
        directory = self.mktemp()
        stores: list[Any] = [SqliteStore(os.path.join(directory, f"{n}.sqlite"), world.adapters) for n in (1, 2)]
        for number, store in enumerate(stores):
            await store.open()
            await store.accept([await world.draft(f"m{number}")])
            await store.close()
        whole = Shelves(stores)
        await whole.open()
        leases, _ = await whole.lease("one.test", NOW, 1)
        self.assertEqual([lease.entry.message_id for lease in leases], ["m0"])
        more, _ = await whole.lease("one.test", NOW, 10)
        self.assertEqual([lease.entry.message_id for lease in more], ["m1"])
        self.assertNotEqual(leases[0].entry.id, more[0].entry.id)
        whole.drop(leases[0])
        late = await whole.overdue("one.test", NOW, 0, 10)
        self.assertEqual([lease.entry.message_id for lease in late], ["m0"])
        self.assertEqual(await whole.overdue("one.test", NOW, late[0].entry.id, 10), [])
        (entry,) = await whole.accept([await world.draft("new")])
        self.assertEqual([one.message_id for one in await whole.browse(0, 10)], ["m0", "new"])
        following = (await whole.page(0, 10))[1]
        self.assertIsNotNone(following)
        entries, end = await whole.page(following or 0, 10)
        self.assertEqual(([one.message_id for one in entries], end), (["m1"], None))
        self.assertEqual((await whole.page(whole.cursor(entry.id), 10))[0], [])
        self.assertEqual(await whole.entry(entry.id), entry)
        self.assertEqual((await whole.summary()).waiting, 3)
        await whole.close()
