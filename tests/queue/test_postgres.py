"""The store in PostgreSQL: the contract of stores, what is damaged, and a server that goes away and comes back."""

from __future__ import annotations

import signal
from typing import Any
from unittest import mock

from twisted.internet.defer import DeferredList
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgate.config.places import SecretText
from mailgate.net.waiting import spawn
from mailgate.queue.entry import Settled
from mailgate.queue.store import Damaged, Full, StoreError, Unavailable
from tests.queue.contract import StoreContract
from tests.queue.nodes import Nodes
from tests.queue.support import NOW
from tests.support.postgres import Postgres, needs_psycopg


class PostgresCase(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.world = self.nodes = Nodes()
        self.addCleanup(self.nodes.stop)

    async def make_store(self) -> Any:
        return await self.nodes.opened()


class ContractTests(StoreContract, PostgresCase):
    async def make_store(self) -> Any:
        return await self.nodes.opened()


class PostgresTests(PostgresCase):
    async def ids(self, store: Any) -> list[str]:
        return [entry.message_id for entry in await store.browse(0, 100)]

    async def leased(self, store: Any) -> list[Any]:
        leases, _ = await store.lease("one.test", NOW, 100)
        return list(leases)

    async def refused(self, work: Any, kind: type[Exception] = Unavailable) -> Exception:
        with self.assertRaises(kind) as caught:
            await work
        return caught.exception

    async def test_what_waits_together_is_committed_together(self) -> None:
        store = await self.make_store()
        drafts = [await self.nodes.draft(f"m{number}") for number in range(40)]
        before = store._writer.commits
        await DeferredList([spawn(store.accept([draft])) for draft in drafts], fireOnOneErrback=True)
        self.assertLessEqual(store._writer.commits - before, 4)
        self.assertEqual((await store.summary()).waiting, 40)

    async def test_one_that_breaks_a_rule_fails_alone(self) -> None:
        store = await self.make_store()
        good, bad = await self.nodes.draft("good"), await self.nodes.draft("bad")
        bad = type(bad)(**{name: getattr(bad, name) for name in bad.__slots__} | {"recipients": bad.recipients * 2})
        outcomes = await DeferredList([spawn(store.accept([one])) for one in (good, bad)], consumeErrors=True)
        self.assertEqual([succeeded for succeeded, _ in outcomes], [True, False])
        self.assertEqual(await self.ids(store), ["good"])
        self.assertEqual(store.broken, "")

    async def test_commits_wait_for_the_disk_whatever_the_server_is_set_to(self) -> None:
        (name,) = self.nodes.sql("SELECT current_database()")[0]
        asking = "SELECT current_setting('synchronous_commit'), current_setting('search_path')"
        for setting, expected in (("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")):
            self.nodes.sql(f'ALTER DATABASE "{name}" SET synchronous_commit = {setting}')
            store = await self.nodes.opened()
            found = await store._writing.run(lambda connection: connection.execute(asking).fetchone())
            self.assertEqual(found, (expected, "mailgate_out"))
            claims = await store._reading.run(lambda connection: connection.execute(asking).fetchone())
            self.assertEqual(claims[0], "off", "a claim that is lost is only lost")
            await store.close()

    async def test_a_later_schema_is_refused(self) -> None:
        store = await self.make_store()
        await store.close()
        self.nodes.sql("UPDATE meta SET version = 99")
        error = await self.refused(self.nodes.node().open())
        self.assertIn("schema version 99", str(error))

    async def test_nodes_that_start_together_make_the_tables_once(self) -> None:
        stores = [self.nodes.node(f"node {number}") for number in range(4)]
        await DeferredList([spawn(store.open()) for store in stores], fireOnOneErrback=True)
        self.assertEqual([store.broken for store in stores], [""] * 4)
        self.assertEqual(len(self.nodes.sql("SELECT * FROM meta")), 1)
        self.assertEqual(len({store._batches.owner for store in stores}), 4)

    async def test_a_damaged_row_is_set_aside_and_the_rest_goes_on(self) -> None:
        store = await self.make_store()
        (first,) = await store.accept([await self.nodes.draft("first")])
        await store.accept([await self.nodes.draft("second"), await self.nodes.draft("third")])
        self.nodes.sql("UPDATE entry SET header = 'x' WHERE id = %s", first.id)
        self.nodes.sql("UPDATE recipient SET facts = 'x' WHERE entry = %s", first.id + 3)
        survey = await store.survey(NOW)
        self.assertEqual(survey.recipients, 2, "read row by row, without the one that is damaged")
        self.assertEqual(len(await self.leased(store)), 1)
        self.assertEqual((await store.summary()).damaged, 4, "two entries, two recipients")
        self.assertEqual(await store.purge(NOW), 0)
        self.assertEqual(self.nodes.sql("SELECT count(*) FROM body"), [(3,)], "what is set aside keeps its content")

    async def test_damaged_content_is_not_sent(self) -> None:
        store = await self.make_store()
        (entry,) = await store.accept([await self.nodes.draft("m1")])
        self.nodes.sql("UPDATE body SET data = 'abc'")
        await self.refused(store.message(entry), Damaged)
        self.assertEqual(await self.leased(store), [])

    async def test_a_claim_whose_answer_is_lost_is_given_back(self) -> None:
        store = await self.make_store()
        await store.accept([await self.nodes.draft("m1")])
        await store._released()
        run = store._reading.run

        async def deaf(work: Any, *arguments: Any) -> Any:
            await run(work, *arguments)
            raise Unavailable("the answer is lost")

        with mock.patch.object(store._reading, "run", deaf):
            await self.refused(self.leased(store))
        await self.nodes.turn()
        await store._release()
        self.assertEqual(len(await self.leased(store)), 1)

    async def test_what_was_refused_is_not_delivered_after_all(self) -> None:
        """The commit reached the disk, its answer did not reach us."""
        store = await self.make_store()
        await store.accept([await self.nodes.draft("before")])
        with self.lost_answers(store):
            await self.refused(store.accept([await self.nodes.draft("ghost")]))
        self.assertEqual(self.nodes.sql("SELECT count(*) FROM entry"), [(2,)])
        self.assertEqual(await self.refused_while_broken(store), "connection lost")
        await store.reopen()
        self.assertEqual(await self.ids(store), ["before"])

    async def test_what_was_refused_is_forgotten_when_the_store_is_closed(self) -> None:
        store = await self.make_store()
        with self.lost_answers(store):
            await self.refused(store.accept([await self.nodes.draft("ghost")]))
        await store.close()
        self.assertEqual(self.nodes.sql("SELECT count(*) FROM entry"), [(0,)])

    async def test_a_result_whose_answer_is_lost_is_recorded_once(self) -> None:
        store = await self.make_store()
        await store.accept([await self.nodes.draft("m1")])
        (lease,) = await self.leased(store)
        with self.lost_answers(store):
            await self.refused(store.settle(lease, [Settled(0, None)]))
        await store.reopen()
        await store.settle(lease, [Settled(0, None)])
        self.assertEqual(store._uncertain, set())
        self.assertEqual(await self.ids(store), [])

    def lost_answers(self, store: Any) -> Any:
        """Commits reach the server, and then the connection is gone."""
        from mailgate.queue.writer import Broken

        real = store._batches.run

        def run(connection: Any, writes: Any) -> Any:
            real(connection, writes)
            connection.close()
            return [(None, Broken("connection lost"))] * len(writes)

        return mock.patch.object(store._writer, "_run", run)

    async def refused_while_broken(self, store: Any) -> str:
        await self.refused(store.accept([await self.nodes.draft("m")]))
        return str(store.broken)

    async def test_no_room_is_another_answer(self) -> None:
        psycopg = needs_psycopg()
        store = await self.make_store()
        draft = await self.nodes.draft("m1")
        with mock.patch.object(store._batches, "_write", side_effect=psycopg.errors.DiskFull("no space left on device")):
            error = await self.refused(store.accept([draft]), Full)
        self.assertIn("no space left", str(error))
        self.assertEqual((await self.ids(store), store.broken), ([], ""))
        await store.accept([draft])

    async def test_texts_that_postgres_does_not_take(self) -> None:
        store = await self.make_store()
        (entry,) = await store.accept([await self.nodes.draft("m1", "a@one.test", "b@one.test")])
        (lease,) = await self.leased(store)
        await store.settle(lease, [Settled(0, lease.recipients[0], "451 \0 {,\\\"'é%s")])
        self.assertEqual([line.text for line in await store.history(entry.id)], ["451 \N{SYMBOL FOR NULL} {,\\\"'é%s"])

    async def test_no_question_walks_through_the_whole_table(self) -> None:
        """What is asked while deliveries run, with many entries too."""
        from mailgate.queue import postgres_rows

        store = await self.make_store()
        await store.accept([await self.nodes.draft("m1", *(f"a@{number}.test" for number in range(50)))])
        await store._released()
        self.nodes.sql("ANALYZE")
        seen: list[tuple[str, Any]] = []

        class Listening:
            def __init__(self, connection: Any) -> None:
                self.connection = connection

            def execute(self, statement: str, arguments: Any = None, **options: Any) -> Any:
                seen.append((statement, arguments))
                return self.connection.execute(statement, arguments, **options)

        def ask(connection: Any) -> None:
            listening: Any = Listening(connection)
            postgres_rows.due(listening, 1, 2, "1.test", NOW, 10)
            postgres_rows.owed(listening, 1, 2, NOW, 10)
            postgres_rows.destinations(listening)
            postgres_rows.find(listening, "m1")
            postgres_rows.forget_prepared(listening, "owner = %s", (1,))
            connection.execute("SET enable_seqscan = off")
            for statement, arguments in seen:
                plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {statement}", arguments))
                self.assertNotIn("Seq Scan", plan, statement)

        await store._writing.run(ask)
        self.assertGreater(len(seen), 6)


class OutageTests(TestCase):
    """With a server of their own."""

    timeout = 120
    server: Postgres

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Postgres()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.server.close()

    def setUp(self) -> None:
        self.nodes = Nodes(self.server)
        self.addCleanup(self.nodes.stop)

    async def recovered(self, store: Any) -> None:
        await store.reopen()
        await store.accept([await self.nodes.draft("after")])
        self.assertEqual([entry.message_id for entry in await store.browse(0, 10)], ["before", "after"])

    async def test_the_server_falls_and_comes_back(self) -> None:
        store = await self.nodes.opened()
        await store.accept([await self.nodes.draft("before")])
        leases, _ = await store.lease("one.test", NOW, 10)
        for how in (signal.SIGINT, signal.SIGQUIT):
            self.server.stop(how)
            for work in (store.accept([await self.nodes.draft("refused")]), store.lease("one.test", NOW, 1), store.reopen()):
                with self.assertRaises(StoreError):
                    await work
            self.assertNotEqual(store.broken, "")
            await store._life.beat()
            self.server.start()
            await store.reopen()
            self.assertEqual(store.broken, "")
        await store.intend(leases[0])
        await store._life.beat()
        await self.recovered(store)

    async def test_a_restart_that_nobody_noticed(self) -> None:
        store = await self.nodes.opened()
        await store.accept([await self.nodes.draft("before")])
        self.server.stop()
        self.server.start()
        await store.accept([await self.nodes.draft("after")])
        self.assertEqual(store.broken, "")

    async def test_a_server_that_stands_still(self) -> None:
        store = await self.nodes.opened()
        await store.accept([await self.nodes.draft("before")])
        self.server.freeze()
        try:
            with mock.patch("mailgate.queue.postgres_link.PATIENCE", 0.3):
                with self.assertRaises(Unavailable) as caught:
                    await store.accept([await self.nodes.draft("refused")])
                self.assertIn("no answer", str(caught.exception))
        finally:
            self.server.thaw()
        await self.recovered(store)

    async def test_a_server_that_is_not_there_at_the_start_is_waited_for(self) -> None:
        self.server.stop()
        store = self.nodes.node()
        await store.open()
        self.assertIn("refused", store.broken)
        with self.assertRaises(Unavailable):
            await store.accept([await self.nodes.draft("refused")])
        self.server.start()
        await store.reopen()
        await store.accept([await self.nodes.draft("before")])


class AccessTests(SynchronousTestCase):
    def setUp(self) -> None:
        needs_psycopg()

    def test_secrets_of_the_dsn_are_shown_nowhere(self) -> None:
        from mailgate.queue.postgres_link import Access, connect, is_dsn

        for dsn in ("host=127.0.0.1 port=1 user=u password=hunter2 dbname=mail", "postgresql://u:hunter2@127.0.0.1:1/mail"):
            self.assertTrue(is_dsn(dsn))
            access = Access(SecretText(dsn), "mailgate_out")
            self.assertEqual(access.place, "postgres 127.0.0.1:1 mail mailgate_out")
            with self.assertRaises(Unavailable) as caught:
                connect(access)
            self.assertNotIn("hunter2", f"{caught.exception} {access!r}")
        self.assertFalse(is_dsn("host=x hunter2"))
        self.assertFalse(is_dsn("nowhere=x"))

    def test_a_server_that_may_forget_is_refused(self) -> None:
        from mailgate.queue.postgres_schema import Misfit, _check_server

        for answer, word in ((("UTF8", "off"), "fsync"), (("LATIN1", "on"), "LATIN1")):
            connection = mock.Mock()
            connection.execute.return_value.fetchone.return_value = answer
            with self.assertRaises(Misfit) as caught:
                _check_server(connection)
            self.assertIn(word, str(caught.exception))
