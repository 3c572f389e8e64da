"""Real clients log in at a submission listener: smtplib, swaks, nodemailer, curl, msmtp."""

from __future__ import annotations

import os
import smtplib
import ssl
import tempfile
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from mailgate.testing.nexthop import NextHop
from tests.support.certificates import authority, leaf
from tests.support.invariants import check_log
from tests.support.ports import free_ports
from tests.support.process import GatewayProcess
from tests.support.servers import missing, tool

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MESSAGE = b"From: a@x.test\r\nTo: b@y.test\r\nSubject: probe\r\n\r\nhello\r\n"
CONFIG = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls file {chain} {key}

submission tls://127.0.0.1:{tls} tcp://127.0.0.1:{tcp} {{
    auth static {{
        entry alice "in wonderland"
        entry robot t0ken
    }}
    deliver_to smtp {relay}
}}
"""


class LoginTests(TestCase):
    timeout = 90

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.relay = NextHop().listen(reactor)
        self.addCleanup(self.relay.close)
        directory = tempfile.TemporaryDirectory(prefix="mailgate-e2e-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.tls, self.tcp = free_ports(2)
        certificate = leaf("localhost", "127.0.0.1")
        config = self.home / "mailgate.conf"
        config.write_text(
            CONFIG.format(
                home=self.home,
                chain=certificate.chain_path,
                key=certificate.key_path,
                relay=self.relay.endpoint,
                tls=self.tls,
                tcp=self.tcp,
            )
        )
        self.letter = self.home / "letter"
        self.letter.write_bytes(MESSAGE)
        self.gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(self.stop_gateway)

    async def stop_gateway(self) -> None:
        log = await self.gateway.stop_beside()
        check_log(log)
        self.assertNotIn("wonderland", log)

    async def run_client(self, *command: str, **environment: str) -> tuple[str, int]:
        out, err, status = await getProcessOutputAndValue(
            command[0], command[1:], env={**os.environ, **environment}, reactor=self.reactor
        )
        return (out + err).decode(errors="replace"), status

    async def execute(self, *command: str, **environment: str) -> str:
        text, status = await self.run_client(*command, **environment)
        self.assertEqual(status, 0, f"{command}\n{text}\n{self.gateway.log}")
        return text

    def assert_sent(self, mechanism: str, user: str = "alice") -> None:
        self.assertEqual([[b"b@y.test"]], [kept.paths for kept in self.relay.transactions])
        self.assertIn(b"with ESMTPSA", self.relay.transactions[0].content)
        self.assertIn(f"user={user} mechanism={mechanism}", self.gateway.log)

    async def smtplib(self, method: str, password: str = "in wonderland") -> None:
        def send() -> None:
            client = smtplib.SMTP("localhost", self.tcp, timeout=20)
            client.starttls(context=ssl.create_default_context(cafile=authority().path))
            client.ehlo()
            client.user, client.password = "alice", password
            try:
                client.auth(method, getattr(client, f"auth_{method.lower().replace('-', '_')}"))
                client.sendmail("a@x.test", ["b@y.test"], MESSAGE)
            finally:
                client.quit()

        await deferToThread(send)

    async def test_smtplib_plain(self) -> None:
        await self.smtplib("PLAIN")
        self.assert_sent("PLAIN")

    async def test_smtplib_login(self) -> None:
        await self.smtplib("LOGIN")
        self.assert_sent("LOGIN")

    async def test_smtplib_cram_md5(self) -> None:
        await self.smtplib("CRAM-MD5")
        self.assert_sent("CRAM-MD5")

    async def test_smtplib_with_a_wrong_password(self) -> None:
        try:
            await self.smtplib("PLAIN", "wrong")
        except smtplib.SMTPAuthenticationError as error:
            self.assertEqual(535, error.smtp_code)
        else:
            self.fail("logged in")

    async def swaks(self, mechanism: str) -> None:
        await self.execute(
            *(tool("swaks", "swaks"), "--server", f"localhost:{self.tcp}", "--tls", "--auth", mechanism, "--helo", "c.test"),
            *("--auth-user", "alice", "--auth-password", "in wonderland", "--from", "a@x.test", "--to", "b@y.test"),
            *("--data", f"@{self.letter}"),
        )
        self.assert_sent(mechanism)

    async def test_swaks_plain(self) -> None:
        await self.swaks("PLAIN")

    async def test_swaks_login(self) -> None:
        await self.swaks("LOGIN")

    async def test_swaks_cram_md5(self) -> None:
        await self.swaks("CRAM-MD5")

    async def nodemailer(self, auth: str, mechanism: str, user: str = "alice") -> None:
        node = tool("node", "nodejs")
        modules = os.environ.get("NODE_PATH", "")
        if not modules or not (Path(modules) / "nodemailer").exists():
            missing("nodemailer (npm install nodemailer, NODE_PATH)", "npm")
        script = (
            f"const options = {{host: 'localhost', port: {self.tls}, secure: true, {auth}}};"
            "const transport = require('nodemailer').createTransport(options);"
            "const raw = require('fs').readFileSync(process.argv[1]);"
            "transport.sendMail({envelope: {from: 'a@x.test', to: ['b@y.test']}, raw})"
            ".then(() => transport.close(), error => { console.error(error); process.exit(1); });"
        )
        await self.execute(node, "-e", script, str(self.letter), NODE_EXTRA_CA_CERTS=authority().path)
        self.assert_sent(mechanism, user)

    async def test_nodemailer_plain(self) -> None:
        await self.nodemailer("authMethod: 'PLAIN', auth: {user: 'alice', pass: 'in wonderland'}", "PLAIN")

    async def test_nodemailer_cram_md5(self) -> None:
        await self.nodemailer("authMethod: 'CRAM-MD5', auth: {user: 'alice', pass: 'in wonderland'}", "CRAM-MD5")

    async def test_nodemailer_xoauth2(self) -> None:
        await self.nodemailer("auth: {type: 'OAuth2', user: 'robot', accessToken: 't0ken'}", "XOAUTH2", "robot")

    async def curl(self, mechanism: str, *login: str, user: str = "alice") -> None:
        await self.execute(
            *(tool("curl", "curl"), "-sS", "--cacert", authority().path, f"smtps://localhost:{self.tls}"),
            *("--login-options", f"AUTH={mechanism}", *login, "--mail-from", "a@x.test", "--mail-rcpt", "b@y.test"),
            *("-T", str(self.letter)),
        )
        self.assert_sent(mechanism, user)

    async def test_curl_plain(self) -> None:
        await self.curl("PLAIN", "--user", "alice:in wonderland")

    async def test_curl_oauthbearer(self) -> None:
        await self.curl("OAUTHBEARER", "--user", "robot", "--oauth2-bearer", "t0ken", user="robot")

    async def msmtp(self, mechanism: str, password: str = "in wonderland") -> tuple[str, int]:
        program = tool("msmtp", "msmtp")
        return await self.run_client(
            *("/bin/sh", "-c", f'exec "$0" "$@" <{self.letter}', program, "--file=/dev/null", "--host=localhost"),
            *(f"--port={self.tls}", "--tls=on", "--tls-starttls=off", f"--tls-trust-file={authority().path}"),
            *(f"--auth={mechanism}", "--user=alice", f"--passwordeval=echo {password}", "--from=a@x.test", "b@y.test"),
        )

    async def test_msmtp_scram_sha_256(self) -> None:
        text, status = await self.msmtp("scram-sha-256")
        self.assertEqual(0, status, text)
        self.assert_sent("SCRAM-SHA-256")

    async def test_msmtp_scram_with_a_wrong_password(self) -> None:
        text, status = await self.msmtp("scram-sha-256", "wrong")
        self.assertNotEqual(0, status, text)
        self.assertIn("mechanism=SCRAM-SHA-256", self.gateway.log)
        self.assertEqual([], self.relay.transactions)

    async def test_msmtp_cram_md5(self) -> None:
        text, status = await self.msmtp("cram-md5")
        self.assertEqual(0, status, text)
        self.assert_sent("CRAM-MD5")
