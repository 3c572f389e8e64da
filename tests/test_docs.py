"""Every complete example in the documentation passes `mailgate check`, and every file in etc/ without a single remark."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.diagnostics import render
from mailgate.registry import build
from tests.support.examples import ROOT, complete_examples, documents, furnish, reference_files

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^(?:smtp|submission|lmtp|(?:target|table|auth|check|limits)\.\w+) [^…]*\{$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


class ExampleTests(SynchronousTestCase):
    def test_examples_of_the_documentation(self) -> None:
        examples = complete_examples()
        self.assertGreater(len(examples), 3)
        directory = Path(self.mktemp())
        directory.mkdir()
        furnish(directory)
        for path, text in examples:
            config = directory / "example.conf"
            config.write_text(text)
            built = build(config)
            self.assertIsNotNone(built.configuration, f"in {path.name}:\n{render(built.diagnostics)}\n{text}")

    def test_no_example_stands_where_nobody_reads_it(self) -> None:
        """The reference has excerpts: its examples are whole files, see below."""
        for path in documents():
            if path.parent.name == "reference":
                continue
            for word, text in _FENCE.findall(path.read_text()):
                found = _BLOCK.search(text) if word != "mailgate" else None
                self.assertIsNone(found, f"{path.name}: a configuration in a fence without `mailgate`:\n{text}")

    def test_examples_of_the_reference(self) -> None:
        files = reference_files(Path(self.mktemp()))
        self.assertGreater(len(files), 4)
        for path in files:
            errors = [diagnostic for diagnostic in build(path).diagnostics if diagnostic.is_error]
            self.assertEqual(render(errors), "", path.name)

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
