"""The schedule: tables of what each reply makes of a recipient, and when."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.outbound.failure import Kind, Trouble
from mailgate.outbound.limited import LOCAL_LIMIT
from mailgate.queue.destinations import BACKOFF, BACKOFF_MOST, NEVER, Destinations
from mailgate.queue.entry import Fate, LastTry, Standing, Waiting, Way
from mailgate.queue.schedule import (
    RETRY_AT_ONCE,
    Class,
    Plan,
    class_of,
    concerns_destination,
    judge,
    judge_unasked,
    told_to_wait,
)
from mailgate.smtp.address import parse_address
from mailgate.smtp.reply import Reply
from tests.queue.support import NOW

ROW = Waiting(0, parse_address("b@one.test"), "one.test", due=NOW)
PLAN = Plan((60.0, 120.0, 240.0), (3600.0, 7200.0), 86400.0)

CLASSES = (
    (Reply(421, "4.7.0", "too fast"), Class.RATE),
    (Reply(421, "4.4.2", "bye"), Class.CONNECTION),
    (Reply(450, "4.7.1", "greylisted"), Class.GREYLIST),
    (Reply(450, "", "greylisted"), Class.GREYLIST),
    (Reply(450, "4.2.1", "mailbox busy"), Class.MAILBOX),
    (Reply(451, "4.7.1", "come later"), Class.GREYLIST),
    (Reply(452, "4.2.2", "full"), Class.MAILBOX),
    (Reply(452, "4.3.1", "disk"), Class.SYSTEM),
    (Reply(451, "4.4.1", "unreachable"), Class.CONNECTION),
    (Reply(451, "4.4.3", "dns"), Class.DNS),
    (Reply(451, "4.7.4", "no tls"), Class.TLS),
    (Reply(451, "4.7.5", "bad tls"), Class.TLS),
    (Kind.DANE.reply, Class.DANE),
    (Kind.STS.reply, Class.MTA_STS),
    (Kind.STS_NO_TLS.reply, Class.MTA_STS),
    (Reply(454, "4.7.8", "login"), Class.AUTH),
    (Reply(451, "", "what"), Class.SYSTEM),
    (Kind.CONNECT.reply, Class.CONNECTION),
    (Kind.SESSION.reply, Class.CONNECTION),
    (Kind.GARBAGE.reply, Class.CONNECTION),
    (Kind.AUTH.reply, Class.AUTH),
    (Kind.SOURCE.reply, Class.SYSTEM),
    (Kind.LEASE.reply, Class.LOCAL),
    (LOCAL_LIMIT, Class.LOCAL),
    (Trouble(451, "4.3.2", "closing", Kind.CLOSING, Reply(421, "4.7.0", "too fast")), Class.RATE),
    (Trouble(451, "4.3.2", "closing", Kind.CLOSING, Reply(421, "", "bye")), Class.RATE),
    (Trouble(451, "4.3.2", "closing", Kind.CLOSING, Reply(421, "4.3.2", "shutdown")), Class.CONNECTION),
    (Trouble(451, "4.3.2", "mx said: 554 no", Kind.SESSION, Reply(554, "", "no")), Class.CONNECTION),
    (RETRY_AT_ONCE, Class.LOCAL),
)

WAITS = (
    ("Greylisted, try again in 300 seconds", 300),
    ("please retry after 5 minutes", 300),
    ("Try again in 1 hour", 3600),
    ("try again in 2 hours", None),
    ("wait 45s", 45),
    ("You sent 500 messages", None),
    ("too many connections, try again later; 5 SMTP sessions at most", None),
    ("try again in 10 minutes.", 600),
    ("retry in 90sec", 90),
    ("mailbox of size 300 seconds exceeded", None),
    ("try again in 0 seconds", None),
    ("try again later", None),
)


class ClassTests(SynchronousTestCase):
    def test_classes(self) -> None:
        for reply, expected in CLASSES:
            self.assertIs(class_of(reply), expected, str(reply))

    def test_only_the_way_there_concerns_others(self) -> None:
        concerned = {kind for kind in Class if concerns_destination(kind)}
        self.assertEqual(concerned, {Class.CONNECTION, Class.TLS, Class.DANE, Class.MTA_STS, Class.DNS, Class.AUTH})

    def test_what_peers_say_about_when(self) -> None:
        for text, expected in WAITS:
            self.assertEqual(told_to_wait(text), expected, text)


class JudgeTests(SynchronousTestCase):
    def judge(self, reply: Reply, row: Waiting = ROW, age: float = 0.0):  # type: ignore[no-untyped-def]
        return judge(row, reply, PLAN, arrived=NOW - age, now=NOW, chance=random.Random(1), way=Way("mx"))

    def test_success_leaves_nothing(self) -> None:
        self.assertIsNone(self.judge(Reply(250, "2.0.0", "ok")).row)

    def test_a_refusal_is_owed_a_report(self) -> None:
        verdict = self.judge(Reply(550, "5.1.1", "no"))
        self.assertEqual((verdict.row.standing, verdict.row.fate), (Standing.OWED, Fate.FAILED))
        self.assertEqual(verdict.row.last, LastTry(NOW, 550, "5.1.1", "no", "", True, Way("mx")))
        self.assertFalse(verdict.expired)

    def test_steps_and_the_last_one_repeats(self) -> None:
        row = ROW
        pauses = []
        for _ in range(5):
            row = self.judge(Reply(451, "4.3.0", "later"), row).row
            pauses.append(row.due - NOW)
        for pause, expected in zip(pauses, (60, 120, 240, 240, 240), strict=True):
            self.assertTrue(0.9 * expected <= pause <= 1.1 * expected, (pauses, expected))
        self.assertEqual(row.retries, 5)

    def test_a_limit_of_ours_is_no_attempt_and_expires_nothing(self) -> None:
        verdict = self.judge(RETRY_AT_ONCE, age=10 * 86400)
        self.assertEqual((verdict.row.retries, verdict.row.standing, verdict.row.last), (0, Standing.WAITING, None))

    def test_expiry_needs_an_attempt_and_follows_one(self) -> None:
        self.assertFalse(self.judge(Reply(451, "4.3.0", "later"), age=86399).expired)
        verdict = self.judge(Reply(451, "4.3.0", "later"), age=86400)
        self.assertTrue(verdict.expired)
        self.assertEqual(verdict.row.standing, Standing.OWED)

    def test_the_last_attempt_comes_when_the_time_is_over(self) -> None:
        verdict = self.judge(Reply(451, "4.3.0", "later"), replace(ROW, retries=9), age=86400 - 100)
        self.assertAlmostEqual(verdict.row.due, NOW + 100)

    def test_reports_of_delay(self) -> None:
        for age, notified, expected in ((3599, 0, False), (3600, 0, True), (3600, 1, False), (7200, 1, True), (9999, 2, False)):
            verdict = self.judge(Reply(451, "4.3.0", "x"), replace(ROW, notified=notified), age=age)
            self.assertEqual(verdict.notify, expected, (age, notified))

    def test_those_in_the_line(self) -> None:
        last = LastTry(NOW, 451, "4.4.1", "down", "connection")
        self.assertIsNone(judge_unasked(ROW, last, PLAN, arrived=NOW - 10, now=NOW))
        delayed = judge_unasked(ROW, last, PLAN, arrived=NOW - 4000, now=NOW)
        assert delayed is not None
        assert delayed.row is not None
        self.assertEqual((delayed.notify, delayed.row.retries, delayed.row.standing), (True, 0, Standing.WAITING))
        expired = judge_unasked(ROW, last, PLAN, arrived=NOW - 90000, now=NOW)
        assert expired is not None
        self.assertTrue(expired.expired)

    @settings(max_examples=100)
    @given(st.integers(0, 50), st.floats(0, 4 * 86400), st.sampled_from([reply for reply, _ in CLASSES]))
    def test_nobody_is_forgotten(self, retries: int, age: float, reply: Reply) -> None:
        """Whatever is temporary ends in a time that comes, or in a report."""
        verdict = self.judge(reply, replace(ROW, retries=retries), age)
        self.assertIsNotNone(verdict.row)
        if verdict.row.standing is Standing.WAITING:
            self.assertTrue(NOW < verdict.row.due <= NOW + 3601, verdict)
        else:
            self.assertIs(verdict.row.fate, Fate.FAILED)


class DestinationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.all = Destinations(random.Random(1), each=2)

    def test_the_one_that_is_due_first_and_then_in_turn(self) -> None:
        for name, due in (("a", NOW + 5), ("b", NOW), ("c", NOW)):
            self.all.waits(name, due)
        served = []
        for _ in range(4):
            destination = self.all.next(NOW)
            assert destination is not None
            served.append(destination.name)
            self.all.served(destination, NOW)  # more wait there
        self.assertEqual(served, ["b", "c", "b", "c"])
        self.assertEqual(self.all.wake_at(), -NEVER if self.all._line else NOW)

    def test_a_full_destination_stands_aside(self) -> None:
        self.all.waits("a", NOW)
        for _ in range(2):
            self.all.started("a", NOW)
        self.assertIsNone(self.all.next(NOW))
        self.all.ended("a", NOW)
        destination = self.all.next(NOW)
        assert destination is not None
        self.assertEqual(self.all.room(destination, NOW), 1)

    def test_back_off_doubles_and_a_probe_ends_it(self) -> None:
        now, pauses = NOW, []
        self.all.waits("a", NOW)
        for _ in range(9):
            until = self.all.failed("a", now, "down")
            pauses.append(until - now)
            self.assertEqual(self.all.failed("a", now, "down"), until, "those on their way together count once")
            self.assertIsNone(self.all.next(until - 0.001))
            now = until
        for number, pause in enumerate(pauses):
            expected = min(BACKOFF * 2**number, BACKOFF_MOST)
            self.assertTrue(0.89 * expected < pause < 1.11 * expected, pauses)
        destination = self.all.next(now)
        assert destination is not None
        self.assertEqual(self.all.room(destination, NOW), 1, "one probe")
        self.all.started("a", NOW)
        self.assertEqual(self.all.room(destination, NOW), 0)
        self.all.ended("a", now)
        self.all.succeeded("a", now)
        self.assertEqual(self.all.room(destination, NOW), 2)

    def test_one_that_has_had_its_share_holds_up_nobody(self) -> None:
        self.all.limit((3, 60.0), NOW)
        now, served = NOW, []
        self.all.waits("a", NOW)
        self.all.waits("b", NOW)
        while now < NOW + 120:
            while (destination := self.all.next(now)) is not None:
                self.assertGreater(self.all.room(destination, now), 0)
                self.all.started(destination.name, now)
                self.all.ended(destination.name, now)
                served.append((destination.name, now - NOW))
                self.all.served(destination, now if destination.name == "a" else NEVER)
            now = max(self.all.wake_at(), now)
            if now == NEVER:
                break
        self.assertEqual([at for name, at in served if name == "b"], [0.0], "one that has a share left does not wait")
        times = [at for name, at in served if name == "a"]
        self.assertEqual([round(at) for at in times], [0, 0, 0, 20, 40, 60, 80, 100])

    def test_a_rate_that_goes_lets_all_go(self) -> None:
        self.all.limit((1, 3600.0), NOW)
        self.all.waits("a", NOW)
        destination = self.all.next(NOW)
        assert destination is not None
        self.all.started("a", NOW)
        self.all.ended("a", NOW)
        self.all.served(destination, NOW)
        self.assertIsNone(self.all.next(NOW))
        self.assertEqual(round(self.all.wake_at() - NOW), 3600)
        self.all.limit(None, NOW)
        self.assertIs(self.all.next(NOW), destination)

    def test_what_nobody_waits_for_is_forgotten(self) -> None:
        self.all.started("a", NOW)
        self.all.ended("a", NOW)
        self.assertEqual(len(self.all), 0)
