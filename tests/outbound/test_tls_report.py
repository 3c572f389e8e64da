"""TLS-RPT: what is counted of which session, what survives a restart, what stands in a report and where it goes."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from email import message_from_bytes
from email.message import Message as Mail
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.modules.target import remote
from mailgate.outbound.daily_reports import AGAIN, LOOK, SPREAD
from mailgate.outbound.mta_sts import FetchFailed
from mailgate.outbound.report_mail import Author
from mailgate.outbound.sts_policy import Trouble
from mailgate.outbound.tls_counts import MAX_DETAILS, MAX_DOMAINS, MAX_POLICIES, CountFile, TlsCounts
from mailgate.outbound.tls_report import (
    AppliedPolicy,
    MailPlace,
    PolicyType,
    SessionFailure,
    Tally,
    WebPlace,
    compose,
    places_of,
)
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.names import Action, MemoryNames
from mailgate.testing.network import adapters_for
from mailgate.testing.nexthop import NextHop, Step, say
from tests.outbound.test_dane import key_digest
from tests.outbound.test_remote import RemoteCase
from tests.support.certificates import authority, leaf
from tests.support.scenario import LMTP, SMTP, codes
from tests.support.tls_report_schema import checked

POLICY = b"version: STSv1\nmode: enforce\nmx: mx.d.test\nmax_age: 604800\n"
DAY = date(2026, 1, 2)
AUTHOR = Author("Example", "postmaster@example.org", "example.org")
NONE = AppliedPolicy(PolicyType.NONE, "d.test")
WRONG = "3 1 1 " + "00" * 32


class ReportCase(RemoteCase):
    """One domain, d.test, with one host, mx.d.test."""

    def setUp(self) -> None:
        super().setUp()
        self.stage()

    def stage(self) -> None:
        self.names = MemoryNames(self.reactor)
        self.mx("d.test", "10 mx.d.test.")

    def policy(self, content: bytes | FetchFailed) -> None:
        self.names.add("_mta-sts.d.test", "TXT", '"v=STSv1; id=1;"')

        class Hosts:
            def __init__(self, *_: object) -> None: ...

            async def fetch(self, domain: str) -> bytes:
                if isinstance(content, FetchFailed):
                    raise content
                return content

        self.patch(remote, "PolicyHosts", Hosts)

    def reporting(self, *lines: str, report: str = "") -> WholeGateway:
        inner = "\n".join((*lines, f"tls_client {{\n root_ca {authority().path}\n}}", "tls_report &reports"))
        text = (
            f"hostname gateway.test\ntls_report reports {{\n{report}\n}}\ntarget.remote direct {{\n{inner}\n}}\n"
            f"smtp {SMTP} {{\n tls off\n reverse_lookup no\n deliver_to &direct\n}}\n"
            f"lmtp {LMTP} {{\n tls off\n reverse_lookup no\n deliver_to &direct\n}}\n"
        )
        adapters = replace(adapters_for(self.reactor), resolver=self.names.resolver())
        self.running = WholeGateway(text, adapters, self.directory)
        self.reactor.run(self.running.start())
        return self.running

    def counts(self) -> TlsCounts:
        assert self.running is not None
        found: Any = next(module for module in self.running.configuration.modules if module.context.name == "reports")
        counts: TlsCounts = found.counts
        return counts

    def counted(self) -> Mapping[AppliedPolicy, Tally]:
        (key,) = self.counts()._days
        self.assertEqual(key[1], "d.test")
        return self.counts().of(key)

    def results(self) -> list[tuple[str, str]]:
        """Kind of policy and result of every session; "" is success."""
        found = []
        for applied, tally in self.counted().items():
            found += [(applied.kind.value, "")] * tally.successes
            for failure, count in tally.failures.items():
                found += [(applied.kind.value, failure.result)] * count
        return sorted(found)


class SessionTests(ReportCase):
    def test_every_verdict_has_its_result_type(self) -> None:
        good, other = leaf("mx.d.test"), leaf("other.test")
        old = authority().issue("mx.d.test", not_after=datetime(2020, 1, 2, tzinfo=UTC))
        nobodys = authority("nobody's").issue("mx.d.test")
        digest = key_digest(good)
        refusing = {Step.STARTTLS: say(b"454 4.7.0 later")}
        broken = {Step.STARTTLS: say(b"220 go", then_drop=True)}
        sts = "mx_auth {\n mtasts\n}"
        rows: list[tuple[str, dict[str, Any], str, bytes | FetchFailed | None, str, list[tuple[str, str]]]] = [
            ("plain tls", {"tls": good.server}, "", None, "", [("no-policy-found", "")]),
            ("any certificate will do", {"tls": other.server}, "", None, "", [("no-policy-found", "")]),
            ("no tls", {}, "", None, "", [("no-policy-found", "starttls-not-supported")]),
            ("refused", {"tls": good.server, "script": refusing}, "", None, "", [("no-policy-found", "starttls-not-supported")]),
            ("broken", {"tls": good.server, "script": broken}, "", None, "", [("no-policy-found", "validation-failure")]),
            ("dane", {"tls": other.server}, "tls dane", None, f"3 1 1 {key_digest(other)}", [("tlsa", "")]),
            ("dane, wrong", {"tls": good.server}, "tls dane", None, WRONG, [("tlsa", "validation-failure")]),
            ("dane, stripped", {}, "tls dane", None, f"3 1 1 {digest}", [("tlsa", "starttls-not-supported")]),
            ("dane, unusable", {"tls": good.server}, "tls dane", None, "1" + WRONG[1:], [("tlsa", "tlsa-invalid")]),
            (
                "dane_require, unusable",
                {"tls": good.server},
                "tls dane_require",
                None,
                "1" + WRONG[1:],
                [("tlsa", "tlsa-invalid")],
            ),
            ("dane_require, none", {"tls": good.server}, "tls dane_require", None, "", [("no-policy-found", "dane-required")]),
            ("sts", {"tls": good.server}, sts, POLICY, "", [("sts", "")]),
            ("sts, no tls", {}, sts, POLICY, "", [("sts", "starttls-not-supported")]),
            ("sts, other name", {"tls": other.server}, sts, POLICY, "", [("sts", "certificate-host-mismatch")]),
            ("sts, expired", {"tls": old.server}, sts, POLICY, "", [("sts", "certificate-expired")]),
            (
                "sts, untrusted",
                {"tls": nobodys.server},
                sts,
                POLICY,
                "",
                [("sts", "certificate-not-trusted")],
            ),
            (
                "sts, host not named",
                {"tls": good.server},
                sts,
                POLICY.replace(b"mx.d.test", b"mx9.d.test"),
                "",
                [("sts", "validation-failure")],
            ),
            (
                "sts tested",
                {"tls": other.server},
                sts,
                POLICY.replace(b"enforce", b"testing"),
                "",
                [("sts", "certificate-host-mismatch")],
            ),
            ("sts tested, no tls", {}, sts, POLICY.replace(b"enforce", b"testing"), "", [("sts", "starttls-not-supported")]),
            (
                "sts tested, not named",
                {"tls": good.server},
                sts,
                POLICY.replace(b"mx.d.test", b"mx9.d.test").replace(b"enforce", b"testing"),
                "",
                [("sts", "validation-failure")],
            ),
            ("sts none", {"tls": other.server}, sts, POLICY.replace(b"enforce", b"none"), "", [("no-policy-found", "")]),
            *(
                (
                    f"sts, {trouble.value}",
                    {"tls": good.server},
                    sts,
                    content,
                    "",
                    [("no-policy-found", ""), ("sts", trouble.value)],
                )
                for trouble, content in (
                    (Trouble.FETCH, FetchFailed("the answer is 404")),
                    (Trouble.WEBPKI, FetchFailed("certificate verify failed", Trouble.WEBPKI)),
                    (Trouble.INVALID, b"version: STSv1\n"),
                )
            ),
            (
                "dane goes before sts",
                {"tls": other.server},
                sts.replace("mtasts", "mtasts\n dane"),
                POLICY,
                WRONG,
                [("tlsa", "validation-failure")],
            ),
        ]
        for name, options, line, policy, tlsa, expected in rows:
            with self.row(name):
                self.stage()
                if policy is not None:
                    self.policy(policy)
                if tlsa:
                    self.names.add("_25._tcp.mx.d.test", "TLSA", tlsa)
                self.host("mx.d.test", "192.0.2.1", **options)
                self.reporting(line)
                self.send(b"u@d.test")
                self.assertEqual(self.results(), expected)
                (key,) = self.counts()._days
                checked(compose(AUTHOR, key[1], key[0], self.counted()))

    def test_records_that_cannot_be_asked_for(self) -> None:
        for action in (Action.SERVFAIL, Action.BOGUS, Action.SILENCE):
            with self.row(action.value):
                self.stage()
                self.host("mx.d.test", "192.0.2.1", tls=leaf("mx.d.test").server)
                self.names.script("_25._tcp.mx.d.test", "TLSA", action)
                self.reporting("tls dane")
                self.send(b"u@d.test")
                self.assertEqual(self.results(), [("tlsa", "dnssec-invalid")])

    def test_what_says_nothing_of_tls_is_not_counted(self) -> None:
        for script in ({Step.BANNER: say(b"554 no", then_drop=True)}, {Step.HELLO: say(b"421 4.3.2 no", then_drop=True)}):
            with self.row(str(script)):
                self.stage()
                self.host("mx.d.test", "192.0.2.1", script=script)
                self.reporting()
                self.send(b"u@d.test")
                self.assertEqual(self.counts()._days, {})
        with self.row("nobody there"):
            self.stage()
            self.host("mx.d.test", "192.0.2.1", listens=False)
            self.reporting()
            self.send(b"u@d.test")
            self.assertEqual(self.counts()._days, {})

    def test_sessions_are_counted_and_not_messages(self) -> None:
        self.host("mx.d.test", "192.0.2.1", tls=leaf("mx.d.test").server)
        self.reporting()
        for _ in range(3):
            self.assertEqual(codes(self.send(b"u@d.test"))[-1], b"250")
        self.assertEqual(self.results(), [("no-policy-found", "")])

    def test_who_was_spoken_to_stands_in_the_details(self) -> None:
        self.policy(POLICY)
        self.host("mx.d.test", "192.0.2.1", tls=leaf("other.test").server)
        self.reporting("mx_auth {\n mtasts\n}")
        self.send(b"u@d.test")
        (tally,) = self.counted().values()
        (failure,) = tally.failures
        self.assertEqual((failure.host, failure.remote), ("mx.d.test", "192.0.2.1"))
        self.assertIn("mx.d.test", failure.reason)

    def test_without_a_report_nothing_is_counted(self) -> None:
        self.host("mx.d.test", "192.0.2.1", tls=leaf("mx.d.test").server)
        self.direct()
        self.assertEqual(codes(self.send(b"u@d.test"))[-1], b"250")
        self.assertFalse(os.path.exists(os.path.join(self.directory, "tls-report")))


class ReportTests(ReportCase):
    def day_over(self) -> None:
        """The next day, when reports are due, whatever the hour of the start."""
        self.reactor.settle(86400 + SPREAD + 2 * LOOK)

    def letters(self, hop: NextHop) -> list[Mail]:
        return [message_from_bytes(bytes(one.content)) for one in hop.transactions]

    def mailing(self, report: str = "") -> tuple[NextHop, NextHop]:
        """The host of d.test, and that of its reports."""
        self.names.add("_smtp._tls.d.test", "TXT", '"v=TLSRPTv1; rua=mailto:reports@r.test"')
        self.mx("r.test", "10 mx.r.test.")
        host = self.host("mx.d.test", "192.0.2.1", tls=leaf("mx.d.test").server)
        reports = self.host("mx.r.test", "192.0.2.9", tls=leaf("other.test").server)
        self.reporting(report=report or "mail {\n deliver_to &direct\n}\n from tls@example.org\n organization Example")
        return host, reports

    def test_a_report_by_mail_the_day_after(self) -> None:
        _, reports = self.mailing()
        for _ in range(2):
            self.send(b"u@d.test")
        self.assertEqual(self.letters(reports), [])
        self.day_over()
        (letter,) = self.letters(reports)
        self.assertEqual(letter.get_content_type(), "multipart/report")
        self.assertEqual(letter.get_param("report-type"), "tlsrpt")
        self.assertEqual((letter["TLS-Report-Domain"], letter["TLS-Report-Submitter"]), ("d.test", "example.org"))
        self.assertEqual((letter["TLS-Required"], letter["From"], letter["To"]), ("No", "tls@example.org", "reports@r.test"))
        text, part = letter.get_payload()  # type: ignore[misc]
        self.assertEqual(text.get_content_type(), "text/plain")  # type: ignore[union-attr]
        self.assertEqual(part.get_content_type(), "application/tlsrpt+gzip")  # type: ignore[union-attr]
        self.assertRegex(part.get_filename() or "", r"example\.org!d\.test!\d+!\d+\.json\.gz")  # type: ignore[union-attr]
        report = checked(gzip.decompress(part.get_payload(decode=True)))  # type: ignore
        self.assertEqual(report["organization-name"], "Example")
        (policy,) = report["policies"]
        self.assertEqual(policy["policy"], {"policy-type": "no-policy-found", "policy-domain": "d.test"})
        self.assertEqual(policy["summary"], {"total-successful-session-count": 1, "total-failure-session-count": 0})
        self.assertIn(report["report-id"], letter["Message-ID"])
        self.assertIn(report["report-id"], letter["Subject"])
        self.assertEqual(self.counts()._days, {}, "a report is not reported on, and what was reported is forgotten")
        self.reactor.settle(2 * 86400)
        self.assertEqual(len(reports.transactions), 1)

    def test_its_sender_hears_of_nothing(self) -> None:
        host, reports = self.mailing()
        reports.extensions = (*reports.extensions, b"DSN")
        self.send(b"u@d.test")
        self.day_over()
        self.assertIn(b"NOTIFY=NEVER", b" ".join(reports.connections[0].commands))
        self.assertEqual(len(host.transactions), 1)

    def test_it_is_tried_again_and_then_given_up(self) -> None:
        _, reports = self.mailing()
        self.send(b"u@d.test")
        reports._script = {Step.RCPT: say(b"451 4.3.0 later")}
        self.day_over()
        self.assertEqual(len(self.counts()._days), 1)
        reports._script = None
        self.reactor.settle(AGAIN + 2 * LOOK)
        self.assertEqual((len(reports.transactions), len(self.counts()._days)), (1, 0))

        self.send(b"u@d.test")
        reports._script = {Step.RCPT: say(b"550 5.1.1 nobody")}
        self.reactor.settle(6 * 86400)
        self.assertEqual((len(reports.transactions), len(self.counts()._days)), (1, 0))
        assert self.running is not None
        self.assertIn("given up", " ".join(self.running.logged("tls_report")))

    def test_who_does_not_ask_gets_none(self) -> None:
        for record in (None, '"v=TLSRPTv1; rua="', '"v=TLSRPTv2; rua=mailto:reports@r.test"'):
            with self.row(str(record)):
                self.stage()
                _, reports = self.mailing()
                self.names.remove("_smtp._tls.d.test", "TXT")
                if record is not None:
                    self.names.add("_smtp._tls.d.test", "TXT", record)
                self.send(b"u@d.test")
                self.day_over()
                self.assertEqual((reports.transactions, self.counts()._days), ([], {}))

    def test_a_name_server_that_fails_is_asked_again(self) -> None:
        _, reports = self.mailing()
        self.names.script("_smtp._tls.d.test", "TXT", Action.SERVFAIL, Action.ANSWER)
        self.send(b"u@d.test")
        self.day_over()
        self.reactor.settle(AGAIN + 2 * LOOK)
        self.assertEqual(len(reports.transactions), 1)

    def test_counts_outlive_a_restart(self) -> None:
        _, reports = self.mailing()
        self.send(b"u@d.test")
        assert self.running is not None
        self.reactor.run(self.running.stop())
        self.reporting(report="mail {\n deliver_to &direct\n}")
        self.assertEqual(self.results(), [("no-policy-found", "")])
        self.send(b"u@d.test")
        self.assertEqual(self.results(), [("no-policy-found", "")] * 2)
        self.day_over()
        self.assertEqual(len(reports.transactions), 1)

    def test_each_worker_reports_for_itself(self) -> None:
        _, reports = self.mailing()
        assert self.running is not None
        self.reactor.run(self.running.stop())
        text = self.running.path.read_text()
        for worker in (1, 2):
            adapters = replace(adapters_for(self.reactor), resolver=self.names.resolver(), worker=worker, workers=2)
            self.running = WholeGateway(text, adapters, self.directory)
            self.reactor.run(self.running.start())
            self.send(b"u@d.test")
            self.assertEqual(self.results(), [("no-policy-found", "")])
            self.day_over()
            self.reactor.run(self.running.stop())
        self.assertEqual(sorted(os.listdir(os.path.join(self.directory, "tls-report"))), ["reports.2.sqlite", "reports.sqlite"])
        one, two = self.letters(reports)
        self.assertNotEqual(one["Message-ID"], two["Message-ID"])
        self.assertTrue((two.get_payload()[1].get_filename() or "").endswith("!2.json.gz"))  # type: ignore

    def test_a_reload_goes_on_counting(self) -> None:
        _, reports = self.mailing()
        self.send(b"u@d.test")
        assert self.running is not None
        text = self.running.path.read_text()
        self.reactor.run(self.running.reload(text.replace("organization Example", "organization Other")))
        self.send(b"u@d.test")
        self.day_over()
        (letter,) = self.letters(reports)
        report = checked(gzip.decompress(letter.get_payload()[1].get_payload(decode=True)))  # type: ignore
        self.assertEqual(report["organization-name"], "Other")
        self.assertEqual(report["policies"][0]["summary"]["total-successful-session-count"], 1)


class PlaceTests(SynchronousTestCase):
    def test_records(self) -> None:
        for texts, expected in (
            ([b"v=TLSRPTv1; rua=mailto:a@d.test"], ["a@d.test"]),
            ([b"v=TLSRPTv1;rua=https://d.test/r?x=1"], ["https://d.test/r?x=1"]),
            ([b"v=TLSRPTv1; rua=https://d.test/r,mailto:a%2Bb@d.test; ext=1"], ["https://d.test/r", "a+b@d.test"]),
            ([b"v=spf1 -all", b"v=TLSRPTv1; rua=mailto:a@d.test;"], ["a@d.test"]),
            ([b"v=TLSRPTv1; rua=mailto:a@d.test", b"v=TLSRPTv1; rua=mailto:b@d.test"], []),
            ([b"v=TLSRPTv1; rua=mailto:a@d.test; rua=mailto:b@d.test"], []),
            ([b"v=TLSRPTv1 rua=mailto:a@d.test"], []),
            ([b"v=TLSRPTv1; rua=http://d.test/r, ftp://d.test/, mailto:nobody, https:///x, https://u:p@d.test/"], []),
            ([b"v=TLSRPTv1; rua=mailto:a@d.test\r\nBcc: x@y.test"], []),
            ([b"v=TLSRPTv1; rua=https://d.test/\xff"], []),
            ([b"v=TLSRPTv1;"], []),
            ([], []),
        ):
            found = [str(place.address) if isinstance(place, MailPlace) else place.url for place in places_of(texts)]
            self.assertEqual(found, expected, texts)

    @given(st.binary(max_size=80))
    @settings(max_examples=100, deadline=None)
    def test_any_record_is_read_or_not(self, text: bytes) -> None:
        for place in places_of([b"v=TLSRPTv1; rua=" + text]):
            self.assertIsInstance(place, MailPlace | WebPlace)
            shown = str(place.address) if isinstance(place, MailPlace) else place.url
            self.assertTrue(shown.isprintable())


class CountTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1.7e9
        self.counts = TlsCounts(lambda: self.now)

    def test_they_come_back_from_disk(self) -> None:
        policies = [
            NONE,
            AppliedPolicy(PolicyType.TLSA, "mx.d.test", ("3 1 1 ab",)),
            AppliedPolicy(PolicyType.STS, "d.test", ("version: STSv1",), ("*.d.test",)),
        ]
        for applied in policies:
            self.counts.add("d.test", applied, None)
            for _ in range(2):
                self.counts.add("d.test", applied, SessionFailure("validation-failure", "::1", "mx", "192.0.2.1", "bad \u1234"))
        file = CountFile(os.path.join(self.mktemp(), "counts.sqlite"))
        self.assertEqual(file.load(), [])
        file.save(self.counts.take_changes())
        again = TlsCounts(lambda: self.now)
        again.restore(file.load())
        (key,) = again._days
        self.assertEqual(list(again.of(key)), policies)
        self.assertEqual(compose(AUTHOR, *reversed(key), again.of(key)), compose(AUTHOR, *reversed(key), self.counts.of(key)))
        again.forget(key)
        file.save(again.take_changes())
        self.assertEqual(file.load(), [])

    def test_a_damaged_file_is_set_aside(self) -> None:
        path = os.path.join(self.mktemp(), "counts.sqlite")
        os.makedirs(os.path.dirname(path))
        with open(path, "wb") as damaged:
            damaged.write(b"no database " * 1000)
        file = CountFile(path)
        self.assertEqual(file.load(), [])
        self.assertTrue(os.path.exists(path + ".damaged"))
        file.save([("2026-01-02", "d.test", "[]")])
        self.assertEqual(len(file.load()), 1)
        for row in (("no day", "d.test", "[]"), ("2026-01-02", "e.test", "{"), ("2026-01-02", "f.test", "[[1]]")):
            self.counts.restore([row])
        self.assertEqual(self.counts._days, {})

    def test_they_are_bounded(self) -> None:
        for number in range(MAX_DETAILS + 50):
            self.counts.add("d.test", NONE, SessionFailure("validation-failure", reason=str(number)))
        (key,) = self.counts._days
        tally = self.counts.of(key)[NONE]
        self.assertEqual(len(tally.failures), MAX_DETAILS + 1)
        self.assertEqual(sum(tally.failures.values()), MAX_DETAILS + 50)
        for number in range(MAX_POLICIES + 50):
            self.counts.add("e.test", AppliedPolicy(PolicyType.TLSA, f"mx{number}.test"), None)
        self.assertEqual(len(self.counts.of((key[0], "e.test"))), MAX_POLICIES)
        for number in range(MAX_DOMAINS + 50):
            self.counts.add(f"{number}.test", NONE, None)
        self.assertEqual(len(self.counts._days), MAX_DOMAINS)
        self.now += 86400
        self.counts.add("d.test", NONE, None)
        self.assertEqual(len(self.counts._days), MAX_DOMAINS + 1)
        self.now += 10 * 86400
        self.assertEqual(self.counts.drop_old(date.fromtimestamp(self.now)), MAX_DOMAINS + 1)

    @given(st.integers(0, 2**32))
    @settings(max_examples=50, deadline=None)
    def test_every_report_is_one(self, seed: int) -> None:
        chance = random.Random(seed)
        tallies = {}
        for applied in (
            NONE,
            AppliedPolicy(PolicyType.TLSA, "mx.d.test", ("2 0 1 00ff",)),
            AppliedPolicy(PolicyType.STS, "d.test"),
        ):
            failures = {
                SessionFailure(
                    result,
                    chance.choice(("", "192.0.2.1")),
                    "mx.d.test",
                    chance.choice(("", "::1")),
                    chance.choice(("", "é\x00")),
                ): chance.randint(1, 9)
                for result in chance.sample(["validation-failure", "certificate-expired", "sts-policy-invalid"], 2)
            }
            tallies[applied] = Tally(chance.randint(0, 9), failures if chance.random() < 0.7 else {})
        checked(compose(AUTHOR, "d.test", DAY, tallies))
