"""The pages promise nothing that is not there: commands and their options, directives, modules, events, codes, extras."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli import main
from mailgate.cli.doc import named_blocks, walk
from mailgate.config.codes import CODES
from mailgate.events import Event
from tests.support.examples import ROOT, documents

PAGES = [page for page in documents() if page.parent.name != "reference"]
_FENCE = re.compile(r"^ *```[a-z]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"(?:^|[\s/])mailgate ([a-z][^#|;]*)")


def commands_of(text: str) -> Iterator[str]:
    """What the page has somebody type behind `mailgate`."""
    for block in _FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if line.lstrip().startswith(("mailgate ", "$ mailgate ", "/opt/", ".venv/bin/mailgate ")) and "twistd" not in line:
                yield from _COMMAND.findall(line)
    for inline in _INLINE.findall(_FENCE.sub("", text)):
        if inline.startswith(("mailgate ", ".venv/bin/mailgate ")):
            yield from _COMMAND.findall(inline)


def fault_of(line: str) -> str:
    """What is wrong with a command, nothing if the tool has it."""
    command: click.Command = main
    try:
        words = shlex.split(line)
    except ValueError:
        return "does not split into words"
    while words and isinstance(command, click.Group) and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    if command is main:
        return "no such command"
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    if isinstance(command, click.Group) and words and words[0].isupper():  # ACTION: any of them
        known |= {option for leaf in command.commands.values() for parameter in leaf.params for option in parameter.opts}
    options = (word.partition("=")[0] for word in words if word.startswith("-") and len(word) > 1)
    unknown = [word for word in options if word not in known]
    if unknown:
        return f"no such option: {unknown[0]}"
    bare = isinstance(command, click.Group) and words and re.fullmatch(r"[a-z]+", words[0])
    return "no such subcommand" if bare else ""


def names_of_the_language() -> set[str]:
    names = set()
    for title, block in named_blocks():
        names |= {title} | {f"{title}.{path}" for path, _ in walk(block)} | {path for path, _ in walk(block)}
    return names | {"destination", "destination_in", "check", "when"}


class PromiseTests(SynchronousTestCase):
    def test_commands_and_their_options_are_there(self) -> None:
        found = [(page, line) for page in PAGES for line in commands_of(page.read_text())]
        self.assertGreater(len(found), 80)
        faults = [f"{page.name}: mailgate {line}: {fault}" for page, line in found if (fault := fault_of(line))]
        self.assertEqual(faults, [])

    def test_a_command_that_is_not_there_is_found(self) -> None:
        self.assertEqual(fault_of("reload --dry-run -c x"), "")
        self.assertEqual(fault_of("restart"), "no such command")
        self.assertEqual(fault_of("queue flush"), "no such subcommand")
        self.assertEqual(fault_of("queue ls --all"), "no such option: --all")

    def test_codes_are_there(self) -> None:
        for page in PAGES:
            for code in re.findall(r"\b[EW]0\d{3}\b", page.read_text()):
                self.assertIn(code, CODES, page.name)

    def test_what_other_systems_call_it_has_a_name_here(self) -> None:
        names = names_of_the_language()
        rows = [line.split(" | ") for line in (ROOT / "docs" / "migration.md").read_text().splitlines() if line.startswith("| ")]
        self.assertGreater(len(rows), 90)
        for row in rows:
            for word in _INLINE.findall(row[1]):
                if word.startswith("mailgate "):
                    self.assertEqual(fault_of(word.removeprefix("mailgate ")), "", row)
                elif re.fullmatch(r"[a-z_]+\.[a-z_.]+", word):
                    self.assertIn(word, names, row)

    def test_every_event_stands_in_the_runbook_and_no_other(self) -> None:
        text = (ROOT / "docs" / "runbook.md").read_text()
        table = text[text.index("## Every event") :]
        told = [word for line in table.splitlines() if line.startswith("| `") for word in _INLINE.findall(line.split(" | ")[0])]
        self.assertEqual(sorted(told), sorted(event.value for event in Event))

    def test_extras_are_those_of_the_package(self) -> None:
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        extras = set(setup["options.extras_require"])
        text = (ROOT / "docs" / "install.md").read_text()
        table = text[text.index("| extra |") : text.index("### Who may read what")]
        rows = {_INLINE.findall(line)[0] for line in table.splitlines() if line.startswith("| `")}
        self.assertEqual(rows, extras)
        named = [
            extra
            for page in PAGES
            for names in re.findall(r"mailgate\[([a-z,]+)\]", page.read_text())
            for extra in names.split(",")
        ]
        self.assertTrue(named)
        self.assertLessEqual(set(named), extras)

    def test_files_are_there(self) -> None:
        for page in PAGES:
            for path in re.findall(r"`((?:contrib|etc|tests|docs|\.ci)/[\w./-]+)`", page.read_text()):
                self.assertTrue((ROOT / Path(path)).exists(), f"{page.name}: {path}")
