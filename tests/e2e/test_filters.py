"""Real filters behind the gateway: rspamd, and opendkim over the milter protocol."""

from __future__ import annotations

import os
import subprocess
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from mailgate.testing.client import connect
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.nexthop import NextHop
from tests.support.adapters import real_adapters
from tests.support.ports import free_port
from tests.support.rspamd import RspamdServer
from tests.support.servers import DEADLINE, tool

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CONTENT = (
    b"From: ann@x.test\r\nTo: bob@y.test\r\nSubject: hello\r\nMessage-ID: <1@x.test>\r\n"
    b"Date: Sun, 22 Nov 2026 08:00:00 +0000\r\n\r\n%s\r\n"
)
GTUBE = b"%cJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


async def wait_for(reactor: Any, condition: Any) -> None:
    end = reactor.seconds() + DEADLINE
    while not condition():
        assert reactor.seconds() < end
        await deferLater(reactor, 0.02)


class FilterCase(TestCase):
    timeout = 120

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        directory = tempfile.TemporaryDirectory(prefix="mailgate-e2e-")
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.relay = NextHop().listen(reactor)
        self.addCleanup(self.relay.close)
        self.port = free_port()

    async def gateway(self, checks: str) -> WholeGateway:
        text = f"hostname gateway.test\nsmtp tcp://127.0.0.1:{self.port} {{\ntls off\nreverse_lookup no\ncheck {{\n{checks}\n}}\n"
        running = WholeGateway(f"{text}deliver_to smtp {self.relay.endpoint}\n}}\n", real_adapters(), self.directory)
        await running.start()
        self.addCleanup(running.stop)
        return running

    async def send(self, content: bytes, *recipients: bytes) -> bytes:
        client = await connect(self.reactor, f"tcp://127.0.0.1:{self.port}")
        try:
            await client.reply()
            replies = await client.deliver(b"ann@x.test", recipients or (b"bob@y.test",), content, hello=b"EHLO client.test")
        finally:
            await client.close()
        return replies[-1]

    def header(self) -> bytes:
        """Of what the next hop got last."""
        return bytes(self.relay.transactions[-1].content).partition(b"\r\n\r\n")[0]


class RspamdTests(FilterCase):
    async def test_gtube(self) -> None:
        rspamd = RspamdServer()
        self.addCleanup(rspamd.stop)
        await self.gateway(f"rspamd http://127.0.0.1:{rspamd.port} {{\ntimeout 20s\n}}")
        reply = await self.send(CONTENT % b"nothing of interest")
        self.assertEqual(reply[:9], b"250 2.0.0", reply)
        self.assertNotIn(b"X-Spam", self.header())
        reply = await self.send(CONTENT % (GTUBE % ord("X")))
        self.assertTrue(reply.startswith(b"554 5.7.1 Gtube pattern"), reply)
        self.assertEqual(len(self.relay.transactions), 1)
        reply = await self.send(CONTENT % (GTUBE % ord("Y")))
        self.assertEqual(reply[:9], b"250 2.0.0", reply)
        self.assertIn(b"\r\nX-Spam: Yes", self.header())
        self.assertIn(b"X-Mailgate-Quarantine: yes\r\n", self.header())
        reply = await self.send(CONTENT % (GTUBE % ord("Z")))
        self.assertEqual(reply[:9], b"250 2.0.0", reply)
        self.assertIn(b"\r\nSubject: *** SPAM *** hello", self.header())

    async def test_gtube_by_its_milter(self) -> None:
        rspamd = RspamdServer()
        self.addCleanup(rspamd.stop)
        await self.gateway(f"milter tcp://127.0.0.1:{rspamd.milter_port}")
        for word, expected, field in (
            (b"nothing of interest", b"250 2.0.0", b"Subject: hello"),
            (GTUBE % ord("X"), b"554 5.7.1", b""),
            (GTUBE % ord("Y"), b"250 2.0.0", b"X-Spam: Yes"),
            (GTUBE % ord("Z"), b"250 2.0.0", b"Subject: *** SPAM *** hello"),
        ):
            reply = await self.send(CONTENT % word)
            self.assertEqual(reply[:9], expected, reply)
            if field:
                self.assertIn(b"\r\n" + field, self.header())
        self.assertEqual(len([one for one in self.relay.transactions if one.content]), 3)

    async def test_a_message_of_nobody(self) -> None:
        rspamd = RspamdServer()
        self.addCleanup(rspamd.stop)
        await self.gateway(f"rspamd http://127.0.0.1:{rspamd.port} {{\ntimeout 20s\n}}")
        client = await connect(self.reactor, f"tcp://127.0.0.1:{self.port}")
        await client.reply()
        replies = await client.deliver(b"", [b"bob@y.test"], CONTENT % b"a bounce", hello=b"EHLO client.test")
        await client.close()
        self.assertEqual(replies[-1][:9], b"250 2.0.0", replies)


