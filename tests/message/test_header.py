"""Header sections: fields and their bytes, forged fields, Received."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.envelope import Session, TlsFacts
from mailgate.message.header import Header, authserv_id, received_count, without_forgeries
from mailgate.message.received import date_time, received, with_keyword

LINES = st.sampled_from(
    [
        b"Subject: x\r\n",
        b"subject : y\r\n",
        b" folded\r\n",
        b"\tfolded: more\r\n",
        b"no field at all\r\n",
        b": nameless\r\n",
        b"Bad Name: z\r\n",
        b"Received: a\r\n",
        b"RECEIVED:\r\n",
        b"Receivedx: a\r\n",
        b"X-Mailgate-A: 1\r\n",
        b"Authentication-Results: mx.test; none\r\n",
        b"a:\xff\xfe\r\n",
        b"From \x00 odd\r\n",
        b"\r\n",
        b"Last: without an end",
    ]
)


class HeaderTests(SynchronousTestCase):
    def test_fields(self) -> None:
        header = Header(b"Subject: one\r\n two\r\n\tthree \r\nTO : a@b\r\nthis is no field\r\n nor this\r\nsubject:\r\n")
        self.assertEqual([one.name for one in header.fields], ["subject", "to", "", "subject"])
        self.assertEqual(header.values("SUBJECT"), [b"one two\tthree", b""])
        self.assertEqual(header.values("to"), [b"a@b"])
        self.assertEqual(header.raw(header.fields[2]), b"this is no field\r\n nor this\r\n")
        self.assertEqual(header.without(lambda one: one.name == "subject"), b"TO : a@b\r\nthis is no field\r\n nor this\r\n")

    def test_an_empty_section(self) -> None:
        self.assertEqual(Header(b"").fields, ())

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.one_of(LINES, st.binary(max_size=8)), max_size=10).map(b"".join))
    def test_fields_cover_the_section_whatever_it_is(self, section: bytes) -> None:
        header = Header(section)
        self.assertEqual(b"".join(header.raw(one) for one in header.fields), section)
        for one in header.fields:
            self.assertLess(one.start, one.end)
            self.assertLessEqual(one.start, one.value_start)
            self.assertEqual(one.name, one.name.lower())
            if one.name:
                self.assertEqual(section[one.value_start - 1 : one.value_start], b":")
        self.assertEqual(header.without(lambda _: False), section)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(LINES, max_size=10).map(b"".join))
    def test_counting_is_parsing(self, section: bytes) -> None:
        self.assertEqual(received_count(section), sum(one.name == "received" for one in Header(section).fields))

    @settings(max_examples=200, deadline=None)
    @given(st.lists(LINES, max_size=10).map(b"".join))
    def test_forgeries_go_and_all_else_stays(self, section: bytes) -> None:
        clean = without_forgeries(section, ["MX.test."])
        forged = ("authentication-results", "x-mailgate-a")
        self.assertEqual(clean, Header(section).without(lambda one: one.name in forged))


class AuthenticationResultsTests(SynchronousTestCase):
    def test_who_claims_to_have_authenticated(self) -> None:
        for value, claimed in {
            b"mx.test; spf=pass": b"mx.test",
            b"mx.test 1; none": b"mx.test",
            b" (comment) mx.test ; none": b"mx.test",
            b"(a (b) c)(\\)) mx.test; none": b"mx.test",
            b'"mx.test"; none': b"mx.test",
            b'"mx\\.test"; none': b"mx.test",
            b"": None,
            b"(never ends": None,
            b"; none": None,
            b'"never ends': None,
        }.items():
            self.assertEqual(authserv_id(value), claimed, value)

    def test_ours_goes_in_any_spelling_and_so_does_what_cannot_be_read(self) -> None:
        for value in (b"mx.test; x", b"MX.Test.; x", b'"mx.test"; x', b"(c)\r\n mx.test; x", b"(open", b"\r\n\tmx.test;\r\n x"):
            section = b"A: b\r\nAuthentication-Results: " + value + b"\r\nC: d\r\n"
            self.assertEqual(without_forgeries(section, ["mx.test"]), b"A: b\r\nC: d\r\n", value)
        for value in (b"mx.test.evil; x", b"other.test; x", b"(mx.test) other.test; x"):
            section = b"Authentication-Results: " + value + b"\r\n"
            self.assertEqual(without_forgeries(section, ["mx.test"]), section, value)

    def test_what_is_signed_by_others_is_theirs(self) -> None:
        section = b"ARC-Authentication-Results: i=1; mx.test; spf=pass\r\nX-Authentication-Results: mx.test\r\n"
        self.assertEqual(without_forgeries(section, ["mx.test"]), section)


class ReceivedTests(SynchronousTestCase):
    def session(self, **fields: object) -> Session:
        return Session(**{"id": "s", "listener": "tcp://x", "hostname": "mx.test", **fields})  # type: ignore[arg-type]

    def test_keywords(self) -> None:
        for arguments, keyword in {
            ("SMTP", True, False, False): "SMTP",
            ("ESMTP", False, False, False): "ESMTP",
            ("ESMTP", True, False, False): "ESMTPS",
            ("ESMTP", True, True, False): "ESMTPSA",
            ("ESMTP", False, True, False): "ESMTPA",
            ("ESMTP", True, True, True): "UTF8SMTPSA",
            ("LMTP", True, False, False): "LMTPS",
            ("LMTP", False, False, True): "UTF8LMTP",
        }.items():
            protocol, tls, authenticated, utf8 = arguments
            self.assertEqual(with_keyword(protocol, tls=tls, authenticated=authenticated, utf8=utf8), keyword)

    def test_an_ipv6_client_without_names(self) -> None:
        session = self.session(client_ip="2001:db8::1", protocol="ESMTP", helo="[IPv6:2001:db8::1]")
        self.assertEqual(
            received(session, "mx.test", "s.1", "", 0.0),
            b"Received: from [IPv6:2001:db8::1] (unknown [IPv6:2001:db8::1])\r\n"
            b"\tby mx.test with ESMTP\r\n\tid s.1;\r\n\tThu, 1 Jan 1970 00:00:00 +0000\r\n",
        )

    def test_a_unix_socket(self) -> None:
        self.assertIn(b"from x (local)\r\n", received(self.session(helo="x"), "mx.test", "s.1", "", 0.0))

    @settings(max_examples=150, deadline=None)
    @given(st.text(max_size=300), st.text(max_size=30), st.text(max_size=40))
    def test_it_is_one_field_whatever_the_client_says(self, helo: str, name: str, recipient: str) -> None:
        try:
            recipient.encode()
        except UnicodeEncodeError:
            recipient = ""
        session = self.session(helo=helo, client_name=name, client_ip="192.0.2.1", protocol="ESMTP", tls=TlsFacts("TLS1.3", helo))
        made = received(session, "mx.test", "s.1", recipient, 0.0)
        header = Header(made)
        self.assertEqual([one.name for one in header.fields], ["received"])
        self.assertEqual(made.count(b"\r"), made.count(b"\r\n"))
        self.assertLess(max(map(len, made.split(b"\r\n"))), 998)

    def test_dates(self) -> None:
        self.assertEqual(date_time(1_700_000_000), "Tue, 14 Nov 2023 22:13:20 +0000")
