"""Real clients against the gateway, as a process, over real sockets: smtplib, curl, swaks, nodemailer, smtp-source.

ESMTP and LMTP, in clear, by STARTTLS and with TLS from the first byte. Behind the gateway stands a next hop that keeps exact
bytes, so that what a client's library does to a message is seen apart from what we do to it.
"""

from __future__ import annotations

import os
import smtplib
import socket
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
from tests.support.invariants import check_content, check_hop, check_log
from tests.support.ports import free_ports
from tests.support.process import GatewayProcess
from tests.support.servers import missing, tool

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MESSAGE = b"From: a@x.test\r\nTo: b@y.test\r\nSubject: probe\r\n\r\n.starts with a dot\r\n..two\r\nlast line\r\n"

CONFIG = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls file {chain} {key}

target.smtp relay {{
    targets {relay}
}}
target.lmtp store {{
    targets {store}
}}

smtp tcp://127.0.0.1:{smtp} tls://127.0.0.1:{smtps} {{
    deliver_to &relay
}}
lmtp tcp://127.0.0.1:{lmtp} unix://in.sock {{
    deliver_to &store
}}
"""


class ClientTests(TestCase):
    timeout = 90

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.relay = NextHop().listen(reactor)
        self.store = NextHop(lmtp=True).listen(reactor)
        self.addCleanup(self.relay.close)
        self.addCleanup(self.store.close)
        directory = tempfile.TemporaryDirectory(prefix="mailgate-e2e-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.smtp, self.smtps, self.lmtp = free_ports(3)
        self.certificate = leaf("localhost", "127.0.0.1")
        config = self.home / "mailgate.conf"
        config.write_text(
            CONFIG.format(
                home=self.home,
                chain=self.certificate.chain_path,
                key=self.certificate.key_path,
                relay=self.relay.endpoint,
                store=self.store.endpoint,
                smtp=self.smtp,
                smtps=self.smtps,
                lmtp=self.lmtp,
            )
        )
        self.letter = self.home / "letter"
        self.letter.write_bytes(MESSAGE)
        self.gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(self.stop_gateway)

    async def stop_gateway(self) -> None:
        check_log(await self.gateway.stop_beside())

    async def execute(self, *command: str, **environment: str) -> str:
        """Run a client to its end; returns all that it printed."""
        out, err, status = await getProcessOutputAndValue(
            command[0], command[1:], env={**os.environ, **environment}, reactor=self.reactor
        )
        text = (out + err).decode(errors="replace")
        self.assertEqual(status, 0, f"{command}\n{text}\n{self.gateway.log}")
        return text

    def assert_arrived(self, hop: NextHop, *recipients: bytes, content: bytes = MESSAGE, secure: str = "") -> None:
        self.assertEqual([kept.paths for kept in hop.transactions], [list(recipients)])
        check_content(hop.transactions[0].content, content)
        check_hop(hop)
        trace = hop.transactions[0].content.partition(b"\r\nFrom:")[0]
        if secure:
            self.assertIn(secure.encode(), trace)

    # smtplib: the standard library's

    def talk(self, client: smtplib.SMTP, recipients: list[str], **options: Any) -> dict[str, tuple[int, bytes]]:
        try:
            return client.sendmail("a@x.test", recipients, MESSAGE, **options)
        finally:
            client.quit()

    async def test_smtplib(self) -> None:
        await deferToThread(lambda: self.talk(smtplib.SMTP("127.0.0.1", self.smtp, timeout=20), ["b@y.test", "c@y.test"]))
        self.assert_arrived(self.relay, b"b@y.test", b"c@y.test")

    async def test_smtplib_starttls(self) -> None:
        def send() -> None:
            client = smtplib.SMTP("localhost", self.smtp, timeout=20)
            client.starttls(context=ssl.create_default_context(cafile=authority().path))
            self.talk(client, ["b@y.test"])

        await deferToThread(send)
        self.assert_arrived(self.relay, b"b@y.test", secure="with ESMTPS")

    async def test_smtplib_tls_from_the_first_byte(self) -> None:
        def send() -> None:
            context = ssl.create_default_context(cafile=authority().path)
            self.talk(smtplib.SMTP_SSL("localhost", self.smtps, timeout=20, context=context), ["b@y.test"])

        await deferToThread(send)
        self.assert_arrived(self.relay, b"b@y.test", secure="with ESMTPS")

    async def test_smtplib_lmtp(self) -> None:
        await deferToThread(lambda: self.talk(smtplib.LMTP("127.0.0.1", self.lmtp, timeout=20), ["b@y.test"]))
        self.assert_arrived(self.store, b"b@y.test", secure="with LMTP")

    async def test_smtplib_lmtp_on_a_unix_socket(self) -> None:
        await deferToThread(lambda: self.talk(smtplib.LMTP(str(self.home / "in.sock")), ["b@y.test"]))
        self.assert_arrived(self.store, b"b@y.test")

    async def test_smtplib_smtputf8(self) -> None:
        def send() -> None:
            client = smtplib.SMTP("127.0.0.1", self.smtp, timeout=20)
            client.ehlo()
            self.talk(client, ["jörg@y.test"], mail_options=["SMTPUTF8", "BODY=8BITMIME"])

        await deferToThread(send)
        self.assert_arrived(self.relay, "jörg@y.test".encode())
        self.assertIn(b"SMTPUTF8", self.relay.transactions[0].mail)

    # curl

    async def test_curl(self) -> None:
        await self.execute(
            *(tool("curl", "curl"), "-sS", f"smtp://127.0.0.1:{self.smtp}", "--mail-from", "a@x.test"),
            *("--mail-rcpt", "b@y.test", "--mail-rcpt", "c@y.test", "-T", str(self.letter)),
        )
        self.assert_arrived(self.relay, b"b@y.test", b"c@y.test")

    async def test_curl_starttls(self) -> None:
        await self.execute(
            *(tool("curl", "curl"), "-sS", "--ssl-reqd", "--cacert", authority().path, f"smtp://localhost:{self.smtp}"),
            *("--mail-from", "a@x.test", "--mail-rcpt", "b@y.test", "-T", str(self.letter)),
        )
        self.assert_arrived(self.relay, b"b@y.test", secure="with ESMTPS")

    async def test_curl_tls_from_the_first_byte(self) -> None:
        await self.execute(
            *(tool("curl", "curl"), "-sS", "--cacert", authority().path, f"smtps://localhost:{self.smtps}"),
            *("--mail-from", "a@x.test", "--mail-rcpt", "b@y.test", "-T", str(self.letter)),
        )
        self.assert_arrived(self.relay, b"b@y.test", secure="with ESMTPS")

    # swaks

    async def test_swaks(self) -> None:
        await self.execute(
            *(tool("swaks", "swaks"), "--server", f"127.0.0.1:{self.smtp}", "--pipeline", "--helo", "client.test"),
            *("--from", "a@x.test", "--to", "b@y.test", "--data", f"@{self.letter}"),
        )
        self.assertEqual([kept.paths for kept in self.relay.transactions], [[b"b@y.test"]])
        self.assertIn(b"\r\n.starts with a dot\r\n..two\r\nlast line\r\n", self.relay.transactions[0].content)
        check_hop(self.relay)

    async def test_swaks_starttls(self) -> None:
        await self.execute(
            *(tool("swaks", "swaks"), "--server", f"127.0.0.1:{self.smtp}", "--tls", "--helo", "client.test"),
            *("--from", "a@x.test", "--to", "b@y.test", "--data", f"@{self.letter}"),
        )
        self.assertEqual(len(self.relay.transactions), 1)
        self.assertIn(b"with ESMTPS", self.relay.transactions[0].content)

    async def test_swaks_lmtp(self) -> None:
        await self.execute(
            *(tool("swaks", "swaks"), "--server", f"127.0.0.1:{self.lmtp}", "--protocol", "LMTP", "--helo", "client.test"),
            *("--from", "a@x.test", "--to", "b@y.test,c@y.test", "--data", f"@{self.letter}"),
        )
        self.assertEqual([kept.paths for kept in self.store.transactions], [[b"b@y.test", b"c@y.test"]])

    # nodemailer

    async def nodemailer(self, options: str, recipients: str = "['b@y.test', 'c@y.test']") -> str:
        node = tool("node", "nodejs")
        modules = os.environ.get("NODE_PATH", "")
        if not modules or not (Path(modules) / "nodemailer").exists():
            missing("nodemailer (npm install nodemailer, NODE_PATH)", "npm")
        script = (
            "const transport = require('nodemailer').createTransport(" + options + ");"
            "const raw = require('fs').readFileSync(process.argv[1]);"
            f"transport.sendMail({{envelope: {{from: 'a@x.test', to: {recipients}}}, raw}})"
            ".then(info => { console.log(JSON.stringify(info)); transport.close(); },"
            " error => { console.error(error); process.exit(1); });"
        )
        return await self.execute(node, "-e", script, str(self.letter), NODE_EXTRA_CA_CERTS=authority().path)

    async def test_nodemailer(self) -> None:
        await self.nodemailer(f"{{host: '127.0.0.1', port: {self.smtp}, ignoreTLS: true}}")
        self.assert_arrived(self.relay, b"b@y.test", b"c@y.test")

    async def test_nodemailer_starttls(self) -> None:
        await self.nodemailer(f"{{host: 'localhost', port: {self.smtp}, requireTLS: true}}")
        self.assert_arrived(self.relay, b"b@y.test", b"c@y.test", secure="with ESMTPS")

    async def test_nodemailer_tls_from_the_first_byte(self) -> None:
        await self.nodemailer(f"{{host: 'localhost', port: {self.smtps}, secure: true}}")
        self.assert_arrived(self.relay, b"b@y.test", b"c@y.test", secure="with ESMTPS")

    async def test_nodemailer_lmtp(self) -> None:
        await self.nodemailer(f"{{host: '127.0.0.1', port: {self.lmtp}, lmtp: true, ignoreTLS: true}}", "['b@y.test']")
        self.assert_arrived(self.store, b"b@y.test")

    # smtp-source

    async def test_smtp_source(self) -> None:
        await self.execute(
            *(tool("smtp-source", "postfix"), "-s", "5", "-m", "50", "-l", "5000", "-r", "3", "-d"),
            *("-f", "a@x.test", "-t", "r@y.test", f"inet:127.0.0.1:{self.smtp}"),
        )
        self.assertEqual([len(kept.recipients) for kept in self.relay.transactions], [3] * 50)
        check_hop(self.relay, 50)

    async def test_smtp_source_speaking_lmtp(self) -> None:
        await self.execute(
            *(tool("smtp-source", "postfix"), "-L", "-s", "5", "-m", "50", "-l", "5000"),
            *("-f", "a@x.test", "-t", "r@y.test", f"inet:127.0.0.1:{self.lmtp}"),
        )
        self.assertEqual(len(self.store.transactions), 50)
        check_hop(self.store, 50)

    # the process itself

    async def test_an_open_connection_does_not_hold_up_the_end(self) -> None:
        def linger() -> bytes:
            with socket.create_connection(("127.0.0.1", self.smtp), timeout=20) as idle:
                idle.recv(500)
                log = self.gateway.stop(deadline=10)
                self.assertIn("gateway.stop", log)
                return idle.recv(500)

        self.assertEqual((await deferToThread(linger))[:9], b"421 4.3.2")
