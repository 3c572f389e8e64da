"""mailgate init: what it writes passes `check --strict`, and is in the one style."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli import main
from mailgate.cli.init import PROFILES


class InitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()).with_suffix(".conf")
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def run_command(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "-c", str(self.path)])

    def init(self, profile: str, *arguments: str) -> Result:
        return self.run_command("init", "--profile", profile, "--hostname", "mx.example.org", *arguments)

    def test_every_profile_is_fit_to_run(self) -> None:
        for profile in PROFILES:
            hop = ("--next-hop", "tcp://smtp.example.net:587") if profile == "smarthost" else ()
            self.assertEqual(self.init(profile, *hop).exit_code, 0, profile)
            checked = self.run_command("check", "--strict")
            self.assertEqual(checked.exit_code, 0, f"{profile}: {checked.output}")
            styled = self.run_command("fmt", "--check")
            self.assertEqual(styled.exit_code, 0, f"{profile}: {styled.output}")
            self.path.unlink()

    def test_names_given(self) -> None:
        domains = ("--domain", "a.example", "--domain", "b.example")
        self.init("lmtp-edge", *domains, "--next-hop", "tcp://s1.example:24", "--next-hop", "unix:///run/lmtp")
        text = self.path.read_text()
        for line in (
            "$(domains) = a.example b.example",
            "    targets tcp://s1.example:24 unix:///run/lmtp",
            "postmaster@a.example",
        ):
            self.assertIn(line, text)
        self.assertEqual(self.run_command("check", "--strict").exit_code, 0)

    def test_a_file_that_is_there_is_left_alone(self) -> None:
        self.path.write_text("mine\n")
        self.assertEqual(self.init("inbound-relay").exit_code, 1)
        self.assertEqual(self.path.read_text(), "mine\n")

    def test_names_that_are_none_write_nothing(self) -> None:
        result = self.init("inbound-relay", "--next-hop", "mail.example.org")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("tcp://mail.example.org", result.output)
        self.assertFalse(self.path.exists())

    def test_a_smarthost_must_be_named(self) -> None:
        self.assertEqual(self.init("smarthost").exit_code, 2)

    def test_printed(self) -> None:
        result = CliRunner().invoke(main, ["init", "--profile", "lmtp-edge", "-c", "-"])
        self.assertEqual(result.exit_code, 0)
        self.assertIn("target.lmtp stores {", result.output)
        self.assertFalse(Path("-").exists())
