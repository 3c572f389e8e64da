"""`mailgate config effective` and `config diff`."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli import main
from tests.support.examples import reference_files

BASE = """\
hostname mx.example.org
tls off
$(domains) = example.org example.net
target.smtp out {
    targets tcp://10.0.0.20
    auth plain gw geheim
    auth_insecure yes
}
smtp tcp://127.0.0.1:2525 {
    read_timeout 1h
    destination $(domains) {
        deliver_to &out
    }
    destination example.com {
        deliver_to lmtp unix:///run/store {
            connect_timeout 5s
        }
    }
    default_destination {
        reject
    }
}
"""


class ConfigCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)


class EffectiveTests(ConfigCase):
    def effective(self, text: str, *arguments: str) -> Result:
        self.path = self.write("a.conf", text)
        return CliRunner().invoke(main, ["config", "effective", "-c", self.path, *arguments])

    def test_what_is_written_inherited_and_a_default(self) -> None:
        result = self.effective(BASE, "--origins")
        self.assertEqual(result.exit_code, 0, result.output)
        lines = {line.partition("  # ")[0].rstrip(): line.partition("  # ")[2] for line in result.output.split("\n")}
        self.assertEqual(lines["hostname mx.example.org"], f"{self.path}:1")
        self.assertEqual(lines["    read_timeout 1h"], f"{self.path}:10")
        self.assertEqual(lines["    hostname mx.example.org"], f"inherited from {self.path}:1")
        self.assertEqual(lines["    data_timeout 10m"], "default")
        self.assertEqual(lines["    destination example.org example.net {"], f"{self.path}:11")
        self.assertEqual(lines["        deliver_to &out"], f"{self.path}:12")
        self.assertEqual(lines["        deliver_to lmtp unix:///run/store {"], f"{self.path}:15")
        self.assertEqual(lines["            connect_timeout 5s"], f"{self.path}:16")
        self.assertEqual(lines['        reject 550 5.7.1 "rejected by policy"'], f"{self.path}:20")

    def test_secrets_are_never_shown(self) -> None:
        for arguments in ((), ("--origins",), ("--json",)):
            output = self.effective(BASE, *arguments).output
            self.assertIn("plain gw ***", output)
            self.assertNotIn("geheim", output)

    def test_json(self) -> None:
        answer = json.loads(self.effective(BASE, "--json").output)
        self.assertEqual(answer["version"], 1)
        (row,) = [row for row in answer["settings"] if row["name"] == "read_timeout"]
        self.assertEqual(
            row,
            {
                "path": ["smtp tcp://127.0.0.1:2525"],
                "name": "read_timeout",
                "value": "1h",
                "origin": "written",
                "file": self.path,
                "line": 10,
            },
        )

    def test_every_value_of_the_reference_can_be_shown(self) -> None:
        for path in reference_files(self.directory / "reference"):
            result = CliRunner().invoke(main, ["config", "effective", "-c", str(path)])
            self.assertEqual(result.exit_code, 0, result.output)
            self.assertNotRegex(result.output, r" at 0x|\bNone\b|\(\)|\bobject\b")

    def test_errors(self) -> None:
        self.assertEqual(self.effective("hostnam a\n").exit_code, 1)
        self.assertEqual(CliRunner().invoke(main, ["config", "effective", "-c", str(self.directory / "none")]).exit_code, 2)

    def test_dynamic_settings_are_shown_as_they_are_written(self) -> None:
        text = BASE.replace("    auth plain", CHOSEN + "    auth plain")
        result = self.effective(text)
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn(CHOSEN, result.output)
        self.assertEqual(CliRunner().invoke(main, ["check", "-c", self.path]).exit_code, 0)


CHOSEN = """\
    hostname {
        if retry_num > 0 and sender == "a@x.example" then other.example.org
        if rcpt_domain in [".example.net"] then (lower(sender_domain))
        else mx.example.org
    }
