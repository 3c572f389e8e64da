"""`--where`: what expressions see of a recipient, and what is wrong with some."""

from __future__ import annotations

import unittest
from dataclasses import replace

from mailgate.queue.entry import Entry, LastTry, Origin, Standing, Waiting, Way
from mailgate.queue.selection import VARIABLES, Candidate, WhereError, compile_where
from mailgate.smtp.address import NULL_ADDRESS, parse_address
from mailgate.smtp.parameters import MailParameters, RcptParameters
from tests.queue.support import NOW

LAST = LastTry(NOW - 60, 450, "4.2.2", "mailbox is full", "mailbox", True, Way("mx.one.test"))
ROW = Waiting(0, parse_address("Bob@One.TEST"), "one.test", RcptParameters(), due=NOW + 300, retries=3, last=LAST)
ENTRY = Entry(
    7,
    "abc.1",
    "relay",
    parse_address("ann@Client.test"),
    MailParameters(),
    Origin(client_ip="192.0.2.9", auth_user="ann"),
    NOW - 7200,
    b"",
    1,
    2048,
    (ROW,),
)
TRUE = (
    'sender == "ann@client.test"',
    'sender_domain == "CLIENT.test"',
    'rcpt == "Bob@one.test"',
    'rcpt_domain in ["one.test", ".example.org"]',
    'queue == "outbound" and target == "relay" and destination == "one.test"',
    "age > 1h and age <= 2h",
    "due_in == 5m",
    "retries >= 3",
    "last_code == 450",
    'last_error == "mailbox"',
    'last_text matches "full$"',
    'contains(last_text, "full")',
    'last_peer == "mx.one.test"',
    "size > 1000",
    'state == "waiting" and not held',
    "client_ip in 192.0.2.0/24",
    'auth_user == "ann"',
    'id == "abc.1"',
    'source == "client" and priority == 0 and not in_doubt and reason == ""',
)
FALSE = ('sender == ""', 'rcpt_domain in [".one.test"]', "age < 2h", 'state == "held"', "held", "last_code > 500")
WRONG = (
    ('sendr == "x"', "unknown name `sendr`", "sender"),
    ('age == "1d"', "duration", ""),
    ("age > 10", "", ""),
    ("retries", "", ""),
    ('state == "stuck"', "it is never", "waiting, delivering, held, owed, removed"),
    ('lookup(&people, sender) == "x"', "", ""),
    ('sender == "x@y.test" and', "", ""),
    ("", "", ""),
)


def ask(text: str, entry: Entry = ENTRY, row: Waiting = ROW, *, delivering: bool = False) -> bool:
    return compile_where(text)(Candidate("outbound", entry, row, NOW, delivering=delivering))


class WhereTests(unittest.TestCase):
    def test_what_is_true(self) -> None:
        for text in TRUE:
            with self.subTest(text):
                self.assertTrue(ask(text))

    def test_what_is_false(self) -> None:
        for text in FALSE:
            with self.subTest(text):
                self.assertFalse(ask(text))

    def test_what_is_not_known(self) -> None:
        entry = replace(ENTRY, sender=NULL_ADDRESS, origin=Origin())
        row = replace(ROW, last=None, standing=Standing.HELD)
        for text in ('sender == ""', 'sender_domain == ""', "held", 'state == "held"', "last_code != 450"):
            with self.subTest(text):
                self.assertTrue(ask(text, entry, row))
        for text in ("last_code == 450", "client_ip in 0.0.0.0/0", 'auth_user == "ann"', 'last_text != ""'):
            with self.subTest(text):
                self.assertFalse(ask(text, entry, row))

    def test_one_that_is_on_its_way_is_delivering(self) -> None:
        self.assertTrue(ask('state == "delivering"', delivering=True))
        self.assertFalse(ask('state == "waiting"', delivering=True))

    def test_what_is_wrong_is_said_with_its_place(self) -> None:
        for text, words, more in WRONG:
            with self.subTest(text), self.assertRaises(WhereError) as caught:
                compile_where(text)
            said = str(caught.exception)
            self.assertIn(words, said)
            self.assertIn(more, said)
            self.assertIn("\n  ", said)
            self.assertIn("^", said)

    def test_the_caret_is_under_what_is_wrong(self) -> None:
        with self.assertRaises(WhereError) as caught:
            compile_where('held and sendr == "x"')
        _, line, caret = str(caught.exception).split("\n")
        self.assertEqual(line, '  held and sendr == "x"')
        self.assertTrue(caret.startswith("           ^^^^^ "), caret)

    def test_no_value_is_an_error_not_a_no(self) -> None:
        with self.assertRaises(WhereError):
            ask("size / (retries - 3) > 1")

    def test_every_variable_has_a_value(self) -> None:
        candidate = Candidate("outbound", ENTRY, ROW, NOW)
        for name in VARIABLES:
            with self.subTest(name):
                getattr(candidate, name)
