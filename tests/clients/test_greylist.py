"""What greylisting remembers, and for how long."""

from __future__ import annotations

import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from mailgate.clients.greylist import Greylist, Seen, Waiting

HOUR, DAY = 3600.0, 86400.0
WAITING = Waiting(delay=300, window=2 * DAY, lifetime=36 * DAY, allow_after=3)
NOW = 1_750_000_000.0
NET = "192.0.2.0/24"


class GreylistTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = self.mktemp()
        self.greylist = self.opened()

    def opened(self, waiting: Waiting = WAITING, most: int = 100) -> Greylist:
        greylist = Greylist(self.path, waiting, most=most)
        greylist.open()
        self.addCleanup(greylist.close)
        return greylist

    def seen(self, after: float, sender: str = "a@x.test", network: str = NET) -> Seen:
        return self.greylist.seen(network, sender, "b@y.test", NOW + after)

    def test_a_life(self) -> None:
        for after, expected in (
            (0, Seen.EARLY),
            (299, Seen.EARLY),
            (300, Seen.PASSED),
            (301, Seen.KNOWN),
            (36 * DAY, Seen.KNOWN),
            (71 * DAY, Seen.KNOWN),
            (108 * DAY, Seen.EARLY),
        ):
            self.assertEqual(self.seen(after), expected, after)

    def test_who_comes_back_too_late_begins_again(self) -> None:
        for after, expected in ((0, Seen.EARLY), (2 * DAY, Seen.EARLY), (2 * DAY + 300, Seen.PASSED)):
            self.assertEqual(self.seen(after), expected, after)

    def test_each_part_counts(self) -> None:
        self.seen(0)
        self.assertEqual(self.seen(400, sender="c@x.test"), Seen.EARLY)
        self.assertEqual(self.seen(400, network="198.51.100.0/24"), Seen.EARLY)
        self.assertEqual(self.seen(400), Seen.PASSED)

    def test_networks_that_come_back_are_allowed(self) -> None:
        for number in range(3):
            self.seen(0, sender=f"{number}@x.test")
            self.assertEqual(self.seen(300 + number, sender=f"{number}@x.test"), Seen.PASSED)
        self.assertEqual(self.seen(400, sender="new@x.test"), Seen.ALLOWED)
        self.assertEqual(self.seen(400, sender="new@x.test", network="198.51.100.0/24"), Seen.EARLY)
        self.assertEqual(self.seen(30 * DAY, sender="other@x.test"), Seen.ALLOWED)
        self.assertEqual(self.seen(70 * DAY, sender="late@x.test"), Seen.EARLY)

    def test_a_clock_that_was_set_back(self) -> None:
        self.seen(10 * DAY)
        self.assertEqual(self.seen(0), Seen.EARLY)
        self.assertEqual(self.seen(300), Seen.PASSED)

    def test_it_outlives_the_process_and_is_shared(self) -> None:
        self.seen(0)
        other = self.opened()
        self.assertEqual(other.seen(NET, "a@x.test", "b@y.test", NOW + 300), Seen.PASSED)
        self.assertEqual(self.seen(301), Seen.KNOWN)

    def test_what_is_over_is_removed_and_there_is_an_end(self) -> None:
        self.greylist = self.opened(most=10)
        for number in range(50):
            self.seen(number, sender=f"{number}@x.test")
        self.seen(2 * HOUR, sender="last@x.test")
        with sqlite3.connect(self.path) as database:
            (count,) = database.execute("SELECT count(*) FROM triples").fetchone()
        self.assertLessEqual(count, 10)
        self.assertEqual(self.seen(2 * HOUR + 300, sender="last@x.test"), Seen.PASSED)
        self.seen(5 * DAY, sender="new@x.test")
        with sqlite3.connect(self.path) as database:
            self.assertEqual(database.execute("SELECT count(*) FROM triples").fetchone(), (2,))

    def test_a_file_that_is_none(self) -> None:
        self.greylist.close()
        self.assertRaises(sqlite3.Error, self.seen, 0)
        with open(self.path, "wb") as file:
            file.write(b"no database" * 1000)
        self.assertRaises(sqlite3.Error, Greylist(self.path, WAITING).open)
