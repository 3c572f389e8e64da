"""DMARC's aggregate reports on their way: what came in on one day goes to the domains that want to hear of it on the next."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import date
from email import message_from_bytes, policy
from pathlib import Path
from random import Random
from typing import Any

import dkim

from mailgate.mailauth.dkim_keys import ED25519_SHA256, new_key
from mailgate.mailauth.dmarc_report import Head
from mailgate.modules import _dmarc_file as files
from mailgate.modules._dmarc_file import COLUMNS, Count, Subject, write
from mailgate.outbound.daily_reports import AGAIN, LOOK
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.names import Action, MemoryNames
from mailgate.testing.network import adapters_for
from mailgate.testing.nexthop import Step, say
from mailgate.testing.script import Connection, Script
from tests.support.checked import CLIENT
from tests.support.dmarc_report_schema import checked, records
from tests.support.interpreters import needs_nacl
from tests.support.scenario import SMTP
from tests.wire.test_sender_authentication import OK, AuthenticationCase, plain, signed

AUTHOR = b"ann@sender.test"
OTHER = "192.0.2.9"
DAY = 86400.0


class ReportCase(AuthenticationCase):
    """A gateway that reports to the next hop `reports`, whoever the report is for."""

    def setUp(self) -> None:
        super().setUp()
        self.file = Path(self.mktemp()).absolute()
        self.names.add("sender.test", "TXT", f'"v=spf1 ip4:{CLIENT} -all"')
        self.script: Script | None = None
        self.skipped = 0.0

    def asks(self, rua: str, domain: str = "sender.test", rest: str = "p=reject; sp=none") -> None:
        self.names.add(f"_dmarc.{domain}", "TXT", f'"v=DMARC1; {rest}; rua={rua}"')

    def text(self, *lines: str, modify: str = "", more: str = "") -> str:
        inner = "\n".join(lines)
        return (
            f"hostname gateway.test\ndmarc_report daily {{\n{inner}\nmail {{\n{modify}\n"
            f"deliver_to smtp {self.reports.endpoint}\n}}\n}}\n"
            f"smtp {SMTP} {{\ntls self_signed\nreverse_lookup no\ncheck {{\n"
            f"dmarc {{\nreports {{\nfile {self.file}\nsend &daily\n}}\n{more}\n}}\n}}\ndiscard\n}}\n"
        )

    def reporting(self, *lines: str, modify: str = "", more: str = "") -> WholeGateway:
        self._strike()
        self._raise()
        names, self.names = self.names, MemoryNames(self.reactor)
        self.names._records, self.names._names, self.names._scripts = names._records, names._names, names._scripts
        self.reports = self.hop(script=self.script)
        simulated = adapters_for(self.reactor)
        adapters = replace(simulated, resolver=self.names.resolver(), wall_time=lambda: simulated.wall_time() + self.skipped)
        self.running = WholeGateway(self.text(*lines, modify=modify, more=more), adapters, self.directory)
        self.reactor.run(self.running.start())
        return self.running

    def tomorrow(self, seconds: float = DAY + 5 * 3600) -> None:
        """Everybody's calendar goes on by this; of the time between only a little is simulated."""
        self.reactor.settle(20)
        self.skipped += seconds
        self.reactor.settle(LOOK * 2 + 20)

    @property
    def sent_to(self) -> list[bytes]:
        return [recipient[1:-1] for one in self.reports.transactions for recipient in one.recipients]

    def report(self, number: int = -1) -> Any:
        """The XML of what was sent, read by the schema."""
        letter: Any = message_from_bytes(bytes(self.reports.transactions[number].content), policy=policy.default)
        (attached,) = letter.iter_attachments()
        self.assertEqual(attached.get_content_type(), "application/gzip")
        return checked(gzip.decompress(attached.get_content()))

    def logged(self) -> str:
        assert self.running is not None
        return "\n".join(self.running.logged("dmarc.report"))


