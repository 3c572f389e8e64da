"""DMARC's aggregate reports: where they go, and that what stands in them is what the schema wants, whatever was found."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from twisted.trial.unittest import SynchronousTestCase

from mailgate.mailauth.dmarc import MAX_URIS, parse_record
from mailgate.mailauth.dmarc_report import (
    Head,
    Place,
    Record,
    asks_elsewhere,
    bounds,
    compose,
    confirmed,
    file_name,
    places_of,
)
from mailgate.smtp.address import parse_address
from tests.support.dmarc_report_schema import checked, records

DAY = date(2026, 11, 21)
HEAD = Head(
    "Example", "postmaster@example.org", "1@example.org", "d.test", DAY, {"p": "reject", "sp": "none", "pct": 5, "fo": "1:d"}
)
RECORD = Record("192.0.2.7", 3, "none", True, False, "", "d.test", ("d.test", "mfrom", "pass"), (("d.test", "s", "pass"),))


def place(address: str, limit: int = 0) -> Place:
    return Place(parse_address(address), limit)


def written(*records: Record, head: Head = HEAD) -> bytes:
    file = io.BytesIO()
    compose(head, records, file)
    return file.getvalue()


class PlaceTests(SynchronousTestCase):
    def test_addresses_and_their_limits(self) -> None:
        for uri, expected in (
            ("mailto:a@d.test", place("a@d.test")),
            (" MAILTO:a@d.test ", place("a@d.test")),
            ("mailto:a@d.test!10m", place("a@d.test", 10 << 20)),
            ("mailto:a@d.test!50", place("a@d.test", 50)),
            ("mailto:a@d.test!2K", place("a@d.test", 2048)),
            ("mailto:a@d.test!1g", place("a@d.test", 1 << 30)),
            ("mailto:a@d.test!1t", place("a@d.test", 1 << 40)),
            ("mailto:a%21b@d.test!1k", place("a!b@d.test", 1024)),
            ("mailto:a@d.test?subject=x", place("a@d.test")),
            ("mailto:a@d.test!", None),
            ("mailto:a@d.test!m", None),
            ("mailto:a@d.test!10x", None),
            ("mailto:a@d.test!-1", None),
            ("mailto:a%0d%0aDATA@d.test", None),
            ("mailto:a@[192.0.2.1]", None),
            ("mailto:postmaster", None),
            ("mailto:", None),
            ("https://d.test/", None),
            ("", None),
        ):
            self.assertEqual(places_of([uri]), () if expected is None else (expected,), uri)

    def test_each_address_once_and_not_too_many(self) -> None:
        self.assertEqual(places_of(["mailto:a@d.test!1k", "mailto:a@d.test"]), (place("a@d.test", 1024),))
        self.assertEqual(len(places_of([f"mailto:a{number}@d.test" for number in range(99)])), MAX_URIS)

    def test_who_must_confirm(self) -> None:
        def organizational(name: str) -> str:
            return ".".join(name.split(".")[-2:])

        for domain, address, expected in (
            ("d.test", "a@d.test", ""),
            ("d.test", "a@reports.D.test", ""),
            ("mail.d.test", "a@reports.d.test", ""),
            ("d.test", "a@other.test", "d.test._report._dmarc.other.test"),
            ("mail.d.test", "a@in.other.test", "mail.d.test._report._dmarc.in.other.test"),
        ):
            self.assertEqual(asks_elsewhere(domain, place(address), organizational), expected)

    def test_what_the_confirmation_says(self) -> None:
        named = place("a@other.test", 9)
        for texts, expected in (
            ([], ()),
            ([b"v=spf1 -all"], ()),
            ([b"v=DMARC1"], (named,)),
            ([b"v=DMARC1;"], (named,)),
            ([b"nonsense", b"v=DMARC1;"], (named,)),
            ([b"v=DMARC10"], ()),
            ([b"v=DMARC1; ="], ()),
            ([b"v=DMARC1; rua=mailto:b@other.test!1k"], (place("b@other.test", 1024),)),
            ([b"v=DMARC1; rua=mailto:b@elsewhere.test"], ()),
            ([b"v=DMARC1; rua=mailto:b@elsewhere.test, mailto:c@other.test"], (place("c@other.test"),)),
            ([b"v=DMARC1; rua="], ()),
            ([b"v=DMARC1; x=\xff"], ()),
        ):
            self.assertEqual(confirmed(texts, named), expected, texts)

    @settings(max_examples=150)
    @given(st.text(alphabet="mailto:@!%0Ad.kg,;\r\n\0", max_size=40))
    def test_nothing_in_a_record_breaks_out(self, uri: str) -> None:
        for one in places_of(["mailto:" + uri, uri]):
            self.assertNotRegex(str(one.address), r"[\r\n\0]")
        confirmed([b"v=DMARC1; rua=" + uri.encode()], place("a@d.test"))


class ContentTests(SynchronousTestCase):
    def test_a_report(self) -> None:
        root = checked(written(RECORD, replace(RECORD, source_ip="2001:db8::1", disposition="reject", messages=1)))
        begin, end = bounds(DAY)
        self.assertEqual((begin % 86400, end - begin), (0, 86399))
        for path, expected in (
            ("version", "1.0"),
            ("report_metadata/org_name", "Example"),
            ("report_metadata/email", "postmaster@example.org"),
            ("report_metadata/report_id", "1@example.org"),
            ("report_metadata/date_range/begin", str(begin)),
            ("report_metadata/date_range/end", str(end)),
            ("policy_published/domain", "d.test"),
            ("policy_published/p", "reject"),
            ("policy_published/sp", "none"),
            ("policy_published/pct", "5"),
            ("policy_published/fo", "1:d"),
            ("policy_published/adkim", "r"),
            ("record/identifiers/envelope_from", "d.test"),
            ("record/auth_results/dkim/selector", "s"),
            ("record/auth_results/spf/scope", "mfrom"),
        ):
            self.assertEqual(root.findtext(path), expected, path)
        self.assertEqual(
            records(root),
            [
                ("192.0.2.7", 3, "none", "pass", "fail"),
                ("2001:0db8:0000:0000:0000:0000:0000:0001", 1, "reject", "pass", "fail"),
            ],
        )

    def test_the_null_sender_has_no_domain(self) -> None:
        root = checked(written(replace(RECORD, spf=("helo.test", "helo", "none"))))
        self.assertEqual(root.findtext("record/identifiers/envelope_from"), "")
        self.assertEqual(root.findtext("record/auth_results/spf/domain"), "helo.test")

    def test_why_something_else_was_done(self) -> None:
        for override, expected in (
            ("", (None, None)),
            ("sampled_out", ("sampled_out", None)),
            ("local_policy arc=list.test", ("local_policy", "arc=list.test")),
        ):
            reason = "record/row/policy_evaluated/reason"
            root = checked(written(replace(RECORD, override=override)))
            self.assertEqual((root.findtext(f"{reason}/type"), root.findtext(f"{reason}/comment")), expected)

    def test_a_report_that_is_not_whole_says_so(self) -> None:
        root = checked(written(RECORD, head=replace(HEAD, error="2 are left out")))
        self.assertEqual(root.findtext("report_metadata/error"), "2 are left out")

    @settings(max_examples=100)
    @given(st.text(max_size=20), st.text(max_size=20), st.text(alphabet="<>&'\"]\0\x1f\ud800\ufffe", max_size=9))
    def test_whatever_was_found(self, one: str, other: str, odd: str) -> None:
        hostile = replace(
            RECORD, header_from=one, spf=(other, "mfrom", "permerror"), signatures=((odd, one, "fail"),), override=f"other {odd}"
        )
        root = checked(written(hostile, head=replace(HEAD, domain=odd, organization=other)))
        self.assertEqual(len(root.findall("record/auth_results/dkim")), 1)

    def test_the_schema_refuses_what_is_none(self) -> None:
        for there, instead in (("<fo>1:d</fo>", ""), ("<count>3", "<count>three"), (">none</disposition", ">drop</disposition")):
            text = written(RECORD).decode()
            self.assertIn(there, text)
            self.assertRaises(etree.DocumentInvalid, checked, text.replace(there, instead).encode())

    def test_the_name_of_the_file(self) -> None:
        name = file_name("example.org", "d.test", DAY, "abc")
        self.assertEqual(name, "example.org!d.test!1795219200!1795305599!abc.xml.gz")

    def test_fo(self) -> None:
        for text, expected in (("0", "0"), ("1:d:S", "1:d:s"), ("x", "0"), ("1:<", "0"), ("", "0")):
            record = parse_record(f"v=DMARC1; p=none; fo={text}".encode())
            assert record is not None
            self.assertEqual(record.failures, expected)
