"""Who is told what: every NOTIFY with every fate, and what a report looks like to a parser that is not ours."""

from __future__ import annotations

import email
import email.policy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.dsn import RecipientReport, StatusReport, compose
from mailgate.queue.entry import Entry, Fate, Origin, Waiting
from mailgate.queue.reports import Reporter, ReportSettings
from mailgate.smtp.address import NULL_ADDRESS, Address, parse_address
from mailgate.smtp.parameters import NO_MAIL_PARAMETERS, MailParameters, RcptParameters
from tests.queue.support import NOW, World

NOTIFY: tuple[tuple[frozenset[str], set[str]], ...] = (
    (frozenset(), {"failed", "delayed"}),
    (frozenset({"NEVER"}), set()),
    (frozenset({"FAILURE"}), {"failed"}),
    (frozenset({"DELAY"}), {"delayed"}),
    (frozenset({"SUCCESS"}), {"relayed", "delivered", "expanded"}),
    (frozenset({"SUCCESS", "FAILURE"}), {"failed", "relayed", "delivered", "expanded"}),
    (frozenset({"SUCCESS", "DELAY", "FAILURE"}), {"failed", "delayed", "relayed", "delivered", "expanded"}),
)
FATES = {"failed": Fate.FAILED, "relayed": Fate.RELAYED, "delivered": Fate.DELIVERED, "expanded": Fate.EXPANDED}


def entry(sender: Address) -> Entry:
    return Entry(1, "m1", "relay", sender, NO_MAIL_PARAMETERS, Origin(), NOW, b"Subject: x\r\n", 1, 10, ())


async def submit(to: Address, content: bytes, parameters: MailParameters) -> Any:
    raise AssertionError("nothing is sent here")


class WantedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reporter = Reporter(ReportSettings("mx.test"), submit, World().adapters)

    def test_every_notify_with_every_fate(self) -> None:
        for notify, expected in NOTIFY:
            row = Waiting(0, parse_address("b@one.test"), parameters=RcptParameters(notify))
            told = {name for name, fate in FATES.items() if self.reporter.wants(entry(parse_address("a@x.test")), row, fate)}
            if self.reporter.wants_delay(entry(parse_address("a@x.test")), row):
                told.add("delayed")
            self.assertEqual(told, expected, notify)

    def test_the_null_sender_is_never_told(self) -> None:
        row = Waiting(0, parse_address("b@one.test"), parameters=RcptParameters(frozenset({"SUCCESS", "FAILURE", "DELAY"})))
        self.assertFalse(any(self.reporter.wants(entry(NULL_ADDRESS), row, fate) for fate in Fate))
        self.assertFalse(self.reporter.wants_delay(entry(NULL_ADDRESS), row))


def report(**changes: Any) -> StatusReport:
    one = RecipientReport(
        final=parse_address("b@one.test"),
        action="failed",
        status="5.1.1",
        original="rfc822;c+40two.test",
        diagnostic="no such user\nreally",
        code=550,
        said="5.1.1",
        remote=True,
        remote_mta="mx.one.test",
        last_attempt=NOW,
    )
    values: dict[str, Any] = {
        "hostname": "mx.test",
        "sender": parse_address("a@x.test"),
        "message_id": "m1",
        "recipients": [one],
        "arrived": NOW - 60,
        "now": NOW,
        "boundary": "report-1",
        "own_id": "r1",
        "envid": "env+2B1",
        "received_from": "client.test",
        "returned": b"Subject: x\r\nFrom: <a@x.test>\r\n",
    }
    return StatusReport(**(values | changes))


def parsed(content: bytes) -> Any:
    return email.message_from_bytes(content, policy=email.policy.default)


