"""Contexts of both sides: which certificate is shown, which options are refused, what mistakes in files say."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import skipUnless

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.envelope import TlsFacts
from mailgate.tls.client import ClientContext, server_name
from mailgate.tls.facts import accepted_facts, tls_facts
from mailgate.tls.options import CAN_CHOOSE_CURVES, SERVER_DEFAULTS, TlsError, TlsOptions, parse_protocols
from mailgate.tls.pairs import KeyPair, self_signed
from mailgate.tls.server import ANYBODY, ClientAuth, Clients, ServerContexts, Site

from .authority import Authority, dns, handshake, write_pair

ROOT = Authority()
EXACT, WILD, OTHER = (ROOT.issue([dns(name)]) for name in ("mx.example.org", "*.example.org", "other.example"))
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
ONLY_ECDSA = ClientContext(options=TlsOptions(frozenset({"TLSV1.2"}), ("ECDHE-ECDSA-AES128-GCM-SHA256",)))


def _connect(contexts: ServerContexts, sni: str | None, context: ClientContext | None = None) -> tuple[Any, Any]:
    creator = (context or ClientContext()).connection_creator(sni)
    return handshake(creator.clientConnectionForTLS(None), contexts.connection_creator().serverConnectionForTLS(None))


class CertificatesByName(SynchronousTestCase):
    def test_exact_then_wildcard_then_the_first(self) -> None:
        contexts = ServerContexts([OTHER, WILD, EXACT])
        for sni, expected in (
            ("mx.example.org", EXACT),
            ("MX.Example.Org.", EXACT),
            ("a.example.org", WILD),
            ("a.b.example.org", OTHER),
            ("example.org", OTHER),
            ("other.example", OTHER),
            ("unknown.example", OTHER),
            (None, OTHER),
        ):
            with self.subTest(sni):
                client, _ = _connect(contexts, sni)
                self.assertEqual(expected.chain[0], client.get_peer_certificate().to_cryptography())

    def test_a_name_beyond_ascii_gets_the_default(self) -> None:
        contexts = ServerContexts([OTHER, EXACT])
        self.assertIs(contexts.for_name(None), contexts.for_name(b"mx\xff.example.org"))

    def test_facts_name_version_cipher_and_server_name(self) -> None:
        client, server = _connect(ServerContexts([OTHER, EXACT]), "mx.example.org")
        facts = tls_facts(server)
        self.assertEqual(("TLS1.3", "mx.example.org", ""), (facts.version, facts.sni, facts.peer_name))
        self.assertTrue(facts.cipher.startswith("TLS_"))
        self.assertEqual("mx.example.org", tls_facts(client, "mx.example.org").peer_name)

    def test_no_pair_is_an_error(self) -> None:
        with self.assertRaises(TlsError):
            ServerContexts([])


class KindsOfKeys(SynchronousTestCase):
    """RSA and ECDSA for one name: the client chooses."""

    def setUp(self) -> None:
        middle = Authority("RSA intermediate", ROOT)
        self.rsa = middle.issue([dns("mx.example.org")], key=rsa.generate_private_key(65537, 2048))
        self.ecdsa = EXACT
        self.suites = {
            "ECDHE-RSA-AES128-GCM-SHA256": self.rsa,
            "ECDHE-ECDSA-AES128-GCM-SHA256": self.ecdsa,
        }

    def _assert_each_is_shown(self, contexts: ServerContexts, sni: str | None) -> None:
        for suite, pair in self.suites.items():
            with self.subTest(f"{suite} {sni}"):
                context = ClientContext(options=TlsOptions(frozenset({"TLSV1.2"}), (suite,)))
                client, _ = _connect(contexts, sni, context)
                chain = [certificate.to_cryptography() for certificate in client.get_peer_cert_chain()]
                self.assertEqual(list(pair.chain), chain)  # each with its own intermediates

    def test_by_the_names_in_them(self) -> None:
        contexts = ServerContexts([OTHER, self.rsa, self.ecdsa])
        self._assert_each_is_shown(contexts, "mx.example.org")
        client, _ = _connect(contexts, None)
        self.assertEqual(OTHER.chain[0], client.get_peer_certificate().to_cryptography())

    def test_by_default(self) -> None:
        self._assert_each_is_shown(ServerContexts([self.ecdsa, OTHER, self.rsa]), None)

    def test_by_the_name_of_a_site(self) -> None:
        contexts = ServerContexts([OTHER], sites=[Site("any.name", (self.rsa, self.ecdsa))])
        self._assert_each_is_shown(contexts, "any.name")

    def test_the_first_of_a_kind_wins(self) -> None:
        again = ROOT.issue([dns("mx.example.org")])
        client, _ = _connect(ServerContexts([self.rsa, again, self.ecdsa]), "mx.example.org", ONLY_ECDSA)
        self.assertEqual(again.chain[0], client.get_peer_certificate().to_cryptography())


class Sites(SynchronousTestCase):
    def test_a_site_goes_before_the_names_in_certificates(self) -> None:
        contexts = ServerContexts([EXACT, WILD], sites=[Site("mx.example.org", (OTHER,)), Site("*.b.example.org", (OTHER,))])
        for sni, expected in (
            ("mx.example.org", OTHER),
            ("a.b.example.org", OTHER),
            ("b.example.org", WILD),
            ("nobody.example", EXACT),
            (None, EXACT),
        ):
            with self.subTest(sni):
                client, _ = _connect(contexts, sni)
                self.assertEqual(expected.chain[0], client.get_peer_certificate().to_cryptography())

    def test_without_pairs_the_first_site_is_the_default(self) -> None:
        client, _ = _connect(ServerContexts([], sites=[Site("a.example", (OTHER,)), Site("b.example", (WILD,))]), "c.example")
        self.assertEqual(OTHER.chain[0], client.get_peer_certificate().to_cryptography())


class ClientCertificates(SynchronousTestCase):
    """A client that shows what it should not, or nothing, gets no handshake (the server's side of it says so)."""

    def _connect(self, clients: Clients, shown: KeyPair | None, sni: str = "a.example", sites: Any = ()) -> TlsFacts:
        contexts = ServerContexts([OTHER], clients=clients, sites=sites)
        _, server = _connect(contexts, sni, ClientContext(certificate=shown))
        return accepted_facts(server)

    def test_the_modes(self) -> None:
        mallory = Authority("Somebody else").issue([dns("gw.example")], usage=CLIENT)
        expired = ROOT.issue([dns("gw.example")], usage=CLIENT, begins=timedelta(days=-9), ends=timedelta(days=-1))
        for_servers = ROOT.issue([dns("gw.example")])
        good = ROOT.issue([dns("gw.example")], usage=CLIENT)
        for auth, shown, passes in (
            (ClientAuth.OFF, None, True),
            (ClientAuth.OFF, mallory, True),
            (ClientAuth.OPTIONAL, None, True),
            (ClientAuth.OPTIONAL, good, True),
            (ClientAuth.OPTIONAL, mallory, False),
            (ClientAuth.OPTIONAL, expired, False),
            (ClientAuth.OPTIONAL, for_servers, False),
            (ClientAuth.REQUIRED, None, False),
            (ClientAuth.REQUIRED, good, True),
            (ClientAuth.REQUIRED, mallory, False),
            (ClientAuth.REQUIRED, expired, False),
            (ClientAuth.REQUIRED, for_servers, False),
        ):
            with self.subTest(f"{auth} {shown is good}"):
                clients = Clients(auth, (ROOT.certificate,))
                if passes:
                    facts = self._connect(clients, shown)
                    self.assertEqual(facts.peer_name, "gw.example" if shown is good and auth is not ClientAuth.OFF else "")
                else:
                    self.assertRaises(SSL.Error, self._connect, clients, shown)

    def test_the_policy_belongs_to_the_name(self) -> None:
        required = Clients(ClientAuth.REQUIRED, (ROOT.certificate,))
        good = ROOT.issue([dns("gw.example")], usage=CLIENT)
        sites = [Site("closed.example", (OTHER,), required)]
        self._connect(ANYBODY, None, "open.example", sites)
        self._connect(ANYBODY, good, "closed.example", sites)
        self.assertRaises(SSL.Error, self._connect, ANYBODY, None, "closed.example", sites)
        sites = [Site("open.example", (OTHER,), ANYBODY)]
        self._connect(required, None, "open.example", sites)
        self.assertRaises(SSL.Error, self._connect, required, None, "closed.example", sites)

    def test_each_name_trusts_its_own_authority(self) -> None:
        other = Authority("Other clients")
        shown = other.issue([dns("gw.example")], usage=CLIENT)
        sites = [Site("closed.example", (OTHER,), Clients(ClientAuth.REQUIRED, (other.certificate,)))]
        required = Clients(ClientAuth.REQUIRED, (ROOT.certificate,))
        self._connect(required, shown, "closed.example", sites)
        self.assertRaises(SSL.Error, self._connect, required, shown, "a.example", sites)

    def test_an_intermediate_or_a_certificate_itself_can_be_trusted(self) -> None:
        middle = Authority("Test intermediate", ROOT)
        shown = middle.issue([dns("gw.example")], usage=CLIENT)
        for trusted in (middle.certificate, shown.chain[0]):
            self._connect(Clients(ClientAuth.REQUIRED, (trusted,)), shown)

    def test_no_session_is_resumed_past_the_question(self) -> None:
        """CVE-2025-23419: begun where nobody asks, resumed where a certificate is required."""
        required = Clients(ClientAuth.REQUIRED, (ROOT.certificate,))
        contexts = ServerContexts([OTHER], sites=[Site("closed.example", (OTHER,), required)])
        for version in ("TLSV1.2", "TLSV1.3"):
            with self.subTest(version):
                context = ClientContext(options=TlsOptions(frozenset({version})))
                client, server = _connect(contexts, "open.example", context)
                server.send(b"x")
                client.bio_write(server.bio_read(4096))
                client.recv(1)  # with it come the tickets of TLS 1.3
                again = context.connection_creator("closed.example").clientConnectionForTLS(None)
                again.set_session(client.get_session())
                self.assertRaises(SSL.Error, handshake, again, contexts.creator.serverConnectionForTLS(None))

    def test_facts_of_a_client(self) -> None:
        both = [dns("GW.example"), x509.RFC822Name("gw@example.org")]
        for shown, name, names in (
            (ROOT.issue(both, usage=CLIENT, common_name="The gateway"), "gw.example", ("gw.example", "gw@example.org")),
            (ROOT.issue(usage=CLIENT, common_name="The gateway"), "The gateway", ()),
        ):
            facts = self._connect(Clients(ClientAuth.REQUIRED, (ROOT.certificate,)), shown)
            self.assertEqual((facts.peer_name, facts.peer_names, facts.peer_subject), (name, names, "CN=The gateway"))
            self.assertEqual(facts.peer_fingerprint, shown.chain[0].fingerprint(hashes.SHA256()).hex())


class Options(SynchronousTestCase):
    def test_protocol_lists(self) -> None:
        for words, expected in (
            (("!SSLv2,!SSLv3,!TLSv1,!TLSv1.1",), {"TLSV1.2", "TLSV1.3"}),
            (("!sslv3",), {"TLSV1", "TLSV1.1", "TLSV1.2", "TLSV1.3"}),
            (("TLSv1.2",), {"TLSV1.2"}),
            (("TLSv1.2,TLSv1.3,!TLSv1.3",), {"TLSV1.2"}),
            (("tls1.1", "tls1.3"), {"TLSV1.1", "TLSV1.2", "TLSV1.3"}),
            (("tls1.2",), {"TLSV1.2"}),
        ):
            with self.subTest(words):
                self.assertEqual(expected, parse_protocols(words))

    def test_protocols_that_select_nothing_or_are_unknown(self) -> None:
        for words in (
            ("TLSv1.2,!TLSv1.2",),
            ("!TLSv1,!TLSv1.1,!TLSv1.2,!TLSv1.3",),
            ("tls1.3", "tls1.2"),
            ("SSLv3",),
            ("TLSv2",),
            ("!TLSv9",),
            ("",),
        ):
            with self.subTest(words), self.assertRaises(TlsError):
                parse_protocols(words)

    def test_options_that_select_nothing(self) -> None:
        for options in (
            TlsOptions(ciphers=("NO-SUCH-CIPHER",)),
            TlsOptions(ciphers=("ECDHE-RSA-AES128-GCM-SHA256", "TYPO")),
            TlsOptions(ciphers=("TLS_NO_SUCH_SUITE",)),
            TlsOptions(ciphers=("HIGH", "!ALL")),
            TlsOptions(ciphers=("höh",)),
            TlsOptions(curves=("no-such-curve",)),
            TlsOptions(curves=("X25519", "typo")),
            TlsOptions(frozenset({"TLSV1.2"}), ("TLS_AES_128_GCM_SHA256",)),
            TlsOptions(frozenset()),
        ):
            with self.subTest(options):
                self.assertRaises(TlsError, ServerContexts, [OTHER], options)
                self.assertRaises(TlsError, ClientContext, options=options)

    def test_a_refused_option_leaves_no_error_behind_for_the_next_connection(self) -> None:
        self.assertRaises(TlsError, ServerContexts, [OTHER], TlsOptions(curves=("typo",)))
        _connect(ServerContexts([OTHER]), None)

    def test_versions_are_kept(self) -> None:
        old = ClientContext(options=TlsOptions(frozenset({"TLSV1.2"})))
        new = ClientContext(options=TlsOptions(frozenset({"TLSV1.3"})))
        only_new = ServerContexts([OTHER], TlsOptions(frozenset({"TLSV1.3"})))
        self.assertEqual("TLS1.3", tls_facts(_connect(only_new, None, new)[0]).version)
        self.assertEqual("TLS1.2", tls_facts(_connect(ServerContexts([OTHER]), None, old)[0]).version)
        self.assertRaises(SSL.Error, _connect, only_new, None, old)

    def test_the_server_default_refuses_tls_before_1_2(self) -> None:
        ancient = ClientContext(options=TlsOptions(frozenset({"TLSV1", "TLSV1.1"})))
        self.assertRaises(SSL.Error, _connect, ServerContexts([OTHER]), None, ancient)

    def test_suites_of_tls_1_3_alone_leave_nothing_for_older_versions(self) -> None:
        contexts = ServerContexts([OTHER], TlsOptions(ciphers=("TLS_CHACHA20_POLY1305_SHA256",)))
        self.assertEqual("TLS_CHACHA20_POLY1305_SHA256", tls_facts(_connect(contexts, None)[1]).cipher)
        old = ClientContext(options=TlsOptions(frozenset({"TLSV1.2"})))
        self.assertRaises(SSL.Error, _connect, contexts, None, old)

    @skipUnless(CAN_CHOOSE_CURVES, "cryptography 47 or newer")
    def test_curves_are_kept(self) -> None:
        contexts = ServerContexts([OTHER], TlsOptions(curves=("secp384r1",)))
        self.assertRaises(SSL.Error, _connect, contexts, None, ClientContext(options=TlsOptions(curves=("X25519",))))
        _connect(contexts, None, ClientContext(options=TlsOptions(curves=("X25519", "secp384r1"))))

    def test_the_default_is_mozillas_intermediate(self) -> None:
        client = ClientContext(options=TlsOptions(frozenset({"TLSV1.2"}), ("AES128-SHA", "ECDHE-ECDSA-AES128-SHA")))
        self.assertRaises(SSL.Error, _connect, ServerContexts([OTHER], SERVER_DEFAULTS), None, client)


class Files(SynchronousTestCase):
    def setUp(self) -> None:
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.certificate, self.key = write_pair(EXACT, self.directory, "exact")

    def _complaint(self, certificate: Path, key: Path) -> str:
        return str(self.assertRaises(TlsError, KeyPair.load, certificate, key))

    def test_a_pair_with_its_chain(self) -> None:
        middle = Authority("middle", ROOT)
        pair = KeyPair.load(*write_pair(middle.issue([dns("a.example")]), self.directory, "chain"))
        self.assertEqual((2, ("a.example",)), (len(pair.chain), pair.names))
        client, _ = _connect(ServerContexts([pair]), None)
        self.assertEqual(2, len(client.get_peer_cert_chain()))

    def test_key_and_certificate_in_one_file(self) -> None:
        both = self.directory / "both.pem"
        both.write_bytes(self.key.read_bytes() + self.certificate.read_bytes())
        self.assertEqual(EXACT.chain, KeyPair.load(both, both).chain)

    def test_the_key_of_another_certificate(self) -> None:
        _, other = write_pair(OTHER, self.directory, "other")
        self.assertEqual(
            f"{other}: this key does not belong to the certificate in {self.certificate}",
            self._complaint(self.certificate, other),
        )

    def test_files_that_are_not_there(self) -> None:
        missing = self.directory / "missing"
        self.assertEqual(f"{missing}: No such file or directory", self._complaint(missing, self.key))
        self.assertEqual(f"{missing}: No such file or directory", self._complaint(self.certificate, missing))

    def test_files_that_are_something_else(self) -> None:
        self.assertIn("no certificate", self._complaint(self.key, self.key))
        self.assertIn("no private key", self._complaint(self.certificate, self.certificate))

    def test_a_file_that_somebody_is_writing(self) -> None:
        """The key fits already, and the leaf is there: but who sent half of a chain would be refused."""
        chain, key = write_pair(Authority("middle", ROOT).issue([dns("a.example")]), self.directory, "chain")
        whole = chain.read_bytes()
        for cut in range(len(whole) // 2, len(whole) - 26, 97):
            chain.write_bytes(whole[:cut])
            self.assertRaises(TlsError, KeyPair.load, chain, key)

    def test_an_encrypted_key(self) -> None:
        locked = self.directory / "locked.key"
        locked.write_bytes(EXACT.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
        self.assertIn("encrypted", self._complaint(self.certificate, locked))

    def test_root_files(self) -> None:
        self.assertRaises(TlsError, ClientContext, [self.directory / "missing"])
        self.assertRaises(TlsError, ClientContext, [self.key])

    def test_a_key_is_not_printed(self) -> None:
        self.assertNotIn("PrivateKey", repr(EXACT))


class SelfSigned(SynchronousTestCase):
    def test_names_and_addresses(self) -> None:
        pair = self_signed(["lab.example", "127.0.0.1"])
        self.assertEqual(("lab.example",), pair.names)
        self.assertFalse(pair.expired())
        client, _ = _connect(ServerContexts([pair]), "lab.example")
        self.assertEqual(pair.chain[0], client.get_peer_certificate().to_cryptography())


class ServerNames(SynchronousTestCase):
    def test_what_stands_in_sni(self) -> None:
        for host, expected in (
            ("mx.example.org", b"mx.example.org"),
            ("mx.example.org.", b"mx.example.org"),
            ("müller.example", b"xn--mller-kva.example"),
            ("192.0.2.1", None),
            ("2001:db8::1", None),
            ("[2001:db8::1]", None),
            ("", None),
            (None, None),
            ("a\0b", None),
        ):
            with self.subTest(host):
                self.assertEqual(expected, server_name(host))
