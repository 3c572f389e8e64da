"""What check.dmarc writes down: a row for each different observation of a day, in a file that stays within its bounds."""

from __future__ import annotations

import json
import sqlite3
import stat
from pathlib import Path
from typing import Any

from mailgate.modules._dmarc_file import COLUMNS, Count, write
from mailgate.modules.check import _dmarc_data as data
from mailgate.testing.network import adapters_for
from tests.support.checked import CLIENT
from tests.wire.test_sender_authentication import OK, AuthenticationCase, plain, signed

REFUSED = b"550 5.7.1"
AUTHOR = b"ann@sender.test"


class DmarcDataTests(AuthenticationCase):
    def setUp(self) -> None:
        super().setUp()
        self.names.add("_dmarc.sender.test", "TXT", '"v=DMARC1; p=reject; sp=none; rua=mailto:agg@sender.test"')
        self.names.add("sender.test", "TXT", f'"v=spf1 ip4:{CLIENT} -all"')
        self.file = Path(self.mktemp()).absolute()

    def stage(self, *lines: str, **more: Any) -> None:
        inner = "\n".join((f"file {self.file}", *lines))
        self.checked(f"dmarc {{\nreports {{\n{inner}\n}}\n}}", **more)

    def rows(self) -> list[dict[str, Any]]:
        """What is in the file when the gateway has stopped."""
        self._strike()
        self._raise()
        with sqlite3.connect(self.file) as database:
            database.row_factory = sqlite3.Row
            return [dict(one) for one in database.execute("SELECT * FROM observations ORDER BY messages DESC, source_ip")]

    def test_rows(self) -> None:
        self.stage()
        for _ in range(2):
            self.assertEqual(self.whole(sender=AUTHOR, content=signed(AUTHOR, "sender.test")), OK)
        self.assertEqual(self.whole("192.0.2.9", sender=b"x@other.test", content=plain(AUTHOR)), REFUSED)
        self.assertEqual(self.whole(content=plain(b"ann@nopolicy.test")), OK)
        passed, failed = self.rows()
        self.assertEqual(
            {name: passed[name] for name in passed if name not in ("day", "first", "last", "dkim_results", "policy")},
            {
                "policy_domain": "sender.test",
                "header_from": "sender.test",
                "source_ip": CLIENT,
                "disposition": "none",
                "dkim_aligned": "1",
                "spf_aligned": "1",
                "override": "",
                "spf_domain": "sender.test",
                "spf_scope": "mfrom",
                "spf_result": "pass",
                "reports_to": "mailto:agg@sender.test",
                "messages": 2,
            },
        )
        self.assertEqual(json.loads(passed["dkim_results"]), [{"domain": "sender.test", "result": "pass", "selector": "s"}])
        self.assertEqual(
            json.loads(passed["policy"]), {"adkim": "r", "aspf": "r", "fo": "0", "p": "reject", "pct": 100, "sp": "none"}
        )
        self.assertRegex(passed["day"], r"^\d{4}-\d\d-\d\d$")
        self.assertLessEqual(passed["first"], passed["last"])
        wanted = ("reject", "0", "0", "", "192.0.2.9", 1)
        columns = ("disposition", "dkim_aligned", "spf_aligned", "override", "source_ip", "messages")
        self.assertEqual(tuple(failed[name] for name in columns), wanted)
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o600)

    def test_what_was_done_instead(self) -> None:
        for done, disposition, override in (
            ("reject", "reject", ""),
            ("quarantine", "quarantine", "local_policy"),
            ("ignore", "none", "local_policy"),
        ):
            self.file = self.file.with_name(done)
            self.checked(f"dmarc {{\non_reject {done}\nreports {{\nfile {self.file}\n}}\n}}")
            self.whole("192.0.2.9", content=plain(AUTHOR))
            self.assertEqual([(one["disposition"], one["override"]) for one in self.rows()], [(disposition, override)])

    def test_counts_add_up_over_restarts(self) -> None:
        for number in (1, 2, 3):
            self.stage()
            self.whole("192.0.2.9", content=plain(AUTHOR))
            self.assertEqual([one["messages"] for one in self.rows()], [number])

    def test_rows_are_written_while_it_runs(self) -> None:
        self.stage()
        self.whole("192.0.2.9", content=plain(AUTHOR))
        self.assertFalse(self.file.exists())
        self.reactor.settle(data.FLUSH + 1)
        with sqlite3.connect(self.file) as database:
            self.assertEqual(database.execute("SELECT messages FROM observations").fetchall(), [(1,)])

    def test_a_file_that_can_not_be_written_holds_no_mail_up(self) -> None:
        self.file.mkdir()
        self.stage()
        running = self.running
        assert running is not None
        self.assertEqual(self.whole(sender=AUTHOR, content=plain(AUTHOR)), OK)
        self.reactor.settle(data.FLUSH + 1)
        self.assertIn("Is a directory", running.logged("dmarc.data")[0])
        self.file.rmdir()
        self.reactor.settle(data.FLUSH + 1)
        self.assertEqual([one["messages"] for one in self.rows()], [1])


class BoundTests(AuthenticationCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.mktemp()

    def put(self, *sources: str, day: str = "2026-11-22", max_rows: int = 1000, oldest: float = 0.0) -> int:
        pending = {(day, *("x" * 2), source, *("x" * (len(COLUMNS) - 4))): Count(3, 10, 20) for source in sources}
        return write(self.path, pending, max_rows, oldest)

    def found(self) -> list[tuple[str, int]]:
        with sqlite3.connect(self.path) as database:
            return database.execute("SELECT source_ip, messages FROM observations ORDER BY source_ip").fetchall()

    def test_no_more_rows_than_allowed(self) -> None:
        self.assertEqual(self.put("a", "b", "c", max_rows=2), 3)
        self.assertEqual(self.put("a", "c", max_rows=2), 3)
        self.assertEqual(self.found(), [("a", 6), ("b", 3)])

    def test_old_days_go(self) -> None:
        self.put("old", day="2026-10-01")
        self.put("new", oldest=1_791_000_000.0)  # 2026-10-03
        self.assertEqual(self.found(), [("new", 3)])

    def test_no_more_in_memory_than_allowed(self) -> None:
        self.patch(data, "MOST_PENDING", 2)

        observations = data.Observations(adapters_for(self.reactor), self.path, 1e9, 1000)
        for source in "abca":
            observations.note(("2026-11-22", "x", "x", source, *("x" * (len(COLUMNS) - 4))))
        self.reactor.run(observations.close())
        self.assertEqual(self.found(), [("a", 2), ("b", 1)])
