"""What greylisting remembers, and for how long."""

from __future__ import annotations

import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from mailgate.clients.greylist import Greylist, Seen, Waiting
from tests.support.greylist import DAY, HOUR, NET, NOW, WAITING, Life


class GreylistTests(Life, SynchronousTestCase):
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

    def test_networks_are_not_counted_where_none_is_allowed(self) -> None:
        self.greylist = self.opened(Waiting(300, 2 * DAY, 36 * DAY, 0))
        for number in range(5):
            self.seen(0, sender=f"{number}@x.test")
            self.assertEqual(self.seen(300, sender=f"{number}@x.test"), Seen.PASSED)
        self.assertEqual(self.seen(301, sender="new@x.test"), Seen.EARLY)

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
