"""Preparation of submitted messages: what is added, what is refused, and addresses as people and programs write them."""

from __future__ import annotations

from email.utils import formataddr, getaddresses

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.mailboxes import AddressSyntax, Rule, count_addresses
from mailgate.message.preparation import prepare
from mailgate.smtp.reply import MailError

LISTS: list[tuple[bytes, int]] = [
    (b"a@x.test", 1),
    (b"<a@x.test>", 1),
    (b"Alice <a@x.test>", 1),
    (b"Alice B. Toklas <a@x.test>", 1),
    (b'"Toklas, Alice" <a@x.test>', 1),
    (b"=?utf-8?q?J=C3=B6rg?= <a@x.test>", 1),
    ("Jörg <jörg@bücher.test>".encode(), 1),
    (b"a@x.test (Alice (the first))", 1),
    (b"(note) a@x.test, b@x.test", 2),
    (b"a@x.test,, b@x.test,", 2),
    (b"a@[192.0.2.1], b@[IPv6:2001:db8::1]", 2),
    (b'"very odd@local"@x.test', 1),
    (b"a . b @ x . test", 1),
    (b"<@relay.test,@other.test:a@x.test>", 1),
    (b"undisclosed-recipients:;", 1),
    (b"Friends: a@x.test, Bob <b@x.test>;, c@x.test", 2),
    (b"a@x.test\r\n (folded)".replace(b"\r\n", b""), 1),
]  # fmt: skip

WRONG: list[bytes] = [
    b"", b"   ", b",", b"alice", b"Alice", b"a@", b"@x.test", b"a@x.test b@x.test", b"<a@x.test", b"a@x.test>", b"<>",
    b"a@@x.test", b"a@x..test", b".a@x.test", b"a..b@x.test", b'a@"x.test"', b"a@x.test (open", b'"open@x.test',
    b"group: a@x.test", b"a@x.test;", b"a@x.test\0", b"\xff@x.test", b"outer: inner: a@x.test;;", b"<a@x.test> b",
    b"a@x.test\\", b"[1.2.3.4]", b"<@r:>", b"<@r a@x>",
]  # fmt: skip

FROM = b"From: a@x.test\r\n"


class Addresses(SynchronousTestCase):
    def test_lists(self) -> None:
        for value, count in LISTS:
            with self.subTest(value):
                self.assertEqual(count, count_addresses(value, Rule()))

    def test_no_lists(self) -> None:
        for value in WRONG:
            with self.subTest(value):
                self.assertRaises(AddressSyntax, count_addresses, value, Rule())

    def test_rules(self) -> None:
        self.assertRaises(AddressSyntax, count_addresses, b"group: a@x.test;", Rule(groups=False))
        self.assertRaises(AddressSyntax, count_addresses, b"a@x.test, b@x.test", Rule(most=1))

    def test_nesting_and_length_cost_no_stack(self) -> None:
        depth = 100_000
        self.assertEqual(1, count_addresses(b"(" * depth + b")" * depth + b"a@x.test", Rule()))
        self.assertEqual(20_000, count_addresses(b",".join([b"a@x.test"] * 20_000), Rule()))

    @given(
        st.lists(
            st.tuples(st.text(max_size=12), st.from_regex(r"[a-z][a-z.]{0,4}[a-z]@[a-z]{1,8}\.test", fullmatch=True)), min_size=1
        )
    )
    @settings(max_examples=100)
    def test_what_the_standard_library_writes(self, people: list[tuple[str, str]]) -> None:
        people = [(name if name.isprintable() else "", address.replace("..", ".")) for name, address in people]
        text = ", ".join(formataddr(person) for person in people)
        self.assertEqual(len(getaddresses([text])), count_addresses(text.encode(), Rule()))

    @given(st.binary(max_size=40) | st.text('a@.,:;<>()"\\ []', max_size=14).map(str.encode))
    @settings(max_examples=150)
    def test_anything_is_a_list_or_an_error(self, value: bytes) -> None:
        try:
            self.assertGreater(count_addresses(value, Rule()), 0)
        except AddressSyntax:
            pass


class Preparation(SynchronousTestCase):
    def prepared(self, section: bytes) -> bytes:
        return prepare(section, "1a.1", "mx.test", 1700000000.5)

    def test_what_is_missing(self) -> None:
        date, message_id = b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n", b"Message-ID: <1a.1@mx.test>\r\n"
        self.assertEqual(FROM + date + message_id, self.prepared(FROM))
        self.assertEqual(FROM + b"date: x\r\n" + message_id, self.prepared(FROM + b"date: x\r\n"))
        self.assertEqual(FROM + b"Message-Id: x\r\n" + date, self.prepared(FROM + b"Message-Id: x\r\n"))

    def test_a_complete_header_is_the_same_octets(self) -> None:
        section = FROM + b"DATE :  x\r\nMESSAGE-ID:y\r\nTo:\r\n b@x.test,\r\n\tc@x.test\r\nX: \xff\r\n"
        self.assertEqual(section, self.prepared(section))

    def test_refusals(self) -> None:
        for section, text in (
            (b"", "From is missing"),
            (b"From: alice\r\n", "From has an address without a domain"),
            (FROM * 2, "From stands twice"),
            (FROM + b"To: x\r\n", "To has"),
            (FROM + b"Cc: \r\n", "Cc has no address"),
            (FROM + b"Reply-To: a@\r\n", "Reply-To has"),
            (FROM + b"Sender: a@x.test, b@x.test\r\n", "Sender has more than one address"),
            (FROM + b"Sender: g:;\r\n", "Sender "),
            (b"From: a@x.test, b@x.test\r\n", "Sender is missing"),
        ):
            with self.subTest(text):
                reply = self.assertRaises(MailError, self.prepared, section).reply
                self.assertEqual((554, "5.6.0"), (reply.code, reply.enhanced))
                self.assertIn(f"The header field {text}", reply.text)

    def test_two_authors_with_a_sender(self) -> None:
        self.assertIn(b"Message-ID", self.prepared(b"From: a@x.test, b@x.test\r\nSender: a@x.test\r\n"))
