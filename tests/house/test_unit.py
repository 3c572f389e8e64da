"""The unit for systemd: systemd understands it, it leaves the process little, and it speaks of what there is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli import main
from tests.support.servers import tool

UNIT = Path(__file__).parents[2] / "contrib" / "systemd" / "mailgate.service"
MOST = 1.5
"""Of `systemd-analyze security`: what is left is the network, and the one capability for ports below 1024."""


class UnitTests(SynchronousTestCase):
    def test_it_leaves_the_process_little(self) -> None:
        analyze = tool("systemd-analyze", "systemd")
        told = subprocess.run([analyze, "security", "--offline=true", UNIT], capture_output=True, text=True, timeout=60)
        found = re.search(r"Overall exposure level for mailgate.service: (\S+)", told.stdout)
        assert found, told.stdout + told.stderr
        self.assertLessEqual(float(found[1]), MOST, told.stdout)

    def test_systemd_understands_every_line(self) -> None:
        analyze = tool("systemd-analyze", "systemd")
        told = subprocess.run([analyze, "verify", "--man=no", UNIT], capture_output=True, text=True, timeout=60)
        complaints = [line for line in told.stderr.splitlines() if "is not executable" not in line and UNIT.name in line]
        self.assertEqual(complaints, [])

    def test_its_commands_are_ours(self) -> None:
        lines = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if line.startswith("Exec"))
        self.assertRegex(lines["ExecStart"], r"^/opt/mailgate/bin/twistd .* mailgate -c /etc/mailgate/mailgate\.conf$")
        self.assertIn(lines["ExecReload"].split()[1], main.commands)
