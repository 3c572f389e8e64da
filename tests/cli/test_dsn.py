"""`mailgate dsn preview`: the words of the configuration, in reports that parse."""

from __future__ import annotations

import email
import email.policy
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli import main

CONFIGURATION = """
hostname mx.example.org
tls off
target.smtp next {
    targets tcp://next.example.org
}
target.queue outbound {
    target &next
    reports {
        from help@example.org
        subject delayed "Still waiting"
    }
    bounce {
        discard
    }
}
smtp tcp://127.0.0.1:25 {
    deliver_to &outbound
}
"""


class PreviewTests(SynchronousTestCase):
    def preview(self, *arguments: str, text: str = CONFIGURATION) -> Result:
        path = Path(self.mktemp())
        path.write_text(text)
        return CliRunner().invoke(main, ["dsn", "preview", "-c", str(path), *arguments])

    def test_each_action(self) -> None:
        for action, subject, word in (
            ("failed", "Undelivered mail returned to sender", "failed"),
            ("delayed", "Still waiting", "delayed"),
            ("success", "Mail was delivered or passed on", "relayed"),
            ("relayed", "Mail was delivered or passed on", "relayed"),
            ("delivered", "Mail was delivered or passed on", "delivered"),
            ("expanded", "Mail was delivered or passed on", "expanded"),
        ):
            result = self.preview("--action", action)
            self.assertEqual(result.exit_code, 0, result.output)
            report: Any = email.message_from_string(result.output, policy=email.policy.default)
            self.assertEqual((report["Subject"], report["From"]), (subject, "Mail delivery <help@example.org>"))
            groups = list(report.iter_parts())[1].get_payload()
            self.assertEqual(groups[1]["Action"], word)

    def test_internationalized_mail(self) -> None:
        result = self.preview("--smtputf8", "--action", "failed")
        self.assertIn("report-type=global-delivery-status", result.output)
        self.assertIn("Final-Recipient: utf-8; jürgen@example.org\n", result.output)

    def test_what_is_not_there(self) -> None:
        self.assertEqual(self.preview("--queue", "other").exit_code, 1)
        self.assertEqual(self.preview(text="nonsense\n").exit_code, 1)
        self.assertEqual(CliRunner().invoke(main, ["dsn", "preview", "-c", "/nowhere/at.all"]).exit_code, 2)
