"""DSN from end to end (RFC 3461): what a client asks for with NOTIFY, and what the sender of the message then hears.

Cut through and queued, over SMTP and LMTP, with next hops that do DSN themselves and next hops that don't. Every report is read
by the standard library.
"""

from __future__ import annotations

import email
import email.policy
from dataclasses import dataclass
from typing import Any

from mailgate.queue.store import Unavailable
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.nexthop import DROP, NextHop, Script, Step, say
from tests.support.ledger import message
from tests.support.scenario import LMTP, SMTP, SimulatedCase

BASIC = (b"PIPELINING", b"8BITMIME", b"SMTPUTF8", b"ENHANCEDSTATUSCODES", b"SIZE 0")
WITH_DSN = (*BASIC, b"DSN")
NO = say(b"550 5.1.1 no such user")
DAY = 86400.0

ALIASES = (
    "        modify {\n            replace_rcpt static {\n"
    "                entry team@y.test one@y.test two@y.test\n                entry ann@y.test b@y.test\n"
    "            }\n        }\n"
)


def listener(handling: str, address: str = SMTP, more: str = "") -> str:
    return (
        f"{'lmtp' if address == LMTP else 'smtp'} {address} {{\n    tls off\n    reports &back\n{more}"
        f"    destination y.test {{\n{handling}    }}\n    default_destination {{\n        reject\n    }}\n}}\n"
    )


def fields(report: Any) -> list[dict[str, str]]:
    """The groups of the part for machines: of the message, then of each recipient."""
    parts = list(report.iter_parts())
    return [dict(group.items()) for group in parts[1].get_payload()]


@dataclass(frozen=True, slots=True)
class Row:
    """``expected`` are (action, final recipient) of all reports."""

    name: str
    notify: bytes
    expected: tuple[tuple[str, str], ...] = ()
    way: str = "cut"
    hop: str = "plain"
    script: Script | None = None
    to: bytes = b"b@y.test"
    sender: bytes = b"sender@client.test"
    listener: str = SMTP


RELAYED, DELIVERED, FAILED = (((action, "b@y.test"),) for action in ("relayed", "delivered", "failed"))
ROWS = (
    Row("nothing asked, taken", b"", ()),
    Row("never, taken", b"NEVER", ()),
    Row("failure, taken", b"FAILURE", ()),
    Row("delay, taken", b"DELAY", ()),
    Row("success, taken by one without DSN", b"SUCCESS", RELAYED),
    Row("success and failure, taken by one without DSN", b"SUCCESS,FAILURE", RELAYED),
    Row("success, taken by one with DSN: its duty", b"SUCCESS", (), hop="dsn"),
    Row("success, LMTP", b"SUCCESS", DELIVERED, hop="lmtp"),
    Row("success, maildir", b"SUCCESS,DELAY", DELIVERED, hop="maildir"),
    Row("success, LMTP to LMTP", b"SUCCESS", DELIVERED, hop="lmtp", listener=LMTP),
    Row("success, refused: the client tells", b"SUCCESS,FAILURE", (), script={Step.RCPT: NO}),
    Row("success, refused after the dot", b"SUCCESS,FAILURE", (), script={Step.DOT: NO}),
    Row("success, no answer to the dot", b"SUCCESS,FAILURE", (), script={Step.DOT: DROP}),
    Row("success, of nobody", b"SUCCESS,FAILURE", (), sender=b""),
    Row("success, one alias", b"SUCCESS", RELAYED, to=b"ann@y.test"),
    Row("success, several addresses", b"SUCCESS", (("expanded", "team@y.test"),), to=b"team@y.test"),
    Row("success, several addresses, one with DSN", b"SUCCESS", (("expanded", "team@y.test"),), to=b"team@y.test", hop="dsn"),
    Row("failure, several addresses", b"FAILURE", (), to=b"team@y.test"),
    Row("nothing asked, queued", b"", (), way="queue"),
    Row("success, queued", b"SUCCESS", RELAYED, way="queue"),
    Row("success, queued, one with DSN", b"SUCCESS", (), way="queue", hop="dsn"),
    Row("success, queued, LMTP", b"SUCCESS", DELIVERED, way="queue", hop="lmtp"),
    Row("success, queued, maildir", b"SUCCESS", DELIVERED, way="queue", hop="maildir"),
    Row("success, queued, several addresses", b"SUCCESS", (("expanded", "team@y.test"),), to=b"team@y.test", way="queue"),
    Row("nothing asked, queued, refused", b"", FAILED, way="queue", script={Step.RCPT: NO}),
    Row("failure, queued, refused", b"FAILURE", FAILED, way="queue", script={Step.RCPT: NO}),
    Row("success, queued, refused", b"SUCCESS", (), way="queue", script={Step.RCPT: NO}),
    Row("never, queued, refused", b"NEVER", (), way="queue", script={Step.DOT: NO}),
    Row("nobody's, queued, refused", b"FAILURE", (), way="queue", script={Step.RCPT: NO}, sender=b""),
    Row("on_split queue: taken at once", b"SUCCESS", DELIVERED, way="split", hop="lmtp"),
    Row("on_split queue: refused", b"SUCCESS,FAILURE", FAILED, way="split", hop="lmtp", script={Step.DOT: NO}),
    Row("on_split queue: taken later", b"SUCCESS", DELIVERED, way="split", hop="lmtp", script={Step.DOT: [say(b"451 4.3.0 no")]}),
)


