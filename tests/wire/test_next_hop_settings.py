"""Settings of next hops as the configuration writes them and the wire shows them: what the tables of TLS and AUTH leave out."""

from __future__ import annotations

from typing import Any
from unittest import skipUnless

from OpenSSL import SSL
from OpenSSL.crypto import get_elliptic_curve

from mailgate.testing.nexthop import NextHop
from mailgate.testing.tls import CertificateServer
from mailgate.tls.options import CAN_CHOOSE_CURVES
from tests.support.certificates import Leaf, authority, leaf
from tests.support.scenario import SMTP, SimulatedCase, codes

NAME = "next.test"
TAKEN = [b"250", b"250", b"354", b"250"]


class NextHopCase(SimulatedCase):
    def to(self, endpoint: str, settings: str = "", *, kind: str = "smtp", glob: str = "") -> None:
        """A gateway with one inline target."""
        self.reactor.hosts[NAME] = "127.0.0.1"
        self.gateway(
            f"{glob}smtp {SMTP} {{\n tls off\n deliver_to {kind} {endpoint} {{\n command_timeout 20s\n{settings}\n}}\n}}\n"
        )

    def passes(self) -> bool:
        replies = codes(self.deliver(self.client(), b"r@y.test"))
        self.assertIn(replies[1], (b"250", b"451"), replies)
        return replies == TAKEN


class TlsOfANextHop(NextHopCase):
    """Each row: a setting, and what the next hop can do."""

    def secure(self, settings: str, adjust: Any = None, certificate: Leaf | None = None) -> tuple[NextHop, list[Any]]:
        """A next hop behind STARTTLS that notes every connection's handshake."""
        seen: list[Any] = []
        issued = certificate or leaf(NAME)

        def prepare(context: SSL.Context) -> None:
            context.set_info_callback(lambda connection, where, _: seen.append(connection) if where & 0x20 else None)
            if adjust is not None:
                adjust(context)

        server = CertificateServer(issued.chain, issued.key, prepare)
        hop = self.hop(tls=server)
        self.to(f"tcp://{NAME}:{hop.port}", f"tls require\n{settings}")
        return hop, seen

    def test_protocols(self) -> None:
        for settings, most, expected in (
            ("", SSL.TLS1_3_VERSION, "TLSv1.3"),
            ("", SSL.TLS1_2_VERSION, "TLSv1.2"),
            ("tls_protocols TLSv1.2", SSL.TLS1_3_VERSION, "TLSv1.2"),
            ("tls_protocols !TLSv1.3,!TLSv1.1,!TLSv1", SSL.TLS1_3_VERSION, "TLSv1.2"),
            ("tls_protocols TLSv1.3", SSL.TLS1_2_VERSION, ""),
            ("tls_client {\nprotocols tls1.2\n}", SSL.TLS1_3_VERSION, "TLSv1.2"),
        ):
            with self.row(f"{settings} {most}"):
                _, seen = self.secure(settings, lambda context, most=most: context.set_max_proto_version(most))
                self.assertEqual(self.passes(), bool(expected))
                if expected:
                    self.assertEqual(seen[-1].get_protocol_version_name(), expected)

    def test_ciphers(self) -> None:
        name = "ECDHE-ECDSA-AES256-GCM-SHA384"
        for settings in (f"tls_ciphers {name}", f"tls_client {{\nciphers {name}\n}}"):
            with self.row(settings):
                _, seen = self.secure(f"tls_protocols TLSv1.2\n{settings}")
                self.assertTrue(self.passes())
                self.assertEqual(seen[-1].get_cipher_name(), name)
            with self.row(f"{settings}, not there"):
                self.secure(f"tls_protocols TLSv1.2\n{settings}", lambda context: context.set_cipher_list(b"ECDHE+CHACHA20"))
                self.assertFalse(self.passes())

    @skipUnless(CAN_CHOOSE_CURVES, "cryptography 47 or newer")
    def test_curves(self) -> None:
        def only(context: SSL.Context) -> None:
            context.set_tmp_ecdh(get_elliptic_curve("prime256v1"))

        for curve, passes in (("prime256v1", True), ("secp384r1", False)):
            with self.row(curve):
                self.secure(f"tls_protocols TLSv1.2\ntls_client {{\ncurves {curve}\n}}", only)
                self.assertEqual(self.passes(), passes)

    def test_starttls(self) -> None:
        """Over SMTP where it is offered, over LMTP only when that is asked for; the words of maddy and those of Halon."""
        for kind, settings, secure in (
            ("smtp", "", True),
            ("smtp", "attempt_starttls no", False),
            ("smtp", "tls disabled", False),
            ("lmtp", "", False),
            ("lmtp", "attempt_starttls yes", True),
            ("lmtp", "tls optional", True),
        ):
            with self.row(f"{kind} {settings}"):
                hop = self.hop(lmtp=kind == "lmtp", tls=leaf(NAME).server)
                self.to(f"tcp://{NAME}:{hop.port}", settings, kind=kind)
                self.assertTrue(self.passes())
                self.assertEqual(hop.transactions[0].secure, secure)

    def test_sni(self) -> None:
        for settings, expected in (
            ("", NAME.encode()),
            ("tls_sni yes", NAME.encode()),
            ("tls_sni no", None),
            ("tls_sni other.test", b"other.test"),
        ):
            with self.row(settings):
                _, seen = self.secure(settings)
                self.assertTrue(self.passes())
                self.assertEqual(seen[-1].get_servername(), expected)

    def test_whom_it_believes(self) -> None:
        """The system's authorities do not know ours; `root_ca` replaces them unless `tls_default_ca yes` keeps both."""
        ours = f"tls_client {{\nroot_ca {authority().path}\n}}"
        for settings, believed in (
            ("tls require_verify", False),
            ("tls require_verify\ntls_default_ca yes", False),
            (f"tls require_verify\n{ours}", True),
            (f"tls require_verify\ntls_default_ca yes\n{ours}", True),
            (f"tls require_verify\ntls_default_ca no\n{ours}", True),
            (f"require_tls yes\n{ours}", True),
            ("require_tls yes", False),
        ):
            with self.row(settings):
                hop = self.hop(tls=leaf(NAME).server)
                self.to(f"tcp://{NAME}:{hop.port}", settings)
                self.assertEqual(self.passes(), believed)
                self.assertTrue(believed or not any(b"MAIL" in connection.verbs for connection in hop.connections))

    def test_names_to_verify(self) -> None:
        ours = f"tls require_verify\ntls_client {{\nroot_ca {authority().path}\n}}\n"
        for name, settings, believed in (
            (NAME, "", True),
            ("other.test", "", False),
            ("other.test", "tls_verify_name other.test", True),
            (NAME, "tls_verify_name other.test", True),
            (NAME, "tls_verify_name other.test\ntls_verify_host no", False),
            ("a.pool.test", "tls_verify_name .pool.test", True),
            ("b.a.pool.test", "tls_verify_name .pool.test", False),
            ("*.pool.test", "tls_verify_name a.pool.test", True),
            ("*.pool.test", "tls_verify_name b.a.pool.test", False),
            ("*.test", "", False),
        ):
            with self.row(f"{name} {settings}"):
                hop = self.hop(tls=leaf(name).server)
                self.to(f"tcp://{NAME}:{hop.port}", ours + settings)
                self.assertEqual(self.passes(), believed)


