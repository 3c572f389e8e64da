"""Checks of senders in a gateway process, over real sockets, with a real name server, next to others' parsers."""

from __future__ import annotations

import email
from typing import Any

import authres
import dkim
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.threads import deferToThread

from mailgate.mailauth.dkim_keys import RSA_SHA256, new_key
from mailgate.net.waiting import spawn
from mailgate.testing.client import RawClient, connect
from mailgate.testing.names import Action, NameServer
from tests.support.scenario import statuses
from tests.wire.test_gateway_process import ProcessCase

RSA = new_key(RSA_SHA256)
PEM = RSA.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
CLIENT, STRANGER = "192.0.2.7", "192.0.2.66"
AUTHOR = b"ann@sender.test"
CHECKS = "spf\ndkim\narc\ndmarc {\nreports {\nfile ./dmarc.sqlite\n}\n}"


class AuthenticatedMail(ProcessCase):
    def setUp(self) -> None:
        super().setUp()
        self.names = NameServer(self.reactor)
        self.addCleanup(lambda: spawn(self.names.stop()))
        record = RSA.record
        self.names.add("s._domainkey.sender.test", "TXT", f'"{record[:250]}" "{record[250:]}"')
        self.names.add("sender.test", "TXT", '"v=spf1 mx include:_spf.sender.test -all"')
        self.names.add("sender.test", "MX", "10 mx.sender.test.")
        self.names.add("mx.sender.test", "A", "198.51.100.25")
        self.names.add("_spf.sender.test", "TXT", f'"v=spf1 ip4:{CLIENT} -all"')
        self.names.add("_dmarc.sender.test", "TXT", '"v=DMARC1; p=reject; rua=mailto:x@sender.test"')
        self.names.script("_dmarc.down.test", "TXT", Action.SERVFAIL)
        self.next_hop = self.hop()
        (self.home / "key.pem").write_bytes(RSA.pem)
        (self.home / "key.pem").chmod(0o600)
        self.start(
            f"resolver {{\nservers 127.0.0.1:{self.names.port}\n}}\n"
            f"smtp tcp://127.0.0.1:{self.smtp} {{\nxclient {{\ntrust 127.0.0.0/8\n}}\ncheck {{\n{CHECKS}\n}}\n"
            f"modify {{\narc sender.test s {{\nkey ./key.pem\n}}\n}}\ndeliver_to smtp {self.next_hop.endpoint}\n}}\n"
        )

    async def send(self, source: str, content: bytes, sender: bytes = AUTHOR) -> bytes:
        client: RawClient = await connect(self.reactor, f"tcp://127.0.0.1:{self.smtp}")
        await client.reply()
        for line in (b"EHLO proxy.test", b"XCLIENT ADDR=" + source.encode(), b"EHLO client.test"):
            self.assertEqual((await client.command(line))[:1], b"2", line)
        replies = statuses(await client.deliver(sender, [b"bob@y.test"], content))
        await client.quit()
        return next((status for status in replies if status[:1] in b"45"), replies[-1])

    def sent(self) -> Any:
        return email.message_from_bytes(bytes(self.next_hop.transactions[-1].content))

    async def test_what_passes_and_what_does_not(self) -> None:
        plain = b"From: Ann <ann@sender.test>\r\nSubject: hi\r\nDate: now\r\n\r\n" + b"A line of text.\r\n" * 60_000
        signature = await deferToThread(dkim.sign, plain, b"s", b"sender.test", PEM)
        signed = signature + plain
        self.assertEqual(await self.send(CLIENT, signed), b"250 2.0.0")
        parsed = authres.AuthenticationResultsHeader.parse(f"Authentication-Results: {self.sent()['Authentication-Results']}")
        self.assertEqual(parsed.authserv_id, "gateway.test")
        found = [(one.method, one.result) for one in parsed.results]
        self.assertEqual(found, [("spf", "pass"), ("dkim", "pass"), ("arc", "none"), ("dmarc", "pass")])
        chain = dkim.arc_verify(bytes(self.next_hop.transactions[-1].content), dnsfunc=lambda *_, **__: RSA.record.encode())
        self.assertEqual(chain[0], b"pass")
        self.assertEqual(await self.send(STRANGER, signed, b"list@other.test"), b"250 2.0.0")
        self.assertEqual(await self.send(STRANGER, plain), b"550 5.7.1")
        self.assertEqual(await self.send(STRANGER, signed.replace(b"A line", b"A lime", 1)), b"550 5.7.1")
        self.assertEqual(await self.send(STRANGER, b"From: x@down.test\r\n\r\nhi\r\n", b"x@other.test"), b"451 4.4.3")
        self.assertEqual(len(self.next_hop.transactions), 2)
        assert self.gateway is not None
        log = await self.gateway.stop_beside()
        self.assertIn('auth="spf=pass dkim=pass arc=none dmarc=pass"', log)
        self.assertTrue((self.home / "dmarc.sqlite").exists())
