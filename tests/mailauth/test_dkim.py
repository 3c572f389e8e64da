"""DKIM: we and dkimpy agree on what is signed; every way in which a signature is worth nothing has its result."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from random import Random

import dkim
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.mailauth.canonical import BodyDigest, Fields, Form
from mailgate.mailauth.dkim import Outcome, Result, Signer, Signing, SigningSettings, Unreachable, Verification
from mailgate.mailauth.dkim_keys import (
    ED25519_SHA256,
    RSA_SHA256,
    BadKey,
    Malformed,
    PrivateKey,
    load_private_key,
    new_key,
    parse_record,
    parse_tags,
    zone_line,
)
from tests.mailauth.messages import body, pieces, section
from tests.support.interpreters import needs_nacl

RSA, ED = new_key(RSA_SHA256), new_key(ED25519_SHA256)
NOW = 1_700_000_000.0
NAME = "s1._domainkey.example.org"
PLAIN = b"From: ann@example.org\r\nTo: ben@example.net\r\nSubject: Hello\r\n"
TEXT = b"Hello Ben,\r\n\r\nsee you.\r\n"
DEFAULT = SigningSettings()
FORMS = [(header, one) for header in Form for one in Form]


def sign(header: bytes, content: Iterable[bytes], key: PrivateKey, chosen: SigningSettings = DEFAULT) -> bytes:
    making = Signing(header, chosen)
    for piece in content:
        making.update(piece)
    signer = Signer("example.org", "s1", key)
    return signer.sign(making.unsigned(signer, NOW))


def judge(header: bytes, content: Iterable[bytes], record: str | bytes | Unreachable, now: float = NOW) -> tuple[Result, ...]:
    judging = Verification(header)
    for piece in content:
        judging.update(piece)
    text = record.encode() if isinstance(record, str) else record
    keys = {name: (text,) if isinstance(text, bytes) else text for name in judging.key_names}
    return judging.results(keys, now)


def outcome(header: bytes, content: bytes, record: str | bytes | Unreachable, now: float = NOW) -> tuple[Outcome, str]:
    (result,) = judge(header, [content], record, now)
    return result.outcome, result.reason


class AgreementTests(SynchronousTestCase):
    """With dkimpy, on generated messages."""

    @needs_nacl
    def test_it_verifies_what_we_sign(self) -> None:
        for seed in range(240):
            random = Random(seed)
            header, content = section(random), body(random)
            header_form, body_form = FORMS[seed % 4]
            key = ED if seed % 3 else RSA
            field = sign(header, pieces(random, content), key, SigningSettings(header_form, body_form, expire=1 << 30))
            verifier = dkim.DKIM(field + header + b"\r\n" + content)
            good = verifier.verify(dnsfunc=lambda *_, key=key, **__: key.record.encode())
            self.assertTrue(good, f"seed {seed}")

    @needs_nacl
    def test_we_verify_what_it_signs(self) -> None:
        ed_secret = base64.b64encode(ED.key.private_bytes_raw())  # type: ignore[union-attr]
        for seed in range(240):
            random = Random(seed)
            header, content = section(random), body(random)
            header_form, body_form = FORMS[seed % 4]
            if seed % 3:
                key, secret, algorithm = ED, ed_secret, b"ed25519-sha256"
            else:
                key, secret, algorithm = RSA, RSA.pem, b"rsa-sha256"
            signer = dkim.DKIM(header + b"\r\n" + content, signature_algorithm=algorithm)
            forms = (header_form.value.encode(), body_form.value.encode())
            field = signer.sign(b"s1", b"example.org", secret, canonicalize=forms)
            (result,) = judge(field + header, pieces(random, content), key.record)
            self.assertEqual((result.outcome, result.reason), (Outcome.PASS, ""), f"seed {seed}")

    @needs_nacl
    def test_both_refuse_what_was_changed(self) -> None:
        for seed in range(60):
            random = Random(seed)
            header, content = section(random), body(random) + b"the end\r\n"
            field = sign(header, [content], ED)
            changed = content.replace(b"the end", b"the end?") if seed % 2 else content
            added = b"Subject: more\r\n" if not seed % 2 else b""
            verifier = dkim.DKIM(field + added + header + b"\r\n" + changed)
            self.assertFalse(_verified(verifier), f"seed {seed}")
            (result,) = judge(field + added + header, [changed], ED.record)
            self.assertEqual(result.outcome, Outcome.FAIL, f"seed {seed}")


def _verified(verifier: dkim.DKIM) -> bool:
    try:
        return bool(verifier.verify(dnsfunc=lambda *_, **__: ED.record.encode()))
    except dkim.ValidationError:
        return False


class CanonicalTests(SynchronousTestCase):
    def test_bodies_of_the_rfc(self) -> None:
        content = b" C \r\nD \t E\r\n\r\n\r\n"
        for form, canonical in ((Form.RELAXED, b" C\r\nD E\r\n"), (Form.SIMPLE, b" C \r\nD \t E\r\n")):
            self.assertEqual(_digest(form, [content]), hashlib.sha256(canonical).digest())

    def test_empty_bodies(self) -> None:
        for content in ([], [b""], [b"\r\n"], [b"\r\n\r\n", b"\r\n"]):
            self.assertEqual(_digest(Form.RELAXED, content), hashlib.sha256(b"").digest())
            self.assertEqual(_digest(Form.SIMPLE, content), hashlib.sha256(b"\r\n").digest())

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.sampled_from([b"a", b" ", b"\t", b"\r\n", b"\r", b"\n", b"b c"]), max_size=14), st.randoms())
    def test_cuts_make_no_difference(self, parts: list[bytes], random: Random) -> None:
        content = b"".join(parts)
        cuts = sorted(random.randrange(len(content) + 1) for _ in range(4))
        cut = [content[start:end] for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]
        for form in Form:
            self.assertEqual(_digest(form, cut), _digest(form, [content]), content)

    def test_what_is_held_back_does_not_grow(self) -> None:
        for filler in (b"\r\n", b" ", b" \r\n", b"\r", b"\n"):
            digest = BodyDigest(Form.RELAXED)
            for _ in range(50):
                digest.update(filler * 1000)
            self.assertLessEqual(len(digest._held), 3, filler)

    def test_lower_fields_are_signed_first(self) -> None:
        fields = Fields(b"A: 1\r\nB: 2\r\nA: 3\r\n")
        self.assertEqual(fields.selected([b"a", b"b", b"a", b"a", b"c"]), [b"A: 3\r\n", b"B: 2\r\n", b"A: 1\r\n"])


def _digest(form: Form, content: list[bytes]) -> bytes:
    digest = BodyDigest(form)
    for piece in content:
        digest.update(piece)
    return digest.digest()


class SignatureTests(SynchronousTestCase):
    def test_lines_are_short_and_every_oversigned_name_is_there(self) -> None:
        field = sign(PLAIN, [TEXT], RSA, SigningSettings(expire=60))
        self.assertLessEqual(max(map(len, field.split(b"\r\n"))), 78)
        tags = parse_tags(field.decode().partition(":")[2])
        names = re.sub(r"\s", "", tags["h"]).lower().split(":")
        self.assertEqual([names.count(name) for name in ("from", "subject", "cc", "list-id")], [2, 2, 1, 0])
        self.assertEqual((tags["t"], tags["x"]), ("1700000000", "1700000060"))

    def test_nobody_can_add_a_field_that_is_oversigned(self) -> None:
        field = sign(PLAIN, [TEXT], ED)
        for added in (b"From: eve@example.org\r\n", b"Cc: all@example.net\r\n"):
            self.assertEqual(outcome(field + added + PLAIN, TEXT, ED.record)[0], Outcome.FAIL)
        self.assertEqual(outcome(b"Received: by x\r\n" + field + PLAIN, TEXT, ED.record)[0], Outcome.PASS)

    def test_two_signatures_of_one_body(self) -> None:
        making = Signing(PLAIN, SigningSettings())
        making.update(TEXT)
        signers = [Signer("example.org", "s1", RSA), Signer("example.org", "s2", ED)]
        fields = [signer.sign(making.unsigned(signer, NOW)) for signer in signers]
        judging = Verification(b"".join(fields) + PLAIN)
        judging.update(TEXT)
        self.assertEqual(judging.key_names, (NAME, "s2._domainkey.example.org"))
        keys = {NAME: (RSA.record.encode(),), "s2._domainkey.example.org": (ED.record.encode(),)}
        self.assertEqual([one.outcome for one in judging.results(keys, NOW)], [Outcome.PASS, Outcome.PASS])


class OutcomeTests(SynchronousTestCase):
    """Every result but pass, by what is wrong."""

    def test_keys(self) -> None:
        field = sign(PLAIN, [TEXT], ED) + PLAIN
        other = new_key(ED25519_SHA256).record
        p = ED.record.partition("p=")[2]
        for record, expected in (
            (Unreachable.UNREACHABLE, (Outcome.TEMPERROR, "no answer for the key")),
            ("v=DKIM1; k=ed25519; p=", (Outcome.PERMERROR, "key revoked")),
            ("v=spf1 -all", (Outcome.PERMERROR, "no DKIM key")),
            (f"k=ed25519; v=DKIM1; p={p}", (Outcome.PERMERROR, "no DKIM key")),
            (f"v=DKIM1; k=ed25519; s=tlsrpt; p={p}", (Outcome.PERMERROR, "key not for mail")),
            (f"v=DKIM1; k=ed25519; h=sha1; p={p}", (Outcome.PERMERROR, "key not for this algorithm")),
            (RSA.record, (Outcome.PERMERROR, "key not for this algorithm")),
            ("v=DKIM1; k=ed25519; p=AAAA", (Outcome.PERMERROR, "unusable key")),
            ("v=DKIM1; k=ed25519; p=%%", (Outcome.PERMERROR, "malformed key record")),
            (b"v=DKIM1; n=\xff; p=", (Outcome.PERMERROR, "malformed key record")),
            (other, (Outcome.FAIL, "signature does not match")),
            (f"v=DKIM1; t=s; k=ed25519; p={p}", (Outcome.PASS, "")),
            (f"k=ed25519; p={p}", (Outcome.PASS, "")),
        ):
            self.assertEqual(outcome(field, TEXT, record), expected, record)

    def test_no_key_and_several(self) -> None:
        for texts, expected in (((), Outcome.PERMERROR), ((b"x", ED.record.encode()), Outcome.PASS)):
            judging = Verification(sign(PLAIN, [TEXT], ED) + PLAIN)
            judging.update(TEXT)
            self.assertEqual(judging.results({NAME: texts}, NOW)[0].outcome, expected)

    def test_signatures(self) -> None:
        good = sign(PLAIN, [TEXT], ED).decode()
        for change, expected in (
            (("v=1", "v=2"), (Outcome.PERMERROR, "malformed signature: version")),
            (("a=ed25519-sha256", "a=rsa-sha1"), (Outcome.POLICY, "rsa-sha1 says nothing any more")),
            (("a=ed25519-sha256", "a=magic"), (Outcome.PERMERROR, "unknown algorithm")),
            (("c=relaxed", "c=loose"), (Outcome.PERMERROR, "malformed signature: c=")),
            (("s=s1;", "s=s1; i=@example.net;"), (Outcome.PERMERROR, "malformed signature: i= is outside d=")),
            (("s=s1;", "s=s1; q=http;"), (Outcome.PERMERROR, "malformed signature: q=")),
            (("s=s1;", ""), (Outcome.PERMERROR, "malformed signature: no s=")),
            (("s=s1;", "s=s1; s=s2;"), (Outcome.PERMERROR, "malformed signature: tag 's'")),
            (("h=From:From:", "h="), (Outcome.PERMERROR, "malformed signature: h=")),
            (("d=example.org", "d=exam\u00e9ple.org"), (Outcome.PERMERROR, "malformed signature: not ASCII")),
            (("t=1700000000", "t=1700000000; x=1699999999"), (Outcome.PERMERROR, "malformed signature: x= is before t=")),
            (("t=1700000000", "t=1699999000; x=1699999999"), (Outcome.FAIL, "signature expired")),
            (("s=s1;", "s=s1; l=9999;"), (Outcome.PERMERROR, "the body is shorter than signed")),
            (("s=s1;", "s=s1; l=x;"), (Outcome.PERMERROR, "malformed signature: l=")),
            (("s=s1;", "s=s1; l=4;"), (Outcome.FAIL, "body hash does not match")),
            (("s=s1;", "s=s1; z=From:b=20;"), (Outcome.FAIL, "signature does not match")),
        ):
            self.assertIn(change[0], good)
            field = good.replace(*change).encode()
            self.assertEqual(outcome(field + PLAIN, TEXT, ED.record), expected, change)

    def test_a_part_of_the_body(self) -> None:
        signer = dkim.DKIM(PLAIN + b"\r\n" + TEXT)
        field = signer.sign(b"s1", b"example.org", RSA.pem, length=True)
        self.assertEqual(outcome(field + PLAIN, TEXT, RSA.record)[0], Outcome.PASS)
        more = (Outcome.POLICY, "part of the body is unsigned")
        self.assertEqual(outcome(field + PLAIN, TEXT + b"Buy!\r\n", RSA.record), more)

    def test_short_keys(self) -> None:
        key = PrivateKey(RSA_SHA256, generate_private_key(65537, 1024), 1024)
        self.assertEqual(outcome(sign(PLAIN, [TEXT], key) + PLAIN, TEXT, key.record)[0], Outcome.PASS)
        with self.assertRaises(BadKey):
            load_private_key(b"-----BEGIN PRIVATE KEY-----\n")

    def test_no_signature_and_too_many(self) -> None:
        self.assertEqual(judge(PLAIN, [TEXT], ""), (Result(Outcome.NONE),))
        judging = Verification(sign(PLAIN, [TEXT], ED) * 7 + PLAIN, most=5)
        self.assertEqual((len(judging.results({NAME: ()}, NOW)), judging.left_out), (5, 2))

    def test_a_key_that_is_tried_out(self) -> None:
        (result,) = judge(sign(PLAIN, [TEXT], ED) + PLAIN, [b"else\r\n"], ED.record + "; t=y")
        self.assertEqual((result.outcome, result.testing), (Outcome.FAIL, True))

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=200))
    def test_nothing_raises(self, noise: bytes) -> None:
        header = b"DKIM-Signature: " + noise.replace(b"\n", b"") + b"\r\n" + PLAIN
        for result in judge(header, [TEXT], noise):
            self.assertNotEqual(result.outcome, Outcome.PASS)
        try:
            parse_record(noise)
        except BadKey:
            pass
        try:
            parse_tags(noise.decode("latin-1"))
        except Malformed:
            pass


class KeyTests(SynchronousTestCase):
    def test_pem_comes_back(self) -> None:
        for key in (RSA, ED):
            self.assertEqual(load_private_key(key.pem).record, key.record)

    def test_zone_line(self) -> None:
        line = zone_line(NAME, RSA.record)
        strings = re.findall(r'"([^"]*)"', line)
        self.assertEqual("".join(strings), RSA.record)
        self.assertLessEqual(max(map(len, strings)), 255)