class Ports(NextHopCase):
    def test_where_none_is_written(self) -> None:
        for kind, scheme, port in (("smtp", "tcp", 25), ("lmtp", "tcp", 24), ("smtp", "tls", 465), ("lmtp", "tls", 465)):
            with self.row(f"{kind} {scheme}"):
                hop = NextHop(
                    lmtp=kind == "lmtp", tls=leaf(NAME).server if scheme == "tls" else None, implicit_tls=scheme == "tls"
                )
                self.hops.append(hop.listen(self.reactor, port=port, interface="127.0.0.9"))
                trust = f"tls_client {{\nroot_ca {authority().path}\n}}" if scheme == "tls" else ""
                self.to(f"{scheme}://{NAME}", trust, kind=kind)
                self.reactor.hosts[NAME] = "127.0.0.9"
                self.assertTrue(self.passes())
                self.assertEqual(hop.connections[0].verbs[0], b"LHLO" if kind == "lmtp" else b"EHLO")


class Debugging(NextHopCase):
    def test_the_dialogue_is_logged_where_it_is_asked_for_and_never_a_body_or_a_password(self) -> None:
        login = "auth plain gateway s3cret-word\nauth_insecure yes"
        for glob, settings, logged in (
            ("", "", False),
            ("", "debug yes", True),
            ("debug yes\n", "", True),
            ("debug yes\n", "debug no", False),
        ):
            with self.row(f"{glob} {settings}"):
                hop = self.hop(extensions=(b"PIPELINING", b"AUTH PLAIN"))
                self.to(f"tcp://127.0.0.1:{hop.port}", f"{settings}\n{login}", glob=glob)
                client = self.client()
                self.deliver(client, b"r@y.test", content=b"Subject: x\r\n\r\nof nobody's business\r\n")
                self.assertEqual(len(hop.transactions), 1)
                running = self.running
                assert running is not None
                said = [line for line in running.logged("wire") if "target=" in line]
                self.assertEqual(any("RCPT TO:<r@y.test>" in line for line in said), logged)
                for secret in ("s3cret-word", "AGdhdGV3YXkAczNjcmV0LXdvcmQ=", "nobody's business"):
                    self.assertNotIn(secret, running.log_text)
