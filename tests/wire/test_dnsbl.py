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

    def test_fractions_add_up(self) -> None:
        zones = {f"z{number}.test": score for number, score in enumerate((0.7, 0.1, 0.2))}
        for zone in zones:
            self.names.add(f"7.2.0.192.{zone}", "A", "127.0.0.2")
        self.checked("dnsbl", *(f"list {zone} {{\nscore {score}\n}}" for zone, score in zones.items()))
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

    def test_what_answers_count(self) -> None:
        """Several addresses, lines for some of them, and thresholds: what the client hears, and whether it is marked."""
        zen = (
            "list bl.test {\nresponse 127.0.0.2 127.0.0.3 {\nscore 4\n}\n"
            "response 127.0.0.4/30 {\nscore 2.5\nmessage caught\n}\n%s}"
        )
        more = ("reject_threshold 4", "quarantine_threshold 1")
        caught = b"554 5.7.1 Listed in bl.test: caught"
        for answers, rest, expected in (
            ("127.0.0.2", "", b"554 5.7.1 Listed in bl.test"),
            ("127.0.0.2 127.0.0.3", "", b"554 5.7.1 Listed in bl.test"),
            ("127.0.0.2 127.0.0.7", "", caught),
            ("127.0.0.7", "", "marked"),
            ("127.0.0.4 127.0.0.5 127.0.0.6", "", "marked"),
            ("127.0.0.10", "", OK),
            ("127.0.0.10", "responses 127.0.0.0/24\n", "marked"),
            ("127.0.0.10 127.0.0.4", "responses 127.0.0.0/24\nscore 1.5\n", caught),
            ("127.0.1.10 127.0.0.4", "responses 127.0.0.0/24\nscore 1.5\n", "marked"),
            ("127.0.0.2 198.51.100.1", "", b"554 5.7.1 Listed in bl.test"),
        ):
            with self.row(f"{answers} {rest}"):
                self.names = type(self.names)(self.reactor)
                self.names.add(BL, "A", *answers.split())
                self.checked("dnsbl", zen % rest, *more, relay=True)
                client = self.from_()
                heard = self.rcpt(client)
                if isinstance(expected, bytes) and expected != OK:
                    self.assertEqual(heard, expected)
                    continue
                self.assertEqual(heard[:9], OK)
                self.assertEqual(self.ask(client, b"DATA")[:3], b"354")
                self.assertEqual(self.ask(client, b"Subject: probe\r\n\r\nhello\r\n.")[:3], b"250")
                content = self.next_hop.transactions[0].content
                self.assertEqual(b"X-Mailgate-Quarantine: yes" in content, expected == "marked")

    def test_codes_that_say_that_a_list_does_not_answer(self) -> None:
        """They are neither a listing nor the opposite, whatever `responses` says, and beside other answers too."""
        for answers in ("127.255.255.252", "127.255.255.254", "127.255.255.255", "127.0.0.2 127.255.255.254"):
            self.names.add(BL, "A", *answers.split())
            for responses in ("", "responses 127.0.0.2\n", "responses 127.0.0.0/8\n", "response 127.0.0.0/8 {\nscore 1\n}\n"):
                for on_error, expected in (("defer", UNANSWERED), ("ignore", OK), ('reject 550 5.7.1 "no"', b"550 5.7.1")):
                    with self.row(f"{answers} {responses} {on_error}"):
                        self.checked("dnsbl", f"list bl.test {{\n{responses}}}", f"on_error {on_error}")
                        self.assertEqual(self.verdict(), expected)

    def test_a_list_that_speaks_for_clients(self) -> None:
        lines = ("list good.test {\nresponse 127.0.0.0/16 {\nscore -1.5\n}\n}", "reject_threshold 1")
        for listed, good, expected in (
            (True, "127.0.5.1", OK),
            (True, None, LISTED),
            (False, "127.0.5.1", OK),
            (True, "127.2.0.1", LISTED),
            (True, "127.0.0.255", UNANSWERED),
            (True, Action.SERVFAIL, UNANSWERED),
            (True, Action.SILENCE, UNANSWERED),
            (False, Action.SERVFAIL, OK),
        ):
            with self.row(f"{listed} {good}"):
                self.names = type(self.names)(self.reactor)
                if listed:
                    self.names.add(BL, "A", "127.0.0.2")
                if isinstance(good, str):
                    self.names.add(GOOD, "A", good)
                elif good is not None:
                    self.names.script(GOOD, "A", good)
                self.checked("dnsbl bl.test", *lines)
                self.assertEqual(self.verdict(), expected)

    def test_an_allow_list_that_counts_us_out_lets_nobody_in(self) -> None:
        self.names.add(BL, "A", "127.0.0.2")
        for answer in ("127.0.0.255", "127.255.255.255"):
            self.names.add(GOOD, "A", answer)
            self.checked("dnsbl bl.test", "allow good.test")
            self.assertEqual(self.verdict(), UNANSWERED, answer)

    def test_a_sum_that_is_a_part_of_the_messages_score(self) -> None:
        self.names.add(BL, "A", "127.0.0.2")
        lists = ("list bl.test {\nscore 3\n}", "list other.test {\nscore 2.5\n}", "list good.test {\nscore -2\n}")
        rest = (*lists, "reject_threshold off", "count_score yes", "on_error ignore", "}", "score {", "reject_threshold 3")
        for other, good, expected in (
            (None, None, b"550 5.7.1"),
            (None, "127.0.5.1", b"250 2.0.0"),
            ("127.0.0.2", "127.0.5.1", b"550 5.7.1"),
            (Action.SERVFAIL, None, b"550 5.7.1"),
        ):
            with self.row(f"{other} {good}"):
                self.names = type(self.names)(self.reactor)
                self.names.add(BL, "A", "127.0.0.2")
                if isinstance(other, str):
                    self.names.add(OTHER, "A", other)
                elif other is not None:
                    self.names.script(OTHER, "A", other)
                if good is not None:
                    self.names.add(GOOD, "A", good)
                self.checked("dnsbl", *rest)
                client = self.from_()
                self.assertEqual(self.rcpt(client)[:9], OK)
                self.ask(client, b"DATA")
                self.assertEqual(self.ask(client, b"Subject: probe\r\n\r\nhello\r\n.")[:9], expected)

    def test_private_clients_are_not_asked_for(self) -> None:
        self.checked("dnsbl bl.test")
        self.assertEqual(self.verdict("10.1.2.3"), OK)
        self.assertEqual(self.names.queries, [])
        self.assertEqual([is_public(a) for a in ("127.0.0.1", "::1", "fe80::1%eth0", "fd00::1", V6)], [False] * 4 + [True])

    def test_mistakes_at_load(self) -> None:
        for check in (
            "dnsbl",
            "dnsbl bl",
            "dnsbl bl.test {\nreject_threshold 2\n}",
            "dnsbl {\nallow good.test\n}",
            "dnsbl {\nlist good.test {\nscore -1\n}\n}",
            "dnsbl bl.test {\nquarantine_threshold 1\n}",
            "dnsbl bl.test {\nreject_threshold off\n}",
            "dnsbl bl.test {\nreject_threshold off\nquarantine_threshold 2\n}",
            "dnsbl bl.test {\ncount_score yes\non_fail score 2\n}",
        ):
            text = f"hostname a.test\nsmtp {SMTP} {{\ntls off\ncheck {{\n{check}\n}}\ndiscard\n}}\n"
            self.assertEqual({found.code for found in build(text).diagnostics if found.is_error}, {"E0792"}, check)
