"""Every diagnostic code has an entry, and every entry holds: its bad file has just that code, its good one is clean."""

from __future__ import annotations

import os
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import mailgate
from mailgate.config.codes import CODES, Entry
from mailgate.config.diagnostics import render
from mailgate.pipeline.testblock import run_tests
from mailgate.registry import build

SOURCE = Path(mailgate.__file__).parent
_CODE = re.compile(r"""["']([EW]0\d{3})["']""")


class CodeTests(SynchronousTestCase):
    def test_no_code_has_two_entries(self) -> None:
        files = (SOURCE / "config" / "codes").glob("*.py")
        written = [code for path in files for code in re.findall(r'(?m)^ +"([EW]0\d{3})":', path.read_text())]
        self.assertEqual(sorted(written), sorted(set(written)))
        self.assertEqual(set(written), set(CODES))

    def setUp(self) -> None:
        self.addCleanup(os.chdir, os.getcwd())

    def found(self, entry: Entry, text: str) -> tuple[set[str], str]:
        directory = Path(self.mktemp())
        directory.mkdir()
        for name, content in entry.files.items():
            (directory / name).write_text(content, encoding="utf-8", errors="surrogateescape")
            (directory / name).chmod(entry.modes.get(name, 0o600))
        (directory / "mailgate.conf").write_text(text)
        before = os.getcwd()
        os.chdir(directory)
        try:
            built = build("mailgate.conf", environment={})
            diagnostics = [*built.diagnostics, *(run_tests(built.configuration) if built.configuration else ())]
        finally:
            os.chdir(before)
        return {diagnostic.code for diagnostic in diagnostics}, render(diagnostics)

    def test_every_code_of_the_source_has_an_entry_and_every_entry_is_used(self) -> None:
        used = {
            code for path in SOURCE.rglob("*.py") if "codes" not in path.parent.name for code in _CODE.findall(path.read_text())
        }
        self.assertEqual(used - set(CODES), set(), "codes without an entry")
        self.assertEqual(set(CODES) - used, set(), "entries without a code")

    def test_the_bad_file_has_just_this_code(self) -> None:
        for code, entry in CODES.items():
            if not entry.needs:
                codes, text = self.found(entry, entry.bad)
                self.assertEqual(codes, {code}, f"{code}:\n{entry.bad}\n{text}")

    def test_the_good_file_is_clean(self) -> None:
        for code, entry in CODES.items():
            if not entry.needs:
                self.assertEqual(self.found(entry, entry.good)[1], "", f"{code}:\n{entry.good}")

    def test_each_is_explained(self) -> None:
        for code, entry in CODES.items():
            self.assertTrue(entry.title and entry.text.endswith("."), code)
            self.assertTrue(entry.needs or (entry.bad and entry.good and entry.bad != entry.good), code)
