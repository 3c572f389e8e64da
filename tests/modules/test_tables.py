"""What each table answers, and what it refuses at load."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from mailgate.events import Event
from mailgate.modules.table.file import TableFileError, parse
from tests.modules.support import errors, instance
from tests.pipeline.fakes import FakeTable, make_adapters


class StaticTests(SynchronousTestCase):
    def test_entries(self) -> None:
        table = instance(
            "table.static t {\n entry a@B.test x@y.test z@y.test\n entry A@b.test more\n entry empty\n"
            ' entry "\\"q\\"@b.test" q\n}',
            "t",
        )
        self.assertEqual(table.lookup("a@b.test"), ("x@y.test", "z@y.test", "more"))
        self.assertEqual(table.lookup("A@B.TEST"), ("x@y.test", "z@y.test", "more"))
        self.assertEqual(table.lookup("empty"), ("",))
        self.assertEqual(table.lookup("q@b.test"), ("q",))
        self.assertEqual(table.lookup("nobody@b.test"), ())
        self.assertEqual(table.static_keys, {"a@b.test", "empty", "q@b.test"})


class RegexpTests(SynchronousTestCase):
    def test_answers(self) -> None:
        for line, key, values in (
            ('"(.+)@old.test" "$1@new.test"', "a.b@old.test", ("a.b@new.test",)),
            ('"(.+)@old.test" "$1@new.test"', "a@old.test.evil", ()),
            ('"(.+)@old.test" "$1@new.test"', "A@OLD.TEST", ("A@new.test",)),
            ('"(.+)@old.test" "$1@a.test" "${1}x@b.test" "$$1"', "u@old.test", ("u@a.test", "ux@b.test", "$1")),
            ('"(?P<name>.+)@(.+)" "${name}@sub.$2"', "u@x.test", ("u@sub.x.test",)),
            ('"(a)?b" "<$1>"', "b", ("<>",)),
            ('".*@x.test"', "u@x.test", ("",)),
            ('".*@x.test"', "u@y.test", ()),
        ):
            self.assertEqual(instance(f"table.regexp t {line}", "t").lookup(key), values, line)

    def test_options(self) -> None:
        table = instance('table.regexp t "x" "$1" {\n full_match no\n case_insensitive no\n expand_placeholders no\n}', "t")
        self.assertEqual(table.lookup("axb"), ("$1",))
        self.assertEqual(table.lookup("aXb"), ())

    def test_mistakes(self) -> None:
        for line in ('"("', '"(a)" "$2"', '"(a)" "${name}"', '"a" "$1"'):
            self.assertEqual(errors(f"table.regexp t {line}"), ["E0811 1"], line)


class SmallTablesTests(SynchronousTestCase):
    def test_answers(self) -> None:
        self.assertEqual(instance("table.identity t", "t").lookup("x"), ("x",))
        localpart = instance("table.email_localpart t", "t")
        self.assertEqual(localpart.lookup("a@b.test"), ("a",))
        self.assertEqual(localpart.lookup("a b@b.test"), ("a b",))
        self.assertEqual(localpart.lookup("postmaster"), ())
        domain = instance("table.email_with_domain t a.test b.test", "t")
        self.assertEqual(domain.lookup("u"), ("u@a.test", "u@b.test"))
        self.assertEqual(domain.lookup('odd "one'), ('"odd \\"one"@a.test', '"odd \\"one"@b.test'))
        self.assertEqual(errors("table.email_with_domain t not..one"), ["E0813 1"])


class ChainTests(SynchronousTestCase):
    TEXT = """
