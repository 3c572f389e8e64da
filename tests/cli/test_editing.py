"""Whatever stands in an editor, half written and wrong: every question has an answer, none a traceback."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli.editing import Document, fix_of
from mailgate.config.diagnostics import Diagnostic, Severity
from mailgate.config.source import Source
from tests.support.examples import REFERENCE, ROOT

TEXTS = [path.read_text() for path in (REFERENCE / "pipelines.conf", REFERENCE / "targets.conf", ROOT / "etc" / "demo.conf")]


class EditingTests(SynchronousTestCase):
    def test_damaged_texts_have_answers(self) -> None:
        for seed in range(25):
            random = Random(seed)
            text = random.choice(TEXTS)
            for _ in range(random.randint(1, 4)):
                cut = random.randrange(len(text))
                text = (
                    text[:cut]
                    + random.choice(['"', "{", "}", "&", "$(", "\n", " ", "import ", ""])
                    + text[cut + random.randint(0, 9) :]
                )
            document = Document(text, "editor.conf")
            for diagnostic in document.diagnostics():
                fix_of(diagnostic)
                self.assertNotEqual(diagnostic.code, "E0799", f"seed {seed}")
            for offset in [0, len(text), *(random.randrange(len(text)) for _ in range(15))]:
                document.complete(offset)
                document.hover(offset)
                document.definition(offset)
                found = document.name_at(offset)
                if found is not None:
                    self.assertIn(found[0], document.rename(found[1], "other"))

    def test_what_is_offered_is_what_the_block_takes(self) -> None:
        text = "smtp tcp://127.0.0.1:25 {\n    destination a.example {\n        \n    }\n    \n}\n"
        document = Document(text, "editor.conf")
        inner = {found.label for found in document.complete(text.index("        \n") + 8)}
        outer = {found.label for found in document.complete(text.index("    \n}") + 4)}
        self.assertIn("deliver_to", inner)
        self.assertNotIn("source", inner)
        self.assertLessEqual({"source", "max_connections"}, outer)

    def test_modules_in_a_list(self) -> None:
        text = "smtp tcp://127.0.0.1:25 {\n    modify {\n        \n    }\n}\n"
        offered = {found.label for found in Document(text, "editor.conf").complete(text.index("        \n") + 8)}
        self.assertEqual(
            offered,
            {
                "import",
                "add_header",
                "arc",
                "dkim",
                "remove_header",
                "replace_header",
                "replace_rcpt",
                "replace_sender",
                "srs",
                "subject_tag",
                "to_7bit",
            },
        )

    def test_what_a_dynamic_setting_may_say(self) -> None:
        text = "target.smtp out {\n    hostname {\n        if \n        if retry_num == 0 then a\n        \n    }\n}\n"
        document = Document(text, "editor.conf")
        self.assertEqual({found.label for found in document.complete(text.index("        \n    }") + 8)}, {"if", "else"})
        named = {found.label: found for found in document.complete(text.index("if \n") + 3)}
        self.assertLessEqual({"local_ip", "sender_domain", "lookup", "lower", "then", "and"}, set(named))
        self.assertEqual(named["local_ip"].detail, "address")
        self.assertNotIn("helo", named)
        hovered = document.hover(text.index("retry_num") + 2)
        assert hovered is not None
        self.assertIn("Attempts before this one", hovered[1])
        other = document.hover(text.index("then a") + 5)
        assert other is not None
        self.assertIn("EHLO", other[1])

    def test_the_values_of_a_choice(self) -> None:
        text = "target.remote out {\n    ip_strategy {\n        if retry_num == 0 then \n        else \n    }\n}\n"
        document = Document(text, "editor.conf")
        for place in ("then ", "else "):
            offered = {found.label for found in document.complete(text.index(place) + 5)}
            self.assertIn("ipv6_only", offered)
            self.assertNotIn("retry_num", offered)

    def test_a_fix_is_the_word_that_was_suggested(self) -> None:
        span = Source("x", "deliver_too").span(0, 11)
        for hint, fix in [("did you mean `deliver_to`?", "deliver_to"), ("not known here", ""), ("", "")]:
            self.assertEqual(fix_of(Diagnostic(Severity.ERROR, "E0401", "m", span, hint)), fix)
        self.assertEqual(fix_of(Diagnostic(Severity.ERROR, "E0401", "m", None, "did you mean `x`?")), "")
