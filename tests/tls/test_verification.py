"""Certificates right and wrong, judged by us and by the standard library."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from mailgate.tls.client import ClientContext
from mailgate.tls.pairs import KeyPair, self_signed
from mailgate.tls.server import ServerContexts
from mailgate.tls.verification import Verdict, verify_chain, verify_peer

from .authority import Authority, dns, handshake, oracle_refusal, raw_dns

ROOT = Authority()
MIDDLE = Authority("Test intermediate", ROOT)
CLIENTS_ONLY = Authority("Clients only", ROOT, usage=[ExtendedKeyUsageOID.CLIENT_AUTH])
STRANGER = Authority("Another root")
HOST = "mx.example.net"
SIGNS_ONLY_CERTIFICATES = x509.KeyUsage(False, False, False, False, False, True, False, False, False)


def _ip(text: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(text))


def _server(pair: KeyPair) -> Any:
    return ServerContexts([pair]).connection_creator().serverConnectionForTLS(None)


class _Verification(SynchronousTestCase):
    def setUp(self) -> None:
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.context = ClientContext([ROOT.write(Path(directory.name) / "root.pem")])

    def verify(self, pair: KeyPair, *names: str, context: ClientContext | None = None) -> Verdict:
        context = context or self.context
        client, _ = handshake(context.connection_creator(HOST).clientConnectionForTLS(None), _server(pair))
        return verify_peer(client, context, names)


GOOD = [
    ("its name", ROOT.issue([dns(HOST)]), HOST),
    ("one of several names", ROOT.issue([dns("a.example"), dns(HOST)]), HOST),
    ("over an intermediate", MIDDLE.issue([dns(HOST)]), HOST),
    ("a wildcard over one label", ROOT.issue([dns("*.example.net")]), HOST),
    ("letters of another case", ROOT.issue([dns("MX.Example.NET")]), HOST),
    ("an address", ROOT.issue([_ip("192.0.2.1")]), "192.0.2.1"),
    ("an IPv6 address", ROOT.issue([_ip("2001:db8::1")]), "2001:db8::1"),
    ("no extended key usage", ROOT.issue([dns(HOST)], usage=None), HOST),
    ("an RSA key", ROOT.issue([dns(HOST)], key=rsa.generate_private_key(65537, 2048)), HOST),
]

BAD = [
    ("wrong name", ROOT.issue([dns("other.example.net")]), HOST),
    ("common name only", ROOT.issue(common_name=HOST), HOST),
    ("common name beside another name", ROOT.issue([dns("other.example")], common_name=HOST), HOST),
    ("partial wildcard before", ROOT.issue([raw_dns("m*.example.net")]), HOST),
    ("partial wildcard behind", ROOT.issue([raw_dns("*x.example.net")]), HOST),
    ("wildcard over two labels", ROOT.issue([dns("*.example.net")]), "a.mx.example.net"),
    ("wildcard for the parent", ROOT.issue([dns("*.example.net")]), "example.net"),
    ("wildcard in the second label", ROOT.issue([raw_dns("mx.*.net")]), HOST),
    ("wildcard of a whole top-level domain", ROOT.issue([raw_dns("*.net")]), "example.net.example"),
    ("expired", ROOT.issue([dns(HOST)], begins=timedelta(days=-9), ends=timedelta(days=-1)), HOST),
    ("not yet valid", ROOT.issue([dns(HOST)], begins=timedelta(days=1)), HOST),
    ("unknown authority", STRANGER.issue([dns(HOST)]), HOST),
    ("missing intermediate", MIDDLE.issue([dns(HOST)], with_intermediates=False), HOST),
    ("for clients only", ROOT.issue([dns(HOST)], usage=[ExtendedKeyUsageOID.CLIENT_AUTH]), HOST),
    ("for any purpose only", ROOT.issue([dns(HOST)], usage=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), HOST),
    ("issued by an authority for clients", CLIENTS_ONLY.issue([dns(HOST)]), HOST),
    ("key only for certificates", ROOT.issue([dns(HOST)], key_usage=SIGNS_ONLY_CERTIFICATES), HOST),
    ("address as a DNS name", ROOT.issue([raw_dns("192.0.2.1")]), "192.0.2.1"),
    ("another address", ROOT.issue([_ip("192.0.2.2")]), "192.0.2.1"),
    ("a space before the name", ROOT.issue([raw_dns(f" {HOST}")]), HOST),
    ("a line end behind the name", ROOT.issue([raw_dns(f"{HOST}\n")]), HOST),
    ("NUL in the name", ROOT.issue([raw_dns("mx.example.net\0.evil.example")]), HOST),
]


class GoodCertificates(_Verification):
    def test_each_passes_and_says_why(self) -> None:
        for label, pair, name in GOOD:
            with self.subTest(label):
                verdict = self.verify(pair, name)
                self.assertEqual((True, "", name), (verdict.ok, verdict.reason, verdict.matched_name))

    def test_the_oracle_agrees(self) -> None:
        for label, pair, name in GOOD:
            with self.subTest(label):
                self.assertEqual("", oracle_refusal(_server(pair), ROOT, name))

    def test_the_chain_leads_to_the_anchor(self) -> None:
        verdict = self.verify(MIDDLE.issue([dns(HOST)]), HOST)
        self.assertEqual([MIDDLE.certificate, ROOT.certificate], list(verdict.chain[1:]))

    def test_any_of_several_names_is_enough(self) -> None:
        verdict = self.verify(ROOT.issue([dns(HOST)]), "nobody.example", HOST + ".")
        self.assertEqual((True, HOST + "."), (verdict.ok, verdict.matched_name))

    def test_names_with_letters_beyond_ascii(self) -> None:
        self.assertTrue(self.verify(ROOT.issue([dns("xn--mller-kva.example")]), "müller.example").ok)

    def test_an_address_literal_in_brackets(self) -> None:
        self.assertTrue(self.verify(ROOT.issue([_ip("2001:db8::1")]), "[2001:db8::1]").ok)


class BadCertificates(_Verification):
    def test_each_is_refused(self) -> None:
        for label, pair, name in BAD:
            with self.subTest(label):
                verdict = self.verify(pair, name)
                self.assertFalse(verdict.ok)
                self.assertNotEqual("", verdict.reason)
                self.assertEqual("", verdict.matched_name)

    def test_the_oracle_refuses_too(self) -> None:
        """The table itself is right: each of these is one that the standard library refuses."""
        for label, pair, name in BAD:
            with self.subTest(label):
                self.assertNotEqual("", oracle_refusal(_server(pair), ROOT, name))

    def test_weak_keys(self) -> None:
        weak = rsa.generate_private_key(65537, 1024)
        leaf = ROOT.issue([dns(HOST)], key=weak)
        self.assertIn("weak", _judge(self.context, leaf).reason)

    def test_a_malformed_name_refuses_the_good_one_beside_it(self) -> None:
        for name in ("*.*.example", "192.0.2.1", "a\0b"):
            with self.subTest(name):
                self.assertFalse(self.verify(ROOT.issue([dns(HOST), raw_dns(name)]), HOST).ok)

    def test_no_names_to_verify(self) -> None:
        self.assertFalse(self.verify(ROOT.issue([dns(HOST)])).ok)

    def test_names_that_are_none(self) -> None:
        for name in ("", "*", "*.example.net", " ", "..", "a b", ".", "\0"):
            with self.subTest(name):
                self.assertFalse(self.verify(ROOT.issue([dns(HOST), dns("*.example.net")]), name).ok)

    def test_without_trust_anchors_nobody_passes(self) -> None:
        self.assertFalse(self.verify(ROOT.issue([dns(HOST)]), HOST, context=ClientContext()).ok)

    def test_a_self_signed_leaf(self) -> None:
        self.assertFalse(self.verify(self_signed([HOST]), HOST).ok)


class DotNames(_Verification):
    CASES = (
        ("mx.example.net", True),
        ("*.example.net", True),
        ("a.mx.example.net", False),
        ("example.net", False),
        ("mx.example.org", False),
        ("*.mx.example.net", False),
    )

    def test_exactly_one_label_below(self) -> None:
        for presented, expected in self.CASES:
            with self.subTest(presented):
                self.assertEqual(expected, self.verify(ROOT.issue([dns(presented)]), ".example.net").ok)


class _Connection:
    """A connection that was handed over with any certificate, or fails."""

    def __init__(self, chain: Any = (), error: Exception | None = None) -> None:
        self.chain = chain
        self.error = error

    def get_peer_certificate(self) -> Any:
        if self.error:
            raise self.error
        return self.chain[0] if self.chain else None

    def get_peer_cert_chain(self) -> Any:
        return list(self.chain)


def _judge(context: ClientContext, pair: KeyPair) -> Verdict:
    return verify_peer(_Connection([crypto.X509.from_cryptography(c) for c in pair.chain]), context, [HOST])


class FailsClosed(_Verification):
    def test_no_certificate(self) -> None:
        self.assertEqual((False, "the peer has no certificate"), _outcome(verify_peer(_Connection(), self.context, [HOST])))

    def test_whatever_is_raised_refuses(self) -> None:
        for error in (RuntimeError("broken"), KeyError("x"), SSL.Error([]), AssertionError(), MemoryError()):
            with self.subTest(repr(error)):
                self.assertFalse(verify_peer(_Connection(error=error), self.context, [HOST]).ok)
                self.assertFalse(verify_chain(_Connection(error=error), self.context).ok)

    def test_the_chain_alone_asks_no_name(self) -> None:
        client, _ = handshake(self.context.connection_creator(HOST).clientConnectionForTLS(None), _server(GOOD[0][1]))
        self.assertTrue(verify_chain(client, self.context).ok)

    def test_what_was_sent_is_in_a_refusal(self) -> None:
        pair = STRANGER.issue([dns(HOST)])
        self.assertEqual(pair.chain, self.verify(pair, HOST).chain)


def _outcome(verdict: Verdict) -> tuple[bool, str]:
    return verdict.ok, verdict.reason
