"""check.greylist on the wire: first tries, those who come back, those who are not asked."""

from __future__ import annotations

import sqlite3

from mailgate.registry import build
from tests.support.checked import CLIENT, OK, CheckedCase
from tests.support.scenario import SMTP

GREYLISTED = b"451 4.7.1"
TEMPORARY = b"451 4.3.0"


class GreylistTests(CheckedCase):
    def test_who_comes_back_passes(self) -> None:
        self.checked("greylist", "delay 5m")
        self.assertEqual(self.verdict(), GREYLISTED)
        self.reactor.advance(200)
        self.assertEqual(self.verdict(), GREYLISTED)
        self.reactor.advance(120)
        self.assertEqual(self.verdict("192.0.2.99"), OK)
        self.assertEqual(self.verdict(), OK)
        self.assertEqual(self.verdict("198.51.100.1"), GREYLISTED)
        self.assertEqual(self.verdict(sender=b"other@sender.test"), GREYLISTED)
        assert self.running is not None
        self.assertEqual(len(self.running.logged("check.answered")), 1)

    def test_networks(self) -> None:
        self.checked("greylist", "networks 32 48")
        self.verdict()
        self.verdict("2001:db8:1:2::7")
        self.reactor.advance(400)
        self.assertEqual(self.verdict("192.0.2.8"), GREYLISTED)
        self.assertEqual(self.verdict("2001:db8:1:3::8"), OK)

    def test_who_is_not_asked(self) -> None:
        self.checked("greylist", "allow 192.0.2.0/25 2001:db8::/32")
        for source, expected in (
            (CLIENT, OK),
            ("2001:db8::7", OK),
            ("10.0.0.7", OK),
            ("127.0.0.1", OK),
            ("192.0.2.200", GREYLISTED),
        ):
            self.assertEqual(self.verdict(source), expected, source)

    def test_auto_allow(self) -> None:
        self.checked("greylist", "auto_allow 2")
        for number in range(2):
            self.verdict(sender=b"%d@sender.test" % number)
        self.reactor.advance(301)
        for number in range(2):
            self.assertEqual(self.verdict(sender=b"%d@sender.test" % number), OK)
        self.assertEqual(self.verdict(sender=b"new@sender.test"), OK)

    def test_a_file_that_cannot_be_asked_is_no_pass(self) -> None:
        for action, expected in (("defer", TEMPORARY), ("ignore", OK)):
            running = self.checked("greylist", f"on_error {action}")
            (check,) = [one for one in running.configuration.instances.values() if getattr(one, "name", "") == "check.greylist"]

            def broken(*what: object) -> None:
                raise sqlite3.OperationalError("disk I/O error")

            check.shelf.greylist.seen = broken
            self.assertEqual(self.verdict(), expected)

    def test_mistakes(self) -> None:
        for lines, expected in (
            ("delay 1h\nwindow 30m", ["E0798"]),
            ("store redis tcp://192.0.2.1", []),
            ('store postgres "host=db.example.net dbname=mail"', []),
            ('store postgres "no such thing"', ["E0841"]),
            ("store redis tls://r.test {\nroot_ca /nowhere.pem\n}", ["E0844"]),
            ("store redis tcp://r.test {\nroot_ca /nowhere.pem\n}", ["E0844"]),
            ('store redis tcp://r.test {\nprefix "a{b}"\n}', ["E0847"]),
            ("store redis tcp://r.test {\nlogin me secret\n}", ["W0840"]),
            ("store redis tcp://r.test\npath a.sqlite", ["W0714"]),
            ("store sqlite {\ntimeout 1s\n}", ["W0714"]),
            ('store postgres "dbname=mail" {\ndatabase 1\ntimeout 1s\n}', ["W0714"]),
        ):
            text = f"smtp {SMTP} {{\ntls off\ncheck {{\ngreylist {{\n{lines}\n}}\n}}\ndiscard\n}}\n"
            self.assertEqual([one.code for one in build(text).diagnostics], expected, lines)
