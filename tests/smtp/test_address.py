"""Paths and addresses: grammar, sameness, and what may go on the wire."""

from __future__ import annotations

import string

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp.address import (
    NULL_ADDRESS,
    Address,
    AddressError,
    ascii_domain,
    domain_key,
    encode_path,
    match_key,
    parse_address,
    read_path,
    to_ascii,
)
from mailgate.smtp.command import PLAIN_ENVELOPE, path_argument
from mailgate.smtp.reply import MailError, Reply

A63 = "a" * 63
A64 = "a" * 64

VALID = {
    "<a@b>": ("a", "b"),
    "<>": ("", ""),
    "<Postmaster>": ("Postmaster", ""),
    "<POSTMASTER>": ("POSTMASTER", ""),
    "<postmaster@b>": ("postmaster", "b"),
    "<a.b+c=d/e@mail-1.example.org>": ("a.b+c=d/e", "mail-1.example.org"),
    "<!#$%&'*+-/=?^_`{|}~@b>": ("!#$%&'*+-/=?^_`{|}~", "b"),
    "<a@_srv.b_c.example>": ("a", "_srv.b_c.example"),
    "<a@b.example.>": ("a", "b.example"),
    "<a@1.2.3>": ("a", "1.2.3"),
    '<"a b"@c>': ('"a b"', "c"),
    '<"a@b"@c>': ('"a@b"', "c"),
    '<"a\\"b\\\\"@c>': ('"a\\"b\\\\"', "c"),
    '<""@c>': ('""', "c"),
    '<"<>"@c>': ('"<>"', "c"),
    "<@r1:u@d>": ("u", "d"),
    "<@r1.example,@[192.0.2.1]:u@d>": ("u", "d"),
    "<u@[192.0.2.1]>": ("u", "[192.0.2.1]"),
    "<u@[IPv6:2001:db8::1]>": ("u", "[IPv6:2001:db8::1]"),
    "<u@[ipv6:::ffff:192.0.2.1]>": ("u", "[ipv6:::ffff:192.0.2.1]"),
    "<u@xn--bcher-kva.example>": ("u", "xn--bcher-kva.example"),
    "<u@bücher.example>": ("u", "bücher.example"),
    "<jürgen@bücher.example>": ("jürgen", "bücher.example"),
    '<"jürgen x"@d>': ('"jürgen x"', "d"),
    f"<{A64}@b>": (A64, "b"),
    f"<a@{A63}.{A63}>": ("a", f"{A63}.{A63}"),
}

INVALID = (
    "", "a@b", "<", "<a", "<a@b", "a@b>", "<a>", "<@>", "<@b>", "<a@>", "<a@b>x", "<a@b><c@d>", "< a@b>", "<a@b >", "<a b@c>",
    "<a@b c>", "<.a@b>", "<a.@b>", "<a..b@c>", "<a@.b>", "<a@b..c>", "<a@b..>", "<a@-b>", "<a@b->", "<a@b@c>", "<a,b@c>",
    "<a:b@c>", "<a;b@c>", '<"a@b>', '<a"b@c>', '<"a"b@c>', '<"a"b"@c>', '<a"b"@c>', '<"a\\"@c>', "<(x)a@b>", "<a@b(x)>",
    "<a\\b@c>", "<u@[]>", "<u@[192.0.2]>", "<u@[192.0.2.256]>", "<u@[192.0.02.1]>", "<u@192.0.2.1]>", "<u@[192.0.2.1>",
    "<u@[IPv6:1]>", "<u@[IPv6:fe80::1%eth0]>", "<u@[2001:db8::1]>", "<u@[x:y]>", "<@r1u@d>", "<@r1,:u@d>", "<@r1:>",
    "<@r1:Postmaster>", "<Postmasters>", f"<{A64}a@b>", f"<a@{A64}.b>", f"<a@{'.'.join([A63] * 4)}>", f"<{A64}@{'b.' * 96}b>",
    "<a@b\u3002\u3002c>", "<ä..b@c>", "<ü@\u2024.b>",
)  # fmt: skip

LENIENT = {
    "a@b": ("a", "b"),
    "a@b SIZE=1": ("a", "b"),
    "< a@b >": ("a", "b"),
    "<a..b.@c>": ("a..b.", "c"),
    "<.a@c>": (".a", "c"),
    f"<{A64}aaa@b>": (f"{A64}aaa", "b"),
    "postmaster": ("postmaster", ""),
    "< >": ("", ""),
}

UNSEEN = (
    "\x00",
    "\t",
    "\n",
    "\r",
    "\x1b",
    "\x1f",
    "\x7f",
    "\x80",
    "\x85",
    "\x9f",
    "\u200b",
    "\u2028",
    "\u2029",
    "\u2060",
    "\ufeff",
    "\ud800",
)

UNSEEN_PLACES = (
    "<a?b@c>",
    '<"a?b"@c>',
    "<a@b?c>",
    "<a@b>?",
    "<@r?:a@b>",
    '<"\\?"@c>',
    "?<a@b>",
    "<?>",
    "<Postmaster?>",
    "a?b@c",
    "a@b?",
)

