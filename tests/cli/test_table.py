"""`mailgate table get`: what a table answers, by which steps, and with which exit status. Each run has a process of its own: it
needs a reactor."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

CONFIG = """\
hostname mx.example.org
table.static people {
    entry ann@example.org ann@store.test copy@store.test
    entry ben@example.org
}
table.file aliases ./aliases
table.chain both {
    optional_step &aliases
    step &people
}
table.sql sql {
    database sqlite ./sql.db
    query "SELECT home FROM people WHERE address = {key}"
}
smtp tcp://127.0.0.1:2525 {
    tls off
    destination_in &people {
        discard
    }
    destination_in &both {
        discard
    }
    destination_in &sql {
        discard
    }
    default_destination {
        reject
    }
}
"""


class TableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.config = self.directory / "mailgate.conf"
        self.config.write_text(CONFIG)
        (self.directory / "aliases").write_text("sales@example.org: ann@example.org\n")
        with sqlite3.connect(self.directory / "sql.db") as database:
            database.execute("CREATE TABLE people (address TEXT, home TEXT)")
            database.execute("INSERT INTO people VALUES ('ann@example.org', 'ann@sql.test')")
        database.close()

    def get(self, *arguments: str) -> tuple[int, str, str]:
        command = [
            sys.executable,
            "-c",
            "from mailgate.cli import main; main()",
            "table",
            "get",
            *arguments,
            "-c",
            str(self.config),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    def test_answers(self) -> None:
        for name, key, status, out in (
            ("people", "ann@example.org", 0, "ann@store.test\ncopy@store.test\n"),
            ("&people", "BEN@EXAMPLE.ORG", 0, "\n"),
            ("table.static people", "carl@example.org", 1, ""),
            ("sql", "ann@example.org", 0, "ann@sql.test\n"),
        ):
            found = self.get(name, key)
            self.assertEqual(found[:2], (status, out), (name, key, found[2]))

    def test_steps(self) -> None:
        status, out, said = self.get("both", "sales@example.org", "--steps")
        self.assertEqual((status, out), (0, "ann@store.test\ncopy@store.test\n"), said)
        lines = said.splitlines()
        self.assertEqual(
            [line.split('"')[0].strip() for line in lines], ["table.file aliases", "table.static people", "table.chain both"]
        )
        self.assertIn(f"{self.config}:3", lines[1])

    def test_for_programs(self) -> None:
        _, out, _ = self.get("both", "sales@example.org", "--steps", "--json")
        answer = json.loads(out)
        self.assertEqual(answer["values"], ["ann@store.test", "copy@store.test"])
        self.assertEqual(answer["steps"][0]["values"], ["ann@example.org"])

    def test_a_table_that_can_not_answer(self) -> None:
        self.config.write_text(CONFIG.replace("SELECT home FROM people", "SELECT abs(-9223372036854775808) FROM people"))
        status, out, said = self.get("sql", "ann@example.org")
        self.assertEqual((status, out), (75, ""), said)
        self.assertIn("integer overflow", said)

    def test_no_such_table(self) -> None:
        status, _, said = self.get("nobody", "x")
        self.assertEqual(status, 2)
        self.assertIn("table.static people", said)
