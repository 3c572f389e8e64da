"""The files of etc/organisation as they are, but for addresses, between real servers: OpenLDAP, rspamd, Dovecot, and a DNS of
ours for SPF and DKIM."""

from __future__ import annotations

import re
import shutil
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import dkim
import pytest
from click.testing import CliRunner
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from mailgate.cli import main
from mailgate.mailauth.dkim_keys import load_private_key
from mailgate.net.waiting import spawn
from mailgate.testing.client import RawClient, connect
from mailgate.testing.names import NameServer
from mailgate.testing.nexthop import NextHop
from mailgate.testing.tls import TrustingClient
from tests.support.certificates import authority, leaf
from tests.support.invariants import check_log
from tests.support.ports import free_ports
from tests.support.process import GatewayProcess
from tests.support.rspamd import RspamdServer
from tests.support.servers import Dovecot
from tests.support.slapd import Slapd, person

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ORGANISATION = Path(__file__).parents[2] / "etc" / "organisation"
ENTRIES = (
    person(
        "alice", password="wonderland", mail=("alice@example.org", "sales@example.org"), mailRoutingAddress="alice@example.org"
    )
    + person("bob", password="builder", mail="bob@example.org")
    + person("team", mail="team@example.org", mailRoutingAddress="bob@example.org")
)
CONTENT = (
    b"From: Ann <ann@sender.test>\r\nTo: alice@example.org\r\nSubject: hello\r\nMessage-ID: <1@sender.test>\r\n"
    b"Date: Sun, 22 Nov 2026 08:00:00 +0000\r\n\r\n%s\r\n"
)
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