BAD = Reply(501, "5.1.7", "bad")


class Paths(SynchronousTestCase):
    def test_valid(self) -> None:
        for text, parts in VALID.items():
            for strict in (True, False):
                self.assertEqual(read_path(text, strict=strict), (Address(*parts), ""), text)
            self.assertEqual(read_path(text + " SIZE=1")[1], " SIZE=1", text)

    def test_invalid(self) -> None:
        for text in INVALID:
            self.assertRaises(AddressError, read_path, text)

    def test_lenient(self) -> None:
        for text, parts in LENIENT.items():
            self.assertEqual(read_path(text, strict=False)[0], Address(*parts), text)
            self.assertRaises(AddressError, read_path, text)

    def test_lenient_has_limits_too(self) -> None:
        for text in ("", "a", "<a>", "a@", "@b", "a@b@c", "<a@b", "a b@c", "<a@b c>", "<u@[1.2.3]>", f"<a@{A64}>", "a@b>"):
            self.assertRaises(AddressError, read_path, text, strict=False)

    def test_control_and_invisible_characters_never(self) -> None:
        for character in UNSEEN:
            for text in (template.replace("?", character) for template in UNSEEN_PLACES):
                for strict in (True, False):
                    self.assertRaises(AddressError, read_path, text, strict=strict)
            self.assertRaises(AddressError, encode_path, Address(f"a{character}b", "c"), smtputf8=True)
            self.assertRaises(AddressError, encode_path, Address(f'"a{character}b"', "c"), smtputf8=True)
            self.assertRaises(AddressError, encode_path, Address("a", f"b{character}c"), smtputf8=True)

    def test_mailboxes_without_brackets(self) -> None:
        self.assertEqual(parse_address("a@b"), Address("a", "b"))
        self.assertEqual(parse_address("postmaster"), Address("postmaster", ""))
        for text in ("", "a", "<a@b>", "a@b>", "a@b> SIZE=1", " a@b", "a@b "):
            self.assertRaises(AddressError, parse_address, text)

    @settings(max_examples=200, deadline=None)
    @given(st.text(alphabet=string.printable + 'äß\u200b>@"<.[]:', max_size=40), st.booleans())
    def test_any_text_is_an_address_or_an_error(self, text: str, strict: bool) -> None:
        """Nothing else comes out, and what is an address can be said again and means the same."""
        try:
            address, rest = read_path(text, strict=strict)
        except AddressError:
            return
        self.assertTrue(not rest or rest.startswith(" "))
        said = encode_path(address, smtputf8=True)
        self.assertNotIn(b"\r", said)
        self.assertNotIn(b"\n", said)
        self.assertEqual(read_path(said.decode(), strict=strict), (address, ""))

    @settings(max_examples=150, deadline=None)
    @given(st.text(max_size=20), st.text(max_size=20), st.booleans())
    def test_nothing_unsafe_can_be_said(self, local_part: str, domain: str, smtputf8: bool) -> None:
        """An address from a table or a filter, with anything in it."""
        try:
            said = encode_path(Address(local_part, domain), smtputf8=smtputf8)
        except AddressError:
            return
        self.assertEqual((said[:1], said[-1:]), (b"<", b">"))
        self.assertFalse(any(octet < 32 or octet == 127 for octet in said))
        self.assertTrue(smtputf8 or said.isascii())


class ShortWay(SynchronousTestCase):
    """The regular expression for whole plain lines gives what the long way gives."""

    @settings(max_examples=200, deadline=None)
    @given(
        st.text(alphabet="aZ0.-_+", min_size=1, max_size=70),
        st.text(alphabet="aZ0.-_", min_size=1, max_size=70),
        st.sampled_from(["", " ", "."]),
    )
    def test_it_agrees(self, local_part: str, domain: str, tail: str) -> None:
        argument = f"FROM:<{local_part}@{domain}>{tail}".encode()
        match = PLAIN_ENVELOPE.match(b"MAIL " + argument + b"\r\n")
        if match is None:
            return
        self.assertEqual(path_argument(argument, b"FROM:", strict=True, bad=BAD), (Address(local_part, domain), ""))
        self.assertEqual((match[2].decode(), match[3].decode()), (local_part, domain))

    def test_it_is_used_for_plain_lines_only(self) -> None:
        for line, plain in (
            (b"MAIL FROM:<a.b@c.example>\r\n", True),
            (b"RCPT TO:<a+b@c-d.example>\r\n", True),
            (b"RCPT TO:<a@" + A63.encode() + b">\r\n", True),
            (b"RCPT TO:<a@" + A64.encode() + b">\r\n", False),
            (b"RCPT TO:<a..b@c>\r\n", False),
            (b"RCPT TO:<a@b-.c>\r\n", False),
            (b"MAIL FROM:<a@b> SIZE=1\r\n", False),
            (b"MAIL FROM:<a@b>\n", False),
            (b"MAIL FROM:<>\r\n", False),
            (b"DATA\r\n", True),
            (b"DATA \r\n", False),
            (b"DATA\n", False),
        ):
            self.assertEqual(PLAIN_ENVELOPE.match(line) is not None, plain, repr(line))

    def test_arguments(self) -> None:
        for argument in (
            b"",
            b"<a@b>",
            b"FROM <a@b>",
            b"FROM: <a@b>",
            b"FROM :<a@b>",
            b" FROM:<a@b>",
            b"TO:<a@b>",
            b"FROM:<\xff@b>",
        ):
            error = self.assertRaises(MailError, path_argument, argument, b"FROM:", strict=True, bad=BAD)
            self.assertEqual(error.reply, BAD)
        self.assertEqual(path_argument(b"  from :  a@b  X ", b"FROM:", strict=False, bad=BAD), (Address("a", "b"), "  X"))