class ReportTests(ReportCase):
    def test_a_day_is_reported_on_the_next(self) -> None:
        self.asks("mailto:agg@sender.test")
        self.reporting("organization Example", "from dmarc@example.org", "contact dmarc-help@example.org")
        for _ in range(2):
            self.assertEqual(self.whole(sender=AUTHOR, content=signed(AUTHOR, "sender.test")), OK)
        self.whole(OTHER, sender=b"", content=plain(AUTHOR))
        self.reactor.settle(LOOK * 3)
        self.assertEqual(self.reports.transactions, [])
        self.tomorrow()
        (letter,) = self.reports.transactions
        self.assertEqual((letter.sender, self.sent_to), (b"dmarc@example.org", [b"agg@sender.test"]))
        root = self.report()
        self.assertEqual(records(root), [(CLIENT, 2, "none", "pass", "pass"), (OTHER, 1, "reject", "fail", "fail")])
        second = root.findall("record")[1]
        self.assertEqual(second.findtext("auth_results/spf/scope"), "helo")
        self.assertEqual(second.findtext("identifiers/envelope_from"), "")
        self.assertEqual(root.findtext("report_metadata/org_name"), "Example")
        self.assertEqual(root.findtext("report_metadata/email"), "dmarc-help@example.org")
        read: Any = message_from_bytes(bytes(letter.content), policy=policy.default)
        identity = root.findtext("report_metadata/report_id")
        self.assertEqual(read["Subject"], f"Report Domain: sender.test Submitter: example.org Report-ID: <{identity}>")
        (attached,) = read.iter_attachments()
        self.assertRegex(attached.get_filename(), r"^example\.org!sender\.test!\d+!\d+![0-9a-f]+\.xml\.gz$")
        self.assertEqual(read["Auto-Submitted"], "auto-generated")
        for _ in range(4):
            self.tomorrow()
        self.assertEqual(len(self.reports.transactions), 1)
        self.assertIn("result=sent", self.logged())

    @needs_nacl
    def test_it_is_signed_by_the_pipeline(self) -> None:
        key = new_key(ED25519_SHA256)
        path = Path(self.mktemp()).absolute()
        path.write_bytes(key.pem)
        path.chmod(0o600)
        self.asks("mailto:agg@sender.test")
        self.reporting("from dmarc@example.org", modify=f"modify {{\ndkim example.org d {{\nkey {path}\nexpire 20000d\n}}\n}}")
        self.whole(content=plain(AUTHOR))
        self.tomorrow()
        (letter,) = self.reports.transactions
        self.assertTrue(dkim.DKIM(bytes(letter.content)).verify(0, dnsfunc=lambda name, timeout=5: key.record.encode()))

    def test_who_hears_of_it(self) -> None:
        self.names.add("sender.test._report._dmarc.third.test", "TXT", '"v=DMARC1;"')
        self.names.add("*._report._dmarc.any.test", "TXT", '"v=DMARC1"')
        self.names.add("sender.test._report._dmarc.any.test", "TXT", '"v=DMARC1; rua=mailto:b@any.test"')
        self.names.add("sender.test._report._dmarc.spf.test", "TXT", '"v=spf1 -all"')
        for rua, expected in (
            ("mailto:a@sender.test,mailto:b@in.sender.test", [b"a@sender.test", b"b@in.sender.test"]),
            ("mailto:a@sender.test,mailto:a@sender.test", [b"a@sender.test"]),
            ("mailto:a@third.test,mailto:a@sender.test", [b"a@third.test", b"a@sender.test"]),
            ("mailto:a@any.test", [b"b@any.test"]),
            ("mailto:a@stranger.test", []),
            ("mailto:a@spf.test", []),
            ("mailto:a@sender.test!100,mailto:b@sender.test!1m", [b"b@sender.test"]),
            ("https://sender.test/", []),
        ):
            with self.subTest(rua):
                self.file = self.file.with_name(str(abs(hash(rua))))
                self.asks(rua)
                self.reporting()
                self.whole(content=plain(AUTHOR))
                self.tomorrow()
                self.tomorrow(AGAIN)
                self.assertEqual(self.sent_to, expected)
        self.assertEqual(self.logged(), "")

    def test_why_somebody_does_not_hear_of_it(self) -> None:
        self.asks("mailto:a@sender.test!100,mailto:a@stranger.test")
        self.reporting()
        self.whole(content=plain(AUTHOR))
        self.tomorrow()
        self.assertRegex(self.logged(), r"to=<?\"?<a@sender.test>.*too large")
        self.assertRegex(self.logged(), r"a@stranger.test.*unconfirmed.*sender.test._report._dmarc.stranger.test")

    def test_only_those_who_have_not_got_it_are_tried_again(self) -> None:
        self.asks("mailto:a@sender.test,mailto:b@sender.test,mailto:c@sender.test")
        answers = {b"<b@": say(b"451 4.0.0 later"), b"<c@": say(b"550 5.1.1 nobody")}

        def script(step: Step, _: Connection, line: bytes) -> Any:
            return next((answer for name, answer in answers.items() if step is Step.RCPT and name in line), None)

        self.script = script
        self.reporting()
        self.whole(content=plain(AUTHOR))
        self.tomorrow()
        self.assertEqual(self.sent_to, [b"a@sender.test"])
        self.assertEqual(self.logged().count("result=refused"), 1)
        self.assertEqual(self.logged().count("result=later"), 1)
        answers.clear()
        self.tomorrow(AGAIN)
        self.assertEqual(self.sent_to, [b"a@sender.test", b"b@sender.test"])

    def test_a_name_server_that_is_silent_puts_it_off(self) -> None:
        self.asks("mailto:a@third.test")
        self.names.script("sender.test._report._dmarc.third.test", "TXT", *[Action.SERVFAIL] * 50)
        self.reporting()
        self.whole(content=plain(AUTHOR))
        self.tomorrow()
        self.assertEqual(self.sent_to, [])
        self.assertIn("result=later", self.logged())
        self.names._scripts.clear()
        self.names.add("sender.test._report._dmarc.third.test", "TXT", '"v=DMARC1"')
        self.tomorrow(AGAIN)
        self.assertEqual(self.sent_to, [b"a@third.test"])

    def test_what_nobody_takes_is_given_up(self) -> None:
        self.asks("mailto:a@sender.test")
        self.script = {Step.RCPT: say(b"451 4.0.0 later")}
        self.reporting()
        self.whole(content=plain(AUTHOR))
        for tries in (1, 2, 3):
            self.tomorrow(DAY)
            self.assertEqual(self.logged().count("result=later"), tries)
        self.tomorrow(AGAIN / 4)
        self.assertEqual(self.logged().count("result=later"), 3)
        self.tomorrow(2 * DAY)
        self.tomorrow(DAY)
        self.assertEqual((self.logged().count("result=later"), self.logged().count('"given up"')), (3, 1))

    def test_a_restart_sends_nothing_again(self) -> None:
        self.asks("mailto:a@sender.test")
        self.reporting()
        self.whole(content=plain(AUTHOR))
        self.tomorrow()
        self.assertEqual(len(self.sent_to), 1)
        self.reporting()
        self.tomorrow()
        self.assertEqual(self.sent_to, [])

    def test_a_reload_goes_on_under_the_new_configuration(self) -> None:
        self.asks("mailto:a@sender.test")
        running = self.reporting("from old@example.org")
        self.whole(content=plain(AUTHOR))
        self.reactor.run(running.reload(self.text("from new@example.org")))
        self.tomorrow()
        self.assertEqual([one.sender for one in self.reports.transactions], [b"new@example.org"])

    def test_a_report_of_others_is_not_reported_on(self) -> None:
        self.asks("mailto:a@sender.test")
        self.reporting()
        subject = b"Subject: Report Domain: gateway.test Submitter: sender.test Report-ID: <1@sender.test>"
        self.whole(sender=AUTHOR, content=plain(AUTHOR).replace(b"Subject: hi", subject))
        self.tomorrow()
        self.assertEqual(self.sent_to, [])
        self.whole(OTHER, content=plain(AUTHOR).replace(b"Subject: hi", subject))  # it only says so
        self.tomorrow()
        self.assertEqual(self.sent_to, [b"a@sender.test"])

    def test_who_comes_again_is_counted_once(self) -> None:
        self.asks("mailto:a@sender.test")
        self.names.script("silent._domainkey.sender.test", "TXT", Action.SERVFAIL)
        self.reporting()
        content = signed(AUTHOR, "sender.test", selector="silent")
        self.assertEqual(self.whole(OTHER, content=content), b"451 4.4.3")
        self.names._scripts.clear()
        self.reactor.settle(600)
        self.whole(OTHER, content=content)
        self.tomorrow()
        self.assertEqual([one[1] for one in records(self.report())], [1])

    def test_a_policy_that_changes_in_the_day_has_two_reports(self) -> None:
        self.asks("mailto:a@sender.test")
        self.reporting()
        self.whole(OTHER, content=plain(AUTHOR))
        self.names._records.clear()
        self.asks("mailto:b@sender.test", rest="p=none; adkim=s")
        self.reactor.settle(7200)
        self.whole(OTHER, content=plain(AUTHOR))
        self.tomorrow()
        self.assertEqual(sorted(self.sent_to), [b"a@sender.test", b"b@sender.test"])
        found = {self.report(number).findtext("policy_published/p") for number in (0, 1)}
        self.assertEqual(found, {"reject", "none"})


