"""ARC: we and dkimpy agree on chains, and every way to break one breaks it."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import dkim
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.trial.unittest import SynchronousTestCase

from mailgate.mailauth.arc import Chain, Outcome, Sealing, Verdict
from mailgate.mailauth.dkim import Signer, SigningSettings, Unreachable
from mailgate.mailauth.dkim_keys import ED25519_SHA256, RSA_SHA256, PrivateKey, new_key
from tests.mailauth.messages import body, pieces, section

RSA, ED = new_key(RSA_SHA256, 1024), new_key(ED25519_SHA256)
NOW = 1_700_000_000.0
PLAIN = b"From: ann@example.org\r\nSubject: Hello\r\n"
TEXT = b"Hello Ben,\r\n\r\nsee you.\r\n"
SETTINGS = SigningSettings()
RECORDS = {b"rsa": RSA.record.encode(), b"ed": ED.record.encode()}


def judge(header: bytes, content: Iterable[bytes], *, unreachable: bool = False, most: int = 50) -> Verdict:
    chain = Chain(header, most)
    for piece in content:
        chain.update(piece)
    return chain.verdict(
        {
            name: Unreachable.UNREACHABLE if unreachable else (RECORDS[name.partition(".")[0].encode()],)
            for name in chain.key_names
        },
        NOW,
    )


def seal(
    header: bytes, content: Iterable[bytes], key: PrivateKey = ED, domain: str = "a.test", results: str = "spf=pass"
) -> bytes:
    parts = list(content)
    before = judge(header, parts)
    sealing = Sealing(header, SETTINGS)
    for piece in parts:
        sealing.update(piece)
    signer = Signer(domain, "ed" if key is ED else "rsa", key)
    return sealing.seal(signer, f"{domain};\r\n\tarc={before.outcome.value};\r\n\t{results}", before, NOW) + header


def theirs(message: bytes) -> bytes | None:
    """What dkimpy makes of a chain."""
    result: bytes | None = dkim.arc_verify(message, dnsfunc=lambda name, **_: RECORDS[name.partition(b".")[0]])[0]
    return result


class AgreementTests(SynchronousTestCase):
    """With dkimpy, on generated messages. It has no Ed25519 here."""

    def test_it_verifies_what_we_seal(self) -> None:
        for seed in range(200):
            random = Random(seed)
            header, content = section(random), body(random)
            for number in range(1 + seed % 3):
                header = seal(header, pieces(random, content), RSA, f"hop{number}.test")
            self.assertEqual(theirs(header + b"\r\n" + content), b"pass", f"seed {seed}")
            self.assertIs(judge(header, [content]).outcome, Outcome.PASS, f"seed {seed}")

    def test_we_verify_what_it_seals(self) -> None:
        pem = RSA.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        for seed in range(200):
            random = Random(seed)
            header, content = section(random), body(random)
            for number in range(1 + seed % 3):
                domain = f"hop{number}.test".encode()
                before = b"none" if number == 0 else b"pass"
                header = b"Authentication-Results: " + domain + b"; arc=" + before + b"; spf=pass\r\n" + header
                fields = dkim.arc_sign(
                    header + b"\r\n" + content,
                    b"rsa",
                    domain,
                    pem,
                    domain,
                    include_headers=[b"from", b"subject", b"to"],
                    timestamp=int(NOW),
                )
                self.assertEqual(len(fields), 3)
                header = b"".join(fields) + header
            found = judge(header, pieces(random, content))
            self.assertEqual((found.outcome, len(found.hands)), (Outcome.PASS, 1 + seed % 3), f"seed {seed}: {found}")
            changed = content + b"x\r\n"
            self.assertIs(judge(header, [changed]).outcome, Outcome.FAIL)


class ChainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.first = seal(PLAIN, [TEXT], RSA, "a.test", "dmarc=pass header.from=example.org")
        self.second = seal(
            b"X-List: yes\r\n" + self.first, [TEXT + b"-- list\r\n"], RSA, "b.test", 'spf=fail reason="; dmarc=pass"'
        )

    def outcome(self, header: bytes, content: bytes = TEXT) -> tuple[Outcome, str]:
        found = judge(header, [content])
        return found.outcome, found.reason

    def test_hands(self) -> None:
        self.assertIs(judge(PLAIN, [TEXT]).outcome, Outcome.NONE)
        found = judge(self.first, [TEXT])
        self.assertEqual((found.outcome, [hand.sealer for hand in found.hands]), (Outcome.PASS, ["a.test"]))
        self.assertTrue(found.hands[0].says("dmarc", "pass"))
        self.assertFalse(found.hands[0].says("dmarc", "pas"))
        self.assertFalse(found.hands[0].says("spf", "pass"))

    def test_a_body_changed_on_the_way_and_sealed_anew_as_broken(self) -> None:
        changed = TEXT + b"-- list\r\n"
        self.assertEqual(self.outcome(self.first, changed), (Outcome.FAIL, "body hash does not match"))
        self.assertIn(b"ARC-Seal: i=2; a=rsa-sha256; cv=fail;", self.second)
        found = judge(self.second, [changed])
        self.assertEqual((found.outcome, found.reason, found.is_closed), (Outcome.FAIL, "sealed as broken", True))
        self.assertEqual(theirs(self.second + b"\r\n" + changed), None)
        self.assertEqual(seal(self.second, [changed]), self.second)

    def test_what_the_last_hand_signs_may_differ_from_what_the_first_did(self) -> None:
        sealing = Sealing(b"X-List: yes\r\n" + self.first, SETTINGS)
        changed = TEXT + b"-- list\r\n"
        sealing.update(changed)
        before = judge(self.first, [TEXT])  # as it came
        header = sealing.seal(Signer("b.test", "rsa", RSA), "b.test; arc=pass", before, NOW) + b"X-List: yes\r\n" + self.first
        found = judge(header, [changed])
        self.assertEqual((found.outcome, [hand.sealer for hand in found.hands]), (Outcome.PASS, ["a.test", "b.test"]))
        self.assertEqual(theirs(header + b"\r\n" + changed), b"pass")

    def test_every_way_to_break_one(self) -> None:
        two = seal(self.first, [TEXT], ED, "b.test")
        for old, new, reason in (
            (b"Hello\r\n", b"Hallo\r\n", "the newest signature does not match"),
            (b"dmarc=pass header.from", b"dmarc=pass header.form", "seal 2 does not match"),
            (b"cv=none", b"cv=pass", "seal 1 says pass"),
            (b"cv=pass", b"cv=none", "seal 2 says none"),
            (b"ARC-Seal: i=1", b"ARC-Seal: i=3", "a set is not whole"),
            (b"ARC-Seal: i=1", b"ARC-Seal: i=2", "an instance is missing, or there twice"),
            (b"ARC-Seal: i=1", b"ARC-Seal: j=1", "an instance is missing, or there twice"),
            (b"ARC-Message-Signature: i=1;", b"ARC-Message-Signature: i=1; v=1;", "a signature has a version"),
            (b"ARC-Seal: i=1;", b"ARC-Seal: i=1; h=from;", "a seal names fields"),
            (b"ARC-Seal: i=1;", b"X-Seal: i=1;", "a set is not whole"),
            (b"ARC-Seal: i=2; a=ed25519-sha256", b"ARC-Seal: i=2; a=rsa-sha1", "unknown algorithm"),
            (b"ARC-Seal: i=2;", b"ARC-Seal: i=2; i=2;", "tag 'i'"),
            (b"\tb=", b"\tb=!", "base64"),
        ):
            self.assertIn(old, two)
            changed = two.replace(old, new, 1)
            self.assertEqual(self.outcome(changed), (Outcome.FAIL, reason), (old, new))

    def test_keys(self) -> None:
        self.assertIs(judge(self.first, [TEXT], unreachable=True).outcome, Outcome.TEMPERROR)
        chain = Chain(self.first)
        chain.update(TEXT)
        for texts in ((), (ED.record.encode(),), (b"v=DKIM1; p=",)):
            self.assertIs(chain.verdict(dict.fromkeys(chain.key_names, texts), NOW).outcome, Outcome.FAIL)
            chain = Chain(self.first)
            chain.update(TEXT)

    def test_no_more_sets_than_allowed(self) -> None:
        header = PLAIN
        for number in range(3):
            header = seal(header, [TEXT], ED, f"hop{number}.test")
        self.assertEqual(judge(header, [TEXT], most=2).reason, "more than 2 sets")
        self.assertEqual(Chain(header, 2).key_names, ())
        self.assertEqual(seal(header.replace(b"i=3;", b"i=50;"), [TEXT]), header.replace(b"i=3;", b"i=50;"))
