"""What every store must do: a mixin of tests for whatever makes one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from mailgate.queue.entry import Fate, LastTry, Origin, Settled, Standing, Waiting, Way
from mailgate.queue.survey import Summary
from mailgate.smtp.address import parse_address
from mailgate.smtp.parameters import BodyType, DeliverBy, MailParameters, RcptParameters
from tests.queue.support import NOW, World, content_of


class StoreContract:
    """Mixed into a trial TestCase that gives ``world`` and ``make_store()``, a store that finds what another one left."""

    world: World

    async def make_store(self) -> Any:
        raise NotImplementedError

    async def stop_store(self, store: Any) -> None:
        await store.close()

    async def lease_all(self, store: Any, destination: str = "one.test", now: float = NOW) -> list[Any]:
        leases, _ = await store.lease(destination, now, 100)
        return list(leases)

    async def test_what_was_accepted_comes_back_whole(self: Any) -> None:
        store = await self.make_store()
        parameters = MailParameters(
            size=0,
            body=BodyType.EIGHT_BIT,
            smtputf8=True,
            requiretls=True,
            ret="HDRS",
            envid="e+2B",
            auth="<>",
            priority=0,
            hold_for=60,
            by=DeliverBy(-5, returns=False, trace=True),
        )
        origin = Origin("s1", "tcp://[::1]:25", "192.0.2.1", "client.test", "helo.test", "ESMTP", "ann", "TLS1.3")
        way = Way("mx.one.test", "192.0.2.1:25", "192.0.2.9:40000", "TLSv1.3", "rcpt")
        row = Waiting(
            0,
            parse_address('"odd one"@one.test'),
            "one.test",
            RcptParameters(frozenset({"FAILURE", "DELAY"}), "rfc822;x+2Bone.test"),
            parse_address("pelé@one.test"),
            due=NOW,
            retries=3,
            notified=1,
            last=LastTry(NOW - 5, 451, "4.3.0", "later\nplease", "system", True, way),
            in_doubt=True,
        )
        draft = await self.world.draft(parameters=parameters, origin=origin)
        draft = replace(draft, recipients=(row,), priority=-3)
        (accepted,) = await store.accept([draft])
        await self.stop_store(store)
        store = await self.make_store()
        (found,) = await store.browse(0, 10)
        self.assertEqual(found, accepted)
        self.assertEqual((found.sender, found.parameters, found.origin, found.priority), (draft.sender, parameters, origin, -3))
        self.assertEqual(found.recipients, (row,))
        message = await store.message(found)
        self.assertEqual(await content_of(message), b"Subject: x\r\n\r\nhello\r\n")
        await self.stop_store(store)

    async def test_large_content_comes_back_in_pieces(self: Any) -> None:
        store = await self.make_store()
        content = b"Subject: x\r\n\r\n" + b"".join(b"%07d\r\n.\r\n" % number for number in range(250_000))
        draft = await self.world.draft(content=content)
        self.assertIsNone(draft.message.body.data, "this test is for content that is not in memory")
        (entry,) = await store.accept([replace(draft, message=draft.message.with_header(b"X-New: 1\r\n"))])
        message = await store.message(entry)
        self.assertIsNone(message.data())
        self.assertEqual((message.size, message.has_dots), (len(content) - 2, True))
        self.assertEqual(await content_of(message), b"X-New: 1\r\n" + content[content.index(b"\r\n\r\n") + 2 :])
        message.body.release()
        draft.message.body.release()
        await self.stop_store(store)

    async def test_variants_share_their_content(self: Any) -> None:
        store = await self.make_store()
        message = await self.world.message(b"Subject: x\r\n\r\nhello\r\n")
        drafts = [
            await self.world.draft("m1", "b@one.test", message=message),
            await self.world.draft("m1", "c@two.test", message=message.with_header(b"Subject: other\r\n"), target="second"),
        ]
        first, second = await store.accept(drafts)
        self.assertEqual(first.body, second.body)
        leases = await self.lease_all(store)
        await store.settle(leases[0], [Settled(0, None)])
        self.assertEqual(await content_of(await store.message(second)), b"Subject: other\r\n\r\nhello\r\n")
        self.assertEqual([entry.id for entry in await store.find("m1")], [second.id])
        await self.stop_store(store)

    async def test_prepared_is_not_delivered_and_forgotten_at_start(self: Any) -> None:
        store = await self.make_store()
        (kept,) = await store.accept([await self.world.draft("kept")], prepared=True)
        (dropped,) = await store.accept([await self.world.draft("dropped")], prepared=True)
        await store.accept([await self.world.draft("lost")], prepared=True)
        self.assertEqual(await self.lease_all(store), [])
        self.assertEqual(await store.browse(0, 10), [])
        await store.commit([kept.id])
        await store.abort([dropped.id])
        await self.stop_store(store)
        store = await self.make_store()
        self.assertEqual([lease.entry.message_id for lease in await self.lease_all(store)], ["kept"])
        await self.stop_store(store)

    async def test_recipients_of_one_entry_that_are_due_one_after_the_other(self: Any) -> None:
        """Who is leased first does not hide when the next one is due."""
        store = await self.make_store()
        draft = await self.world.draft("m1", "b@one.test", "c@one.test")
        rows = (draft.recipients[0], replace(draft.recipients[1], due=NOW + 6))
        await store.accept([replace(draft, recipients=rows)])
        (lease,), following = await store.lease("one.test", NOW, 10)
        self.assertEqual([row.number for row in lease.recipients], [0])
        self.assertEqual(following, NOW + 6)
        await store.settle(lease, [Settled(0, None)])
        (lease,), following = await store.lease("one.test", NOW + 6, 10)
        self.assertEqual([row.number for row in lease.recipients], [1])
        self.assertEqual(following, float("inf"))
        await self.stop_store(store)

    async def test_an_intent_that_came_with_the_acceptance(self: Any) -> None:
        """It is there as if `intend` had written it; the delivery that is not begun after all closes it."""
        for begun in (True, False):
            store = await self.make_store()
            draft = await self.world.draft(f"m{begun}", "b@one.test", "c@two.test")
            (entry,) = await store.accept([draft], intended=("one.test",))
            lease = store.take(entry, "one.test", intended=True)
            self.assertEqual([row.number for row in lease.recipients], [0])
            if not begun:
                store.drop(lease)
            await self.stop_store(store)
            store = await self.make_store()
            (found,) = await store.find(f"m{begun}")
            self.assertEqual([row.in_doubt for row in found.recipients], [begun, False])
            await self.stop_store(store)

    async def test_what_was_delivered_at_once_leaves_nothing(self: Any) -> None:
        store = await self.make_store()
        (entry,) = await store.accept([await self.world.draft()], intended=("one.test",))
        await store.settle(store.take(entry, "one.test", intended=True), [Settled(0, None)])
        self.assertEqual(await store.browse(0, 10), [])
        self.assertEqual(await store.history(entry.id), [])
        await self.stop_store(store)

    async def test_leases_are_exclusive_and_in_order_of_due_time(self: Any) -> None:
        store = await self.make_store()
        for number, due in ((1, NOW - 1), (2, NOW - 3), (3, NOW + 60), (4, NOW - 2)):
            await store.accept([await self.world.draft(f"m{number}", due=due)])
        leases, following = await store.lease("one.test", NOW, 2)
        self.assertEqual([lease.entry.message_id for lease in leases], ["m2", "m4"])
        self.assertLessEqual(following, NOW)
        more, following = await store.lease("one.test", NOW, 2)
        self.assertEqual([lease.entry.message_id for lease in more], ["m1"])
        self.assertEqual(following, NOW + 60)
        self.assertEqual(await store.lease("elsewhere.test", NOW, 2), ([], float("inf")))
        store.drop(leases[0])
        again, _ = await store.lease("one.test", NOW, 2)
        self.assertEqual([lease.entry.message_id for lease in again], ["m2"])
        await self.stop_store(store)

    async def test_a_fresh_entry_is_leased_without_asking_the_disk(self: Any) -> None:
        store = await self.make_store()
        (entry,) = await store.accept([await self.world.draft("m1", "b@one.test", "c@two.test")])
        lease = store.take(entry, "two.test")
        self.assertEqual([row.number for row in lease.recipients], [1])
        self.assertEqual(await self.lease_all(store, "two.test"), [])
        self.assertEqual(len(await self.lease_all(store)), 1)
        await self.stop_store(store)

    async def test_destinations_and_when_each_is_due(self: Any) -> None:
        store = await self.make_store()
        for to, due in (("b@one.test", NOW + 5), ("c@two.test", NOW), ("d@one.test", NOW + 1)):
            await store.accept([await self.world.draft("m", to, due=due)])
        self.assertEqual(await store.destinations(), [("one.test", NOW + 1), ("two.test", NOW)])
        await self.stop_store(store)

    async def test_an_attempt_is_recorded_per_recipient(self: Any) -> None:
        store = await self.make_store()
        (entry,) = await store.accept([await self.world.draft("m1", "b@one.test", "c@one.test", "d@one.test")])
        (lease,) = await self.lease_all(store)
        later = replace(lease.recipients[1], due=NOW + 120, retries=1, last=LastTry(NOW, 451, "4.2.1", "busy"))
        owed = replace(lease.recipients[2], standing=Standing.OWED, fate=Fate.FAILED, reports=2, owed_since=NOW - 9.5)
        await store.settle(lease, [Settled(0, None), Settled(1, later, "451 busy"), Settled(2, owed, "550 no")])
        (left,) = await store.find("m1")
        self.assertEqual(left.recipients, (later, owed))
        self.assertEqual([line.text for line in await store.history(entry.id)], ["451 busy", "550 no"])
        ((report,), following) = await store.owed(NOW, 10)
        self.assertEqual((report.recipients, following), ((owed,), float("inf")))
        self.assertEqual(await store.owed(NOW, 10), ([], float("inf")))
        put_off = replace(owed, due=NOW + 300)
        await store.settle(report, [Settled(2, put_off)])
        self.assertEqual(await store.owed(NOW + 299, 10), ([], NOW + 300))
        ((report,), _) = await store.owed(NOW + 300, 10)
        self.assertEqual(report.recipients, (put_off,))
        await store.settle(report, [Settled(2, None)])
        self.assertEqual(await self.lease_all(store), [])
        (last,) = await self.lease_all(store, now=NOW + 120)
        await store.settle(last, [Settled(1, None)])
        self.assertEqual(await store.browse(0, 10), [])
        await self.stop_store(store)

    async def test_an_open_intent_is_a_doubt_after_a_restart(self: Any) -> None:
        store = await self.make_store()
        await store.accept([await self.world.draft("m1", "b@one.test")])
        await store.accept([await self.world.draft("m2", "b@one.test")])
        first, second = await self.lease_all(store)
        await store.intend(first)
        await store.intend(second)
        await store.settle(second, [Settled(0, replace(second.recipients[0], retries=1))])
        await self.stop_store(store)
        store = await self.make_store()
        doubts = {lease.entry.message_id: lease.recipients[0].in_doubt for lease in await self.lease_all(store)}
        self.assertEqual(doubts, {"m1": True, "m2": False})
        await self.stop_store(store)

    async def test_operators_hold_release_remove_and_purge(self: Any) -> None:
        store = await self.make_store()
        (entry,) = await store.accept([await self.world.draft("m1", "b@one.test", "c@one.test")])

        def hold(row: Waiting) -> Waiting | None:
            return replace(row, standing=Standing.HELD, reason="looks odd") if row.number == 0 else None

        self.assertEqual(await store.change(entry.id, hold, "held: looks odd"), 1)
        (lease,) = await self.lease_all(store)
        self.assertEqual([row.number for row in lease.recipients], [1])
        removed = await store.change(entry.id, lambda row: replace(row, standing=Standing.REMOVED, due=NOW), "removed")
        self.assertEqual(removed, 1, "the leased one is not touched")
        self.assertEqual(await store.purge(NOW), 0)
        self.assertEqual(await store.purge(NOW + 1), 1)
        await store.settle(lease, [Settled(1, None)])
        self.assertEqual(await store.browse(0, 10), [])
        await self.stop_store(store)

    async def test_nothing_is_leased_twice_when_saves_and_searches_cross(self: Any) -> None:
        from twisted.internet.defer import DeferredList

        from mailgate.net.waiting import spawn

        store = await self.make_store()
        for number in range(60):
            await store.accept([await self.world.draft(f"m{number}")])
        delivered: list[str] = []

        async def worker() -> None:
            while True:
                leases, _ = await store.lease("one.test", NOW, 3)
                if not leases:
                    return
                for lease in leases:
                    delivered.append(lease.entry.message_id)
                    await store.settle(lease, [Settled(0, None)])

        results = await DeferredList([spawn(worker()) for _ in range(6)], fireOnOneErrback=True)
        self.assertTrue(all(succeeded for succeeded, _ in results))
        self.assertEqual(sorted(delivered), sorted(f"m{number}" for number in range(60)))
        await self.stop_store(store)

    async def test_pages_of_everything_that_is_there(self: Any) -> None:
        store = await self.make_store()
        for number in range(5):
            await store.accept([await self.world.draft(f"m{number}", "a@one.test", "b@two.test")])
        await store.accept([await self.world.draft("prepared")], prepared=True)
        found, after = [], 0
        while after is not None:
            entries, after = await store.page(after, 2)
            found += [entry.message_id for entry in entries]
        self.assertEqual(found, ["m0", "m1", "m2", "m3", "m4"])
        await self.stop_store(store)

    async def test_rows_that_are_moved_are_an_entry_of_their_own(self: Any) -> None:
        store = await self.make_store()
        (entry,) = await store.accept([await self.world.draft("m1", "a@one.test", "b@two.test", "c@two.test")])
        await store.change(entry.id, lambda row: replace(row, reason="x") if row.number == 0 else None, "first")

        def edit(row: Waiting) -> Waiting | None:
            return replace(row, destination="other") if row.destination == "two.test" else None

        self.assertEqual(await store.move(entry.id, edit, "elsewhere", "moved"), 2)
        old, new = await store.find("m1")
        self.assertEqual([(row.number, str(row.address)) for row in old.recipients], [(0, "a@one.test")])
        self.assertEqual((new.target, [str(row.address) for row in new.recipients]), ("elsewhere", ["b@two.test", "c@two.test"]))
        self.assertEqual([line.text for line in await store.history(new.id)], ["first", "moved"])
        self.assertEqual(await content_of(await store.message(new)), b"Subject: x\r\n\r\nhello\r\n")
        leases = await self.lease_all(store, "other")
        await store.settle(leases[0], [Settled(row.number, None) for row in leases[0].recipients])
        self.assertEqual(await content_of(await store.message(old)), b"Subject: x\r\n\r\nhello\r\n")
        self.assertEqual(await store.move(old.id, lambda row: row, "elsewhere", "all of it"), 1)
        (only,) = await store.find("m1")
        self.assertEqual(only.target, "elsewhere")
        await self.stop_store(store)

    async def test_what_is_being_delivered_is_not_moved(self: Any) -> None:
        store = await self.make_store()
        (entry,) = await store.accept([await self.world.draft("m1", "a@one.test", "b@two.test")])
        await self.lease_all(store, "one.test")
        self.assertEqual((store.is_leased(entry.id, 0), store.is_leased(entry.id, 1)), (True, False))
        self.assertEqual(await store.move(entry.id, lambda row: row, "elsewhere", "moved"), 1)
        old, new = await store.find("m1")
        self.assertEqual(([row.number for row in old.recipients], [row.number for row in new.recipients]), ([0], [1]))
        await self.stop_store(store)

    async def test_numbers_of_what_is_there(self: Any) -> None:
        store = await self.make_store()
        self.assertEqual(await store.summary(), Summary())
        last = LastTry(NOW, 451, "4.3.0", "queue id 4bXk2J1tq8z9, try later", "system", remote=True)
        for number, age in enumerate((10, 400, 100_000)):
            draft = await self.world.draft(f"m{number}", "a@one.test", "b@two.test")
            (entry,) = await store.accept([replace(draft, arrived=NOW - age)])
            if age > 10:
                text = f"queue id 4bXk2J1tq8z{number}, try later"
                await store.change(entry.id, partial(replace, last=replace(last, text=text)), "")
        await store.change(entry.id, lambda row: replace(row, standing=Standing.HELD) if row.number else None, "")
        self.assertEqual(await store.summary(), Summary(waiting=5, held=1, oldest=NOW - 10))
        survey = await store.survey(NOW)
        self.assertEqual(survey.destinations, {"one.test": [1, 1, 0, 0, 0, 1, 0], "two.test": [1, 1, 0, 0, 0, 1, 0]})
        self.assertEqual(survey.clusters, {(451, "4.3.0", "queue id …, try later"): 4})
        self.assertEqual(survey.recipients, 6)
        await self.stop_store(store)
