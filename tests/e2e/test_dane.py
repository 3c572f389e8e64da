"""Postfix's posttls-finger is the oracle of DANE: over zones that knot signs and unbound validates, our verdicts are its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.support.servers import needs_root, tool

ROOT = Path(__file__).parents[2]

OF_OUR_OWN = {
    "insecure-mx": {"dane": "verified", "dane_require": "failed"},
    "no-tls-no-records": {"dane": "clear", "dane_require": "failed"},
    "no-starttls": {"dane": "failed", "dane_require": "failed"},
    "starttls-refused": {"dane": "failed", "dane_require": "failed"},
}
"""Where posttls-finger has no verdict, RFC 7672 2.2 has; and `dane_require` wants the MX records secure too."""


@pytest.mark.e2e
class DaneTests(SynchronousTestCase):
    def test_verdicts(self) -> None:
        for program, package in (("knotd", "knot"), ("keymgr", "knot"), ("unbound", "unbound"), ("posttls-finger", "postfix")):
            tool(program, package)
        needs_root("a network namespace")
        with tempfile.TemporaryDirectory(prefix="mailgate-dane-") as directory:
            command = [tool("unshare", "util-linux"), "--net", "--mount", sys.executable, "-m", "tests.e2e.dane_lab", directory]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
        self.assertTrue(done.stdout.strip(), done.stderr[-2000:])
        verdicts = json.loads(done.stdout.strip().splitlines()[-1])
        self.assertGreaterEqual(len(verdicts), 30)
        for case, by_mode in verdicts.items():
            for mode, (theirs, ours) in by_mode.items():
                expected = OF_OUR_OWN[case][mode] if case in OF_OUR_OWN else theirs
                self.assertEqual(ours, expected, f"{case} {mode}: {theirs!r} says posttls-finger, {ours!r} we")