class FileTests(ReportCase):
    subject = Subject("2026-11-22", "d.test", '{"p": "none"}')

    def put(self, *sources: str, path: str = "", signatures: str = "[]", messages: int = 3) -> None:
        values = {
            **dict.fromkeys(COLUMNS, ""),
            "day": "2026-11-22",
            "policy_domain": "d.test",
            "header_from": "d.test",
            "disposition": "none",
            "spf_scope": "mfrom",
            "spf_result": "none",
            "dkim_results": signatures,
            "policy": '{"p": "none"}',
            "reports_to": "mailto:a@d.test",
        }
        pending = {
            tuple({**values, "source_ip": source}.values()): Count(messages + number, 10, 20)
            for number, source in enumerate(sources)
        }
        self.assertEqual(write(path or str(self.file), pending, 100_000, 0.0), 0)

    @staticmethod
    def head(error: str) -> Head:
        return Head("Example", "postmaster@example.org", "1@example.org", "d.test", date(2026, 11, 22), {}, error)

    def test_of_two_processes_one_takes_it(self) -> None:
        self.put("192.0.2.1")
        path = str(self.file)
        self.assertEqual(files.due(path, "2026-11-20", "2026-11-23", 1000, 9), [self.subject])
        self.assertEqual(files.due(path, "2026-11-20", "2026-11-22", 1000, 9), [])
        taken = files.take(path, self.subject, 1000)
        assert taken is not None
        self.assertIsNone(files.take(path, self.subject, 1001))
        self.assertEqual(files.due(path, "2026-11-20", "2026-11-23", 1001, 9), [])
        self.assertEqual(files.due(path, "2026-11-20", "2026-11-23", 1000 + files.LEASE, 9), [self.subject])  # it has died
        files.settle(path, replace(taken, told=("a@d.test",)), 2000)
        again = files.take(path, self.subject, 2000)
        assert again is not None
        self.assertEqual(again.told, ("a@d.test",))
        files.settle(path, again, None)
        self.assertIsNone(files.take(path, self.subject, 1_000_000))

    def test_one_that_is_too_large_leaves_the_smallest_out(self) -> None:
        self.put(*(f"192.0.2.{number}" for number in range(10)))
        self.patch(files, "MOST_RECORDS", 4)
        root = checked(gzip.decompress(files.packed(str(self.file), self.subject, self.head)))
        self.assertEqual([one[1] for one in records(root)], [12, 11, 10, 9])
        self.assertEqual(root.findtext("report_metadata/error"), "too large: 6 records of 33 messages are left out")

    def test_one_that_is_too_long_leaves_more_out(self) -> None:
        for number in range(16):
            noise = Random(number).randbytes(2000).hex()
            self.put(f"192.0.2.{number}", signatures=json.dumps([{"domain": noise, "selector": "s", "result": "fail"}]))
        self.patch(files, "MOST_OCTETS", 20_000)
        packed = files.packed(str(self.file), self.subject, self.head)
        self.assertLess(len(packed), 20_000)
        root = checked(gzip.decompress(packed))
        self.assertEqual(len(records(root)), 8)
        self.assertEqual(root.findtext("report_metadata/error"), "too large: 8 records of 24 messages are left out")

    def test_files_of_several_gateways_add_up(self) -> None:
        other = str(self.file.with_name("other"))
        self.put("192.0.2.1", "192.0.2.2")
        self.put("192.0.2.1", path=other)
        with closing(files.merged([str(self.file), other])) as database:
            ((subject, messages, reports_to),) = files.subjects(database)
            self.assertEqual((subject, messages, reports_to), (self.subject, 10, "mailto:a@d.test"))
            root = checked(gzip.decompress(files.packed_of(database, subject, self.head)))
        self.assertEqual(sorted(one[:2] for one in records(root)), [("192.0.2.1", 6), ("192.0.2.2", 4)])

    def test_a_file_of_before_the_scope(self) -> None:
        former = [name for name in COLUMNS if name != "spf_scope"]
        row = ["2026-11-22", *"abcdefghijkl", 5, 1, 2]
        with closing(sqlite3.connect(self.file)) as database, database:
            columns = ", ".join(f"{name} TEXT NOT NULL" for name in former)
            more = f"messages INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY ({', '.join(former)})"
            database.execute(f"CREATE TABLE observations ({columns}, {more}) WITHOUT ROWID")
            database.execute(f"INSERT INTO observations VALUES ({', '.join('?' * len(row))})", row)
        with closing(files.merged([str(self.file)])) as database:
            self.assertEqual(files.subjects(database)[0][1], 5)
        for _ in range(2):
            with closing(files.opened(str(self.file))) as database:
                found = database.execute("SELECT day, spf_scope, messages FROM observations").fetchall()
                self.assertEqual(found, [("2026-11-22", "mfrom", 5)])
