"""Several nodes on one queue in PostgreSQL: leases, epochs, and who takes over whose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

from twisted.internet.defer import DeferredList
from twisted.trial.unittest import TestCase

from mailgate.events import EventLog
from mailgate.net.waiting import spawn
from mailgate.queue.attempt import try_lease
from mailgate.queue.entry import Fate, Settled, Standing, Waiting
from mailgate.queue.store import LeaseLost
from mailgate.smtp.reply import Reply
from tests.queue.nodes import Nodes
from tests.queue.support import NOW

LEASE = 3600.0


class NodesTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.nodes = Nodes()
        self.addCleanup(self.nodes.stop)

    async def leased(self, store: Any, destination: str = "one.test") -> list[Any]:
        leases, _ = await store.lease(destination, NOW, 100)
        return list(leases)

    async def two(self) -> tuple[Any, Any]:
        return await self.nodes.opened("first"), await self.nodes.opened("second")

    async def died_with(self, *to: str) -> tuple[Any, Any, Any]:
        """The first node has a lease and is not heard of any more; the second has taken over. Both, and the lease."""
        first, second = await self.two()
        await first.accept([await self.nodes.draft("m1", *to)])
        (lease,) = await self.leased(first)
        await self.nodes.alive(second, LEASE + 1200)
        return first, second, lease

    async def test_what_one_accepted_the_other_may_deliver(self) -> None:
        first, second = await self.two()
        await first.accept([await self.nodes.draft("m1")])
        await first._released()
        (lease,) = await self.leased(second)
        self.assertEqual(lease.entry.message_id, "m1")
        self.assertEqual(await self.leased(first), [])
        await second.intend(lease)
        await second.settle(lease, [Settled(0, None)])
        self.assertEqual(self.nodes.sql("SELECT count(*) FROM entry"), [(0,)])

    async def test_what_is_on_its_way_from_memory_is_nobody_elses(self) -> None:
        first, second = await self.two()
        (entry,) = await first.accept([await self.nodes.draft("m1", "a@one.test", "b@two.test")])
        lease = first.take(entry, "one.test")
        await self.nodes.turn()
        await first._released()
        self.assertEqual(await self.leased(second), [])
        self.assertEqual(len(await self.leased(second, "two.test")), 1, "nobody took that one: it is anybody's")
        first.drop(lease)
        await first._released()
        self.assertEqual(len(await self.leased(second)), 1)

    async def test_nodes_that_look_together_find_different_work(self) -> None:
        stores = [*await self.two(), await self.nodes.opened("third")]
        for number in range(90):
            await stores[number % 3].accept([await self.nodes.draft(f"m{number}")])
        for store in stores:
            await store._released()
        delivered: list[str] = []

        async def worker(store: Any) -> None:
            while True:
                leases, following = await store.lease("one.test", NOW, 4)
                for lease in leases:
                    await store.intend(lease)
                    delivered.append(lease.entry.message_id)
                    await store.settle(lease, [Settled(0, None)])
                if not leases and following > NOW:
                    return

        results = await DeferredList([spawn(worker(store)) for store in stores * 2], fireOnOneErrback=True)
        self.assertTrue(all(succeeded for succeeded, _ in results))
        self.assertEqual(sorted(delivered), sorted(f"m{number}" for number in range(90)))

    async def test_a_node_that_lives_keeps_what_it_has(self) -> None:
        first, second = await self.two()
        await first.accept([await self.nodes.draft("m1")])
        (lease,) = await self.leased(first)
        for _ in range(12):
            self.nodes.later(600)
            await first._life.beat()
            await second._life.beat()
        self.assertEqual(await self.leased(second), [])
        self.assertEqual(await first.renew(lease), lease)
        await first.settle(lease, [Settled(0, None)])

    async def test_a_dead_nodes_work_is_taken_over_when_its_lease_has_ended_and_not_before(self) -> None:
        first, second = await self.two()
        (entry,) = await first.accept([await self.nodes.draft("m1")])
        first.take(entry, "one.test")
        heard: list[Any] = []
        second.on_waiting = lambda waiting: heard.append(waiting) if waiting is not None else None
        await self.nodes.alive(second, LEASE)
        self.assertEqual((await self.leased(second), heard), ([], []))
        await self.nodes.alive(second, 600)
        self.assertEqual(heard, [[("one.test", NOW)]])
        (lease,) = await self.leased(second)
        self.assertEqual(lease.entry.message_id, "m1")
        self.assertFalse(lease.recipients[0].in_doubt, "the first had not begun")

    async def test_who_lost_his_lease_can_not_record(self) -> None:
        first, second, lease = await self.died_with("a@one.test", "b@one.test")
        await first.intend(lease)
        await self.nodes.alive(second, LEASE + 1200)
        (again,) = await self.leased(second)
        self.assertEqual([row.in_doubt for row in again.recipients], [True, True])
        later = replace(lease.recipients[1], due=NOW + 9, retries=1)
        with self.assertRaises(LeaseLost):
            await first.settle(lease, [Settled(0, None), Settled(1, later, "too late")])
        with self.assertRaises(LeaseLost):
            await first.intend(lease)
        with self.assertRaises(LeaseLost):
            await first.renew(lease)
        (found,) = await second.find("m1")
        self.assertEqual([row.retries for row in found.recipients], [0, 0])
        self.assertEqual(await second.history(found.id), [])
        await second.settle(again, [Settled(0, None), Settled(1, None)])
        self.assertEqual(await second.browse(0, 10), [])

    async def test_who_was_taken_for_dead_records_while_nobody_else_has_begun(self) -> None:
        first, second, lease = await self.died_with("a@one.test")
        await first.settle(lease, [Settled(0, None)])
        self.assertEqual(await self.leased(second), [])

    async def test_who_was_taken_for_dead_says_so_before_he_delivers(self) -> None:
        first, second, lease = await self.died_with("a@one.test")
        await first.intend(lease)
        self.assertEqual(await self.leased(second), [], "it is the first one's again")
        await first.settle(lease, [Settled(0, None)])

    async def test_after_an_outage_the_living_come_first(self) -> None:
        first = await self.nodes.opened("first")
        await first.accept([await self.nodes.draft("m1")])
        (lease,) = await self.leased(first)
        self.nodes.later(2 * LEASE)
        second = await self.nodes.opened("second")
        await second._life.beat()
        self.assertEqual(await self.leased(second), [], "it has not watched for as long as a lease lasts")
        await first._life.beat()
        await self.nodes.alive(second, LEASE - 600)
        self.assertEqual(await self.leased(second), [])
        await first.settle(lease, [Settled(0, None)])

    async def test_a_database_that_took_longer_than_the_lease_is_no_leave_to_deliver(self) -> None:
        first, _ = await self.two()
        await first.accept([await self.nodes.draft("m1")])
        (lease,) = await self.leased(first)
        submit = first._submit

        async def slow(write: Any) -> Any:
            result = await submit(write)
            self.nodes.later(LEASE + 1)
            return result

        first._submit = slow
        with self.assertRaises(LeaseLost):
            await first.intend(lease)

    async def test_what_waited_in_memory_past_the_lease_is_not_delivered_on_the_strength_of_it(self) -> None:
        first, second = await self.two()
        (entry,) = await first.accept([await self.nodes.draft("m1")], intended=("one.test",))
        lease = first.take(entry, "one.test", intended=True)
        sent: list[Any] = []
        delivery = mock.Mock(offer=None, rcpt=lambda recipient: Reply(250, "2.1.5", "ok"), send=sent.append)
        target = mock.Mock(open=lambda envelope: delivery)
        await self.nodes.alive(second, LEASE + 1200)
        self.assertEqual(len(await self.leased(second)), 1)
        with self.assertRaises(LeaseLost):
            await try_lease(
                first, lease, await first.message(entry), target, 0.0, self.nodes.adapters, EventLog("mailgate.queue")
            )
        self.assertEqual(sent, [])
        delivery.abort.assert_called_once()

    async def test_what_a_dead_node_had_prepared_is_forgotten(self) -> None:
        first, second = await self.two()
        large = await self.nodes.draft("large", content=b"A: b\r\n\r\n" + (b"x" * 998 + b"\r\n") * 2000)
        (entry,) = await first.accept([large], prepared=True)
        number = await first._numbers(1)
        await first._submit(
            lambda connection: (
                connection.execute("INSERT INTO body VALUES (%s, %s, 9, 0, false)", (number, first._batches.owner)) and None
            )
        )
        await self.nodes.alive(second, LEASE + 1200)
        for table in ("entry", "recipient", "body", "piece"):
            self.assertEqual(self.nodes.sql(f"SELECT count(*) FROM {table}"), [(0,)], table)
        with self.assertRaises(LeaseLost):
            await first.commit([entry.id])
        self.assertEqual(await self.leased(second), [])

    async def test_reports_of_a_dead_node_are_made_by_another(self) -> None:
        first, second = await self.two()
        await first.accept([await self.nodes.draft("m1")])
        (lease,) = await self.leased(first)
        await first.settle(lease, [Settled(0, replace(lease.recipients[0], standing=Standing.OWED, fate=Fate.FAILED))])
        self.assertEqual(len((await first.owed(NOW, 10))[0]), 1)
        self.assertEqual((await second.owed(NOW, 10))[0], [])
        await self.nodes.alive(second, LEASE + 1200)
        self.assertEqual(len((await second.owed(NOW, 10))[0]), 1)

    async def test_an_operator_does_not_touch_what_another_node_delivers(self) -> None:
        first, second = await self.two()
        (entry,) = await first.accept([await self.nodes.draft("m1", "a@one.test", "b@two.test")])
        (lease,) = await self.leased(first)

        def hold(row: Waiting) -> Waiting:
            return replace(row, standing=Standing.HELD)

        self.assertEqual(await second.change(entry.id, hold, "held"), 1)
        await first.settle(lease, [Settled(0, None)])
        (found,) = await second.find("m1")
        self.assertEqual([(row.number, row.standing) for row in found.recipients], [(1, Standing.HELD)])

    async def test_what_an_operator_changed_a_slow_node_does_not_overwrite(self) -> None:
        first, second, lease = await self.died_with("a@one.test")
        self.assertEqual(await second.change(lease.entry.id, lambda row: replace(row, standing=Standing.HELD), "held"), 1)
        with self.assertRaises(LeaseLost):
            await first.intend(lease)
        with self.assertRaises(LeaseLost):
            await first.settle(lease, [Settled(0, None)])
        (found,) = await second.find("m1")
        self.assertEqual(found.recipients[0].standing, Standing.HELD)

    async def test_nodes_tell_each_other_who_waits(self) -> None:
        first, second = await self.two()
        heard: list[Any] = []
        second.on_waiting = heard.append
        first.on_waiting = lambda waiting: self.fail(f"it hears itself: {waiting}")
        (entry,) = await first.accept([await self.nodes.draft("m1", "a@one.test", "b@two.test")])
        lease = first.take(entry, "one.test")
        first.take(entry, "two.test")
        await first.settle(lease, [Settled(0, replace(lease.recipients[0], due=NOW + 77.5))])
        await self.nodes.until(lambda: heard, "nothing was heard")
        self.assertEqual(heard, [[("one.test", NOW + 77.5)]])
        await first.accept([await self.nodes.draft(f"m{n}", f"a@{n}.test") for n in range(60)])
        await self.nodes.until(lambda: len(heard) > 1, "nothing was heard")
        self.assertEqual(heard[1:], [None], "too many to name")

    async def test_where_nobody_can_listen_it_looks_at_each_beat(self) -> None:
        with mock.patch("mailgate.queue.postgres_life._listening", return_value=None):
            node = await self.nodes.opened("deaf")
            heard: list[Any] = []
            node.on_waiting = heard.append
            await node._life.beat()
            await node._life.beat()
        self.assertEqual(heard, [None, None])

    async def test_who_could_not_hear_for_a_while_looks_when_he_can_again(self) -> None:
        node = await self.nodes.opened("first")
        heard: list[Any] = []
        node.on_waiting = heard.append
        ears = "query LIKE 'LISTEN%' AND datname = current_database()"
        self.nodes.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ears}")
        await self.nodes.until(lambda: node._life._ear is None, "it has not noticed")
        await node._life.beat()
        self.assertIsNotNone(node._life._ear)
        self.assertEqual(heard, [None])

    async def test_who_leaves_leaves_nothing_behind(self) -> None:
        first, second = await self.two()
        await first.accept([await self.nodes.draft("m1")])
        (lease,) = await self.leased(first)
        await first.intend(lease)
        await first.accept([await self.nodes.draft("m2")], prepared=True)
        await first.close()
        (again,) = await self.leased(second)
        self.assertEqual((again.entry.message_id, again.recipients[0].in_doubt), ("m1", True))
        self.assertEqual([name for (name,) in self.nodes.sql("SELECT name FROM owner")], ["second"])

    async def test_the_last_two_recipients_of_an_entry_end_at_the_same_time(self) -> None:
        first, second = await self.two()
        for _ in range(10):
            await first.accept([await self.nodes.draft("m1", "a@one.test", "b@two.test")])
            await first._released()
            ((one,), (two,)) = (await self.leased(first), await self.leased(second, "two.test"))
            ends = [first.settle(one, [Settled(0, None)]), second.settle(two, [Settled(1, None)])]
            await DeferredList([spawn(end) for end in ends], fireOnOneErrback=True)
        self.assertEqual(self.nodes.sql("SELECT (SELECT count(*) FROM entry), (SELECT count(*) FROM body)"), [(0, 0)])