class NotificationCase(SimulatedCase):
    def file(self, row: Row, hop: NextHop, back: NextHop) -> str:
        kind = {"lmtp": "lmtp", "maildir": "maildir"}.get(row.hop, "smtp")
        next_ = f"target.{kind} next " + (
            f"{self.directory}/mail\n" if kind == "maildir" else f"{{\n    targets {hop.endpoint}\n}}\n"
        )
        other = f"target.maildir other {self.directory}/other\n"
        bounce = "    bounce {\n        deliver_to &home\n    }\n"
        home = f"target.smtp home {{\n    targets {back.endpoint}\n}}\ntarget.queue back {{\n    target &home\n{bounce}}}\n"
        out = f"target.queue out {{\n    target &next\n{bounce}}}\n"
        if row.way == "queue":
            return home + next_ + out + listener(ALIASES + "        deliver_to &out\n", row.listener)
        if row.way == "split":
            more = "    on_split queue &out\n    destination z.test {\n        deliver_to &other\n    }\n"
            return home + next_ + out + other + listener("        deliver_to &next\n", row.listener, more)
        return home + next_ + listener(ALIASES + "        deliver_to &next\n", row.listener)

    def submit(self, row: Row, *more: bytes) -> list[bytes]:
        client = self.client(row.listener)
        notify = b" NOTIFY=" + row.notify if row.notify else b""
        lines = [b"MAIL FROM:<" + row.sender + b"> RET=HDRS ENVID=envelope+2B1"]
        lines += [b"RCPT TO:<" + one + b">" + notify for one in (row.to, *more)]
        replies = self.say(client, *lines, b"DATA")
        if replies[-1].startswith(b"354"):
            replies += self.say(client, message("one") + b".")
        self.reactor.run(client.quit())
        return replies

    def report_in(self, content: bytes) -> Any:
        parsed: Any = email.message_from_bytes(content, policy=email.policy.default)
        self.assertEqual(parsed.defects, [])
        self.assertEqual(parsed.get_content_type(), "multipart/report")
        return parsed

    def told(self, back: NextHop) -> list[tuple[str, str]]:
        found = []
        for transaction in back.transactions:
            self.assertEqual(transaction.sender, b"", "a report comes from nobody")
            self.assertEqual(transaction.paths, [b"sender@client.test"])
            whole, *each = fields(self.report_in(transaction.content))
            self.assertEqual(whole["Original-Envelope-Id"], "envelope+1")
            found += [(one["Action"], one["Final-Recipient"].removeprefix("rfc822; ")) for one in each]
        return found


