"""What is written from the declarations is up to date, and they say enough: documentation, default, a tested example."""

from __future__ import annotations

import json
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from contrib.reference import ROOT, generated
from contrib.reference.editors import choices, words
from contrib.reference.examples import Examples
from contrib.reference.manual import command_manual, configuration_manual
from contrib.reference.pages import order, own_directives
from mailgate.cli import main
from mailgate.cli.doc import default_of, named_blocks, walk
from mailgate.registry import known_names
from tests.support.examples import REFERENCE

_VIM_OPTIONS = {
    "contains",
    "contained",
    "containedin",
    "nextgroup",
    "transparent",
    "skipwhite",
    "skipnl",
    "skipempty",
    "conceal",
    "cchar",
}
"""Words that `syntax keyword` takes for something else."""


class GeneratedTests(SynchronousTestCase):
    def test_every_generated_file_is_up_to_date(self) -> None:
        stale = [
            str(path.relative_to(ROOT)) for path, text in generated().items() if not path.exists() or path.read_text() != text
        ]
        self.assertEqual(stale, [], "run `make docs`")

    def test_nothing_is_left_of_what_is_no_longer_there(self) -> None:
        present = {*(ROOT / "docs" / "reference").glob("*.md"), *(ROOT / "docs" / "man").iterdir()}
        self.assertEqual(present - set(generated()), set())


class DeclarationTests(SynchronousTestCase):
    """The same examples are loaded by tests/test_docs.py."""

    def setUp(self) -> None:
        self.examples = Examples(sorted(REFERENCE.glob("*.conf")))

    def test_every_directive_has_documentation_default_and_a_tested_example(self) -> None:
        lacking = []
        for name, block in order().items():
            for path, directive in own_directives(block):
                has = {
                    "a sentence of documentation": directive.doc.endswith("."),
                    "a default": directive.required or bool(default_of(directive)),
                    "an example in docs/reference/examples": self.examples.of(directive) is not None,
                }
                lacking += [f"{name}.{path} lacks {what}" for what, there in has.items() if not there]
        self.assertEqual(lacking, [])

    def test_every_module_has_documentation_and_a_tested_example(self) -> None:
        lacking = []
        for name, block in named_blocks():
            if not (block.__doc__ or "").strip():
                lacking.append(f"{name} lacks documentation")
            if name in known_names() and self.examples.of(block) is None:
                lacking.append(f"{name} lacks an example in docs/reference/examples")
        self.assertEqual(lacking, [])


class ManualTests(SynchronousTestCase):
    def test_lines_are_requests_or_text(self) -> None:
        for text in (configuration_manual(), command_manual()):
            for line in text.splitlines():
                if line.startswith((".", "'")):
                    self.assertRegex(line, r"^\.(TH|SH|SS|PP|TP|B|I|BR)( |$)")
                self.assertNotRegex(line, r"(?<!\\)[`]|(?<!\\)-|\\(?![-e&(]|f[RB])" if not line.startswith(".TH") else r"`", line)

    def test_every_directive_and_every_command_is_there(self) -> None:
        text = configuration_manual().replace("\\-", "-")
        for _, block in named_blocks():
            for _, directive in walk(block):
                self.assertRegex(text, rf"(?m)^\.B {re.escape(directive.name)}( |$)")
        for name in main.commands:
            self.assertRegex(command_manual().replace("\\-", "-"), rf"(?m)^\.SS mailgate {name}( |$)")


class HighlightingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.words = words()

    def every_word(self) -> set[str]:
        """Independently of how `words` gathers them: all that a line can begin with, and every word of a closed set."""
        found = set(known_names()) | {name.partition(".")[2] for name in known_names() if "." in name}
        for _, block in named_blocks():
            for _, directive in walk(block):
                found |= {directive.name, *(directive.type.words if directive.type is not None else ())}
                found |= choices(directive.type)
        return found

    def test_vim_knows_every_word(self) -> None:
        syntax = (ROOT / "contrib/vim/syntax/mailgate.vim").read_text()
        rows = re.findall(r"(?m)^syntax keyword mailgate\w+ (.*)$", syntax)
        known = [word for row in rows for word in row.split()]
        self.assertEqual(self.every_word() - set(known), set())
        self.assertEqual(len(known), len(set(known)))
        self.assertEqual(_VIM_OPTIONS & set(known), set())

    def test_the_textmate_grammar_knows_every_word(self) -> None:
        grammar = json.loads((ROOT / "contrib/vscode/syntaxes/mailgate.tmLanguage.json").read_text())
        patterns = [re.compile(rule["match"]) for rule in grammar["patterns"] if "match" in rule]
        missing = []
        for word in self.every_word():
            for line in (f"    {word} a", f"a {word}"):
                place = line.index(word)
                spans = [match.span() for pattern in patterns for match in pattern.finditer(line)]
                if (place, place + len(word)) not in spans:
                    missing.append(line)
        self.assertEqual(missing, [])

    def test_comments_and_strings(self) -> None:
        grammar = json.loads((ROOT / "contrib/vscode/syntaxes/mailgate.tmLanguage.json").read_text())
        comment = re.compile(grammar["repository"]["comment"]["match"])
        self.assertIsNotNone(comment.search("a # b"))
        self.assertIsNone(comment.search("pass#word"))

    def test_the_package_of_vscode_names_its_files(self) -> None:
        room = ROOT / "contrib" / "vscode"
        contributes = json.loads((room / "package.json").read_text())["contributes"]
        json.loads((room / contributes["languages"][0]["configuration"]).read_text())
        grammar = json.loads((room / contributes["grammars"][0]["path"]).read_text())
        self.assertEqual(grammar["scopeName"], contributes["grammars"][0]["scopeName"])
        self.assertEqual(Path(contributes["grammars"][0]["path"]).suffix, ".json")
