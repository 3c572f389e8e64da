"""check.dkim and check.dmarc: what the signatures of a message and the policy of its author's domain make of it."""

from __future__ import annotations

from mailgate.mailauth.dkim import Signer, Signing, SigningSettings
from mailgate.mailauth.dkim_keys import ED25519_SHA256, new_key
from mailgate.testing.names import Action
from tests.support.checked import CheckedCase

ED = new_key(ED25519_SHA256)
OK = b"250 2.0.0"
LATER = b"451 4.4.3"
TEXT = b"Hello,\r\n\r\nsee you.\r\n"
YEARS = 1_000_000_000.0


def signed(author: bytes, domain: str, text: bytes = TEXT, *, selector: str = "s", extra: bytes = b"") -> bytes:
    """A message of an author with a signature of a domain; ``extra`` are fields that it does not cover."""
    header = b"From: Ann <" + author + b">\r\nSubject: hi\r\n"
    making = Signing(header, SigningSettings(expire=1 << 31))
    making.update(text)
    signer = Signer(domain, selector, ED)
    return signer.sign(making.unsigned(signer, YEARS)) + header + extra + b"\r\n" + text


def plain(author: bytes) -> bytes:
    return b"From: " + author + b"\r\nSubject: hi\r\n\r\n" + TEXT


class AuthenticationCase(CheckedCase):
    def setUp(self) -> None:
        super().setUp()
        for domain in ("sender.test", "mail.sender.test", "list.test"):
            self.names.add(f"s._domainkey.{domain}", "TXT", f'"{ED.record}"')
        self.names.add("trial._domainkey.sender.test", "TXT", f'"{ED.record}; t=y"')
        self.names.script("silent._domainkey.sender.test", "TXT", Action.SERVFAIL)


