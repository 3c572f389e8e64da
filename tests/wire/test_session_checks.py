"""require_tls, require_auth and what all checks share: `on_fail`, and what a dry run says of them."""

from __future__ import annotations

import base64

from mailgate.pipeline.testblock import run_tests
from mailgate.registry import build
from mailgate.testing.tls import TrustingClient
from tests.support.checked import OK, CheckedCase
from tests.support.scenario import SMTP

ANN = base64.b64encode(b"\0ann\0s3cret")
USERS = "auth.static users {\nentry ann s3cret\n}"


class SessionCheckTests(CheckedCase):
    def test_require_tls(self) -> None:
        self.checked("require_tls")
        client = self.from_()
        self.assertEqual(self.rcpt(client), b"550 5.7.10 Encryption needed, use STARTTLS")
        self.ask(client, b"RSET")
        self.reactor.run(client.secure(TrustingClient()))
        self.ask(client, b"EHLO client.test")
        self.assertEqual(self.rcpt(client)[:9], OK)

    def test_require_auth(self) -> None:
        self.checked("require_auth", listener="auth &users\ninsecure_auth yes", top=USERS)
        client = self.from_()
        self.assertEqual(self.rcpt(client), b"530 5.7.0 Authentication required")
        self.ask(client, b"RSET")
        self.assertEqual(self.ask(client, b"AUTH PLAIN " + ANN)[:3], b"235")
        self.assertEqual(self.rcpt(client)[:9], OK)

    def test_a_reply_of_the_operators(self) -> None:
        self.checked("require_tls", 'on_fail reject 450 4.7.1 "in the open?"')
        self.assertEqual(self.rcpt(self.from_()), b"450 4.7.1 in the open?")

    def test_ignored_is_logged(self) -> None:
        running = self.checked("require_tls", "on_fail ignore")
        self.assertEqual(self.verdict(), OK)
        (line,) = running.logged("check.ignored")
        self.assertIn("check=check.require_tls", line)
        self.assertIn("5.7.10", line)

    def test_in_a_block_for_recipients(self) -> None:
        text = f"smtp {SMTP} {{\ntls off\ndestination y.test {{\ncheck {{\nrequire_tls\n}}\ndiscard\n}}\n"
        self.gateway(text + "default_destination {\ndiscard\n}\n}\n")
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>")
        self.assertEqual(self.ask(client, b"RCPT TO:<b@y.test>")[:10], b"550 5.7.10")
        self.assertEqual(self.ask(client, b"RCPT TO:<b@z.test>")[:3], b"250")

    def test_mistakes_in_an_action(self) -> None:
        for action, code in (("quarantine yes", "E0405"), ("score", "E0404"), ("score much", "E0504"), ("drop", "E0505")):
            text = f"hostname a.test\nsmtp {SMTP} {{\ntls off\ncheck {{\nrequire_tls {{\non_fail {action}\n}}\n}}\ndiscard\n}}\n"
            self.assertEqual([found.code for found in build(text).diagnostics if found.is_error], [code], action)

    def test_a_test_block_asks_them(self) -> None:
        rules = f"hostname a.test\nsmtp {SMTP} {{\ntls self_signed\ncheck {{\nrequire_tls\n}}\ndiscard\n}}\n"
        steps = f"listener {SMTP}\nip 192.0.2.1\nfrom a@x.test\nrcpt b@y.test\n"
        for lines, wrong in (("expect reject 550", 0), ("expect discard", 1), ("tls yes\nexpect discard", 0)):
            built = build(f'{rules}test "t" {{\n{steps}{lines}\n}}\n')
            assert built.configuration is not None, built.diagnostics
            self.assertEqual(len(run_tests(built.configuration)), wrong, lines)
