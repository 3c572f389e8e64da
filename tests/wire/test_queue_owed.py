"""Reports that their own way refuses for now: made again by the queue's schedule, and in the end kept for an operator."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from mailgate.queue.entry import Standing
from mailgate.queue.operators import Context, Done, perform
from mailgate.testing.nexthop import NextHop, Step, say
from tests.wire.test_queue import DAY, HOUR, MINUTE, QueueCase

NOT_NOW = say(b"451 4.3.0 not now")


def refusing() -> dict[Step, Any]:
    """Until somebody empties it."""
    return {Step.RCPT: NOT_NOW}


class RefusedForNow(QueueCase):
    """A next hop that refuses every recipient, so that a report is owed, and one for reports that says 451."""

    def start(self, back: NextHop, queue: str = "", hop: NextHop | None = None) -> Any:
        self.queued(hop or self.hop(script={Step.RCPT: say(b"550 5.1.1 no such user")}), back, queue=queue)
        return self.queue()

    def queue(self) -> Any:
        assert self.running is not None
        instance: Any = self.running.configuration.instances["outbound"]
        return instance.queue

    def rows(self) -> list[Any]:
        return [row for entry in self.reactor.run(self.queue().store.browse(0, 100)) for row in entry.recipients]

    def act(self, name: str, target: str = "") -> Done:
        queue = self.queue()
        context = Context(queue, queue._now(), "tester", target)
        done = self.reactor.run(perform(name, context, self.reactor.run(queue.store.browse(0, 100))))
        self.reactor.settle(1)
        return done

    def test_the_pauses_are_those_of_the_schedule(self) -> None:
        script = refusing()
        back = self.hop(script=script)
        self.start(back, queue="    retry 2m 10m 1h\n")
        times: list[float] = []
        reporter: Any = self.queue().reporter
        way = reporter._way

        async def watched(*arguments: Any) -> Any:
            times.append(self.reactor.seconds())
            return await way(*arguments)

        reporter._way = watched
        self.submit()
        self.reactor.settle(3 * HOUR)
        pauses = [after - before for before, after in pairwise(times)]
        for pause, step in zip(pauses, (2 * MINUTE, 10 * MINUTE, HOUR, HOUR), strict=False):
            self.assertLess(abs(pause - step), 0.1 * step + 1)
        self.assertGreaterEqual(len(pauses), 3)

    def test_after_a_while_it_is_accepted_once(self) -> None:
        back = self.hop(script={Step.RCPT: [NOT_NOW] * 3})
        self.start(back)
        self.submit("one", b"b@dest.test", b"c@dest.test")
        self.reactor.settle(DAY)
        self.assertEqual(len(back.transactions), 1)
        reported = [group["Final-Recipient"] for group in self.fields(self.report_of(back))[1:]]
        self.assertEqual(reported, ["rfc822; b@dest.test", "rfc822; c@dest.test"])
        self.assertEqual(self.rows(), [])

    def test_a_restart_does_not_forget_the_pause(self) -> None:
        script = refusing()
        back = self.hop(script=script)
        self.start(back, queue="    retry 1h\n")
        self.submit()
        self.reactor.settle(MINUTE)
        running = self.restart()
        self.reactor.settle(40 * MINUTE)
        self.assertEqual(running.logged("report.sent"), [])
        script.clear()
        self.reactor.settle(30 * MINUTE)
        self.assertEqual(len(back.transactions), 1)

    def test_in_the_end_it_is_held_and_an_error_says_what_is_lost(self) -> None:
        script = refusing()
        back = self.hop(script=script)
        self.start(back, queue="    retry 1h\n    expire 6h\n")
        self.submit("one", b"b@dest.test", b"c@dest.test")
        self.reactor.settle(DAY)
        running = self.running
        assert running is not None
        tried = len(running.logged("report.sent"))
        self.assertIn(tried, (7, 8))
        (line,) = running.logged("report.held")
        for word in ("queue=outbound", "entry=1", "message=", "<sender@client.test>", "<b@dest.test> failed", "451 4.3.0"):
            self.assertIn(word, line)
        self.assertEqual([row.standing for row in self.rows()], [Standing.HELD] * 2)
        self.reactor.settle(5 * DAY)
        self.assertEqual(len(running.logged("report.sent")), tried)

    def test_what_is_held_is_let_go_as_a_report(self) -> None:
        """Not as a message: it was refused for good, or it was delivered."""
        script = refusing()
        back = self.hop(script=script)
        hop = self.hop(script={Step.RCPT: say(b"550 5.1.1 no such user")})
        self.start(back, queue="    retry 1h\n    expire 6h\n", hop=hop)
        self.submit()
        self.reactor.settle(DAY)
        before = len(hop.connections)
        for act in ("bounce", "reroute", "retry"):
            self.assertEqual(self.act(act, "next").changed, 0, act)
        for act in ("rm", "undo"):
            self.assertEqual(self.act(act).changed, 1, act)
        script.clear()
        self.assertEqual(self.act("release").changed, 1)
        self.reactor.settle(MINUTE)
        self.assertEqual((len(back.transactions), len(hop.connections)), (1, before))
        self.assertEqual(self.rows(), [])

    def test_an_operator_has_it_made_at_once(self) -> None:
        script = refusing()
        back = self.hop(script=script)
        self.start(back, queue="    retry 5h\n")
        self.submit()
        self.reactor.settle(MINUTE)
        script.clear()
        self.assertEqual(self.act("retry").changed, 1)
        self.reactor.settle(MINUTE)
        self.assertEqual(len(back.transactions), 1)

    def test_one_that_is_refused_holds_up_no_other(self) -> None:
        def script(step: Step, connection: Any, line: bytes) -> Any:
            return NOT_NOW if step is Step.RCPT and b"stuck@" in line else None

        back = self.hop(script=script)
        self.start(back)
        self.submit("one", sender=b"stuck@client.test")
        self.submit("two")
        self.reactor.settle(MINUTE)
        self.assertEqual([t.paths for t in back.transactions], [[b"sender@client.test"]])
