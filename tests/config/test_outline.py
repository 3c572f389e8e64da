"""Which declaration each line belongs to, in sound files and in broken ones."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mailgate.config import load_text
from mailgate.registry.outline import TOP, Row, outline


def rows(text: str) -> dict[str, Row]:
    return {row.node.name.text: row for row in outline(load_text(text, environment={}).tree)}


class OutlineTests(SynchronousTestCase):
    def test_a_directive_of_a_block_of_a_listener(self) -> None:
        found = rows("smtp tcp://127.0.0.1:25 {\n destination a {\n reject\n }\n}\n")
        directive = found["reject"].directive
        assert directive is not None
        self.assertEqual(directive.name, "reject")
        self.assertIn("deliver_to", found["reject"].place.names())
        self.assertNotIn("source", found["reject"].place.names())

    def test_the_block_of_an_inline_module_is_the_modules(self) -> None:
        found = rows("smtp tcp://127.0.0.1:25 {\n deliver_to smtp tcp://h {\n tls require\n }\n}\n")
        (used,) = found["deliver_to"].modules
        self.assertEqual((used.word.text, used.module.name), ("smtp", "target.smtp"))
        ((word, words),) = found["tls"].choices
        self.assertEqual(word.text, "require")
        self.assertIn("require_verify", words)

    def test_the_block_of_a_rule_by_table_is_the_pipelines(self) -> None:
        found = rows("smtp tcp://127.0.0.1:25 {\n destination_in file ./x {\n reject\n }\n}\n")
        self.assertEqual([used.module.name for used in found["destination_in"].modules], ["table.file"])
        self.assertIsNotNone(found["reject"].directive)

    def test_lists_of_modules_and_modules_in_modules(self) -> None:
        found = rows("smtp tcp://127.0.0.1:25 {\n modify {\n replace_rcpt static {\n entry a b\n }\n }\n}\n")
        modules = [used.module.name for used in found["replace_rcpt"].modules]
        self.assertEqual(modules, ["modify.replace_rcpt", "table.static"])
        self.assertEqual(
            found["replace_rcpt"].place.names(),
            [
                *(
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
                )
            ],
        )
        self.assertIsNotNone(found["entry"].directive)

    def test_names_of_instances(self) -> None:
        found = rows("table.static people {\n}\nsmtp tcp://127.0.0.1:25 {\n}\nhostname a\n")
        name = found["table.static"].instance_name
        assert name is not None
        self.assertEqual(name.text, "people")
        self.assertIsNone(found["smtp"].instance_name)
        self.assertIsNone(found["hostname"].instance_name)

    def test_what_nobody_knows_is_left_open(self) -> None:
        found = rows("target.nonesuch x {\n a b\n}\nsmtp tcp://127.0.0.1:25 {\n deliver_to\n modify &x\n nope {\n c\n }\n}\n")
        self.assertIsNone(found["target.nonesuch"].body)
        self.assertNotIn("a", found)
        self.assertEqual(found["deliver_to"].modules, ())
        self.assertIsNone(found["nope"].directive)
        self.assertNotIn("c", found)

    def test_the_top_level_has_globals_words_and_modules(self) -> None:
        names = TOP.names()
        for name in ("hostname", "smtp", "table.static", "msgpipeline"):
            self.assertIn(name, names)
