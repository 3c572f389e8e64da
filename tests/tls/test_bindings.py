"""Channel bindings: the same on both sides, as their RFCs say, and absent where there is none."""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from mailgate.tls.bindings import TLS_EXPORTER, TLS_SERVER_END_POINT, channel_bindings
from mailgate.tls.client import ClientContext
from mailgate.tls.options import TlsOptions
from mailgate.tls.pairs import KeyPair, self_signed
from mailgate.tls.server import ServerContexts

from .authority import Authority, dns, handshake

ROOT = Authority()
TLS12 = TlsOptions(frozenset({"TLSV1.2"}))


def _both(pair: KeyPair, options: TlsOptions | None = None) -> tuple[dict[str, bytes], dict[str, bytes], Any]:
    creator = ClientContext(options=options or TlsOptions()).connection_creator("a.example")
    client, server = handshake(
        creator.clientConnectionForTLS(None), ServerContexts([pair]).connection_creator().serverConnectionForTLS(None)
    )
    return channel_bindings(client, server=False), channel_bindings(server, server=True), client


class ChannelBindings(SynchronousTestCase):
    def test_tls_1_3_has_both_the_exporter_first(self) -> None:
        ours, theirs, client = _both(ROOT.issue([dns("a.example")]))
        self.assertEqual(ours, theirs)
        self.assertEqual(list(ours), [TLS_EXPORTER, TLS_SERVER_END_POINT])
        self.assertEqual(ours[TLS_EXPORTER], client.export_keying_material(b"EXPORTER-Channel-Binding", 32))
        self.assertEqual(len(ours[TLS_EXPORTER]), 32)

    def test_two_connections_have_two_exporters_and_one_end_point(self) -> None:
        pair = ROOT.issue([dns("a.example")])
        (one, _, _), (two, _, _) = _both(pair), _both(pair)
        self.assertNotEqual(one[TLS_EXPORTER], two[TLS_EXPORTER])
        self.assertEqual(one[TLS_SERVER_END_POINT], two[TLS_SERVER_END_POINT])

    def test_tls_1_2_has_the_end_point_only(self) -> None:
        ours, theirs, _ = _both(ROOT.issue([dns("a.example")]), TLS12)
        self.assertEqual(ours, theirs)
        self.assertEqual(list(ours), [TLS_SERVER_END_POINT])

    def test_the_end_point_is_hashed_as_the_signature_is(self) -> None:
        for digest, expected in (
            (hashes.SHA256(), hashlib.sha256),
            (hashes.SHA384(), hashlib.sha384),
            (hashes.SHA512(), hashlib.sha512),
        ):
            with self.subTest(digest.name):
                pair = ROOT.issue([dns("a.example")], digest=digest)
                ours, _, _ = _both(pair)
                self.assertEqual(ours[TLS_SERVER_END_POINT], expected(pair.chain[0].public_bytes(Encoding.DER)).digest())

    def test_the_end_point_of_the_certificate_that_was_shown(self) -> None:
        """A server with an RSA and an ECDSA certificate for a name: the client decides which one counts."""
        ecdsa = ROOT.issue([dns("a.example")])
        both = ServerContexts([ROOT.issue([dns("a.example")], key=rsa.generate_private_key(65537, 2048)), ecdsa])
        for suite, pair in (("ECDHE-ECDSA-AES128-GCM-SHA256", ecdsa), ("ECDHE-RSA-AES128-GCM-SHA256", both.pairs[0])):
            with self.subTest(suite):
                creator = ClientContext(options=TlsOptions(TLS12.protocols, (suite,))).connection_creator("a.example")
                _, server = handshake(
                    creator.clientConnectionForTLS(None), both.connection_creator().serverConnectionForTLS(None)
                )
                expected = hashlib.sha256(pair.chain[0].public_bytes(Encoding.DER)).digest()
                self.assertEqual(channel_bindings(server, server=True)[TLS_SERVER_END_POINT], expected)

    def test_a_signature_without_a_hash_has_no_end_point(self) -> None:
        authority = Authority()
        authority.key = ed25519.Ed25519PrivateKey.generate()
        key = self_signed(["a.example"]).key
        pair = authority.issue([dns("a.example")], key=key, digest=None, unhashed=True)
        ours, theirs, _ = _both(pair)
        self.assertEqual((list(ours), ours), ([TLS_EXPORTER], theirs))
