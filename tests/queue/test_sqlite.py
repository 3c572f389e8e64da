"""The store in one sqlite file: the contract of stores, group commit, damage, and a disk that fails."""

from __future__ import annotations

import os
import sqlite3
import stat
from typing import Any

from twisted.internet.defer import DeferredList
from twisted.trial.unittest import TestCase

from mailgate.net.waiting import spawn
from mailgate.queue import rows
from mailgate.queue.sqlite import SqliteStore
from mailgate.queue.store import Damaged, Full, Unavailable
from tests.queue.contract import StoreContract
from tests.queue.support import World


class SqliteTests(StoreContract, TestCase):
    def setUp(self) -> None:
        self.world = World()
        self.path = os.path.join(self.mktemp(), "queue", "outbound", "1.sqlite")

    async def make_store(self) -> SqliteStore:
        store = SqliteStore(self.path, self.world.adapters)
        await store.open()
        return store

    async def test_the_file_is_for_us_alone(self) -> None:
        store = await self.make_store()
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        other = SqliteStore(self.path, self.world.adapters)
        await self.assertFailure(spawn(other.open()), Unavailable)
        await store.close()
        await other.open()
        await other.close()

    async def test_what_waits_together_is_committed_together(self) -> None:
        store = await self.make_store()
        drafts = [await self.world.draft(f"m{number}") for number in range(40)]
        writer: Any = store._writer
        before = writer.commits
        await DeferredList([spawn(store.accept([draft])) for draft in drafts], fireOnOneErrback=True)
        self.assertLessEqual(writer.commits - before, 3)
        self.assertEqual((await store.summary()).waiting, 40)
        await store.close()

    async def test_one_that_breaks_a_rule_fails_alone(self) -> None:
        store = await self.make_store()
        good, bad = await self.world.draft("good"), await self.world.draft("bad")
        bad = type(bad)(**{name: getattr(bad, name) for name in bad.__slots__} | {"recipients": bad.recipients * 2})
        outcomes = await DeferredList([spawn(store.accept([one])) for one in (good, bad)], consumeErrors=True)
        self.assertEqual([succeeded for succeeded, _ in outcomes], [True, False])
        self.assertEqual([entry.message_id for entry in await store.browse(0, 10)], ["good"])
        await store.close()

    async def test_a_damaged_row_is_set_aside_and_the_rest_goes_on(self) -> None:
        store = await self.make_store()
        (first,) = await store.accept([await self.world.draft("first")])
        await store.accept([await self.world.draft("second")])
        await store.close()
        with sqlite3.connect(self.path) as connection:
            connection.execute("UPDATE entry SET header = X'00' WHERE id = ?", (first.id,))
        connection.close()
        store = await self.make_store()
        self.assertEqual([lease.entry.message_id for lease in await self.lease_all(store)], ["second"])
        kept = await store._read(lambda connection: connection.execute("SELECT what FROM damaged").fetchall())
        self.assertEqual(len(kept), 2, kept)
        await store.close()

    async def test_damaged_content_is_not_sent(self) -> None:
        store = await self.make_store()
        (entry,) = await store.accept([await self.world.draft("m1")])
        await store._submit(lambda connection: connection.execute("UPDATE body SET data = X'414243'") and None)
        await self.assertFailure(spawn(store.message(entry)), Damaged)
        self.assertEqual(await self.lease_all(store), [])
        await store.close()

    async def test_a_full_disk_refuses_and_recovers(self) -> None:
        store = await self.make_store()
        await store.accept([await self.world.draft("before")])
        await store._submit(_limit_pages)
        outcome = await DeferredList(
            [spawn(store.accept([await self.world.draft("big", content=b"A: b\r\n\r\n" + b"x" * 900_000 + b"\r\n")]))],
            consumeErrors=True,
        )
        self.assertIsInstance(outcome[0][1].value, Full)
        self.assertEqual(store.broken, "")
        await store._submit(lambda connection: connection.execute("PRAGMA max_page_count = 1073741823").fetchone() and None)
        await store.accept([await self.world.draft("after")])
        self.assertEqual([entry.message_id for entry in await store.browse(0, 10)], ["before", "after"])
        await store.close()

    async def test_what_a_failing_disk_refused_is_not_delivered_after_all(self) -> None:
        store = await self.make_store()
        await store.accept([await self.world.draft("before")])
        writer: Any = store._writer
        real = writer._connection

        class LyingDisk:
            """The commit reaches the disk, and then it says that it failed."""

            in_transaction = False

            def execute(self, statement: str, *arguments: Any) -> Any:
                result = real.execute(statement, *arguments)
                if statement == "COMMIT":
                    error = sqlite3.OperationalError("disk I/O error")
                    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                    error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
                    raise error
                return result

            def executemany(self, *arguments: Any) -> Any:
                return real.executemany(*arguments)

            def close(self) -> None:
                real.close()

        writer._connection = LyingDisk()
        draft = await self.world.draft("ghost")
        await self.assertFailure(spawn(store.accept([draft])), Unavailable)
        self.assertIn("IOERR", store.broken)
        await self.assertFailure(spawn(store.accept([draft])), Unavailable)
        await store.reopen()
        self.assertEqual(store.broken, "")
        self.assertEqual([lease.entry.message_id for lease in await self.lease_all(store)], ["before"])
        await store.accept([await self.world.draft("after")])
        await store.close()
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    async def test_a_later_schema_is_refused(self) -> None:
        store = await self.make_store()
        await store.close()
        with sqlite3.connect(self.path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        await self.assertFailure(spawn(self.make_store()), Unavailable)

    async def test_half_stored_content_is_forgotten_at_start(self) -> None:
        store = await self.make_store()
        await store._submit(lambda connection: rows.insert_piece(connection, 7, 0, b"x"))
        await store._submit(lambda connection: connection.execute("INSERT INTO body VALUES (7, 9, 0, 0, 0, NULL)") and None)
        await store.close()
        store = await self.make_store()
        left = await store._read(lambda connection: connection.execute("SELECT COUNT(*) FROM piece").fetchone())
        self.assertEqual(left, (0,))
        self.assertEqual(await store.destinations(), [])
        await store.close()


def _limit_pages(connection: sqlite3.Connection) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 2}").fetchone()
