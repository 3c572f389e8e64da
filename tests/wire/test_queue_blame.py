"""What a failure in a queue says about whom: one recipient, a whole destination, or ourselves. And what a report makes of it."""

from __future__ import annotations

from typing import Any

from mailgate.testing.nexthop import Action, Connection, NextHop, Step, say
from tests.wire.test_queue import DAY, MINUTE, QueueCase


def refuses(path: bytes, reply: bytes, at: Step = Step.RCPT) -> Any:
    """A script: this recipient only, each time."""

    def script(step: Step, connection: Connection, line: bytes) -> Action | None:
        return say(reply) if step is at and path in line else None

    return script


class BlameTests(QueueCase):
    def row(self) -> Any:
        assert self.running is not None
        queue: Any = self.running.configuration.instances["outbound"]
        (entry,) = self.reactor.run(queue.queue.store.browse(0, 100))
        return entry.recipients[0]

    def destination(self) -> Any:
        assert self.running is not None
        queue: Any = self.running.configuration.instances["outbound"]
        return queue.queue.destinations["&next"]

    def test_what_a_next_hop_says_of_one_message_stops_no_other(self) -> None:
        """A recipient behind a next hop that can't reach it, in the very words that we have for a next hop that is down."""
        for reply in (
            b"451 4.4.1 The next hop can't be reached, try again later",
            b"451 4.4.3 Sender domain lookup failed",
            b"451 4.7.5 no trusted connection",
            b"454 4.7.8 not now",
        ):
            with self.subTest(reply):
                hop = self.hop(script=refuses(b"stuck@", reply))
                self.queued(hop)
                self.submit("stuck", b"stuck@dest.test")
                self.reactor.settle(2)
                self.assertFalse(self.destination().is_down)
                self.assertTrue(self.row().last.remote)
                self.submit("free")
                self.reactor.settle(2)
                self.assertEqual([t.paths for t in hop.transactions], [[b"b@dest.test"]])
                self.tearDown()
                self.setUp()

    def test_a_host_that_takes_no_mail_is_asked_by_one_message_for_all(self) -> None:
        for script, expected in (
            ({Step.BANNER: say(b"554 5.3.2 go away")}, "connection"),
            ({Step.BANNER: say(b"421 4.3.2 full house", then_drop=True)}, "connection"),
            ({Step.BANNER: say(b"421 4.7.0 too many connections", then_drop=True)}, "rate"),
            ({Step.HELLO: say(b"451 4.3.0 later")}, "connection"),
            ({Step.MAIL: say(b"421 4.7.0 slow down", then_drop=True)}, "rate"),
        ):
            with self.subTest(script):
                hop = self.hop(script=script)
                self.queued(hop)
                self.submit("one")
                self.reactor.settle(2)
                self.assertTrue(self.destination().is_down)
                self.assertEqual(self.row().last.kind, expected)
                before = len(hop.connections)
                for number in range(10):
                    self.submit(f"more{number}")
                self.reactor.settle(10)
                self.assertEqual(len(hop.connections), before)
                self.tearDown()
                self.setUp()

    def test_a_host_says_when_to_come_again(self) -> None:
        hop = self.hop(script={Step.MAIL: [say(b"421 4.7.0 Rate limited, try again in 20 minutes", then_drop=True)]})
        self.queued(hop)
        self.submit()
        self.reactor.settle(19 * MINUTE)
        self.assertEqual(hop.transactions, [])
        self.reactor.settle(2 * MINUTE)
        self.assertEqual(len(hop.transactions), 1)

    def test_waiting_for_a_limit_of_the_target_is_no_attempt(self) -> None:
        hop = self.hop()
        self.queued(hop, target="    limits {\n        all rate 1 10m\n    }\n    lease_timeout 5s\n")
        self.submit("one")
        self.submit("two")
        self.reactor.settle(8 * MINUTE)
        self.assertEqual(len(hop.transactions), 1)
        self.assertEqual((self.row().retries, self.row().last), (0, None))
        self.reactor.settle(3 * MINUTE)
        self.assertEqual(len(hop.transactions), 2)

    def report_on(self, script: Any, age: float) -> dict[str, str]:
        back = NextHop().listen(self.reactor, port=2626)
        self.hops.append(back)
        self.queued(self.hop(script=script), back)
        self.submit()
        self.reactor.settle(age)
        (_, recipient) = self.fields(self.report_of(back, -1))
        return recipient

    def test_a_report_repeats_what_was_said_as_it_was_said(self) -> None:
        """RFC 3464 2.3.6: the status is ours to judge, the diagnostic code is the next hop's."""
        fields = self.report_on({Step.RCPT: say(b"451 4.4.1 backend down")}, 6 * DAY)
        self.assertEqual((fields["Action"], fields["Status"]), ("failed", "5.4.7"))
        self.assertEqual(fields["Diagnostic-Code"], "smtp; 451 4.4.1 backend down")

    def test_a_report_puts_nothing_into_a_next_hops_mouth(self) -> None:
        fields = self.report_on({Step.BANNER: say(b"554 5.3.2 go away")}, 6 * DAY)
        self.assertEqual(fields["Action"], "failed")
        self.assertTrue(fields["Diagnostic-Code"].startswith("X-Mailgate; "), fields)
        self.assertNotIn("Remote-MTA", fields)

    def test_more_recipients_than_a_host_takes_at_once(self) -> None:
        """RFC 5321 4.5.3.1.10: the rest goes in the next transactions, not hours later."""
        for refusal in (b"452 4.5.3 too many recipients", b"452 too many recipients"):
            with self.subTest(refusal):

                def script(step: Step, connection: Connection, line: bytes, refusal: bytes = refusal) -> Action | None:
                    if step is not Step.RCPT:
                        return None
                    since = connection.verbs[::-1].index(b"MAIL")
                    return say(refusal) if since > 3 else None

                hop = self.hop(script=script)
                self.queued(hop)
                self.submit("many", *(b"r%d@dest.test" % number for number in range(10)))
                self.reactor.settle(2 * MINUTE)
                self.assertEqual([len(t.paths) for t in hop.transactions], [3, 3, 3, 1])
                self.assertEqual(len({path for t in hop.transactions for path in t.paths}), 10)
                self.tearDown()
                self.setUp()

    def test_a_host_that_takes_nobody_is_not_asked_at_once_again(self) -> None:
        hop = self.hop(script={Step.RCPT: say(b"452 4.5.3 too many recipients")})
        self.queued(hop)
        self.submit()
        self.reactor.settle(1.5 * MINUTE)
        self.assertEqual(hop.connections[0].verbs.count(b"MAIL"), 1)
