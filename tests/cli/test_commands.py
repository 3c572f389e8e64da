"""The `mailgate` command as a shell sees it: output, exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from mailgate import __version__
from mailgate.cli import main
from mailgate.cli.doc import default_of, named_blocks, walk

GOOD = "hostname mx.example.org\ntls off\nlmtp tcp://127.0.0.1:2524 {\n    discard\n}\n"


TEXT_ONLY = {"doc", "dsn preview", "fmt", "init", "lsp"}
"""What prints a text to be read or a file to be kept, or speaks another protocol."""


def every_command(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command, str]]:
    """Each command with its name and its help, the help of its groups included."""
    for name, command in sorted(group.commands.items()):
        here = (*path, name)
        if isinstance(command, click.Group):
            for inner, leaf, text in every_command(command, here):
                yield inner, leaf, f"{command.help}\n{text}"
        else:
            yield " ".join(here), command, command.help or ""


class HelpTests(SynchronousTestCase):
    def test_every_command_says_its_exit_statuses(self) -> None:
        silent = [name for name, _, text in every_command() if "Exit status" not in text]
        self.assertEqual(silent, ["lsp", "version"])

    def test_options_that_mean_the_same_are_called_the_same(self) -> None:
        called: dict[str, set[str]] = {}
        for name, command, _ in every_command():
            options = {word: option for option in command.params for word in option.opts}
            self.assertEqual("--json" in options, name not in TEXT_ONLY, name)
            for word in ("--json", "--config", "--socket", "--token-file", "--where"):
                if word in options and (name, word) not in {("check", "--json"), ("tls probe", "--config"), ("init", "--config")}:
                    called.setdefault(word, set()).add(str(getattr(options[word], "help", "")))
        self.assertEqual({word: len(texts) for word, texts in called.items()}, dict.fromkeys(called, 1), called)

    def test_the_version_as_json(self) -> None:
        self.assertEqual(json.loads(CliRunner().invoke(main, ["version", "--json"]).output)["mailgate"], __version__)


class CommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def run_with(self, text: str, *arguments: str) -> Result:
        self.path.write_text(text)
        return CliRunner().invoke(main, ["check", "-c", str(self.path), *arguments])

    def test_a_sound_file(self) -> None:
        result = self.run_with(GOOD)
        self.assertEqual((result.exit_code, result.output), (0, f"{self.path}: no errors\n"))

    def test_errors_are_printed_with_the_path_as_given(self) -> None:
        result = self.run_with(GOOD.replace("discard", "discrad"))
        self.assertEqual(result.exit_code, 1)
        self.assertIn(f" --> {self.path}:4:5\n", result.output)
        self.assertIn("did you mean `discard`?", result.output)
        self.assertTrue(result.output.endswith(f"{self.path}: 1 error\n"), result.output)
        self.assertNotIn("\x1b[", result.output)

    def test_warnings_count_only_when_strict(self) -> None:
        text = GOOD + "table.static unused {\n    entry a b\n}\n"
        self.assertEqual(self.run_with(text).exit_code, 0)
        self.assertEqual(self.run_with(text, "--strict").exit_code, 1)

    def test_json(self) -> None:
        result = self.run_with(GOOD.replace("discard", "discrad"), "--format", "json")
        answer = json.loads(result.output)
        self.assertEqual((result.exit_code, answer["version"], answer["errors"], answer["warnings"]), (1, 1, 1, 0))
        (found,) = answer["diagnostics"]
        self.assertEqual(
            {key: found[key] for key in ("severity", "code", "file", "line", "column", "length", "hint", "via")},
            {
                "severity": "error",
                "code": "E0401",
                "file": str(self.path),
                "line": 4,
                "column": 5,
                "length": 7,
                "hint": "did you mean `discard`?",
                "via": [],
            },
        )
        clean = self.run_with(GOOD, "--format", "json")
        self.assertEqual((clean.exit_code, json.loads(clean.output)["diagnostics"]), (0, []))

    def test_what_cannot_be_read_and_wrong_usage_are_2(self) -> None:
        runner = CliRunner()
        missing = runner.invoke(main, ["check", "--config", str(self.path)])
        self.assertEqual(missing.exit_code, 2)
        self.assertIn("No such file", missing.output)
        self.assertEqual(runner.invoke(main, ["check", "-c", "."]).exit_code, 2)
        self.assertEqual(runner.invoke(main, ["check", "--nope"]).exit_code, 2)
        self.assertEqual(runner.invoke(main, ["nope"]).exit_code, 2)

    def test_version(self) -> None:
        self.assertEqual(CliRunner().invoke(main, ["version"]).output, f"{__version__}\n")

    def test_as_a_process_without_twisted(self) -> None:
        """Checking imports no reactor: it must not choose one, and starts faster."""
        self.path.write_text("hostname a b\n")
        code = (
            "import sys; from mailgate.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "finally: print('twisted.internet.reactor' in sys.modules)"
        )
        command = [sys.executable, "-c", code, "check", "-c", str(self.path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual((done.returncode, done.stdout.splitlines()[-1]), (1, "False"), done.stderr)


class DocumentationTests(SynchronousTestCase):
    def test_modules_words_and_directives(self) -> None:
        runner = CliRunner()
        for name, said in [
            ("table.static", "entry KEY [VALUE…]"),
            ("smtp", "smtp ADDRESS… { … }"),
            ("global", "state_dir DIRECTORY"),
            ("smtp.max_message_size", "default: 32M"),
            ("connect_timeout", "in target.smtp"),
        ]:
            result = runner.invoke(main, ["doc", name])
            self.assertEqual(result.exit_code, 0, name)
            self.assertIn(said, result.output, name)

    def test_the_list_and_the_whole(self) -> None:
        runner = CliRunner()
        self.assertIn("table.static", runner.invoke(main, ["doc"]).output)
        whole = runner.invoke(main, ["doc", "--all"])
        self.assertEqual(whole.exit_code, 0)
        self.assertIn("### default_source.default_destination.reject\n", whole.output)

    def test_an_unknown_name_gets_a_suggestion(self) -> None:
        result = CliRunner().invoke(main, ["doc", "table.statik"])
        self.assertEqual(result.exit_code, 1)
        self.assertIn("did you mean `table.static`", result.output)

    def test_every_directive_is_documented(self) -> None:
        for title, block in named_blocks():
            self.assertTrue(block.__doc__, title)
            for argument in block.arguments:
                self.assertTrue(argument.doc, f"{title} {argument.metavar}")
            for path, directive in walk(block):
                self.assertTrue(directive.doc, f"{title}.{path}")
                self.assertTrue(directive.required or default_of(directive), f"{title}.{path}")