class Sameness(SynchronousTestCase):
    def test_match_keys(self) -> None:
        for one, other in (
            ("User@Example.ORG", "user@example.org"),
            ('"user"@example.org', "user@example.org"),
            ('"u\\ser"@example.org', "user@example.org"),
            ('"a b"@example.org', '"A B"@example.org'),
            ("u@bücher.example", "u@xn--bcher-kva.example"),
            ("u@BÜCHER.example", "u@XN--BCHER-KVA.example"),
            ("u@bu\u0308cher.example", "u@b\u00fccher.example"),
            ("ju\u0308rgen@d", "JÜRGEN@d"),
            ("u@[IPv6:2001:db8:0::1]", "u@[ipv6:2001:DB8::1]"),
            ("straße@d", "STRASSE@d"),
        ):
            self.assertEqual(match_key(parse_address(one)), match_key(parse_address(other)), f"{one} {other}")

    def test_different_ones_stay_different(self) -> None:
        keys = {
            match_key(parse_address(text)) for text in ("a@b", "a@c", "b@b", '"a b"@b', "a+b@b", "a.b@b", "a@[192.0.2.1]", "ä@b")
        }
        self.assertEqual(len(keys), 8)

    def test_shape(self) -> None:
        self.assertEqual(match_key(parse_address('"A\\@B"@BÜCHER.Example')), ("a@b", "bücher.example"))
        self.assertEqual(match_key(NULL_ADDRESS), ("", ""))
        self.assertEqual(domain_key("Example.ORG."), "example.org")
        self.assertEqual(domain_key("xn--\u00e4"), "xn--ä")
        self.assertEqual(domain_key("xn--zzzzzzzz99999999.example"), "xn--zzzzzzzz99999999.example")
        self.assertEqual(domain_key("[odd literal]"), "[odd literal]")

    @settings(max_examples=150, deadline=None)
    @given(st.text(max_size=15), st.text(max_size=15))
    def test_any_address_has_a_key_and_folding_is_stable(self, local_part: str, domain: str) -> None:
        key = match_key(Address(local_part, domain))
        self.assertEqual(domain_key(key[1]), domain_key(domain))


class ForTheWire(SynchronousTestCase):
    def test_encoding(self) -> None:
        for address, smtputf8, said in (
            (NULL_ADDRESS, False, b"<>"),
            (Address("a", "b.example"), False, b"<a@b.example>"),
            (Address("Postmaster", ""), False, b"<Postmaster>"),
            (Address('"a b"', "c"), False, b'<"a b"@c>'),
            (Address("a", "[192.0.2.1]"), False, b"<a@[192.0.2.1]>"),
            (Address("a", "bücher.example"), False, b"<a@xn--bcher-kva.example>"),
            (Address("ü", "bücher.example"), True, "<ü@bücher.example>".encode()),
        ):
            self.assertEqual(encode_path(address, smtputf8=smtputf8), said)

    def test_refusals(self) -> None:
        for address in (
            Address("ü", "b"),
            Address("a\r\nRCPT TO:<x@y>", "b"),
            Address("a> SIZE=1", "b"),
            Address("a", "b> SIZE=1"),
            Address("a b", "c"),
            Address("a", "b c"),
            Address("", "b"),
            Address("a@b", "c"),
            Address('"a"b"', "c"),
            Address("a", "ü" * 64),
        ):
            self.assertRaises(AddressError, encode_path, address)

    def test_a_labels(self) -> None:
        self.assertEqual(to_ascii(Address("a", "Bücher.example")), Address("a", "xn--bcher-kva.example"))
        self.assertEqual(to_ascii(Address("a", "B.example")), Address("a", "B.example"))
        self.assertIsNone(to_ascii(Address("ü", "b")))
        self.assertIsNone(ascii_domain("a..b"))
        self.assertIsNone(ascii_domain("\u2024"))
        self.assertEqual(ascii_domain("A.B"), "a.b")

    def test_text(self) -> None:
        self.assertEqual(
            [str(parse_address("a@b")), str(NULL_ADDRESS), str(Address("Postmaster", ""))], ["a@b", "", "Postmaster"]
        )
        self.assertEqual([NULL_ADDRESS.is_null, Address("a", "b").is_null], [True, False])
