"""Installed as a wheel and for development, in fresh environments, `twistd --help` shows `mailgate`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__", "node_modules", "dropin.cache")


class PackagingTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-package-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.source = self.home / "source"
        shutil.copytree(CHECKOUT, self.source, ignore=LEFT_OUT)

    def run_command(self, *command: str | Path) -> str:
        """Run in a directory that has nothing to do with the checkout."""
        done = subprocess.run(command, cwd=self.home, capture_output=True, text=True, timeout=600)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def environment(self) -> Path:
        """The bin directory of a fresh environment."""
        where = self.home / "environment"
        venv.create(where, with_pip=True)
        return where / "bin"

    def assert_installed(self, binaries: Path) -> None:
        self.assertRegex(self.run_command(binaries / "twistd", "--help"), r"(?m)^\s+mailgate\s+\S")
        self.assertRegex(self.run_command(binaries / "twistd", "--help-reactors"), r"(?m)^\s+mailgate\s+\S")
        self.assertIn("--config", self.run_command(binaries / "twistd", "mailgate", "--help"))
        self.assertIn("check", self.run_command(binaries / "mailgate", "--help"))
        config = self.source / "etc" / "demo.conf"
        self.run_command(binaries / "mailgate", "check", "-c", config)

    def test_wheel(self) -> None:
        self.run_command(sys.executable, "-m", "build", "--wheel", "--outdir", self.home / "dist", self.source)
        (wheel,) = (self.home / "dist").iterdir()
        binaries = self.environment()
        self.run_command(binaries / "python", "-m", "pip", "install", "-q", wheel)
        self.assert_installed(binaries)
        listing = self.run_command(sys.executable, "-m", "zipfile", "-l", wheel)
        self.assertIn("mailgate/py.typed", listing)
        self.assertIn("twisted/plugins/mailgate_plugin.py", listing)
        self.assertIn("twisted/plugins/mailgate_reactor.py", listing)
        self.assertNotIn("twisted/__init__.py", listing)
        self.assertNotIn("tests/", listing)

    def test_development(self) -> None:
        binaries = self.environment()
        self.run_command(binaries / "python", "-m", "pip", "install", "-q", "--upgrade", "setuptools >= 69", "wheel")
        self.run_command(
            *(binaries / "python", "-m", "pip", "install", "-q", "--config-settings", "editable_mode=compat", "-e", self.source)
        )
        self.assert_installed(binaries)
        self.assertIn(str(self.source), self.run_command(binaries / "python", "-c", "import mailgate; print(mailgate.__file__)"))