OPENDKIM_CONF = """\
Domain x.test
Selector lab
KeyFile {home}/key.pem
Canonicalization relaxed/relaxed
Socket local:{home}/socket
PidFile {home}/pid
UMask 000
AlwaysAddARHeader no
RequireSafeKeys no
TestPublicKeys {home}/records
{settings}
"""


class OpendkimTests(FilterCase):
    async def opendkim(self, *settings: str) -> bytes:
        """A gateway that asks it; returns the record of its key, whose private half is in ``self.pem``."""
        program = tool("opendkim", "opendkim")
        home = Path(self.directory)
        key = rsa.generate_private_key(65537, 2048)
        self.pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        record = b"v=DKIM1; k=rsa; p=" + b64encode(public)
        (home / "key.pem").write_bytes(self.pem)
        (home / "records").write_bytes(b"lab._domainkey.x.test " + record + b"\n")
        (home / "opendkim.conf").write_text(OPENDKIM_CONF.format(home=home, settings="\n".join(settings)))
        user = ["-u", "root"] if os.geteuid() == 0 else []
        process = subprocess.Popen(  # noqa: ASYNC220
            [program, "-f", *user, "-x", str(home / "opendkim.conf")], stdin=subprocess.DEVNULL
        )
        self.addCleanup(process.wait, 10)
        self.addCleanup(process.terminate)
        await wait_for(self.reactor, (home / "socket").exists)
        await self.gateway(f"milter unix://{home}/socket {{\nmacro daemon_name ORIGINATING\n}}")
        return record

    async def test_it_signs_what_we_send_on(self) -> None:
        """For whom, it knows by the macro: nobody is internal otherwise."""
        record = await self.opendkim("Mode s", "InternalHosts 192.0.2.1", "MTA ORIGINATING")
        for number in range(3):
            reply = await self.send(CONTENT % b"number %d" % number)
            self.assertEqual(reply[:9], b"250 2.0.0", reply)
        for transaction in self.relay.transactions:
            content = bytes(transaction.content)
            self.assertIn(b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=x.test; s=lab;", content)
            self.assertTrue(dkim.verify(content, dnsfunc=lambda name, timeout=5: record), content)

    async def test_it_verifies_what_we_are_sent(self) -> None:
        await self.opendkim("Mode v", "InternalHosts 192.0.2.1", "AuthservID filter.test", "On-BadSignature reject")
        content = CONTENT % b"signed"
        signature = dkim.sign(content, b"lab", b"x.test", self.pem, include_headers=[b"from", b"to", b"subject"])
        reply = await self.send(signature + content)
        self.assertEqual(reply[:9], b"250 2.0.0", reply)
        self.assertIn(b"Authentication-Results: filter.test;\r\n\tdkim=pass", self.header())
        reply = await self.send(signature + content.replace(b"signed", b"changed"))
        self.assertEqual(reply[:3], b"550", reply)
        self.assertEqual(len([one for one in self.relay.transactions if one.content]), 1)