table.static one {
    entry a b c
    entry d e
}
table.static two {
    entry b B1 B2
    entry c B2
}
"""

    def test_the_values_of_one_are_the_keys_of_the_next(self) -> None:
        table = instance(self.TEXT + "table.chain t {\n step &one\n step &two\n}", "t")
        self.assertEqual(table.lookup("a"), ("B1", "B2"))
        self.assertEqual(table.lookup("d"), ())
        self.assertEqual(table.lookup("z"), ())

    def test_an_optional_step_lets_pass_what_it_does_not_know(self) -> None:
        table = instance(self.TEXT + "table.chain t {\n optional_step &one\n optional_step &two\n}", "t")
        self.assertEqual(table.lookup("a"), ("B1", "B2"))
        self.assertEqual(table.lookup("d"), ("e",))
        self.assertEqual(table.lookup("z"), ("z",))

    def test_a_step_with_a_block_of_its_own(self) -> None:
        table = instance("table.chain t {\n step email_localpart\n step static {\n  entry u v\n }\n}", "t")
        self.assertEqual(table.lookup("u@x.test"), ("v",))

    def test_a_step_that_waits_or_fails(self) -> None:
        table = instance(self.TEXT + "table.chain t {\n step &one\n step &two\n}", "t")
        slow = FakeTable({"a": ("b",)}, wait=True)
        table.items = (table.items[0].__class__(table.items[0].directive, slow, table.items[0].span), *table.items[1:])
        asked = table.lookup("a")
        assert isinstance(asked, Deferred)
        slow.pending.pop().answer()  # type: ignore[attr-defined]
        self.assertEqual(self.successResultOf(asked), ("B1", "B2"))
        slow.entries = OSError("gone")
        self.assertRaises(OSError, table.lookup, "a")

    def test_mistakes(self) -> None:
        self.assertEqual(errors("table.chain t { }"), ["E0812 1"])
        circle = "table.chain a {\n step &b\n}\ntable.chain b {\n optional_step &a\n}"
        self.assertEqual(errors(circle), ["E0812 1", "E0812 4"])


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, directory)
        self.path = os.path.join(directory, "aliases")
        self.addCleanup(lambda: os.path.exists(self.path) and os.unlink(self.path))
        self.clock = Clock()
        self.logged: list[str] = []
        globalLogPublisher.addObserver(self._observe)
        self.addCleanup(globalLogPublisher.removeObserver, self._observe)

    def _observe(self, event: Any) -> None:
        if event.get("event") in (Event.TABLE_RELOADED, Event.TABLE_FAILED):
            self.logged.append(event["event"].value)

    def write(self, text: str) -> None:
        """Another file in its place, as careful editors do."""
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(self.path + ".new", self.path)

    def table(self, text: str) -> Any:
        self.write(text)
        table = instance(f"table.file t {self.path} {{\n reload_interval 10s\n}}", "t", make_adapters(self.clock))
        self.successResultOf(ensureDeferred(table.start()))
        self.addCleanup(lambda: ensureDeferred(table.stop()))
        return table

    def test_syntax(self) -> None:
        self.assertEqual(
            parse(
                "# comment\n\n Ann@A.test : x@y.test, z@y.test \nbare\nAnn@a.test: w,,\nempty:\n  # indented comment\nk: a:b\n"
            ),
            {"ann@a.test": ("x@y.test", "z@y.test", "w"), "bare": ("",), "empty": ("",), "k": ("a:b",)},
        )
        error = self.assertRaises(TableFileError, parse, "a: b\n: c\n")
        self.assertIn("line 2", str(error))

    def test_it_is_read_again_when_it_changes(self) -> None:
        table = self.table("a: b\n")
        self.assertEqual(table.lookup("A"), ("b",))
        self.clock.advance(10)
        self.assertEqual(self.logged, [])
        self.write("a: c\n")
        self.clock.advance(9)
        self.assertEqual(table.lookup("a"), ("b",))
        self.clock.advance(1)
        self.assertEqual(table.lookup("a"), ("c",))
        self.assertEqual(self.logged, ["table.reloaded"])

    def test_a_bad_new_file_and_a_missing_one_keep_the_old_entries_and_say_so_once(self) -> None:
        table = self.table("a: b\n")
        self.write(": nothing\n")
        self.clock.pump([10, 10, 10])
        self.assertEqual(self.logged, ["table.failed"])
        os.unlink(self.path)
        self.clock.pump([10, 10])
        self.assertEqual(self.logged, ["table.failed"] * 2)
        self.assertEqual(table.lookup("a"), ("b",))
        self.write("a: d\n")
        self.clock.pump([10])
        self.assertEqual(table.lookup("a"), ("d",))

    def test_after_stop_nothing_is_left(self) -> None:
        table = self.table("a: b\n")
        self.successResultOf(ensureDeferred(table.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_at_the_start_it_must_be_there_and_good(self) -> None:
        self.assertEqual(errors(f"table.file t {self.path}"), ["E0810 1"])
        for content in (b": x\n", b"\xff\n"):
            with open(self.path, "wb") as file:
                file.write(content)
            self.assertEqual(errors(f"table.file t {self.path}"), ["E0810 1"], content)