class OrganisationCase(TestCase):
    timeout = 120

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        directory = tempfile.TemporaryDirectory(prefix="mailgate-e2e-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.names = NameServer(reactor)
        self.addCleanup(lambda: spawn(self.names.stop()))
        self.slapd = Slapd(ENTRIES)
        self.addCleanup(self.slapd.stop)
        self.dovecot = Dovecot()
        self.addCleanup(self.dovecot.stop)
        self.smarthost = NextHop(tls=leaf("localhost").server).listen(reactor)
        self.addCleanup(self.smarthost.close)
        self.listener, self.other = free_ports(2)

    def configure(self, name: str, **replaced: str) -> Path:
        """A copy with other addresses, names asked of our server, and our own authority trusted."""
        text = (ORGANISATION / name).read_text()
        certificate = leaf("localhost")
        resolver = f"resolver {{\n servers 127.0.0.1:{self.names.port}\n}}\n"
        trusted = f"tls_client {{\n root_ca {authority().path}\n }}\n"
        for old, new in {
            "/var/lib/mailgate": str(self.home),
            "/run/mailgate": str(self.home),
            "tls self_signed ": f"{resolver}tls file {certificate.chain_path} {certificate.key_path} ",
            "tcp://store1.internal:24 tcp://store2.internal:24": f"unix://{self.dovecot.socket}",
            "urls ldap://ldap1.internal ldap://ldap2.internal": f"{trusted}urls {self.slapd.url}",
            "urls ldaps://ldap1.internal ldaps://ldap2.internal": f"{trusted}urls {self.slapd.tls_url}",
            "tls require_verify": f"tls require_verify\n tls_client {{\n root_ca {authority().path}\n }}",
            "tcp://192.0.2.1:587": f"tcp://127.0.0.1:{self.listener}",
            "tcp://192.0.2.1:25": f"tcp://127.0.0.1:{self.listener}",
            "tls://192.0.2.1:465": f"tls://127.0.0.1:{self.other}",
            **replaced,
        }.items():
            text = text.replace(old, new)
        self.assertFalse({"//192.0.2.1", ".internal:"} & set(re.findall(r"//192\.0\.2\.1|\.internal:", text)))
        config = self.home / name
        config.write_text(text)
        return config

    def start(self, config: Path) -> None:
        self.gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(self.stop_gateway)

    async def stop_gateway(self) -> None:
        check_log(await self.gateway.stop_beside())

    async def connect(self) -> RawClient:
        client = await connect(self.reactor, f"tcp://127.0.0.1:{self.listener}")
        self.addCleanup(client.close)
        await client.reply()
        return client

    async def lies_there(self, user: str, count: int) -> list[bytes]:
        """What Dovecot has for a user, once it is so many; `timeout` bounds the waiting."""
        while len(self.dovecot.delivered(user)) < count:
            await deferLater(self.reactor, 0.05)
        return self.dovecot.delivered(user)


class InboundTests(OrganisationCase):
    def setUp(self) -> None:
        super().setUp()
        self.rspamd = RspamdServer()
        self.addCleanup(self.rspamd.stop)
        self.names.add("sender.test", "TXT", '"v=spf1 ip4:203.0.113.9 -all"')
        self.names.add("_dmarc.sender.test", "TXT", '"v=DMARC1; p=reject"')
        self.names.add("forged.test", "TXT", '"v=spf1 -all"')
        self.names.add("_dmarc.forged.test", "TXT", '"v=DMARC1; p=reject"')
        rspamd, smarthost = f"http://127.0.0.1:{self.rspamd.port} {{\n timeout 20s\n}}\n", self.smarthost.endpoint
        self.start(
            self.configure(
                "inbound.conf",
                **{
                    "max_connections 500": "xclient {\n trust 127.0.0.0/8\n }",
                    "http://127.0.0.1:11333": rspamd,
                    "tcp://smart1.internal:25": f"{smarthost}\n tls disabled",
                },
            )
        )

    async def send(
        self, *recipients: bytes, content: bytes = CONTENT % b"nothing", sender: bytes = b"ann@sender.test"
    ) -> list[str]:
        """The replies to RCPT and to the dot, or to DATA, for a client somewhere on the internet."""
        client = await self.connect()
        await client.command(b"XCLIENT ADDR=203.0.113.9")
        replies = await client.deliver(sender, recipients, content, hello=b"EHLO client.test")
        await client.close()
        return [reply[:9].decode() for reply in replies if reply[:3] != b"354"][2:]

    async def test_people_get_their_mail_and_see_who_sent_it(self) -> None:
        self.assertEqual((await self.send(b"alice@example.org"))[-1], "250 2.0.0")
        (lies,) = await self.lies_there("alice", 1)
        self.assertIn(b"Authentication-Results: mx.example.org", lies)
        for result in (b"spf=pass", b"dmarc=pass", b"dkim=none"):
            self.assertIn(result, lies)
        self.assertTrue(lies.endswith(b"\r\n\r\nnothing\r\n"))

    async def test_an_alias_and_a_second_address(self) -> None:
        self.assertEqual((await self.send(b"team@example.org", b"sales@example.org"))[-1], "250 2.0.0")
        self.assertEqual(len(await self.lies_there("bob", 1)), 1)
        self.assertEqual(len(await self.lies_there("alice", 1)), 1)

    async def test_who_is_turned_away(self) -> None:
        self.assertIn("550 5.1.1", await self.send(b"nobody@example.org"))
        self.assertIn("550 5.7.1", await self.send(b"other@far.example"))
        self.assertEqual((await self.send(b"alice@example.org", content=CONTENT % GTUBE))[-1], "554 5.7.1")
        forged = CONTENT.replace(b"sender.test", b"forged.test") % b"nothing"
        self.assertEqual((await self.send(b"alice@example.org", content=forged, sender=b"a@forged.test"))[-1][0], "5")
        self.assertEqual(self.dovecot.delivered("alice"), [])

    async def test_a_directory_that_is_down_is_no_unknown_user(self) -> None:
        self.slapd.kill()
        self.assertEqual((await self.send(b"bob@example.org"))[0][:3], "451")
        self.slapd.start()
        while (await self.send(b"bob@example.org"))[0][:3] != "250":
            await deferLater(self.reactor, 0.2)
        self.assertTrue(await self.lies_there("bob", 1))


class SubmissionTests(OrganisationCase):
    def setUp(self) -> None:
        super().setUp()
        key = self.home / "mail2026.pem"
        runner = CliRunner()
        made = runner.invoke(main, ["dkim", "generate", "example.org", "mail2026", "--key", str(key), "--algorithm", "ed25519"])
        self.assertEqual(made.exit_code, 0, made.output)
        strict = self.home / "strict"
        strict.mkdir()
        for path in (*ORGANISATION.glob("*.conf"), key):
            shutil.copy(path, strict)
        for name in ("inbound.conf", "submission.conf"):
            checked = runner.invoke(main, ["check", "--strict", "-c", str(strict / name)])
            self.assertEqual(checked.exit_code, 0, checked.output)
        self.record = load_private_key(key.read_bytes()).record
        targets = f"tcp://localhost:{self.smarthost.port}"
        self.start(self.configure("submission.conf", **{"tcp://smart1.internal:587 tcp://smart2.internal:587": targets}))

    async def submit(self, user: str, password: str, sender: bytes, author: bytes, recipient: bytes = b"bob@far.example") -> str:
        """The last reply."""
        client = await self.connect()
        await client.command(b"EHLO client.test")
        await client.secure(TrustingClient("localhost"))
        await client.command(b"EHLO client.test")
        reply = await client.command(b"AUTH PLAIN " + b64encode(f"\0{user}\0{password}".encode()))
        if reply[:3] == b"235":
            content = b"From: <" + author + b">\r\nTo: bob@far.example\r\nSubject: hello\r\n\r\nHello.\r\n"
            reply = (await client.deliver(sender, (recipient,), content))[-1]
        await client.close()
        return reply[:9].decode()

    async def test_who_writes_in_their_own_name_is_signed_and_sent(self) -> None:
        self.assertEqual(await self.submit("alice", "wonderland", b"sales@example.org", b"alice@example.org"), "250 2.0.0")
        await self.smarthost.when_delivered()
        (sent,) = self.smarthost.transactions
        self.assertTrue(sent.secure)
        record = self.record.encode()
        good = await deferToThread(dkim.verify, bytes(sent.content), dnsfunc=lambda name, timeout=5: record)
        self.assertTrue(good, bytes(sent.content))

    async def test_who_does_not_is_not(self) -> None:
        for user, password, sender, author, reply in (
            ("alice", "wrong", b"alice@example.org", b"alice@example.org", "535 5.7.8"),
            ("mallory", "wonderland", b"alice@example.org", b"alice@example.org", "535 5.7.8"),
            ("alice", "wonderland", b"bob@example.org", b"alice@example.org", "553 5.7.1"),
            ("alice", "wonderland", b"alice@example.org", b"bob@example.org", "550 5.7.1"),
        ):
            said = await self.submit(user, password, sender, author)
            self.assertIn(said, (reply, "503 5.5.1", "554 5.5.1"), (user, sender, author))
        self.assertEqual(self.smarthost.transactions, [])

    async def test_nobody_sends_without_a_login(self) -> None:
        client = await self.connect()
        await client.command(b"EHLO client.test")
        self.assertEqual((await client.command(b"MAIL FROM:<alice@example.org>"))[:9], b"530 5.7.0")

    async def test_a_directory_that_is_down_is_no_wrong_password(self) -> None:
        self.slapd.kill()
        self.assertEqual(await self.submit("alice", "wonderland", b"alice@example.org", b"alice@example.org"), "454 4.7.0")
        self.slapd.start()
        while await self.submit("alice", "wonderland", b"alice@example.org", b"alice@example.org") != "250 2.0.0":
            await deferLater(self.reactor, 0.2)
        await self.smarthost.when_delivered()
