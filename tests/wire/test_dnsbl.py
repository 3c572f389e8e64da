"""check.dnsbl: who is listed where, what allows, and what a list that does not answer does."""

from __future__ import annotations

from mailgate.modules.check.dnsbl import MAX_TEXT, is_public, reversed_address
from mailgate.registry import build
from mailgate.testing.names import Action
from tests.support.checked import CLIENT, OK, CheckedCase
from tests.support.scenario import SMTP

LISTED = b"554 5.7.1"
UNANSWERED = b"451 4.4.3"
V6 = "2001:db8::7"
BL, OTHER, GOOD = (f"7.2.0.192.{zone}" for zone in ("bl.test", "other.test", "good.test"))


class DnsblTests(CheckedCase):
    def test_listed_and_not(self) -> None:
        self.names.add(BL, "A", "127.0.0.2")
        self.names.add(f"{reversed_address(V6)}.bl.test", "A", "127.0.0.3")
        self.names.add("9.2.0.192.bl.test", "A", "198.51.100.1")
        self.checked("dnsbl bl.test")
        for source, expected in ((CLIENT, LISTED), (V6, LISTED), ("192.0.2.8", OK), ("192.0.2.9", OK)):
            self.assertEqual(self.verdict(source), expected, source)

    def test_the_lists_text_is_cleaned(self) -> None:
        self.names.add(BL, "A", "127.0.0.2")
        self.names.add(BL, "TXT", '"see\\013\\010250 ok \\195\\164" "' + "x" * 250 + '"')
        self.checked("dnsbl bl.test")
        reply = self.rcpt(self.from_())
        self.assertTrue(reply.startswith(b"554 5.7.1 Listed in bl.test: see?250 ok ?xxx"), reply)
        self.assertLessEqual(len(reply), MAX_TEXT + 40)
        self.names.script(BL, "TXT", Action.SERVFAIL)
        self.checked("dnsbl bl.test")
        self.assertEqual(self.rcpt(self.from_()), b"554 5.7.1 Listed in bl.test")

    def test_responses(self) -> None:
        self.names.add(BL, "A", "127.0.0.2")
        for networks, expected in (("127.0.0.4/30", OK), ("127.0.0.2", LISTED), ("127.0.0.4/30 127.0.0.0/30", LISTED)):
            self.checked("dnsbl", f"list bl.test {{\nresponses {networks}\n}}")
            self.assertEqual(self.verdict(), expected, networks)

    def test_names(self) -> None:
        self.names.add("bad.example.bl.test", "A", "127.0.1.2")
        lines = "list bl.test {\nask helo sender_domain\n}"
        self.checked("dnsbl", lines)
        self.assertEqual(self.verdict(helo=b"Bad.Example"), LISTED)
        self.assertEqual(self.verdict(sender=b"a@BAD.example"), LISTED)
        self.assertEqual(self.verdict(helo=b"[192.0.2.7]", sender=b""), OK)
        self.assertEqual(self.names.asked(BL), 0)

    def test_scores(self) -> None:
        self.names.add(BL, "A", "127.0.0.2")
        lines = ("list other.test {\nscore 2\n}", "reject_threshold 3")
        self.checked("dnsbl bl.test", *lines)
        self.assertEqual(self.verdict(), OK)
        self.names.add(OTHER, "A", "127.0.0.2")
        self.checked("dnsbl bl.test", *lines)
        self.assertEqual(self.verdict(), LISTED)

    def test_allowed(self) -> None:
        self.names.add(BL, "A", "127.0.0.2")
        self.names.add(GOOD, "A", "127.0.5.1")
        self.checked("dnsbl bl.test", "allow good.test")
        self.assertEqual(self.verdict(), OK)
        self.names.script(GOOD, "A", Action.SERVFAIL)
        self.checked("dnsbl bl.test", "allow good.test")
        self.assertEqual(self.verdict(), UNANSWERED)

    def test_no_answer_is_no_pass(self) -> None:
        for action in (Action.SERVFAIL, Action.SILENCE, Action.REFUSED):
            self.names.script(BL, "A", action)
            self.checked("dnsbl bl.test")
            self.assertEqual(self.verdict(), UNANSWERED, action)
        self.checked("dnsbl bl.test", "on_error ignore")
        self.assertEqual(self.verdict(), OK)

    def test_a_list_that_does_not_answer_the_likes_of_us(self) -> None:
        self.names.add(BL, "A", "127.255.255.254")
        self.checked("dnsbl bl.test")
        self.assertEqual(self.verdict(), UNANSWERED)

    def test_a_failure_that_can_change_nothing(self) -> None:
        self.names.script(BL, "A", Action.SERVFAIL)
        self.checked("dnsbl bl.test other.test", "reject_threshold 2")
        self.assertEqual(self.verdict(), OK)
        self.names.add(OTHER, "A", "127.0.0.2")
        self.checked("dnsbl bl.test other.test")
        self.assertEqual(self.verdict(), LISTED)

    def test_private_clients_are_not_asked_for(self) -> None:
        self.checked("dnsbl bl.test")
        self.assertEqual(self.verdict("10.1.2.3"), OK)
        self.assertEqual(self.names.queries, [])
        self.assertEqual([is_public(a) for a in ("127.0.0.1", "::1", "fe80::1%eth0", "fd00::1", V6)], [False] * 4 + [True])

    def test_mistakes_at_load(self) -> None:
        for check in ("dnsbl", "dnsbl bl", "dnsbl bl.test {\nreject_threshold 2\n}", "dnsbl {\nallow good.test\n}"):
            text = f"hostname a.test\nsmtp {SMTP} {{\ntls off\ncheck {{\n{check}\n}}\ndiscard\n}}\n"
            self.assertIn("E0792", [found.code for found in build(text).diagnostics if found.is_error], check)
