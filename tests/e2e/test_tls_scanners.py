"""The TLS of a running gateway under the eyes of strangers: sslyze, testssl.sh, `openssl s_client`, Python's ssl.

STARTTLS and TLS from the first byte, with an RSA and an ECDSA certificate for one name, certificates of clients, and new
certificates under open sessions.
"""

from __future__ import annotations

import json
import os
import smtplib
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.support.invariants import check_log
from tests.support.ports import free_ports
from tests.support.process import GatewayProcess
from tests.support.servers import tool
from tests.tls.authority import Authority, dns, write_pair

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAME = "gateway.test"
SCANNED = {"SSLv2", "SSLv3", "TLS1", "TLS1_1", "cipherlist_NULL", "cipherlist_LOW", "PFS", "heartbleed", "CCS", "SWEET32"}
"""Findings of testssl.sh that must be there: or else it has not looked."""

CONFIG = """\
hostname {name}
state_dir {home}
runtime_dir {home}
tls file ./ecdsa.crt ./ecdsa.key ./rsa.crt ./rsa.key
smtp tcp://127.0.0.1:{smtp} tls://127.0.0.1:{smtps} {{
    discard
}}
smtp tcp://127.0.0.1:{partners} tls://127.0.0.1:{partners_tls} {{
    tls file ./ecdsa.crt ./ecdsa.key {{
        client_ca ./ca.pem
        client_auth required
    }}
    when client_cert_name == "partner.test" {{
        discard
    }}
    default_source {{
        reject 550 5.7.1 "partners only"
    }}
}}
"""


class TlsCase(TestCase):
    timeout = 180

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-e2e-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.authority = Authority()
        self.ca = self.authority.write(self.home / "ca.pem")
        self.issue("ecdsa")
        self.issue("rsa", key=rsa.generate_private_key(65537, 2048))
        usage = (ExtendedKeyUsageOID.CLIENT_AUTH,)
        write_pair(self.authority.issue([dns("partner.test")], usage=usage), self.home, "partner")
        write_pair(Authority("Strangers").issue([dns("partner.test")], usage=usage), self.home, "stranger")
        self.smtp, self.smtps, self.partners, self.partners_tls = free_ports(4)
        config = self.home / "mailgate.conf"
        ports = {"smtp": self.smtp, "smtps": self.smtps, "partners": self.partners, "partners_tls": self.partners_tls}
        config.write_text(CONFIG.format(name=NAME, home=self.home, **ports))
        self.gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(self.stop_gateway)

    async def stop_gateway(self) -> None:
        check_log(await self.gateway.stop_beside())

    def issue(self, file: str, key: Any = None) -> x509.Certificate:
        pair = self.authority.issue([dns(NAME)], key=key)
        _, path = write_pair(pair, self.home, file)
        path.chmod(0o600)
        return pair.chain[0]

    def run_tool(self, *command: str, feed: str = "", status: int | None = 0) -> str:
        environment = {**os.environ, "TERM": "dumb"}
        done = subprocess.run(command, input=feed, capture_output=True, text=True, timeout=self.timeout, env=environment)
        text = done.stdout + done.stderr
        if status is not None:
            self.assertEqual(done.returncode, status, f"{command}\n{text}")
        return text


class Scanners(TlsCase):
    """Mozilla's profile "intermediate"."""

    def _sslyze(self, port: int, *options: str) -> str:
        program = tool("sslyze", "pip install sslyze, in an environment of its own: it wants an old cryptography")
        command = [program, "--quiet", "--mozilla_config", "intermediate", "--certinfo_ca_file", str(self.ca), *options]
        return self.run_tool(*command, f"{NAME}:{port}{{127.0.0.1}}")

    async def test_sslyze_starttls(self) -> None:
        self.assertIn("OK - Compliant", await deferToThread(self._sslyze, self.smtp, "--starttls", "smtp"))

    async def test_sslyze_tls_from_the_first_byte(self) -> None:
        self.assertIn("OK - Compliant", await deferToThread(self._sslyze, self.smtps))

    def _testssl(self, port: int, *options: str) -> None:
        program = tool("testssl", "testssl.sh")
        found = self.home / "testssl.json"
        # -p versions, -s kinds of ciphers, -f forward secrecy, -U vulnerabilities
        command = [program, "--quiet", "--color", "0", "--warnings", "off", "--ip", "one", "--jsonfile", str(found)]
        output = self.run_tool(*command, "-p", "-s", "-f", "-U", *options, f"127.0.0.1:{port}", status=None)
        findings = {finding["id"]: finding for finding in json.loads(found.read_text())}
        self.assertLessEqual(SCANNED, set(findings), output)
        bad = [finding for finding in findings.values() if finding["severity"] not in ("OK", "INFO", "LOW", "DEBUG")]
        self.assertEqual(bad, [], output)

    async def test_testssl_starttls(self) -> None:
        await deferToThread(self._testssl, self.smtp, "-t", "smtp")

    async def test_testssl_tls_from_the_first_byte(self) -> None:
        await deferToThread(self._testssl, self.smtps)


