"""replace_sender and replace_rcpt."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.envelope import Envelope, Recipient
from mailgate.pipeline.modifiers import takes_part
from mailgate.smtp.reply import TemporaryError
from tests.modules.support import instance
from tests.pipeline.fakes import FakeTable, address, make_session


def modifier(word: str, entries: dict[str, tuple[str, ...]]) -> Any:
    made = instance(f"modifiers m {{\n {word} identity\n}}", "m").modules[0]
    made.table = FakeTable(entries)
    return made


ALIASES = {
    "full@a.test": ("x@b.test", "y@b.test", "X@B.test"),
    "local": ("other",),
    "full": ("never",),
    "odd one": ("strange one",),
    "postmaster": ("root@a.test",),
    "bad@a.test": ("not an address@@",),
    "empty@a.test": ("",),
    "null@a.test": ("<>",),
}


class ReplaceRcptTests(SynchronousTestCase):
    def rewritten(self, text: str) -> list[str]:
        return [str(one) for one in modifier("replace_rcpt", ALIASES).rcpt(Recipient(address(text)))]

    def test_the_full_address_then_the_local_part(self) -> None:
        for text, expected in {
            "Full@A.test": ["x@b.test", "y@b.test"],
            "Local@c.test": ["other@c.test"],
            "nobody@a.test": ["nobody@a.test"],
            '"odd one"@a.test': ['"strange one"@a.test'],
            "postmaster@a.test": ["root@a.test"],
            "Postmaster": ["root@a.test"],
        }.items():
            self.assertEqual(self.rewritten(text), expected, text)

    def test_a_bad_entry_is_temporary(self) -> None:
        for text in ("bad@a.test", "empty@a.test", "null@a.test"):
            error = self.assertRaises(TemporaryError, self.rewritten, text)
            self.assertEqual((error.reply.code, error.reply.enhanced), (451, "4.3.5"))
            self.assertIn(text, error.reason)

    def test_a_table_that_fails(self) -> None:
        replacing = modifier("replace_rcpt", {})
        replacing.table = FakeTable(OSError("gone"))
        self.assertRaises(TemporaryError, replacing.rcpt, Recipient(address("a@b.test")))

    def test_a_table_that_waits(self) -> None:
        replacing = modifier("replace_rcpt", {})
        replacing.table = slow = FakeTable({"a@b.test": ("c@d.test",)}, wait=True)
        asked = replacing.rcpt(Recipient(address("a@b.test")))
        assert isinstance(asked, Deferred)
        slow.pending.pop().answer()  # type: ignore[attr-defined]
        self.assertEqual(self.successResultOf(asked), (address("c@d.test"),))

    def test_it_takes_part_in_its_stage_alone(self) -> None:
        self.assertEqual(
            [takes_part(modifier("replace_rcpt", {}), stage) for stage in ("sender", "rcpt", "body")], [False, True, False]
        )


class ReplaceSenderTests(SynchronousTestCase):
    def rewritten(self, text: str) -> str:
        envelope = Envelope("s.1", address(text), make_session())
        return str(modifier("replace_sender", {**ALIASES, "": ("a@b.test",)}).sender(envelope))

    def test_senders(self) -> None:
        for text, expected in {"local@a.test": "other@a.test", "who@a.test": "who@a.test", "null@a.test": "", "": ""}.items():
            self.assertEqual(self.rewritten(text), expected, text)

    def test_several_values_for_one_sender_are_a_mistake(self) -> None:
        self.assertRaises(TemporaryError, self.rewritten, "full@a.test")