class TableTests(NotificationCase):
    def test_every_notify_with_every_outcome(self) -> None:
        for row in ROWS:
            with self.row(row.name):
                hop = self.hop(lmtp=row.hop == "lmtp", extensions=WITH_DSN if row.hop == "dsn" else BASIC, script=row.script)
                back = self.hop()
                self.gateway(self.file(row, hop, back))
                self.submit(row, *([b"c@z.test"] if row.way == "split" else []))
                self.reactor.settle(DAY)
                expected = list(row.expected)
                if row.way == "split" and b"SUCCESS" in row.notify:
                    expected.append(("delivered", "c@z.test"))
                self.assertEqual(sorted(self.told(back)), sorted(expected))


class AnnouncedTests(NotificationCase):
    def test_only_where_reports_have_a_queue(self) -> None:
        back, hop = self.hop(), self.hop()
        text = self.file(Row("", b""), hop, back)
        self.gateway(text + f"lmtp {LMTP} {{\n    tls off\n    deliver_to &next\n}}\n")
        hello = self.ask(self.client(), b"EHLO again.test")
        self.assertIn(b"250-DSN\r\n", hello)
        without = self.client(LMTP)
        self.assertNotIn(b"DSN", self.ask(without, b"LHLO again.test"))
        replies = self.say(without, b"MAIL FROM:<a@x.test> RET=FULL", b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test> NOTIFY=NEVER")
        self.assertEqual([reply[:9] for reply in replies], [b"555 5.5.4", b"250 2.1.0", b"555 5.5.4"])

    def test_what_is_asked_for_goes_along(self) -> None:
        back, hop = self.hop(), self.hop(extensions=WITH_DSN)
        self.gateway(self.file(Row("", b""), hop, back))
        client = self.client()
        rcpt = "RCPT TO:<b@y.test> NOTIFY=SUCCESS,DELAY ORCPT=utf-8;bü@y.test".encode()
        self.say(client, b"MAIL FROM:<a@x.test> RET=FULL ENVID=e+2B1", rcpt, b"RCPT TO:<team@y.test> NOTIFY=SUCCESS", b"DATA")
        self.say(client, message("one") + b".")
        (transaction,) = hop.transactions
        self.assertIn(b" RET=FULL ENVID=e+2B1", transaction.mail)
        self.assertEqual(
            transaction.recipients,
            [
                rb"<b@y.test> NOTIFY=DELAY,SUCCESS ORCPT=utf-8;b\x{FC}@y.test",
                b"<one@y.test> NOTIFY=NEVER",
                b"<two@y.test> NOTIFY=NEVER",
            ],
        )


class KeptTests(NotificationCase):
    def queue(self, name: str = "back") -> Any:
        assert self.running is not None
        return self.running.configuration.instances[name].queue  # type: ignore[attr-defined]

    def start(self, row: Row) -> tuple[NextHop, NextHop]:
        hop, back = self.hop(lmtp=row.hop == "lmtp", script=row.script), self.hop()
        self.gateway(self.file(row, hop, back))
        return hop, back

    def test_reports_that_cannot_be_kept_refuse_the_message_before_it_is_sent(self) -> None:
        hop, back = self.start(ROWS[4])

        async def full(*_: Any, **__: Any) -> Any:
            raise Unavailable("a test says so")

        store = self.queue().store
        original, store.accept = store.accept, full
        replies = self.submit(ROWS[4])
        self.assertEqual(replies[-1][:9], b"451 4.3.0", replies)
        self.assertEqual(hop.transactions, [])
        store.accept = original
        self.reactor.settle(60)
        self.assertEqual(self.submit(ROWS[4])[-1][:3], b"250")
        self.reactor.settle(60)
        self.assertEqual((len(hop.transactions), self.told(back)), (1, list(RELAYED)))

    def test_a_message_is_not_sent_again_for_want_of_a_report(self) -> None:
        hop, back = self.start(ROWS[4])

        async def broken(*_: Any, **__: Any) -> Any:
            raise Unavailable("a test says so")

        store = self.queue().store
        original, store.settle = store.settle, broken
        self.assertEqual(self.submit(ROWS[4])[-1][:3], b"250")
        store.settle = original
        self.reactor.settle(60)
        assert self.running is not None
        self.assertEqual(len(self.running.logged("message.undeliverable")), 1)
        self.assertEqual((len(hop.transactions), self.told(back)), (1, []))
        self.assertEqual(self.reactor.run(store.browse(0, 10)), [])

    def test_one_report_for_all_recipients_of_a_message(self) -> None:
        row = Row("", b"SUCCESS", (), hop="lmtp", script={Step.DOT: say(b"250 2.1.5 kept as 17", b"250 2.0.0 ok")}, listener=LMTP)
        _, back = self.start(row)
        self.submit(row, b"c@y.test")
        self.reactor.settle(60)
        (transaction,) = back.transactions
        report = self.report_in(transaction.content)
        _, *each = fields(report)
        self.assertEqual([one["Final-Recipient"] for one in each], ["rfc822; b@y.test", "rfc822; c@y.test"])
        self.assertEqual([one["Status"] for one in each], ["2.0.0", "2.0.0"])
        returned = list(report.iter_parts())[2]
        self.assertEqual(returned.get_content_type(), "text/rfc822-headers")
        self.assertIn("X-Token: one", returned.get_payload())
        self.assertNotIn("body", returned.get_payload().split("X-Token")[1].split("\n\n")[-1])

    def test_each_recipient_of_lmtp_by_itself(self) -> None:
        row = Row("", b"SUCCESS", (), hop="lmtp", script={Step.DOT: say(b"250 2.0.0 ok", b"550 5.7.1 no")}, listener=LMTP)
        _, back = self.start(row)
        client = self.client(LMTP)
        replies = self.say(
            client,
            b"MAIL FROM:<sender@client.test> ENVID=envelope+2B1",
            b"RCPT TO:<b@y.test> NOTIFY=SUCCESS",
            b"RCPT TO:<c@y.test> NOTIFY=SUCCESS",
            b"DATA",
        )
        client.send(message("one") + b".\r\n")
        replies = self.reactor.run(client.replies(2))
        self.assertEqual([reply[:3] for reply in replies], [b"250", b"550"])
        self.reactor.settle(60)
        self.assertEqual(self.told(back), list(DELIVERED))

    def test_a_queue_without_bounce_takes_them_itself(self) -> None:
        hop, back = self.hop(), self.hop()
        text = self.file(ROWS[4], hop, back).replace("    bounce {\n        deliver_to &home\n    }\n", "")
        self.gateway(text)
        self.submit(ROWS[4])
        self.reactor.settle(60)
        self.assertEqual(self.told(back), list(RELAYED))

    def test_a_report_that_is_owed_survives_a_restart(self) -> None:
        row = ROWS[4]
        hop, back = self.hop(), self.hop(script={Step.RCPT: [say(b"451 4.3.0 later")]})
        running = self.gateway(self.file(row, hop, back))
        self.submit(row)
        self.assertEqual(back.transactions, [])
        self.reactor.run(running.stop(), limit=600)
        adapters = running.live._assembler._adapters  # type: ignore[attr-defined]
        self.running = WholeGateway(running.path.read_text(), adapters, self.directory)
        self.reactor.run(self.running.start())
        self.reactor.settle(180)
        self.assertEqual(self.told(back), list(RELAYED))
        self.assertEqual(len(hop.transactions), 1)


class CopiesTests(NotificationCase):
    def test_nobody_hears_of_a_copy(self) -> None:
        hop, back, archive = self.hop(extensions=WITH_DSN), self.hop(), self.hop(script={Step.RCPT: NO})
        row = Row("", b"SUCCESS,FAILURE")
        bounce = "    bounce {\n        deliver_to &home\n    }\n"
        text = self.file(row, hop, back).replace("        deliver_to &next\n", "        deliver_to &next\n        copy_to &log\n")
        self.gateway(
            f"{text}target.smtp archive {{\n    targets {archive.endpoint}\n}}\n"
            f"target.queue log {{\n    target &archive\n{bounce}}}\n"
        )
        self.submit(row)
        self.reactor.settle(DAY)
        self.assertTrue(any(b"RCPT" in connection.verbs for connection in archive.connections))
        self.assertEqual(self.told(back), [])
