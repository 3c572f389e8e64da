"""The benchmark runs, with all that it looks at by itself: counts, refusals, and that caches are caches. No figure is judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from twisted.trial.unittest import TestCase

from tests.support.servers import needs_root, tool

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


class BenchTests(TestCase):
    def bench(self, *options: str) -> str:
        command = [sys.executable, "-m", "contrib.bench", "--runs", "1", "--scale", "0.01", "--no-probes", *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        return done.stdout

    def test_relays_with_checks_stand_beside_bare_ones(self) -> None:
        needs_root("Postfix")
        for name, package in (("smtp-source", "postfix"), ("slapd", "slapd"), ("unbound", "unbound"), ("opendkim", "opendkim")):
            tool(name, package)
        tool("ip", "iproute2")
        relays = ("mailgate", "mailgate-checked", "postfix-opendkim")
        table = self.bench("--workload", "checked", *(word for name in relays for word in ("--relay", name)))
        rows = [line.split("|")[2].strip() for line in table.strip().splitlines()[2:]]
        self.assertEqual(rows, ["mailgate", "mailgate-checked", "Postfix queue, opendkim"])
