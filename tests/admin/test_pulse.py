"""How late the event loop is: what the histogram says of known delays."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.admin.pulse import BEAT, Pulse


class PulseTests(SynchronousTestCase):
    def test_delays_are_counted_in_their_buckets(self) -> None:
        clock = Clock()
        pulse = Pulse(clock)
        pulse.adopt()
        pulse.adopt()
        for late in (0.0, 0.003, 0.003, 0.7, 9.0):
            clock.advance(BEAT + late)
        buckets, total = pulse.histogram()
        found = dict(buckets)
        self.assertEqual(
            [found[bound] for bound in ("0.0025", "0.005", "0.5", "1.0", "2.5", "+Inf")], [1.0, 3.0, 3.0, 4.0, 4.0, 5.0]
        )
        self.assertAlmostEqual(total, 9.706)
        pulse.stopping()
        self.assertEqual(clock.getDelayedCalls(), [])
