"""What checks have found, as header fields: nothing that a stranger wrote gets out of its quotes."""

from __future__ import annotations

import re
from email import policy
from email.parser import BytesParser

import authres
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.findings import Findings, MethodResult, Verdict, authentication_results, field, judgement, value
from mailgate.message.header import Header, authserv_id

SPF = MethodResult("spf", "fail", "not permitted", (("smtp.mailfrom", "ann@example.org"), ("smtp.helo", "")))
DKIM = MethodResult("dkim", "pass", "", (("header.d", "example.org"), ("header.s", "mail2026"), ("header.b", "dGVzdA==")))


class FieldTests(SynchronousTestCase):
    def test_one_result_a_line(self) -> None:
        self.assertEqual(
            authentication_results("mx.example.org", [SPF, DKIM]),
            b"Authentication-Results: mx.example.org;\r\n"
            b'\tspf=fail reason="not permitted" smtp.mailfrom=ann@example.org;\r\n'
            b'\tdkim=pass header.d=example.org header.s=mail2026 header.b="dGVzdA=="\r\n',
        )

    def test_nothing_found(self) -> None:
        self.assertEqual(authentication_results("mx.example.org", []), b"Authentication-Results: mx.example.org; none\r\n")

    def test_long_results_are_folded(self) -> None:
        one = MethodResult("dkim", "fail", "r" * 70, (("header.d", "d" * 60), ("header.s", "s" * 60)))
        raw = authentication_results("mx.example.org", [one])
        self.assertEqual(len(raw.split(b"\r\n\t ")), 4)
        self.assertTrue(all(len(line) < 100 for line in raw.split(b"\r\n")))

    def test_values(self) -> None:
        for text, written in {
            "ann@example.org": "ann@example.org",
            "@example.org": "@example.org",
            "a b@example.org": '"a b@example.org"',
            'x"; dkim=pass': '"x\\"; dkim=pass"',
            "a\\b": '"a\\\\b"',
            "a\r\nX: y": '"a??X: y"',
            "": '""',
        }.items():
            self.assertEqual(value(text), written)
        self.assertLessEqual(len(value("a" * 5000)), 330)

    @settings(max_examples=150, deadline=None)
    @given(st.text(), st.text(), st.text())
    def test_whatever_strangers_write_it_is_one_field_of_one_result(self, server: str, reason: str, text: str) -> None:
        raw = authentication_results(server, [MethodResult("spf", "fail", reason, (("smtp.helo", text),))])
        header = Header(raw)
        self.assertEqual([one.name for one in header.fields], ["authentication-results"])
        self.assertIsNotNone(authserv_id(header.value(header.fields[0])))
        self.assertTrue(raw.isascii() and raw.endswith(b"\r\n") and all(len(line) < 998 for line in raw.split(b"\r\n")))
        parsed = BytesParser(policy=policy.compat32).parsebytes(raw + b"\r\n")
        self.assertEqual(len(parsed.items()), 1)

    def test_another_parser_reads_the_same(self) -> None:
        """authres leaves quoted pairs as they are."""
        odd = MethodResult("spf", "none", 'a "quoted" \\ reason; dkim=pass', (("smtp.mailfrom", '"a b"@example.org'),))
        raw = authentication_results("mx.example.org", [SPF, DKIM, odd]).decode().strip()
        parsed = authres.AuthenticationResultsHeader.parse(raw)
        self.assertEqual(parsed.authserv_id, "mx.example.org")

        def plain(text: str | None) -> str:
            return re.sub(r"\\(.)", r"\1", text or "")

        for one, found in zip((SPF, DKIM, odd), parsed.results, strict=True):
            self.assertEqual((found.method, found.result, plain(found.reason)), (one.method, one.result, one.reason))
            properties = [(f"{each.type}.{each.name}", plain(each.value)) for each in found.properties]
            self.assertEqual(properties, [pair for pair in one.properties if pair[1]])

    def test_a_field_is_one_line(self) -> None:
        self.assertEqual(field("X-Mailgate-Tag", "a\r\nBcc: x\x00\xe9"), b"X-Mailgate-Tag: a??Bcc: x??\r\n")


class JudgementTests(SynchronousTestCase):
    def test_of_several_checks(self) -> None:
        first, second = Findings(), Findings()
        first.results += [SPF, DKIM]
        second.results.append(DKIM)
        first.count(2)
        first.count(1.5)
        second.count(-0.5)
        second.tag("list")
        second.tag("list")
        both = judgement([first, second])
        self.assertEqual((both.results, both.score, both.tags, both.verdict), ((SPF, DKIM), 1.5, ("list",), Verdict.TAG))
        header = both.header("mx.test")
        self.assertIn(b"X-Mailgate-Tag: list\r\nX-Mailgate-Score: 1.5\r\n", header)
        second.quarantined = True
        both = judgement([first, second])
        self.assertIs(both.verdict, Verdict.QUARANTINE)
        self.assertTrue(both.header("mx.test").endswith(b"X-Mailgate-Quarantine: yes\r\n"))

    def test_of_none(self) -> None:
        nothing = judgement([Findings()])
        self.assertEqual((nothing.verdict, nothing.header("mx.test")), (Verdict.PASS, b""))