class ComposeTests(SynchronousTestCase):
    def test_a_whole_report(self) -> None:
        message = parsed(compose(report()))
        self.assertEqual(message.defects, [])
        self.assertEqual(message.get_content_type(), "multipart/report")
        self.assertEqual(message["Auto-Submitted"], "auto-replied")
        text, status, returned = message.iter_parts()
        self.assertIn("<b@one.test>: not delivered (by mx.one.test)", text.get_content())
        whole, recipient = (dict(group.items()) for group in status.get_payload())
        self.assertEqual(whole["Original-Envelope-Id"], "env+1")
        self.assertEqual(recipient["Original-Recipient"], "rfc822; c@two.test")
        self.assertEqual(recipient["Diagnostic-Code"], "smtp; 550 5.1.1 no such user / really")
        self.assertEqual(recipient["Remote-MTA"], "dns; mx.one.test")
        self.assertEqual(returned.get_content_type(), "text/rfc822-headers")

    def test_the_whole_message_comes_back(self) -> None:
        content = b"Subject: x\r\n\r\nhello\r\n--report-1--\r\n"
        message = parsed(compose(report(returned=content, full=True, boundary="other")))
        _, _, returned = message.iter_parts()
        self.assertEqual(returned.get_content_type(), "message/rfc822")
        self.assertIn("hello", returned.get_payload(0).get_content())

    def test_what_is_not_ascii_makes_it_global(self) -> None:
        one = RecipientReport(parse_address("pelé@one.test"), "failed", "5.1.1", original=r"utf-8;pel\x{E9}\x{2B}x@one.test")
        content = compose(report(recipients=[one], smtputf8=True))
        self.assertIn(b"report-type=global-delivery-status", content)
        self.assertIn(b"Content-Type: message/global-delivery-status", content)
        self.assertIn("Final-Recipient: utf-8; pelé@one.test".encode(), content)
        self.assertIn("Original-Recipient: utf-8; pelé+x@one.test".encode(), content)
        content = compose(report(returned="Subject: é\r\n".encode(), smtputf8=True))
        self.assertIn(b"Content-Type: message/global-headers", content)
        whole = compose(report(returned="Subject: é\r\n\r\nhello\r\n".encode(), full=True, smtputf8=True))
        self.assertIn(b"Content-Type: message/global\r\n", whole)

    def test_a_sender_of_ascii_mail_gets_ascii_forms(self) -> None:
        """An alias may lead to an address that is not ASCII, and a header section may be what it must not be."""
        one = RecipientReport(parse_address("pelé@one.test"), "expanded", "2.0.0", original="rfc822;team@one.test")
        asked = report(recipients=[one], returned="Subject: é\r\n".encode())
        self.assertFalse(asked.needs_utf8)
        message = parsed(compose(asked))
        self.assertEqual(message.get_param("report-type"), "delivery-status")
        _, status, returned = message.iter_parts()
        self.assertEqual(status.get_content_type(), "message/delivery-status")
        recipient = dict(status.get_payload()[1].items())
        self.assertEqual(recipient["Final-Recipient"], r"utf-8; pel\x{E9}@one.test")
        self.assertEqual((returned.get_content_type(), returned["Content-Transfer-Encoding"]), ("text/rfc822-headers", "8bit"))
        self.assertTrue(report(sender=parse_address("é@x.test")).needs_utf8)

    def test_a_delayed_one_says_until_when(self) -> None:
        one = RecipientReport(parse_address("b@one.test"), "delayed", "4.4.1", retry_until=NOW + 86400)
        content = compose(report(recipients=[one]))
        self.assertIn(b"Will-Retry-Until: ", content)
        self.assertIn(b"THIS IS A WARNING ONLY", content)

    @settings(max_examples=150)
    @given(st.text(max_size=300), st.text(max_size=80), st.text(max_size=80))
    def test_no_text_from_elsewhere_makes_a_line_of_its_own(self, diagnostic: str, mta: str, helo: str) -> None:
        one = RecipientReport(
            parse_address("b@one.test"), "failed", "5.0.0", diagnostic=diagnostic, code=550, remote=True, remote_mta=mta
        )
        content = compose(report(recipients=[one], received_from=helo)).decode("utf-8", "replace")
        self.assertNotIn("\r", content.replace("\r\n", ""))
        status = content.split("--report-1")[2]
        fields = [line.split(":")[0] for line in status.split("\r\n") if line and not line.startswith(" ")]
        allowed = {
            "Content-Type",
            "Reporting-MTA",
            "Original-Envelope-Id",
            "Received-From-MTA",
            "Arrival-Date",
            "Final-Recipient",
            "Action",
            "Status",
            "Remote-MTA",
            "Diagnostic-Code",
        }
        self.assertEqual(set(fields) - allowed, set())
