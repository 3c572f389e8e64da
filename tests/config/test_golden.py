"""Whole files with mistakes, and every word that is said of them: golden/NAME.conf and golden/NAME.txt.

After a change of a message, ``GOLDEN=write pytest tests/config/test_golden.py`` writes the texts anew; read the difference.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from random import Random
from time import process_time

from twisted.trial.unittest import SynchronousTestCase

from mailgate.config import load
from mailgate.config.diagnostics import render
from mailgate.registry import build
from tests.support.examples import furnish

GOLDEN = Path(__file__).parent / "golden"
OURS = "06"
"""Codes up to here are the language's own; what modules say on top of it is tested beside them."""


EXAMPLES = Path(__file__).parent / "examples.conf"
"""The worked examples of the documentation, in one file."""


class ExampleTests(SynchronousTestCase):
    def test_the_examples_are_words_and_trees(self) -> None:
        loaded = load(str(EXAMPLES), environment={})
        self.assertEqual(loaded.diagnostics, [])
        tops = [" ".join([node.name.text, *(word.text for word in node.arguments[:1])]) for node in loaded.tree]
        self.assertIn("target.remote direct", tops)
        self.assertEqual(tops[-1], "test outsiders cannot relay")
        when = loaded.tree[-2].block[0] if loaded.tree[-2].block else None
        assert when is not None
        words = ["client_ip", "in", "[10.0.0.0/8, 192.168.0.0/16]", "and", "tls"]
        self.assertEqual([word.text for word in when.arguments], words)

    def test_of_their_words_only_those_that_are_not_there_are_refused(self) -> None:
        found = {diagnostic.code for diagnostic in build(str(EXAMPLES), environment={}).diagnostics if diagnostic.code < "E07"}
        self.assertLessEqual(found, {"E0401", "E0408", "E0508"})

    def test_they_load_as_one_file(self) -> None:
        """With certificates, keys and secrets of the test's; what nobody refers to is warned of, and nothing else is said."""
        temporary = tempfile.TemporaryDirectory(prefix="mailgate-")  # a unix socket's path has to be short
        self.addCleanup(temporary.cleanup)
        directory = Path(temporary.name)
        furnish(directory)
        (directory / "tls" / "mx.key").chmod(0o600)
        text = EXAMPLES.read_text()
        for written, here in (
            ("/etc/ssl/", "tls/"),
            ("/etc/mailgate/dkim/", ""),
            ("/etc/mailgate/", ""),
            ("/var/lib/mailgate", ""),
            ("/run/mailgate", ""),
        ):
            text = text.replace(written, f"{directory}/{here}")
        for name in ("ldap.secret", "smart.secret"):
            (directory / name).write_text("a secret\n")
            (directory / name).chmod(0o600)
        (directory / "examples.conf").write_text(text)
        built = build(str(directory / "examples.conf"), environment={})
        self.assertIsNotNone(built.configuration, render(built.diagnostics))
        said = [diagnostic.message for diagnostic in built.diagnostics]
        self.assertEqual(said, [f"nothing refers to `{name}`" for name in ("auth.static lab", "target.remote direct")])


class GoldenTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(GOLDEN)

    def test_what_is_said(self) -> None:
        cases = sorted(GOLDEN.glob("*.conf"))
        self.assertGreater(len(cases), 5)
        for case in cases:
            built = build(case.name, environment={})
            text = render(d for d in built.diagnostics if d.code[1:3] <= OURS) + "\n"
            expected = case.with_suffix(".txt")
            if os.environ.get("GOLDEN") == "write":
                expected.write_text(text)
            self.assertEqual(text, expected.read_text(), case.name)
            self.assertIsNone(built.configuration, case.name)

    def test_ten_mistakes_are_ten_diagnostics(self) -> None:
        errors = [diagnostic for diagnostic in build("ten.conf").diagnostics if diagnostic.is_error]
        lines = [diagnostic.span.line for diagnostic in errors if diagnostic.span]
        self.assertEqual(lines, [2, 7, 10, 11, 14, 16, 18, 22, 25, 29])

    def test_every_code_is_said_in_one_way_of_writing(self) -> None:
        said = "".join(path.read_text() for path in GOLDEN.glob("*.txt"))
        self.assertEqual(re.findall(r"= code (?!E0\d{3}$|W0\d{3}$).*", said, re.MULTILINE), [])


class WholeFileTests(SynchronousTestCase):
    def test_damaged_files_give_diagnostics_and_never_a_traceback(self) -> None:
        texts = [path.read_text() for path in (EXAMPLES, GOLDEN / "ten.conf", GOLDEN / "modules.conf")]
        for seed in range(60):
            random = Random(seed)
            lines = random.choice(texts).split("\n")
            for _ in range(random.randint(1, 4)):
                place = random.randrange(len(lines))
                line = lines[place]
                cut = random.randrange(len(line) + 1)
                lines[place] = random.choice(
                    [
                        "",
                        " ".join(line.split()[:-1]),
                        line + "\n" + random.choice(lines),
                        line[:cut] + random.choice('{}"&$();\\ #x0:@') + line[cut + 1 :],
                    ]
                )
            diagnostics = build("\n".join(lines) + "\n", environment={}).diagnostics
            render(diagnostics)
            self.assertEqual([d.message for d in diagnostics if d.code == "E0799"], [], f"seed {seed}")

    def test_a_thousand_lines_are_checked_in_a_moment(self) -> None:
        rules = "".join(
            f'    destination d{n}.example u{n}@example.net {{\n        reject 550 "no {n}"\n    }}\n' for n in range(333)
        )
        text = f"tls off\nsmtp tcp://127.0.0.1:2525 {{\n{rules}    default_destination {{\n        reject\n    }}\n}}\n"
        seconds = []
        for _ in range(5):
            start = process_time()
            built = build(text, environment={})
            seconds.append(process_time() - start)
        self.assertIsNotNone(built.configuration)
        self.assertLess(min(seconds), 0.15)
