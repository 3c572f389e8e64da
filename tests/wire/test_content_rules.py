"""check.header, check.attachment and check.structure on the wire."""

from __future__ import annotations

from mailgate.registry import build
from tests.message.test_mime import NESTED
from tests.support.scenario import SMTP, statuses
from tests.wire.test_content import CONTENT, ContentCase

OK, REFUSED = b"250 2.0.0", b"550 5.7.1"


class RuleTests(ContentCase):
    def judged(self, check: str, content: bytes) -> bytes:
        self.relayed(check)
        client = self.client()
        found = statuses(self.deliver(client, b"b@y.test", content=content))[-1]
        self.reactor.run(client.quit())
        return found

    def test_attachments(self) -> None:
        for lines, expected in (
            ("deny_name *.exe", REFUSED),
            ("deny_name *.EXE *.bat", REFUSED),
            ("deny_name Ä.zip", REFUSED),
            ("deny_name *.bat", OK),
            ("deny_type application/x-msdownload", REFUSED),
            ("deny_type video/* Text/HTML", REFUSED),
            ("deny_type video/*", OK),
            ("deny_name *.exe\non_fail quarantine", OK),
        ):
            self.assertEqual(self.judged(f"attachment {{\n{lines}\n}}", NESTED), expected, lines)
        self.assertIn(b"X-Mailgate-Quarantine: yes\r\n", self.content())

    def test_structure(self) -> None:
        for lines, expected in (
            ("", OK),
            ("max_depth 2", OK),
            ("max_depth 1", b"554 5.6.0"),
            ("max_parts 7", OK),
            ("max_parts 6", b"554 5.6.0"),
            ("max_size 300B", b"552 5.3.4"),
            ("max_size 3K", OK),
        ):
            self.assertEqual(self.judged(f"structure {{\n{lines}\n}}", NESTED), expected, lines)

    def test_headers(self) -> None:
        encoded = b"Subject: =?utf-8?q?L=C3=B6ttery?=\r\n" + CONTENT
        for lines, expected in (
            ("require From Subject", OK),
            ("require From Date", REFUSED),
            ('match subject "(?i)^L.TTERY"', REFUSED),
            ("match Subject two", REFUSED),
            ("match Subject three", OK),
            ("match X-None .", OK),
        ):
            self.assertEqual(self.judged(f"header {{\n{lines}\n}}", encoded), expected, lines)

    def test_mistakes(self) -> None:
        for check in ("attachment", "header", "header {\nmatch Subject (\n}".replace("(", '"("'), 'header {\nrequire "a b"\n}'):
            text = f"smtp {SMTP} {{\ntls off\ncheck {{\n{check}\n}}\ndiscard\n}}\n"
            self.assertEqual([one.code for one in build(text).diagnostics if one.is_error], ["E0769"], check)
