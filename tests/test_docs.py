"""Every complete example in the documentation, and every file in etc/, passes `mailgate check`."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.diagnostics import render
from mailgate.registry import build

ROOT = Path(__file__).parent.parent
_EXAMPLE = re.compile(r"^```mailgate\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#:]+)\)")


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class ExampleTests(SynchronousTestCase):
    def test_examples_of_the_documentation(self) -> None:
        examples = [(path, text) for path in documents() for text in _EXAMPLE.findall(path.read_text())]
        self.assertGreater(len(examples), 3)
        for path, text in examples:
            with tempfile.TemporaryDirectory() as directory:
                (Path(directory) / "aliases").write_text("sales@example.org: ann@example.org\n")
                config = Path(directory) / "example.conf"
                config.write_text(text)
                built = build(config)
            self.assertIsNotNone(built.configuration, f"in {path.name}:\n{render(built.diagnostics)}\n{text}")

    def test_files_of_etc(self) -> None:
        files = sorted((ROOT / "etc").glob("*.conf"))
        self.assertTrue(files)
        for path in files:
            built = build(path)
            self.assertEqual(render(built.diagnostics), "", path.name)

    def test_links_lead_somewhere(self) -> None:
        for path in documents():
            for link in _LINK.findall(path.read_text()):
                self.assertTrue((path.parent / link).exists(), f"{path.name}: {link}")
