"""What greylisting does wherever it keeps what it knows: the same tests for each store."""

from __future__ import annotations

from typing import Any

from mailgate.clients.greylist import Seen, Waiting

HOUR, DAY = 3600.0, 86400.0
WAITING = Waiting(delay=300, window=2 * DAY, lifetime=36 * DAY, allow_after=3)
NOW = 1_750_000_000.0
NET = "192.0.2.0/24"


class Life:
    """Mixed into a TestCase whose `seen` asks the store, so many seconds after `NOW`."""

    assertEqual: Any

    def seen(self, after: float, sender: str = "a@x.test", network: str = NET) -> Seen:
        raise NotImplementedError

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
