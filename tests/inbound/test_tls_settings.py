"""Mistakes in `tls`: each an error or a warning at its own place, said once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.diagnostics import Diagnostic, render
from mailgate.registry import build
from mailgate.tls.options import CAN_CHOOSE_CURVES
from tests.tls.authority import Authority, dns, write_pair

ROOT = Authority()

BAD = [
    ("tls file mx.crt mx.key other.crt", "tls", "E0720", "takes pairs"),
    ("tls file mx.crt other.key", "tls", "E0720", "other.key: this key does not belong to the certificate"),
    ("tls file none.crt mx.key", "tls", "E0720", "none.crt: No such file"),
    ("tls file mx.key mx.key", "tls", "E0720", "no certificate in PEM form"),
    ("tls file mx.crt mx.key {\n ciphers NONSENSE\n}", "ciphers", "E0720", "cipher `NONSENSE` is unknown"),
    ("tls file mx.crt mx.key {\n ciphers HIGH !ALL\n}", "ciphers", "E0720", "selects no cipher"),
    (
        "tls file mx.crt mx.key {\n curves X25519 nonsense\n}",
        "curves",
        "E0720",
        "names an unknown one" if CAN_CHOOSE_CURVES else "47 or newer",
    ),
    ("tls file mx.crt mx.key {\n protocols tls1.3 tls1.2\n}", "protocols", "E0720", "selects no protocol version"),
    ("tls file mx.crt mx.key {\n protocols SSLv3\n}", "protocols", "E0720", "SSLv3"),
    ("tls file mx.crt mx.key {\n client_auth required\n}", "client_auth", "E0722", "needs to know whom to trust"),
    ("tls file mx.crt mx.key {\n client_auth optional\n client_ca none.pem\n}", "client_ca", "E0720", "none.pem: No such file"),
    ("tls file mx.crt mx.key {\n client_auth optional\n client_ca mx.key\n}", "client_ca", "E0720", "no certificate"),
    ("tls file mx.crt mx.key {\n client_auth sometimes\n}", "sometimes", "E0505", "not possible"),
    ("tls file mx.crt mx.key {\n sni a.test {\n file other.crt mx.key\n}\n}", "file", "E0720", "does not belong"),
    ("tls file mx.crt mx.key {\n sni a.test {\n client_auth off\n}\n}", "sni", "E0403", "needs `file`"),
    ("tls file mx.crt mx.key {\n sni 192.0.2.1 {\n file mx.crt mx.key\n}\n}", "192.0.2.1", "E0505", "no name that a client"),
    ("tls file mx.crt mx.key {\n sni a.*.test {\n file mx.crt mx.key\n}\n}", "a.*.test", "E0505", "no name that a client"),
    (
        "tls self_signed {\n sni mx.test {\n file mx.crt mx.key\n}\n sni MX.TEST. {\n file mx.crt mx.key\n}\n}",
        "sni",
        "E0723",
        "`sni mx.test` is there twice",
    ),
    ("tls file mx.crt mx.key {\n sni_lookup &nobody\n}", "&nobody", "E0602", "nothing is called"),
    ("tls {\n protocols tls1.3\n}", "tls", "E0721", "has no certificate"),
    ("tls", "", "E0404", "needs one of off, self_signed, file"),
    ("tls fiel mx.crt mx.key", "fiel", "E0505", "`fiel` is not possible"),
]


class TlsCase(SynchronousTestCase):
    def setUp(self) -> None:
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        for name in ("mx", "other"):
            self.write(name)

    def write(self, name: str, ends: timedelta = timedelta(days=60)) -> None:
        _, key = write_pair(ROOT.issue([dns(f"{name}.test")], begins=timedelta(days=-60), ends=ends), self.home, name)
        key.chmod(0o600)

    def said(self, text: str) -> list[Diagnostic]:
        path = self.home / "mailgate.conf"
        path.write_text(f"state_dir {self.home}\nhostname mx.test\n{text}\n")
        return build(str(path)).diagnostics

    def one(self, text: str) -> Diagnostic:
        diagnostics = self.said(text)
        self.assertEqual(len(diagnostics), 1, f"{text}\n{render(diagnostics)}")
        return diagnostics[0]


class Mistakes(TlsCase):
    def test_each_at_its_own_place_in_a_listener_and_for_all(self) -> None:
        for tls, place, code, message in BAD:
            for text in (
                f"smtp tls://127.0.0.1:465 {{\n{tls}\ndiscard\n}}",
                f"{tls}\nsmtp tcp://127.0.0.1:25 {{\ndiscard\n}}\nlmtp tcp://127.0.0.1:24 {{\ndiscard\n}}",
            ):
                with self.subTest(text):
                    found = self.one(text)
                    self.assertEqual((found.code, found.is_error), (code, True), found.message)
                    self.assertIn(message, found.message)
                    self.assertTrue(found.span is not None and found.span.text.startswith(place), render([found]))

    def test_tls_from_the_first_byte_needs_a_certificate(self) -> None:
        for address, more in (
            ("tls://127.0.0.1:465", ""),
            ("tcp://127.0.0.1:25", "tls_start yes"),
            ("tls://[::1]:465", "tls off"),
        ):
            found = self.one(f"smtp {address} {{\n{more}\ndiscard\n}}")
            self.assertEqual((found.code, found.message), ("E0721", f"`{address}` needs a certificate"))

    def test_good_ones(self) -> None:
        ROOT.write(self.home / "ca.pem")
        for tls in (
            "tls file mx.crt mx.key other.crt other.key",
            "tls self_signed {\n protocols !TLSv1,!TLSv1.1\n}",
            "tls {\n sni mx.test {\n file mx.crt mx.key\n}\n}",
            "tls {\n sni_lookup static {\n entry a b c\n}\n}",
            "tls file mx.crt mx.key {\n client_ca ca.pem\n client_auth required\n}",
            "tls off",
        ):
            self.assertEqual(self.said(f"smtp tcp://127.0.0.1:25 {{\n{tls}\ndiscard\n}}"), [])


class Warnings(TlsCase):
    def warned(self, tls: str, address: str = "tcp://127.0.0.1:25", more: str = "") -> tuple[str, str]:
        found = self.one(f"smtp {address} {{\n{tls}\n{more}\ndiscard\n}}")
        self.assertFalse(found.is_error)
        return found.code, found.message

    def test_a_certificate_that_has_expired_or_soon_will(self) -> None:
        for ends, message in ((timedelta(days=-1), "has expired on"), (timedelta(days=13), "expires on")):
            self.write("mx", ends)
            code, text = self.warned("tls file mx.crt mx.key")
            self.assertEqual(code, "W0722")
            self.assertIn(f"the certificate in {self.home}/mx.crt {message}", text)
        self.write("mx", timedelta(days=15))
        self.assertEqual(self.said("smtp tcp://127.0.0.1:25 {\ntls file mx.crt mx.key\ndiscard\n}"), [])

    def test_a_certificate_that_is_not_for_its_name(self) -> None:
        code, text = self.warned("tls file mx.crt mx.key {\n sni a.test {\n file other.crt other.key\n}\n}")
        self.assertEqual((code, text), ("W0723", f"the certificate in {self.home}/other.crt is not for a.test"))

    def test_a_key_that_everybody_can_read(self) -> None:
        (self.home / "mx.key").chmod(0o644)
        self.assertEqual(self.warned("tls file mx.crt mx.key")[0], "W0508")

    def test_settings_without_effect(self) -> None:
        ROOT.write(self.home / "ca.pem")
        for tls, address, more, message in (
            ("tls off {\n protocols tls1.3\n}", "tcp://127.0.0.1:25", "", "`protocols` has no effect here"),
            ("tls self_signed {\n client_ca ca.pem\n}", "tcp://127.0.0.1:25", "", "`client_ca` has no effect here"),
            ("tls self_signed", "tls://127.0.0.1:465", "tls_start yes", "`tls_start` has no effect here"),
        ):
            self.assertEqual(self.warned(tls, address, more), ("W0714", message))