class OpenSslClient(TlsCase):
    def _s_client(self, port: int, *options: str, starttls: bool) -> str:
        program = tool("openssl", "openssl")
        command = [program, "s_client", "-connect", f"127.0.0.1:{port}", "-servername", NAME, "-CAfile", str(self.ca), "-crlf"]
        command += ["-starttls", "smtp"] if starttls else []
        feed = "EHLO c.test\nMAIL FROM:<a@x.test>\nRCPT TO:<b@y.test>\nquit\n"
        return self.run_tool(*command, "-verify_hostname", NAME, "-ign_eof", *options, feed=feed, status=None)

    async def test_both_kinds_of_certificates(self) -> None:
        for starttls, port in ((True, self.smtp), (False, self.smtps)):
            for algorithms, expected in (("ECDSA+SHA256", "id-ecPublicKey"), ("RSA-PSS+SHA256", "rsaEncryption")):
                text = await deferToThread(lambda: self._s_client(port, "-sigalgs", algorithms, starttls=starttls))  # noqa: B023
                self.assertIn("Verify return code: 0 (ok)", text)
                self.assertIn(expected, text)

    async def test_certificates_of_clients(self) -> None:
        def shown(name: str) -> tuple[str, ...]:
            return ("-cert", str(self.home / f"{name}.crt"), "-key", str(self.home / f"{name}.key"))

        for starttls, port in ((True, self.partners), (False, self.partners_tls)):
            for options, expected in ((shown("partner"), "250 2.1.5"), (shown("stranger"), "alert"), ((), "alert")):
                text = await deferToThread(lambda: self._s_client(port, *options, starttls=starttls))  # noqa: B023
                self.assertIn(expected, text)
                self.assertEqual("250 2.1.5" in text, expected == "250 2.1.5", text)


class PythonSsl(TlsCase):
    def _client(self, port: int, certificate: str = "", starttls: bool = False) -> smtplib.SMTP:
        context = ssl.create_default_context(cafile=str(self.ca))
        if certificate:
            context.load_cert_chain(self.home / f"{certificate}.crt", self.home / f"{certificate}.key")
        # The name in SNI and the verification is the host's: it must be ours, whatever address that has.
        if starttls:
            client = smtplib.SMTP("127.0.0.1", port, timeout=20)
            client._host = NAME  # type: ignore[attr-defined]
            client.starttls(context=context)
            return client
        return _TlsFromTheFirstByte("127.0.0.1", port, timeout=20, context=context)

    async def test_certificates_of_clients(self) -> None:
        def talk(port: int, certificate: str, starttls: bool) -> int:
            with self._client(port, certificate, starttls) as client:
                client.ehlo()
                client.mail("a@x.test")
                return client.rcpt("b@y.test")[0]

        for starttls, port in ((True, self.partners), (False, self.partners_tls)):
            self.assertEqual(await deferToThread(talk, port, "partner", starttls), 250)
            for certificate in ("stranger", ""):
                with self.assertRaises((ssl.SSLError, OSError, smtplib.SMTPException)):
                    await deferToThread(talk, port, certificate, starttls)

    async def test_new_certificates_under_open_sessions(self) -> None:
        def serial(client: smtplib.SMTP) -> int:
            shown = client.sock.getpeercert(binary_form=True)  # type: ignore[union-attr]
            return x509.load_der_x509_certificate(shown).serial_number

        clients = [await deferToThread(self._client, *one) for one in ((self.smtp, "", True), (self.smtps, "", False))]
        before = {serial(client) for client in clients}
        key = rsa.generate_private_key(65537, 2048)
        new = {self.issue("ecdsa").serial_number, self.issue("rsa", key).serial_number}
        # Each listener looks by itself, and may look between the two: the one who has seen the second is done.
        self.assertTrue(await deferToThread(self.gateway.wait_for_line, "tls.reloaded", "rsa.crt"))
        for client in clients:
            self.assertEqual(await deferToThread(client.sendmail, "a@x.test", ["b@y.test"], b"Subject: x\r\n\r\nx\r\n"), {})
            await deferToThread(client.quit)
        for one in ((self.smtp, "", True), (self.smtps, "", False)):
            client = await deferToThread(self._client, *one)
            self.assertNotIn(serial(client), before)
            self.assertIn(serial(client), new)
            await deferToThread(client.quit)


class _TlsFromTheFirstByte(smtplib.SMTP_SSL):
    """Connects to an address, and asks for our name."""

    def _get_socket(self, host: str, port: int, timeout: float) -> Any:
        self._host = NAME
        return super()._get_socket(host, port, timeout)  # type: ignore[misc]
