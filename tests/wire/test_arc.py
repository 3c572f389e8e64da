"""check.arc and modify.arc: whose word counts, and what we seal."""

from __future__ import annotations

import re
from pathlib import Path

import dkim

from mailgate.mailauth.arc import Outcome as Chained
from mailgate.mailauth.arc import Sealing, Verdict
from mailgate.mailauth.dkim import Signer, SigningSettings
from mailgate.mailauth.dkim_keys import RSA_SHA256, PrivateKey, new_key
from mailgate.registry import build
from mailgate.testing.names import Action
from tests.support.checked import CheckedCase
from tests.support.scenario import SMTP

RSA = new_key(RSA_SHA256, 1024)
OK, REFUSED, BROKEN, LATER = b"250 2.0.0", b"550 5.7.1", b"550 5.7.29", b"451 4.4.3"
HEADER = b"From: ann@sender.test\r\nSubject: [list] hi\r\n"
TEXT = b"Hello,\r\n\r\n-- the list\r\n"


def sealed(header: bytes, sealer: str, results: str, before: Verdict | None = None, selector: str = "s") -> bytes:
    sealing = Sealing(header, SigningSettings())
    sealing.update(TEXT)
    signer = Signer(sealer, selector, RSA)
    return sealing.seal(signer, f"{sealer}; {results}", before or Verdict(Chained.NONE), 1e9) + header


LIST = sealed(HEADER, "list.test", "spf=pass; dmarc=pass header.from=sender.test")
ONWARD = sealed(LIST, "onward.test", "arc=pass", Verdict(Chained.PASS, last_instance=1))


class ArcCase(CheckedCase):
    def setUp(self) -> None:
        super().setUp()
        self.put(RSA)
        self.names.add("_dmarc.sender.test", "TXT", '"v=DMARC1; p=reject"')
        text = RSA.record
        for domain in ("list.test", "onward.test", "example.org"):
            self.names.add(f"s._domainkey.{domain}", "TXT", f'"{text[:200]}" "{text[200:]}"')
        self.names.script("silent._domainkey.list.test", "TXT", Action.SERVFAIL)

    def put(self, key: PrivateKey) -> None:
        path = Path(self.directory) / "key.pem"
        path.write_bytes(key.pem)
        path.chmod(0o600)

    def send(self, header: bytes) -> bytes:
        return self.whole(content=header + b"\r\n" + TEXT)

    def chain(self) -> bytes | None:
        """What dkimpy makes of what the next hop has got."""
        content = bytes(self.next_hop.transactions[-1].content)
        result: bytes | None = dkim.arc_verify(content, dnsfunc=lambda *_, **__: RSA.record.encode())[0]
        return result


class CheckArc(ArcCase):
    def test_whose_word_counts(self) -> None:
        for trust, header, expected in (
            ("", LIST, REFUSED),
            ("trust list.test", LIST, OK),
            ("trust List.test", HEADER, REFUSED),
            ("trust list.test", LIST.replace(b"dmarc=pass", b"dmarc=fail"), REFUSED),
            ("trust list.test", sealed(HEADER, "list.test", "spf=pass; dmarc=fail"), REFUSED),
            ("trust list.test", ONWARD, REFUSED),
            ("trust onward.test", ONWARD, REFUSED),
            ("trust onward.test list.test", ONWARD, OK),
        ):
            for checks in (f"arc {{\n{trust}\n}}\ndmarc", f"dmarc\narc {{\n{trust}\n}}"):
                self.checked(checks, relay=True)
                self.assertEqual(self.send(header), expected, (trust, header[:80]))
        self.assertIn(b"but list.test has sealed a pass", self.header)

    def test_what_the_message_says(self) -> None:
        self.checked("arc", relay=True)
        for header, said in (
            (HEADER, b"arc=none"),
            (ONWARD, b'arc=pass arc.chain="onward.test:list.test"'),
            (ONWARD.replace(b"cv=pass", b"cv=none"), b'arc=fail reason="seal 2 says none"'),
        ):
            self.assertEqual(self.send(header), OK)
            self.assertIn(said, self.header)

    def test_actions(self) -> None:
        broken = LIST.replace(b"[list]", b"[lost]")
        silent = sealed(HEADER, "list.test", "spf=pass", selector="silent")
        for lines, header, expected in (
            ("", broken, OK),
            ("on_fail reject", broken, BROKEN),
            ("on_fail reject", LIST, OK),
            ("on_fail reject\nmax_sets 1", ONWARD, BROKEN),
            ("on_fail reject", silent, OK),
            ("on_error defer", silent, LATER),
        ):
            self.checked("arc", lines)
            self.assertEqual(self.send(header), expected, (lines, header[:60]))

    def test_a_domain_that_is_none(self) -> None:
        text = f"smtp {SMTP} {{\ntls off\ncheck {{\narc {{\ntrust a..b\n}}\n}}\ndiscard\n}}\n"
        self.assertEqual([found.code for found in build(text).diagnostics if found.is_error], ["E0795"])


class ModifyArc(ArcCase):
    def stage(self, checks: str) -> None:
        modify = "modify {\narc example.org s {\nkey ./key.pem\n}\n}\n"
        self.checked(checks, relay=True, listener=modify, before=lambda: self.put(RSA))

    def test_the_first_and_the_next_seal(self) -> None:
        for checks in ("arc\nspf", "spf", "require_tls {\non_fail ignore\n}"):
            self.stage(checks)
            for header, number in ((HEADER, 1), (LIST, 2), (ONWARD, 3)):
                self.assertEqual(self.send(header), OK)
                self.assertEqual(self.chain(), b"pass", (checks, number))
                self.assertTrue(self.header.startswith(b"ARC-Seal: i=%d; a=rsa-sha256; cv=" % number), self.header)
                set_ = re.split(rb"\r\n(?:Authentication-Results|Received): ", self.header)[0]
                self.assertIn(b"ARC-Authentication-Results: i=%d; gateway.test;\r\n\t" % number, set_)
                self.assertEqual(set_.count(b"\tarc="), 1, set_)

    def test_forged_results_are_not_sealed(self) -> None:
        """Whatever name the seal looks for is nobody's outside, though the listener speaks under another."""
        modify = "authserv_id listener.test\nmodify {\narc example.org s {\nkey ./key.pem\nauthserv_id sealed.test\n}\n}\n"
        self.checked("spf", relay=True, listener=modify, before=lambda: self.put(RSA))
        for name in (b"sealed.test", b"listener.test", b"gateway.test"):
            self.assertEqual(self.send(b"Authentication-Results: " + name + b"; dmarc=pass\r\n" + HEADER), OK)
            self.assertNotIn(b"dmarc=pass", self.header)

    def test_a_broken_chain_is_sealed_as_such_once(self) -> None:
        self.stage("arc")
        self.assertEqual(self.send(LIST.replace(b"[list]", b"[lost]")), OK)
        self.assertTrue(self.header.startswith(b"ARC-Seal: i=2; a=rsa-sha256; cv=fail;"))
        again = self.header[: self.header.index(b"Authentication-Results: gateway")] + LIST
        self.assertEqual(self.send(again), OK)
        self.assertTrue(self.header.startswith(b"Authentication-Results: gateway.test;\r\n\tarc=fail"), self.header)

    def test_what_can_not_be_said_is_not_sealed(self) -> None:
        self.stage("spf")
        self.assertEqual(self.send(sealed(HEADER, "list.test", "spf=pass", selector="silent")), b"451 4.7.5")
        self.assertEqual(self.next_hop.transactions, [])
