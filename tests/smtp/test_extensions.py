"""Service extensions: what is worked out once for each settings lives no longer than they do."""

from __future__ import annotations

import gc
import weakref
from datetime import UTC, datetime

from twisted.trial.unittest import TestCase

from mailgate.smtp.extensions import accepted, announcement, mechanisms, offered
from mailgate.smtp.settings import ServerSettings


class Clock:
    """Its method stands for what settings hold of a configuration."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


class Known(TestCase):
    def test_nothing_keeps_old_settings(self) -> None:
        clock = Clock(0)
        held = weakref.ref(clock)
        settings = ServerSettings("gateway.test", wall_time=clock.time, auth_mechanisms=("PLAIN",), insecure_auth=True)
        for tls in (False, True):
            self.assertIn("AUTH PLAIN", announcement(settings, tls))
            self.assertLessEqual(offered(settings, tls), accepted(settings, tls))
        self.assertEqual(mechanisms(settings, frozenset({"PLAIN"})), ())
        del settings, clock
        gc.collect()
        self.assertIsNone(held())

    def test_worked_out_once(self) -> None:
        settings = ServerSettings("gateway.test")
        self.assertIs(announcement(settings, False), announcement(settings, False))
        self.assertIs(offered(settings, True), offered(settings, True))
        self.assertIsNot(offered(settings, True), offered(ServerSettings("gateway.test"), True))

    def test_a_time_is_said_anew(self) -> None:
        clock = Clock(0)
        settings = ServerSettings("gateway.test", wall_time=clock.time, max_hold=60)
        for now in (0.0, 3600.0):
            clock.now = now
            until = datetime.fromtimestamp(now + 60, UTC)
            self.assertIn(f"FUTURERELEASE 60 {until:%Y-%m-%dT%H:%M:%SZ}", announcement(settings, False))