"""


class DiffTests(ConfigCase):
    def diff(self, new: str, old: str = BASE, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["config", "diff", self.write("old.conf", old), self.write("new.conf", new), *arguments])

    def assert_changes(self, new: str, *lines: str) -> None:
        result = self.diff(new)
        self.assertEqual(result.exit_code, 1, result.output)
        shown = [line.partition("  # ")[0].rstrip() for line in result.output.rstrip("\n").split("\n")]
        self.assertEqual(shown, list(lines))

    def test_another_way_of_writing_is_no_difference(self) -> None:
        same = BASE.replace("$(domains) = example.org example.net\n", "# no macro\n")
        same = same.replace("destination $(domains)", "destination  example.org   example.net")
        same = same.replace("1h", "60m").replace("reject\n", 'reject 550 5.7.1 "rejected by policy"\n')
        result = self.diff(same)
        self.assertEqual((result.exit_code, result.output), (0, "no difference\n"))

    def test_a_default_that_is_written_is_no_difference(self) -> None:
        self.assertEqual(self.diff(BASE.replace("read_timeout 1h", "read_timeout 1h\n    data_timeout 600s")).exit_code, 0)

    def test_the_order_of_exact_rules_means_nothing(self) -> None:
        head, first, rest = BASE.partition("    destination $(domains) {\n        deliver_to &out\n    }\n")
        moved = head + rest.replace("    default_destination", first + "    default_destination")
        self.assertEqual(self.diff(moved).exit_code, 0, self.diff(moved).output)

    def test_a_changed_value(self) -> None:
        self.assert_changes(
            BASE.replace("read_timeout 1h", "read_timeout 2m"),
            "  smtp tcp://127.0.0.1:2525 {",
            "-     read_timeout 1h",
            "+     read_timeout 2m",
        )

    def test_a_value_that_falls_back_to_its_default(self) -> None:
        self.assert_changes(
            BASE.replace("    read_timeout 1h\n", ""),
            "  smtp tcp://127.0.0.1:2525 {",
            "-     read_timeout 1h",
            "+     read_timeout 5m",
        )

    def test_within_an_inline_module(self) -> None:
        self.assert_changes(
            BASE.replace("connect_timeout 5s", "connect_timeout 6s"),
            "  smtp tcp://127.0.0.1:2525 {",
            "      destination example.com {",
            "          deliver_to lmtp unix:///run/store {",
            "-             connect_timeout 5s",
            "+             connect_timeout 6s",
        )

    def test_a_block_that_comes(self) -> None:
        rule = "    destination new.example {\n        reject 550\n    }\n"
        self.assert_changes(
            BASE.replace("    default_destination", rule + "    default_destination"),
            "  smtp tcp://127.0.0.1:2525 {",
            "+     destination new.example {",
            '+         reject 550 5.7.1 "rejected by policy"',
            "+     }",
        )

    def test_an_order_that_matters(self) -> None:
        tables = [
            "    destination_in static {\n        reject\n    }\n",
            "    destination_in regexp x@y.test {\n        reject\n    }\n",
        ]
        old, new = (BASE.replace("    default_dest", "".join(order) + "    default_dest") for order in (tables, tables[::-1]))
        result = self.diff(new, old)
        self.assertEqual(result.exit_code, 1)
        self.assertIn("~     in another order: destination_in regexp x@y.test, destination_in static", result.output)

    def test_json(self) -> None:
        answer = json.loads(self.diff(BASE.replace("1h", "2m"), BASE, "--json").output)
        (change,) = answer["changes"]
        self.assertEqual((change["old"]["value"], change["new"]["value"]), ("1h", "2m"))
        self.assertEqual((change["new"]["line"], change["path"]), (10, ["smtp tcp://127.0.0.1:2525"]))

    def test_errors(self) -> None:
        self.assertEqual(self.diff("hostnam a\n").exit_code, 1)
        self.assertEqual(CliRunner().invoke(main, ["config", "diff", str(self.directory / "a"), "b"]).exit_code, 2)
