"""`mailgate fmt`: what becomes of the file."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from unittest import mock

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli import main

UGLY = "hostname   mx.example.org # us\nlmtp unix:///x {\n  discard }\n"
NICE = "hostname mx.example.org  # us\nlmtp unix:///x {\n    discard\n}\n"


class FmtTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.path = self.directory / "a.conf"

    def run_with(self, text: str, *arguments: str) -> Result:
        self.path.write_text(text)
        return CliRunner().invoke(main, ["fmt", "-c", str(self.path), *arguments])

    def assert_only_the_file(self, text: str) -> None:
        self.assertEqual(self.path.read_bytes(), text.encode())
        self.assertEqual(os.listdir(self.directory), ["a.conf"])

    def test_it_rewrites_the_file(self) -> None:
        result = self.run_with(UGLY)
        self.assertEqual((result.exit_code, result.output), (0, ""))
        self.assert_only_the_file(NICE)

    def test_mode_and_owner_stay(self) -> None:
        self.path.write_text(UGLY)
        self.path.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(self.path, 12, 34)
        before = self.path.stat()
        self.assertEqual(CliRunner().invoke(main, ["fmt", "-c", str(self.path)]).exit_code, 0)
        after = self.path.stat()
        self.assertEqual(stat.S_IMODE(after.st_mode), 0o640)
        self.assertEqual((after.st_uid, after.st_gid), (before.st_uid, before.st_gid))
        self.assert_only_the_file(NICE)

    def test_a_symbolic_link_stays_one(self) -> None:
        self.path.write_text(UGLY)
        link = self.directory.parent / f"{self.directory.name}.link"
        link.symlink_to(self.path)
        self.assertEqual(CliRunner().invoke(main, ["fmt", "-c", str(link)]).exit_code, 0)
        self.assertTrue(link.is_symlink())
        self.assert_only_the_file(NICE)

    def test_a_file_in_the_style_is_not_touched(self) -> None:
        self.path.write_text(NICE)
        inode = self.path.stat().st_ino
        self.assertEqual(CliRunner().invoke(main, ["fmt", "-c", str(self.path)]).exit_code, 0)
        self.assertEqual(self.path.stat().st_ino, inode)

    def test_check_writes_nothing(self) -> None:
        result = self.run_with(UGLY, "--check")
        self.assertEqual((result.exit_code, result.output), (1, f"{self.path}: not in the one style\n"))
        self.assert_only_the_file(UGLY)
        self.assertEqual(self.run_with(NICE, "--check").exit_code, 0)

    def test_diff_writes_nothing(self) -> None:
        result = self.run_with(UGLY, "--diff")
        self.assertEqual(result.exit_code, 0)
        self.assertIn("-hostname   mx.example.org # us\n", result.output)
        self.assertIn("+hostname mx.example.org  # us\n", result.output)
        self.assert_only_the_file(UGLY)
        self.assertEqual(self.run_with(UGLY, "--diff", "--check").exit_code, 1)
        self.assertEqual(self.run_with(NICE, "--diff").output, "")
        self.assertIn("\\ no newline at the end\n", self.run_with(NICE.rstrip("\n"), "--diff").output)

    def test_what_does_not_parse_is_left_alone(self) -> None:
        broken = UGLY.replace("discard }", "discard; }")
        result = self.run_with(broken)
        self.assertEqual(result.exit_code, 1)
        self.assertIn(f"--> {self.path}:3:10", result.output)
        self.assertIn("left as it is", result.output)
        self.assert_only_the_file(broken)

    def test_what_is_wrong_for_check_only_is_formatted(self) -> None:
        self.assertEqual(self.run_with("no_such   word\n").exit_code, 0)
        self.assert_only_the_file("no_such word\n")

    def test_a_file_that_cannot_be_read_or_written(self) -> None:
        self.assertEqual(CliRunner().invoke(main, ["fmt", "-c", str(self.path)]).exit_code, 2)
        with mock.patch("os.replace", side_effect=OSError(28, "No space left on device")):
            result = self.run_with(UGLY)
        self.assertEqual(result.exit_code, 2)
        self.assertIn("No space left", result.output)
        self.assert_only_the_file(UGLY)

    def test_a_file_that_is_no_text(self) -> None:
        self.path.write_bytes(b"hostname \xff\n")
        result = CliRunner().invoke(main, ["fmt", "-c", str(self.path)])
        self.assertEqual(result.exit_code, 1)
        self.assertIn("not UTF-8", result.output)
