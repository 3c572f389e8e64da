"""Every directive of `tls` on the wire: which certificate is shown to whom, who gets a handshake, what changes while it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import skipUnless

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from mailgate.testing.client import ConnectionEnded, RawClient, connect
from mailgate.testing.tls import TrustingClient
from mailgate.tls.options import CAN_CHOOSE_CURVES
from mailgate.tls.pairs import KeyPair
from tests.support.scenario import SMTP, SimulatedCase, codes
from tests.tls.authority import Authority, dns, write_pair

TLS = "tls://127.0.0.1:465"
ROOT = Authority()
MX = ROOT.issue([dns("mx.test")])
MX_RSA = ROOT.issue([dns("mx.test")], key=rsa.generate_private_key(65537, 2048))
WILD = ROOT.issue([dns("*.wild.test")])
OTHER = ROOT.issue([dns("other.test")])
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
PARTNER = ROOT.issue([dns("gateway.partner.test")], usage=CLIENT)
STRANGER = Authority("Somebody else").issue([dns("gateway.partner.test")], usage=CLIENT)


def _with(pair: KeyPair | None) -> Callable[[SSL.Context], Any] | None:
    """For `TrustingClient`: show this certificate."""
    return pair.install if pair is not None else None


def _only(*ciphers: str, version: int = SSL.TLS1_2_VERSION) -> Callable[[Any], None]:
    def adjust(context: Any) -> None:
        context.set_max_proto_version(version)
        if ciphers:
            context.set_cipher_list(":".join(ciphers).encode())

    return adjust


class TlsCase(SimulatedCase):
    """``{mx}``, ``{wild}`` and so on in a configuration are certificate and key; ``{ca}`` is the authority."""

    def listen(self, tls: str, more: str = "", pipeline: str = "discard", globals_: str = "") -> Any:
        directory = Path(self.directory)
        pairs = {"mx": MX, "rsa": MX_RSA, "wild": WILD, "other": OTHER}
        names = {name: " ".join(map(str, write_pair(pair, directory, name))) for name, pair in pairs.items()}
        names["ca"] = str(ROOT.write(directory / "ca.pem"))
        for name, value in names.items():
            tls, globals_ = tls.replace(f"{{{name}}}", value), globals_.replace(f"{{{name}}}", value)
        return self.gateway(f"{globals_}\nsmtp {SMTP} {TLS} {{\n{tls}\n{more}\n{pipeline}\n}}\n")

    def secured(self, creator: TrustingClient, endpoint: str = SMTP) -> RawClient:
        """A client after its second hello, by STARTTLS or on the port that begins with TLS."""
        if endpoint == SMTP:
            client = self.client()
            self.assertEqual(self.reactor.run(client.secure(creator))[:3], b"220")
        else:
            client = self.reactor.run(connect(self.reactor, endpoint, tls=creator))
            self.assertEqual(self.reactor.run(client.reply())[:3], b"220")
        self.assertEqual(self.ask(client, b"EHLO client.test")[:3], b"250")
        return client

    def shown(self, sni: str, endpoint: str = SMTP, adjust: Any = None) -> x509.Certificate:
        client = self.secured(TrustingClient(sni, adjust), endpoint)
        certificate: x509.Certificate = client.transport.getPeerCertificate().to_cryptography()
        self.reactor.run(client.quit())
        return certificate

    def assert_shown(self, *rows: tuple[str, KeyPair]) -> None:
        for endpoint in (SMTP, TLS):
            for sni, pair in rows:
                with self.subTest(f"{sni or 'no name'} at {endpoint}"):
                    self.assertEqual(self.shown(sni, endpoint), pair.chain[0])

    def refused(self, creator: TrustingClient, endpoint: str = SMTP) -> None:
        """No handshake, and no word within it."""
        with self.assertRaises((ConnectionEnded, AssertionError)):
            self.secured(creator, endpoint)


class WhichCertificate(TlsCase):
    def test_pairs_by_the_names_in_them(self) -> None:
        self.listen("tls file {mx} {wild} {other}")
        self.assert_shown(
            ("mx.test", MX), ("a.wild.test", WILD), ("other.test", OTHER), ("OTHER.test", OTHER), ("nobody.test", MX), ("", MX)
        )

    def test_rsa_and_ecdsa_for_one_name(self) -> None:
        self.listen("tls file {mx} {rsa}")
        for endpoint in (SMTP, TLS):
            self.assertEqual(self.shown("mx.test", endpoint, _only("ECDHE-RSA-AES128-GCM-SHA256")), MX_RSA.chain[0])
            self.assertEqual(self.shown("mx.test", endpoint, _only("ECDHE-ECDSA-AES128-GCM-SHA256")), MX.chain[0])

    def test_sni(self) -> None:
        self.listen("tls file {mx} {\n sni a.test {\n file {other}\n}\n sni *.b.test {\n file {wild}\n}\n}")
        self.assert_shown(("a.test", OTHER), ("x.b.test", WILD), ("b.test", MX), ("", MX))

    def test_sni_without_anything_else(self) -> None:
        self.listen("tls {\n sni a.test {\n file {other}\n}\n sni b.test {\n file {wild}\n}\n}")
        self.assert_shown(("a.test", OTHER), ("b.test", WILD), ("c.test", OTHER), ("", OTHER))

    def test_the_global_directive_is_shared(self) -> None:
        running = self.listen("", globals_="tls file {mx} {\n sni a.test {\n file {other}\n}\n}")
        self.assert_shown(("a.test", OTHER), ("", MX))
        self.assertEqual(len(running.configuration.globals.tls.made), 1)

    def test_self_signed(self) -> None:
        self.listen("tls self_signed")
        names = self.shown("x.test").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["gateway.test"])

    def test_off(self) -> None:
        self.gateway(f"tls self_signed\nsmtp {SMTP} {{\n tls off\n discard\n}}\n")
        client = self.client()
        self.assertEqual(self.ask(client, b"STARTTLS")[:3], b"502")


class SniLookup(TlsCase):
    LOOKUP = (
        "table.static certificates {\n entry a.test {other}\n entry *.c.test {wild}\n entry gone.test /nowhere.pem /nowhere.key\n"
        ' entry "../../x" {other}\n}\n'
    )

    def test_a_table_gives_the_files(self) -> None:
        self.listen("tls file {mx} {\n sni_lookup &certificates\n}", globals_=self.LOOKUP)
        self.assert_shown(
            ("a.test", OTHER), ("A.TEST", OTHER), ("x.c.test", WILD), ("nobody.test", MX), ("mx.test", MX), ("", MX)
        )

    def test_an_inline_table_and_one_file_for_both(self) -> None:
        certificate, key = write_pair(OTHER, Path(self.directory), "both")
        (Path(self.directory) / "both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
        self.listen("tls file {mx} {\n sni_lookup static {\n entry a.test both.pem\n}\n}")
        self.assert_shown(("a.test", OTHER), ("b.test", MX))

    def test_files_that_are_not_there_end_the_handshake(self) -> None:
        running = self.listen("tls file {mx} {\n sni_lookup &certificates\n}", globals_=self.LOOKUP)
        self.refused(TrustingClient("gone.test"))
        self.refused(TrustingClient("gone.test"), TLS)
        self.assertIn("tls.lookup_failed name=gone.test", running.log_text)
        self.check_alive()

    def test_without_another_certificate_there_is_no_handshake_for_others(self) -> None:
        self.listen("tls {\n sni_lookup &certificates\n}", globals_=self.LOOKUP)
        self.assert_shown(("a.test", OTHER))
        self.refused(TrustingClient("nobody.test"))
        self.refused(TrustingClient(""), TLS)
        self.check_alive()

    def test_whatever_way_the_hello_is_cut(self) -> None:
        self.listen("tls file {mx} {\n sni_lookup &certificates\n}", globals_=self.LOOKUP)
        self.reactor.chop = lambda data: [data[at : at + 1] for at in range(len(data))]
        self.assert_shown(("a.test", OTHER), ("", MX))

    def test_garbage_in_place_of_a_hello(self) -> None:
        self.listen("tls file {mx} {\n sni_lookup &certificates\n}", globals_=self.LOOKUP)
        for garbage in (b"EHLO x\r\n", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"\0" * 70_000):
            client = self.reactor.run(connect(self.reactor, "tcp://127.0.0.1:465"))
            client.send(garbage)
            self.reactor.run(client.wait_closed(40), limit=41)
        self.check_alive()

    def test_silence_in_place_of_a_hello(self) -> None:
        self.listen("tls file {mx} {\n sni_lookup &certificates\n}", "handshake_timeout 10s", globals_=self.LOOKUP)
        for sent in (b"", b"\x16\x03\x01\xff\xff\x01\xff\xff\xff"):
            client = self.reactor.run(connect(self.reactor, "tcp://127.0.0.1:465"))
            client.send(sent)
            before = self.reactor.seconds()
            self.reactor.run(client.wait_closed(40), limit=41)
            self.assertApproximates(self.reactor.seconds() - before, 10.0, 0.5)
        self.check_alive()


class ClientCertificates(TlsCase):
    PIPELINE = (
        'when client_cert_name == "gateway.partner.test" {\n discard\n}\ndefault_source {\n reject 550 5.7.1 "partners only"\n}'
    )

    def _verdicts(self, auth: str, extra: str = "") -> dict[str, str]:
        """What a client hears at RCPT, by what it shows; "closed" if there is no session."""
        self.listen(f"tls file {{mx}} {{\n client_ca {{ca}}\n client_auth {auth}\n{extra}\n}}", pipeline=self.PIPELINE)
        found = {}
        for name, pair in (("good", PARTNER), ("none", None), ("bad", STRANGER)):
            heard = set()
            for endpoint in (SMTP, TLS):
                try:
                    client = self.secured(TrustingClient("mx.test", _with(pair)), endpoint)
                    heard.add(codes(self.deliver(client, b"r@y.test"))[1].decode())
                except (ConnectionEnded, AssertionError):
                    heard.add("closed")
            (found[name],) = heard
        self.check_alive_or_refused()
        return found

    def check_alive_or_refused(self) -> None:
        client = self.client()
        self.assertEqual(codes(self.deliver(client, b"r@y.test"))[1], b"550")  # in clear nobody is a partner

    def test_client_auth_off(self) -> None:
        self.assertEqual(self._verdicts("off"), {"good": "550", "none": "550", "bad": "550"})

    def test_client_auth_optional(self) -> None:
        self.assertEqual(self._verdicts("optional"), {"good": "250", "none": "550", "bad": "closed"})

    def test_client_auth_required(self) -> None:
        self.assertEqual(self._verdicts("required"), {"good": "250", "none": "closed", "bad": "closed"})

    def test_client_auth_by_name(self) -> None:
        site = " sni mx.test {\n file {mx}\n client_auth required\n}\n".replace("{mx}", "./mx.crt ./mx.key")
        self.assertEqual(self._verdicts("off", site), {"good": "250", "none": "closed", "bad": "closed"})


class Options(TlsCase):
    def test_protocols(self) -> None:
        self.listen("tls file {mx} {\n protocols tls1.3 tls1.3\n}")
        self.refused(TrustingClient("mx.test", _only()))
        self.secured(TrustingClient("mx.test"))

    def test_ciphers(self) -> None:
        self.listen("tls file {mx} {\n ciphers ECDHE-ECDSA-AES256-GCM-SHA384\n}")
        self.refused(TrustingClient("mx.test", _only("ECDHE-ECDSA-AES128-GCM-SHA256")))
        self.secured(TrustingClient("mx.test", _only("ECDHE-ECDSA-AES256-GCM-SHA384")))

    @skipUnless(CAN_CHOOSE_CURVES, "cryptography 47 or newer")
    def test_curves(self) -> None:
        def adjust(curve: bytes) -> Callable[[Any], None]:
            return lambda context: SSL._lib.SSL_CTX_set1_curves_list(context._context, curve)

        self.listen("tls file {mx} {\n curves secp384r1\n}")
        self.refused(TrustingClient("mx.test", adjust(b"X25519")))
        self.secured(TrustingClient("mx.test", adjust(b"secp384r1")))


class TlsStart(TlsCase):
    def test_tls_start_begins_with_tls_on_tcp(self) -> None:
        self.listen("tls file {mx}", "tls_start yes")
        client = self.reactor.run(connect(self.reactor, SMTP.replace("tcp", "tls"), tls=TrustingClient("mx.test")))
        self.assertEqual(self.reactor.run(client.reply())[:3], b"220")
        hello = self.ask(client, b"EHLO client.test")
        self.assertNotIn(b"STARTTLS", hello)
        self.assertEqual(self.ask(client, b"STARTTLS")[:3], b"503")
        self.assertEqual(codes(self.deliver(client, b"r@y.test"))[-1], b"250")

    def test_tls_start_says_nothing_in_clear(self) -> None:
        self.listen("tls file {mx}", "tls_start yes\nhandshake_timeout 10s")
        silent = self.reactor.run(connect(self.reactor, SMTP))
        self.reactor.run(silent.wait_closed(20), limit=21)
        self.assertEqual(bytes(silent.received), b"")

    def test_tls_start_behind_the_proxy_protocol(self) -> None:
        self.listen("tls file {mx}", "tls_start yes\nproxy_protocol {\n trust 127.0.0.1\n required yes\n}")
        client = self.reactor.run(connect(self.reactor, SMTP))
        client.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 25\r\n")
        client.start_tls(TrustingClient("mx.test"))
        self.assertEqual(self.reactor.run(client.reply())[:3], b"220")
        self.assertEqual(client.transport.getPeerCertificate().to_cryptography(), MX.chain[0])


class StartTls(TlsCase):
    """RFC 3207 4.2, and the attacks on it (NO STARTTLS, 2021)."""

    def test_what_stands_behind_the_command_is_an_injection(self) -> None:
        running = self.listen("tls file {mx}")
        for number, behind in enumerate(
            (b"NOOP\r\n", b"MAIL FROM:<evil@x.test>\r\n", b"N", b"\n", b"\x16\x03\x01\x02\x00\x01"), 1
        ):
            client = self.client()
            client.send(b"STARTTLS\r\n" + behind)
            self.assertEqual(self.reactor.run(client.reply())[:9], b"554 5.5.1")
            self.reactor.run(client.wait_closed())
            self.assertEqual(len(running.logged("protocol.injection")), number)
        self.check_alive()

    def test_what_comes_in_clear_after_the_220_is_not_heard(self) -> None:
        self.listen("tls file {mx}")
        client = self.client()
        self.assertEqual(self.ask(client, b"STARTTLS")[:3], b"220")
        heard = len(client.received)
        client.send(b"EHLO evil.test\r\nMAIL FROM:<evil@x.test>\r\n")
        self.reactor.run(client.wait_closed(40), limit=41)
        self.assertFalse(any(line[:3].isdigit() for line in bytes(client.received[heard:]).split(b"\r\n")))
        self.check_alive()

    def test_name_login_and_transaction_are_forgotten(self) -> None:
        self.listen(
            "tls file {mx}",
            "auth static {\n entry alice secret\n}\ninsecure_auth yes",
            pipeline='when auth_user == "alice" {\n discard\n}\ndefault_source {\n reject 550 5.7.1 "who are you"\n}',
        )
        client = self.client()
        self.assertEqual(self.ask(client, b"AUTH PLAIN AGFsaWNlAHNlY3JldA==")[:3], b"235")
        self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@x.test>")
        self.assertEqual(self.ask(client, b"STARTTLS")[:3], b"503")  # not inside a transaction
        self.ask(client, b"RSET")
        self.assertEqual(self.reactor.run(client.secure(TrustingClient("mx.test")))[:3], b"220")
        self.assertEqual(self.ask(client, b"MAIL FROM:<a@x.test>")[:3], b"503")  # EHLO first
        self.assertIn(b"AUTH ", self.ask(client, b"EHLO client.test"))  # not logged in
        self.assertEqual(codes(self.deliver(client, b"b@x.test"))[1], b"550")

    def test_a_second_starttls(self) -> None:
        self.listen("tls file {mx}")
        for endpoint in (SMTP, TLS):
            client = self.secured(TrustingClient("mx.test"), endpoint)
            self.assertEqual(self.ask(client, b"STARTTLS")[:9], b"503 5.5.1")
            self.assertEqual(codes(self.deliver(client, b"r@y.test"))[-1], b"250")

    def test_starttls_takes_no_argument(self) -> None:
        self.listen("tls file {mx}")
        self.assertEqual(self.ask(self.client(), b"STARTTLS now")[:9], b"501 5.5.4")


class LiveReload(TlsCase):
    def test_a_new_certificate_is_shown_within_five_seconds_and_sessions_go_on(self) -> None:
        running = self.listen("tls file {mx}")
        open_session = self.secured(TrustingClient("mx.test"))
        new = ROOT.issue([dns("mx.test")])
        write_pair(new, Path(self.directory), "mx")
        self.reactor.advance(5)
        self.assert_shown(("mx.test", new), ("", new))
        self.assertEqual(codes(self.deliver(open_session, b"r@y.test"))[-1], b"250")
        self.assertEqual(len(running.logged("tls.reloaded")), 1)

    def test_a_pair_that_does_not_fit_is_never_shown(self) -> None:
        running = self.listen("tls file {mx} {other}")
        new = ROOT.issue([dns("mx.test")])
        certificate, key = write_pair(new, Path(self.directory), "new")
        directory = Path(self.directory)
        for step in (
            lambda: (directory / "mx.crt").write_bytes(certificate.read_bytes()),
            lambda: (directory / "mx.key").write_bytes(key.read_bytes()[:100]),
            lambda: (directory / "mx.key").unlink(),
        ):
            step()
            for _ in range(3):
                self.reactor.advance(5)
            self.assert_shown(("mx.test", MX), ("other.test", OTHER))
        self.assertEqual(len(running.logged("tls.not_reloaded")), 3)  # once for each state of the files
        (directory / "mx.key").write_bytes(key.read_bytes())
        self.reactor.advance(5)
        self.assert_shown(("mx.test", new), ("other.test", OTHER))
        self.assertEqual(len(running.logged("tls.reloaded")), 1)

    def test_one_broken_pair_does_not_hold_up_another(self) -> None:
        self.listen("tls file {mx} {\n sni other.test {\n file {other}\n}\n}")
        new = ROOT.issue([dns("other.test")])
        write_pair(new, Path(self.directory), "other")
        (Path(self.directory) / "mx.crt").write_text("half")
        self.reactor.advance(5)
        self.assert_shown(("mx.test", MX), ("other.test", new))

    def test_whom_clients_must_be_known_to(self) -> None:
        self.listen("tls file {mx} {\n client_ca {ca}\n client_auth required\n}")
        self.refused(TrustingClient("mx.test", _with(STRANGER)))
        other = Authority("Somebody else again")
        other.write(Path(self.directory) / "ca.pem")
        self.reactor.advance(5)
        self.refused(TrustingClient("mx.test", _with(PARTNER)))
        self.secured(TrustingClient("mx.test", _with(other.issue([dns("x.test")], usage=CLIENT))))

    def test_files_that_a_table_has_named(self) -> None:
        self.listen("tls file {mx} {\n sni_lookup static {\n entry a.test {other}\n}\n}")
        self.assert_shown(("a.test", OTHER))
        new = ROOT.issue([dns("a.test")])
        write_pair(new, Path(self.directory), "other")
        self.reactor.advance(5)
        self.assert_shown(("a.test", new))
        (Path(self.directory) / "other.key").write_text("half")
        self.reactor.advance(120)
        self.assert_shown(("a.test", new))
