"""check.spf: who hears what for which result, when, and what stands in the message."""

from __future__ import annotations

from mailgate.testing.names import Action
from tests.support.checked import CLIENT, OK, CheckedCase

FAIL, BROKEN, LATER = b"550 5.7.23", b"550 5.7.24", b"451 4.4.3"


class SpfTests(CheckedCase):
    def setUp(self) -> None:
        super().setUp()
        for name, record in {
            "pass.test": "v=spf1 ip4:192.0.2.0/24 -all",
            "fail.test": "v=spf1 -all exp=why.fail.test",
            "soft.test": "v=spf1 ~all",
            "neutral.test": "v=spf1 ?all",
            "broken.test": "v=spf1 ipv4:1.2.3.4 -all",
        }.items():
            self.names.add(name, "TXT", f'"{record}"')
        self.names.add("why.fail.test", "TXT", '"ask %{l} of %{d} about %{i}"')
        self.names.script("silent.test", "TXT", Action.SERVFAIL)

    def test_results_and_actions(self) -> None:
        for domain, action, refused in (
            ("fail", "on_fail", FAIL),
            ("soft", "on_softfail", FAIL),
            ("neutral", "on_neutral", FAIL),
            ("none", "on_none", FAIL),
            ("broken", "on_permerror", BROKEN),
            ("silent", "on_error", LATER),
        ):
            sender = f"ann@{domain}.test".encode()
            for early in ("yes", "no"):
                with self.row(f"{domain} early {early}"):
                    self.checked("spf", f"{action} reject", f"early {early}")
                    self.assertEqual(self.whole(sender=sender), refused)
                    self.checked("spf", f'{action} reject 450 4.7.1 "later"', f"early {early}")
                    self.assertEqual(self.whole(sender=sender), b"450 4.7.1")
                    self.checked("spf", f"{action} ignore", f"early {early}")
                    self.assertEqual(self.whole(sender=sender), b"250 2.0.0")

    def test_by_default(self) -> None:
        self.checked("spf")
        for domain, expected in (
            ("pass", b"250 2.0.0"),
            ("fail", FAIL),
            ("soft", b"250 2.0.0"),
            ("neutral", b"250 2.0.0"),
            ("none", b"250 2.0.0"),
            ("broken", b"250 2.0.0"),
            ("silent", LATER),
        ):
            self.assertEqual(self.whole(sender=f"ann@{domain}.test".encode()), expected, domain)

    def test_whose_words(self) -> None:
        self.checked("spf", "early yes")
        self.assertEqual(
            self.rcpt(self.from_(), b"ann@fail.test"),
            b"550 5.7.23 192.0.2.7 may not send mail for fail.test; fail.test explains: ask ann of fail.test about 192.0.2.7",
        )

    def test_the_null_sender_and_hello_names(self) -> None:
        self.checked("spf", "early yes")
        self.assertEqual(self.verdict(helo=b"fail.test", sender=b""), FAIL)
        self.assertEqual(self.verdict(helo=b"fail.test", sender=b"ann@pass.test"), OK)
        self.checked("spf", "early yes", "identity helo mail")
        self.assertEqual(self.verdict(helo=b"fail.test", sender=b"ann@pass.test"), FAIL)

    def test_what_the_message_says(self) -> None:
        self.checked("spf", "identity helo mail", relay=True)
        self.assertEqual(self.whole(helo=b"soft.test", sender=b"ann@pass.test"), b"250 2.0.0")
        self.assertTrue(
            self.header.startswith(
                b"Authentication-Results: gateway.test;\r\n"
                b'\tspf=softfail reason="soft.test: ~all" smtp.helo=soft.test;\r\n'
                b'\tspf=pass reason="pass.test: ip4:192.0.2.0/24" smtp.mailfrom=ann@pass.test\r\nReceived: '
            ),
            self.header,
        )

    def test_who_is_not_judged(self) -> None:
        self.checked("spf", "early yes")
        for source in ("10.1.2.3", "127.0.0.1"):
            self.assertEqual(self.verdict(source, sender=b"ann@fail.test"), OK)
        self.assertEqual(self.names.queries, [])

    def test_a_record_that_never_answers(self) -> None:
        for name in ("silent.test", "a.silent.test"):
            self.names.script(name, "TXT", Action.SILENCE)
        self.checked("spf")
        self.assertEqual(self.whole(sender=b"ann@silent.test"), LATER)

    def test_a_client_that_leaves_takes_its_lookups_along(self) -> None:
        self.names.script("silent.test", "TXT", Action.SILENCE)
        self.checked("spf")
        client = self.from_()
        self.assertEqual(self.rcpt(client, b"ann@silent.test")[:9], OK)
        self.reactor.run(client.quit())

    def test_lookups_are_remembered(self) -> None:
        self.checked("spf", "early yes")
        for _ in range(3):
            self.assertEqual(self.verdict(CLIENT, sender=b"ann@pass.test"), OK)
        self.assertEqual(self.names.asked("pass.test"), 1)
