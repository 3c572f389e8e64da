"""TLSA records against certificates of every shape (RFC 7671, 7672)."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.tls.client import ClientContext
from mailgate.tls.dane import Tlsa, usable, verify_dane
from mailgate.tls.pairs import KeyPair
from mailgate.tls.server import ServerContexts
from mailgate.tls.verification import Verdict

from .authority import Authority, dns, handshake

ROOT = Authority()
MIDDLE = Authority("Test intermediate", ROOT)
STRANGER = Authority("Another root")
HOST = "mx.example.net"
CONTEXT = ClientContext()
LEAF = ROOT.issue([dns(HOST)])


def with_root(pair: KeyPair) -> KeyPair:
    """A server that sends its root too, as DANE-TA asks it to."""
    return KeyPair((*pair.chain, ROOT.certificate), pair.key, "test")


def tlsa(usage: int, selector: int, matching: int, certificate: x509.Certificate) -> Tlsa:
    data = certificate.public_bytes(Encoding.DER)
    if selector:
        data = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if matching:
        data = (hashlib.sha256 if matching == 1 else hashlib.sha512)(data).digest()
    return Tlsa(usage, selector, matching, data)


def verify(pair: KeyPair, *records: Tlsa, names: tuple[str, ...] = (HOST,)) -> Verdict:
    server: Any = ServerContexts([pair]).connection_creator().serverConnectionForTLS(None)
    client, _ = handshake(CONTEXT.connection_creator(HOST).clientConnectionForTLS(None), server)
    return verify_dane(client, usable(records), names)


class EndEntityTests(SynchronousTestCase):
    def test_every_selector_and_digest(self) -> None:
        for selector in (0, 1):
            for matching in (0, 1, 2):
                record = tlsa(3, selector, matching, LEAF.chain[0])
                verdict = verify(LEAF, record)
                self.assertTrue(verdict.ok, (selector, matching, verdict.reason))
                self.assertEqual(verdict.matched_name, f"TLSA {record}")
                self.assertFalse(verify(ROOT.issue([dns(HOST)]), record).ok)

    def test_names_dates_and_issuers_are_not_looked_at(self) -> None:
        for pair in (
            STRANGER.issue([dns("other.example")]),
            ROOT.issue([dns(HOST)], begins=timedelta(days=-9), ends=timedelta(days=-1)),
            ROOT.issue([dns(HOST)], usage=[ExtendedKeyUsageOID.CLIENT_AUTH]),
        ):
            self.assertTrue(verify(pair, tlsa(3, 1, 1, pair.chain[0]), names=()).ok)

    def test_one_of_several_records(self) -> None:
        other = ROOT.issue([dns(HOST)])
        self.assertTrue(verify(LEAF, tlsa(3, 1, 1, other.chain[0]), tlsa(3, 1, 1, LEAF.chain[0])).ok)

    def test_a_record_of_the_authority_is_none_of_the_peer(self) -> None:
        self.assertFalse(verify(with_root(LEAF), tlsa(3, 0, 1, ROOT.certificate)).ok)


class AuthorityTests(SynchronousTestCase):
    def test_the_authority_in_the_chain(self) -> None:
        for selector in (0, 1):
            for matching in (0, 1, 2):
                verdict = verify(with_root(LEAF), tlsa(2, selector, matching, ROOT.certificate))
                self.assertTrue(verdict.ok, (selector, matching, verdict.reason))

    def test_an_intermediate_is_enough(self) -> None:
        self.assertTrue(verify(MIDDLE.issue([dns(HOST)]), tlsa(2, 0, 1, MIDDLE.certificate)).ok)

    def test_an_authority_that_is_not_sent(self) -> None:
        self.assertFalse(verify(LEAF, tlsa(2, 0, 1, ROOT.certificate)).ok)
        self.assertTrue(verify(LEAF, tlsa(2, 0, 0, ROOT.certificate)).ok)

    def test_names_and_dates_count(self) -> None:
        record = tlsa(2, 0, 1, ROOT.certificate)
        for pair, names, expected in (
            (LEAF, ("other.example",), False),
            (LEAF, ("other.example", HOST), True),
            (LEAF, (), False),
            (ROOT.issue([dns(HOST)], begins=timedelta(days=-9), ends=timedelta(days=-1)), (HOST,), False),
            (ROOT.issue([dns(HOST)], usage=[ExtendedKeyUsageOID.CLIENT_AUTH]), (HOST,), False),
            (ROOT.issue(common_name=HOST), (HOST,), False),
        ):
            self.assertEqual(verify(with_root(pair), record, names=names).ok, expected)

    def test_a_chain_that_does_not_lead_there(self) -> None:
        stranger = with_root(STRANGER.issue([dns(HOST)]))
        self.assertFalse(verify(stranger, tlsa(2, 0, 1, ROOT.certificate)).ok)

    def test_a_record_of_the_leaf_is_no_authority(self) -> None:
        self.assertFalse(verify(LEAF, tlsa(2, 0, 1, LEAF.chain[0])).ok)


class UsableTests(SynchronousTestCase):
    def test_what_smtp_does_not_use(self) -> None:
        digest = bytes(32)
        for record in (
            Tlsa(0, 0, 1, digest),
            Tlsa(1, 1, 1, digest),
            Tlsa(4, 1, 1, digest),
            Tlsa(3, 2, 1, digest),
            Tlsa(3, 1, 3, digest),
            Tlsa(3, 1, 1, digest[:31]),
            Tlsa(3, 1, 2, digest),
            Tlsa(2, 0, 0, b"no certificate"),
            Tlsa(3, 1, 0, b""),
        ):
            self.assertEqual(usable([record]), (), record)

    def test_of_several_digests_the_strongest_counts(self) -> None:
        weak, strong = tlsa(3, 1, 1, LEAF.chain[0]), tlsa(3, 1, 2, ROOT.certificate)
        self.assertEqual(usable([weak, strong]), (strong,))
        self.assertFalse(verify(LEAF, weak, strong).ok)
        full = tlsa(3, 1, 0, LEAF.chain[0])
        self.assertEqual(set(usable([full, weak])), {full, weak})
        self.assertEqual(set(usable([weak, tlsa(3, 0, 2, LEAF.chain[0])])), {weak, tlsa(3, 0, 2, LEAF.chain[0])})

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=80)), max_size=5))
    def test_records_of_strangers_let_nobody_in(self, records: list[tuple[int, int, int, bytes]]) -> None:
        self.assertFalse(verify(LEAF, *(Tlsa(*record) for record in records)).ok)
