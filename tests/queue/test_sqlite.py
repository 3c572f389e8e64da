"""The store in one sqlite file: the contract of stores, group commit, damage, and a disk that fails."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.trial.unittest import TestCase

from mailgate.net.waiting import spawn
from mailgate.queue import rows
from mailgate.queue.entry import Draft, Entry, Fate, Lease, Settled, Standing
from mailgate.queue.refusals import SIZE, Refusals
from mailgate.queue.sqlite import SqliteStore
from mailgate.queue.store import Damaged, Full, Unavailable
from tests.queue.contract import StoreContract
from tests.queue.support import NOW, World


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
        self._lie(store)
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

    async def test_content_that_was_forgotten_meanwhile_is_not_accepted(self) -> None:
        """The file breaks, and is opened anew, while a large message is written piece by piece."""
        store = await self.make_store()
        draft = await self.world.draft("large", content=b"A: b\r\n\r\n" + (b"x" * 998 + b"\r\n") * 2000)
        pieces = 0
        submit = store._submit

        def breaking(job: Any) -> Any:
            nonlocal pieces
            pieces += 1
            if pieces == 3:
                store._break(OSError("fsync"))
                return spawn(_reopen_then(job))
            return submit(job)

        async def _reopen_then(job: Any) -> Any:
            await store.reopen()
            return await submit(job)

        store._submit = breaking  # type: ignore[method-assign]
        await self.assertFailure(spawn(store.accept([draft])), Unavailable)
        store._submit = submit  # type: ignore[method-assign]
        await store._writer.drained()  # type: ignore[union-attr]
        self.assertEqual(await store.browse(0, 10), [])
        self.assertEqual(await store._read(lambda connection: connection.execute("SELECT COUNT(*) FROM piece").fetchone()), (0,))
        await store.close()

    async def test_those_who_reopen_together_open_it_once(self) -> None:
        store = await self.make_store()
        store._break(OSError("fsync"))
        outcomes = await DeferredList([spawn(store.reopen()) for _ in range(5)], consumeErrors=True)
        self.assertEqual([succeeded for succeeded, _ in outcomes], [True, False, False, False, False])
        self.assertEqual(store.broken, "")
        await store.accept([await self.world.draft("after")])
        await store.close()

    async def test_a_commit_that_was_refused_is_not_delivered_after_all(self) -> None:
        store = await self.make_store()
        (entry,) = await store.accept([await self.world.draft("ghost")], prepared=True)
        self._lie(store)
        await self.assertFailure(spawn(store.commit([entry.id])), Unavailable)
        await self.assertFailure(spawn(store.abort([entry.id])), Unavailable)
        await store.reopen()
        self.assertEqual(await self.lease_all(store), [])
        await store.close()

    async def test_what_was_refused_is_forgotten_before_the_file_is_closed(self) -> None:
        store = await self.make_store()
        self._lie(store)
        await self.assertFailure(spawn(store.accept([await self.world.draft("ghost")])), Unavailable)
        await store.close()
        store = await self.make_store()
        self.assertEqual(await store.browse(0, 10), [])
        await store.close()

    async def test_a_search_that_lasts_hides_nothing_from_the_next_one(self) -> None:
        """What is saved while one search is under way is old news to it, and to no other."""
        store = await self.make_store()
        (entry,) = await store.accept([await self.world.draft()])
        (lease,) = await self.lease_all(store)
        waiting = Deferred[None]()
        read = store._read

        async def slow(job: Any) -> Any:
            found = await read(job)
            await waiting
            return found

        store._read = slow  # type: ignore[method-assign]
        searching = spawn(store.lease("one.test", NOW, 10))
        store._read = read  # type: ignore[method-assign]
        await store.settle(lease, [Settled(0, replace(lease.recipients[0], standing=Standing.OWED, fate=Fate.FAILED))])
        self.assertEqual([one.entry.id for one in (await store.owed(NOW, 10))[0]], [entry.id])
        waiting.callback(None)
        leases, _ = await searching
        self.assertEqual(leases, [])
        await store.close()

    async def test_what_was_refused_is_forgotten_though_the_process_was_killed(self) -> None:
        """The disk did it, and said that it did not; nothing else is forgotten."""
        works: dict[str, Callable[[SqliteStore, Entry, Entry, Draft], Any]] = {
            "accepted": lambda store, kept, prepared, draft: store.accept([draft]),
            "committed": lambda store, kept, prepared, draft: store.commit([prepared.id]),
            "resolved": lambda store, kept, prepared, draft: store.settle(
                Lease(prepared, prepared.recipients), [Settled(0, prepared.recipients[0])]
            ),
            "settled": lambda store, kept, prepared, draft: store.settle(
                store.take(kept, "one.test"), [Settled(0, replace(kept.recipients[0], retries=1))]
            ),
        }
        for name, work in works.items():
            self.path = os.path.join(self.mktemp(), "1.sqlite")
            store = await self.make_store()
            (kept,) = await store.accept([await self.world.draft("kept")])
            (prepared,) = await store.accept([await self.world.draft("prepared")], prepared=True)
            self._lie(store)
            outcome = work(store, kept, prepared, await self.world.draft("ghost"))
            await self.assertFailure(spawn(outcome), Unavailable)
            for _ in range(2):  # what the next process forgot is forgotten, and the note with it
                self._die(store)
                store = await self.make_store()
                (lease,) = await self.lease_all(store)
                self.assertEqual(lease.entry.message_id, "kept", name)
                self.assertEqual(lease.recipients[0].retries, int(name == "settled"), name)
            await store.close()

    def test_a_note_that_was_cut_off_is_read_as_far_as_it_goes(self) -> None:
        path = self.mktemp()
        note = Refusals(path)
        self.assertEqual(note.open(), [])
        note.note([(7, 1 << 62), (8, 3)])
        note.close()
        whole = Path(path).read_bytes()
        for end in range(len(whole.rstrip(b"\0"))):
            Path(path).write_bytes(whole[:end] + bytes(len(whole) - end))
            read = Refusals(path)
            self.assertEqual(read.open(), [(7, 1 << 62)] if end > whole.index(b"\n") else [], end)
            read.close()
        self.assertEqual(Path(path).stat().st_size, SIZE)

    async def test_no_question_walks_through_the_whole_table(self) -> None:
        """What is asked at start and while deliveries run, with a million entries too."""
        store = await self.make_store()
        writer: Any = store._writer
        seen: list[str] = []
        writer._connection.set_trace_callback(seen.append)
        store._reading.set_trace_callback(seen.append)  # type: ignore[union-attr]
        (entry,) = await store.accept([await self.world.draft("m1")])
        await store._submit(rows.recover)
        await store._submit(lambda connection: rows.forget_refused(connection, [(entry.id, 0)]))
        await store._submit(lambda connection: rows.purge(connection, 0.0))
        await store.owed(NOW, 10)
        await store.overdue("one.test", 0.0, 0, 10)
        await store.destinations()
        (lease,) = await self.lease_all(store)
        await store.intend(lease)
        await store.settle(lease, [Settled(0, replace(lease.recipients[0], retries=1), "later")])
        await store.change(entry.id, lambda row: replace(row, standing=Standing.HELD), "held")
        await store.settle(lease, [Settled(0, None)])
        await store._read(rows.last_numbers)
        writer._connection.set_trace_callback(None)
        store._reading.set_trace_callback(None)  # type: ignore[union-attr]
        asked = ("SELECT", "UPDATE", "DELETE")
        plans = await store._read(lambda connection: [(one, _plan(connection, one)) for one in seen if one.startswith(asked)])
        self.assertGreater(len(plans), 18)
        for question, steps in plans:
            for step in steps:
                bounded = any(word in step for word in ("INDEX", "sqlite_sequence", "CONSTANT ROW"))
                self.assertFalse(step.startswith("SCAN") and not bounded, (question, step))
        await store.close()

    def _die(self, store: SqliteStore) -> None:
        """What `kill -9` leaves: the files as they are, and no lock. (Connections that stay open change nothing of them.)"""
        assert store._lock is not None
        os.close(store._lock)
        store._refusals.close()

    def _lie(self, store: SqliteStore) -> None:
        """From now on commits reach the disk, and then it says that they failed."""
        writer: Any = store._writer
        real = writer._connection

        class LyingDisk:
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


def _plan(connection: sqlite3.Connection, question: str) -> list[str]:
    return [str(step[3]) for step in connection.execute(f"EXPLAIN QUERY PLAN {question}")]


def _limit_pages(connection: sqlite3.Connection) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 2}").fetchone()