class DkimTests(AuthenticationCase):
    good = signed(b"ann@sender.test", "sender.test")
    broken = good.replace(b"see you", b"see me")
    unknown = signed(b"ann@sender.test", "sender.test", selector="nokey")
    silent = signed(b"ann@sender.test", "sender.test", selector="silent")
    trial = signed(b"ann@sender.test", "sender.test", selector="trial").replace(b"see you", b"see me")
    unsigned = plain(b"ann@sender.test")

    def test_by_default_nothing_is_refused_but_what_nobody_can_say(self) -> None:
        self.checked("dkim")
        for content, expected in (
            (self.good, OK),
            (self.broken, OK),
            (self.unknown, OK),
            (self.unsigned, OK),
            (self.trial, OK),
            (self.silent, LATER),
        ):
            self.assertEqual(self.whole(content=content), expected)

    def test_actions(self) -> None:
        for action, content in (
            ("on_fail", self.broken),
            ("on_fail", self.unknown),
            ("on_none", self.unsigned),
            ("on_none", self.trial),
        ):
            with self.row(action):
                self.checked("dkim", f"{action} reject")
                self.assertEqual(self.whole(content=content), b"550 5.7.20")
                self.assertEqual(self.whole(content=self.good), OK)
        self.checked("dkim", "on_error ignore")
        self.assertEqual(self.whole(content=self.silent), OK)

    def test_one_that_holds_is_enough(self) -> None:
        self.checked("dkim", "on_fail reject", "on_none reject")
        other = signed(b"ann@sender.test", "sender.test", b"Something else.\r\n")
        broken = other[: other.index(b"From: Ann")]
        both = broken + self.good
        self.assertEqual(self.whole(content=both), OK)
        self.assertEqual(self.whole(content=broken * 5 + self.good), b"550 5.7.20")
        self.checked("dkim", "on_fail reject", "max_signatures 6")
        self.assertEqual(self.whole(content=broken * 5 + self.good), OK)

    def test_fields_that_must_be_signed(self) -> None:
        content = signed(b"ann@sender.test", "sender.test", extra=b"X-Order: 1\r\n")
        for fields, expected in (("From", OK), ("From Subject", OK), ("X-Order", b"550 5.7.20"), ("X-Absent", OK)):
            self.checked("dkim", "on_fail reject", f"required_fields {fields}")
            self.assertEqual(self.whole(content=content), expected, fields)

    def test_domains_that_sign_all(self) -> None:
        self.checked("dkim", "required_for Sender.test")
        for content, expected in (
            (self.good, OK),
            (signed(b"ann@mail.sender.test", "sender.test"), OK),
            (signed(b"ann@mail.sender.test", "mail.sender.test"), OK),
            (signed(b"ann@sender.test", "list.test"), b"550 5.7.22"),
            (self.broken, b"550 5.7.22"),
            (self.unsigned, b"550 5.7.22"),
            (self.silent, LATER),
            (plain(b"ann@other.test"), OK),
        ):
            self.assertEqual(self.whole(content=content), expected)

    def test_what_the_message_says(self) -> None:
        self.checked("dkim", relay=True)
        self.assertEqual(self.whole(content=b"X-Mailgate-A: 1\r\n" + self.good), OK)
        lines = self.header.split(b"\r\n")
        self.assertEqual(lines[0], b"Authentication-Results: gateway.test;")
        self.assertRegex(lines[1], rb"^\tdkim=pass header.d=sender.test header.s=s header.a=ed25519-sha256")
        self.assertEqual(self.whole(content=self.unsigned), OK)
        self.assertTrue(self.header.startswith(b"Authentication-Results: gateway.test;\r\n\tdkim=none\r\nReceived"))

    def test_large_and_spooled_bodies(self) -> None:
        self.checked("dkim", "on_fail reject", "on_none reject")
        for text in (b"long  line \r\n" * 20_000, b"longer line\r\n\r\n" * 100_000):
            content = signed(b"ann@sender.test", "sender.test", text)
            self.assertEqual(self.whole(content=content), OK)
            self.assertEqual(self.whole(content=content + b"x\r\n"), b"550 5.7.20")

    def test_who_is_not_judged(self) -> None:
        self.checked("dkim", "on_none reject", "required_for sender.test")
        self.assertEqual(self.whole("10.0.0.7", content=self.unsigned), OK)

    def test_a_domain_that_is_none(self) -> None:
        from mailgate.registry import build

        text = "smtp tcp://127.0.0.1:25 {\ntls off\ncheck {\ndkim {\nrequired_for a..b\n}\n}\ndiscard\n}\n"
        self.assertEqual([found.code for found in build(text).diagnostics if found.is_error], ["E0795"])


