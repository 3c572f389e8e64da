"""docs/extending.md and the package it goes through, contrib/example-check: found by its entry points, installed for real."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from mailgate.registry import catalogue
from tests.support.examples import ROOT

EXAMPLE = ROOT / "contrib" / "example-check"
NAMES = ("check.trap", "table.plus", "target.journal", "auth.shared")
_FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def entry_points() -> str:
    """The section of setup.cfg as an installed package has it."""
    text = (EXAMPLE / "setup.cfg").read_text()
    lines = text.partition("[options.entry_points]\n")[2].splitlines()
    return "[mailgate.modules]\n" + "\n".join(line.strip() for line in lines[1:]) + "\n"


def forget(*caches: Callable[..., Any]) -> None:
    for cache in caches:
        cache.cache_clear()  # type: ignore[attr-defined]


class FoundByEntryPointTests(SynchronousTestCase):
    """The package as pip would leave it, in a directory of its own."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        site = Path(directory.name)
        shutil.copytree(EXAMPLE / "src" / "mailgate_example", site / "mailgate_example")
        metadata = site / "mailgate_example-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mailgate-example\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(entry_points())
        sys.path.insert(0, directory.name)
        importlib.invalidate_caches()
        self.addCleanup(self.leave, directory.name)
        forget(catalogue.find, catalogue._plugins)

    def leave(self, site: str) -> None:
        sys.path.remove(site)
        for name in [name for name in sys.modules if name.split(".")[0] == "mailgate_example"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        forget(catalogue.find, catalogue._plugins)

    def test_the_language_knows_its_words(self) -> None:
        for name in NAMES:
            found = catalogue.find(name)
            assert found is not None
            self.assertEqual(found.name, name)
            self.assertIn(name, catalogue.known_names())

    def test_its_own_tests_pass(self) -> None:
        sys.path.insert(0, str(EXAMPLE / "tests"))
        try:
            module = importlib.import_module("test_example")
        finally:
            sys.path.remove(str(EXAMPLE / "tests"))
            sys.modules.pop("test_example", None)
        result = unittest.TestResult()
        suite = unittest.defaultTestLoader.loadTestsFromModule(module)
        suite.run(result)
        self.assertEqual([text for _, text in [*result.failures, *result.errors]], [])
        self.assertEqual(result.testsRun, suite.countTestCases())
        self.assertGreaterEqual(result.testsRun, 3)

    def test_the_page_shows_what_is_there(self) -> None:
        """Every piece of Python in the page stands in the package, word for word."""
        sources = "\n".join(path.read_text() for path in sorted((EXAMPLE / "src").rglob("*.py")))
        pieces = _FENCE.findall((ROOT / "docs" / "extending.md").read_text())
        self.assertGreaterEqual(len(pieces), len(NAMES))
        for piece in pieces:
            self.assertIn(piece.strip(), sources)


@pytest.mark.slow
class InstalledTests(SynchronousTestCase):
    def test_in_a_fresh_environment(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-example-")
        self.addCleanup(directory.cleanup)
        home = Path(directory.name)
        left_out = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__", "dropin.cache")
        shutil.copytree(ROOT, home / "source", ignore=left_out)
        venv.create(home / "environment", with_pip=True)
        binaries = home / "environment" / "bin"
        self.run_in(home, binaries / "python", "-m", "pip", "install", "-q", home / "source")
        self.run_in(home, binaries / "python", "-m", "pip", "install", "-q", home / "source" / "contrib" / "example-check")
        for name in NAMES:
            self.assertIn(name, self.run_in(home, binaries / "mailgate", "doc", name))
        configuration = home / "mailgate.conf"
        checks = "    check {\n        trap x@y.test\n    }\n"
        configuration.write_text(f"smtp tcp://127.0.0.1:2525 {{\n    tls off\n{checks}    discard\n}}\n")
        self.run_in(home, binaries / "mailgate", "check", "-c", configuration)
        tests = home / "source" / "contrib" / "example-check" / "tests"
        self.run_in(tests, binaries / "python", "-m", "unittest", "test_example")

    def run_in(self, where: Path, *command: str | Path) -> str:
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=600)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}\n{done.stderr}")
        return done.stdout