class DmarcTests(AuthenticationCase):
    stranger = b"x@list.test"
    refused, quarantined = b"550 5.7.1", b"X-Mailgate-Quarantine: yes\r\n"

    def setUp(self) -> None:
        super().setUp()
        self.policy("v=DMARC1; p=reject; sp=quarantine")
        self.names.add("sender.test", "TXT", '"v=spf1 ip4:192.0.2.7 -all"')
        self.names.add("list.test", "TXT", '"v=spf1 ip4:192.0.2.7 -all"')

    def policy(self, text: str, domain: str = "sender.test") -> None:
        self.names.add(f"_dmarc.{domain}", "TXT", f'"{text}"')

    def test_who_speaks_for_the_author(self) -> None:
        self.checked("dmarc", relay=True)
        author = b"ann@sender.test"
        for source, sender, content, expected in (
            ("192.0.2.7", author, plain(author), OK),
            ("192.0.2.7", b"", plain(author), self.refused),
            ("192.0.2.9", author, plain(author), self.refused),
            ("192.0.2.7", b"x@list.test", plain(author), self.refused),
            ("192.0.2.9", b"x@list.test", signed(author, "sender.test"), OK),
            ("192.0.2.9", b"x@list.test", signed(author, "mail.sender.test"), OK),
            ("192.0.2.9", b"x@list.test", signed(author, "list.test"), self.refused),
            ("192.0.2.9", b"x@list.test", signed(author, "sender.test").replace(b"see you", b"see me"), self.refused),
            ("192.0.2.9", b"x@list.test", plain(b"ann@nopolicy.test"), OK),
            ("10.0.0.7", b"x@list.test", plain(author), OK),
        ):
            self.assertEqual(self.whole(source, sender=sender, content=content), expected, (source, sender, content[:200]))

    def test_what_is_done_is_the_operators(self) -> None:
        below = plain(b"ann@mail.sender.test")
        self.checked("dmarc", relay=True)
        self.assertEqual(self.whole(sender=self.stranger, content=below), OK)
        self.assertTrue(
            self.header.startswith(
                b'Authentication-Results: gateway.test;\r\n\tdmarc=fail reason="policy quarantine of sender.test"\r\n'
                b"\t header.from=mail.sender.test\r\n" + self.quarantined
            ),
            self.header,
        )
        self.checked("dmarc", "on_reject ignore", "on_quarantine reject", relay=True)
        self.assertEqual(self.whole(sender=self.stranger, content=below), self.refused)
        self.assertEqual(self.whole(sender=self.stranger, content=plain(b"ann@sender.test")), OK)
        self.assertNotIn(self.quarantined, self.header)

    def test_not_every_message(self) -> None:
        self.policy("v=DMARC1; p=reject; pct=0", "some.test")
        self.checked("dmarc", relay=True)
        self.assertEqual(self.whole(content=plain(b"ann@some.test")), OK)
        self.assertIn(b'"policy reject of some.test, not for this one of 0%"', self.header)
        self.assertIn(self.quarantined, self.header)

    def test_several_authors_and_none(self) -> None:
        self.checked("dmarc", relay=True)
        self.assertEqual(self.whole(sender=self.stranger, content=plain(b"a@nopolicy.test, ann@sender.test")), self.refused)
        self.assertEqual(self.whole(sender=self.stranger, content=b"Subject: no author\r\n\r\n"), OK)
        self.assertIn(b"dmarc=permerror", self.header)
        self.checked("dmarc", "on_permerror reject")
        self.assertEqual(self.whole(sender=self.stranger, content=b"Subject: no author\r\n\r\n"), self.refused)

    def test_no_answer_is_no_pass(self) -> None:
        silent = signed(b"ann@sender.test", "sender.test", selector="silent")
        self.names.script("_dmarc.down.test", "TXT", Action.SERVFAIL)
        for action, expected in (("defer", LATER), ("ignore", OK)):
            self.checked("dmarc", f"on_error {action}")
            self.assertEqual(self.whole("192.0.2.9", content=silent), expected)
            self.assertEqual(self.whole(content=plain(b"ann@down.test")), expected)

    def test_spf_leaves_it_to_dmarc(self) -> None:
        forwarded = signed(b"ann@sender.test", "sender.test")
        stranger = "192.0.2.9"
        fails = {"sender": b"x@list.test", "source": stranger}
        self.checked("spf\ndmarc", relay=True)
        self.assertEqual(self.whole(**fails, content=forwarded), OK)  # type: ignore[arg-type]
        self.assertIn(b"\tspf=fail", self.header)
        self.assertIn(b"\tdmarc=pass", self.header)
        self.assertEqual(self.whole(**fails, content=plain(b"ann@nopolicy.test")), b"550 5.7.23")  # type: ignore[arg-type]
        self.checked("spf")
        self.assertEqual(self.whole(**fails, content=forwarded), b"550 5.7.23")  # type: ignore[arg-type]

    def test_all_together_ask_everything_once(self) -> None:
        self.checked("spf\ndkim\ndmarc", relay=True)
        self.assertEqual(self.whole(sender=b"ann@sender.test", content=signed(b"ann@sender.test", "sender.test")), OK)
        methods = [line.strip().split(b"=")[0] for line in self.header.split(b"\r\n") if b"=pass" in line]
        self.assertEqual(methods, [b"spf", b"dkim", b"dmarc"])
        self.assertEqual(len(self.names.queries), 3)
        (line,) = self.running.logged("message.done")  # type: ignore[union-attr]
        self.assertIn('auth="spf=pass dkim=pass dmarc=pass"', line)
