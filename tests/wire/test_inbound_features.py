"""The inbound side, setting by setting, on real sockets: one test for each row of table B of the features page, named for it.

The rows are those of nodemailer's smtp-server, whose names the tests bear; what the setting is called here stands in the test.
Its logger and component take a process: tests/wire/test_log.py.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from twisted.trial.unittest import TestCase

from mailgate.inbound.esmtp import EsmtpListener
from mailgate.net.waiting import spawn
from mailgate.testing.client import ConnectionEnded, RawClient, connect
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.names import Action, NameServer
from mailgate.testing.nexthop import NextHop
from mailgate.testing.tls import TrustingClient
from tests.support.adapters import real_adapters
from tests.support.certificates import authority, leaf
from tests.support.checks import install
from tests.support.invariants import check_log
from tests.support.ledger import message
from tests.support.ports import free_port

HELLO = b"EHLO client.test"
MAIL = b"MAIL FROM:<a@client.test>"
RCPT = b"RCPT TO:<b@mx.test>"
PLAIN = b"AUTH PLAIN " + base64.b64encode(b"\0alice\0secret")
WRONG = b"AUTH PLAIN " + base64.b64encode(b"\0alice\0wrong")
LAB = "auth static {\n entry alice secret\n}"
IN_CLEAR = f"{LAB}\ninsecure_auth yes"


class FeatureCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.adapters = real_adapters()
        self.reactor: Any = self.adapters.reactor
        directory = tempfile.TemporaryDirectory(prefix="mailgate-feature-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.port = free_port()
        self.running: WholeGateway | None = None

    async def listen(
        self, *directives: str, kind: str = "smtp", scheme: str = "tcp", outside: str = "", route: str = "discard"
    ) -> WholeGateway:
        """A gateway with one listener of these directives; another one that was there is gone."""
        await self.finish()
        given = "\n".join(directives)
        inner = "\n".join((given, *(() if "reverse_lookup" in given else ("reverse_lookup no",)), route))
        text = f"hostname mx.feature.test\n{outside}\n{kind} {scheme}://127.0.0.1:{self.port} {{\n{inner}\n}}\n"
        if "tls" not in text.replace("tls://", ""):
            text = "tls off\n" + text
        self.running = WholeGateway(text, self.adapters, str(self.directory))
        await self.running.start()
        self.addCleanup(lambda: spawn(self.finish()))
        return self.running

    async def finish(self) -> None:
        running, self.running = self.running, None
        if running is not None:
            await running.stop()
            check_log(running.log_text)

    async def connect(self, scheme: str = "tcp", sni: str = "", adjust: Any = None) -> RawClient:
        tls = TrustingClient(sni, adjust) if scheme == "tls" else None
        client = await connect(self.reactor, f"{scheme}://127.0.0.1:{self.port}", tls=tls)
        self.addCleanup(lambda: spawn(client.close()))
        return client

    async def client(self, *lines: bytes, scheme: str = "tcp", sni: str = "", adjust: Any = None) -> RawClient:
        """One that has read the greeting and said these lines."""
        client = await self.connect(scheme, sni, adjust)
        await client.reply()
        await client.say(*lines)
        return client

    async def hear(self, *lines: bytes) -> bytes:
        """The last reply of a new client that says these, each after the reply to the one before."""
        client = await self.connect()
        replies = [await client.reply(), *await client.say(*lines)]
        await client.close()
        return replies[-1] + b"\r\n"

    async def table(self, *rows: tuple[str, Sequence[bytes], bytes]) -> None:
        """Directive, lines, what the last reply holds."""
        for directive, lines, expected in rows:
            await self.listen(directive)
            reply = await self.hear(*lines)
            self.assertIn(expected, reply, directive)

    async def message(self, client: RawClient, content: bytes = b"") -> bytes:
        return (await client.deliver(b"a@client.test", [b"b@mx.test"], content or message("feature")))[-1]


class Dialogue(FeatureCase):
    async def test_name(self) -> None:
        for line, lines in ((b"220 mx.other.test ESMTP", ()), (b"250-mx.other.test", (HELLO,))):
            await self.listen("hostname mx.other.test")
            self.assertIn(line, await self.hear(*lines))
        await self.listen("hostname mx.other.test", route=f"deliver_to maildir {self.directory}/mail")
        self.assertEqual((await self.message(await self.client(HELLO)))[:3], b"250")
        (stored,) = (self.directory / "mail" / "new").iterdir()
        self.assertRegex(stored.read_bytes(), rb"Received: from client\.test [^;]*\s+by mx\.other\.test with ESMTP")

    async def test_banner(self) -> None:
        await self.table(('banner "no spam please"', (), b"220 mx.feature.test ESMTP no spam please\r\n"))

    async def test_size(self) -> None:
        await self.table(
            ("", [HELLO], b"SIZE 33554432"),
            ("max_message_size 1K", [HELLO], b"SIZE 1024"),
            ("max_message_size 1K", [HELLO, MAIL + b" SIZE=1025"], b"552 5.3.4"),
            ("max_message_size 1K", [HELLO, MAIL, RCPT, b"DATA", b"\r\n" + b"x" * 1100 + b"\r\n."], b"552 5.3.4"),
        )

    async def test_hide_size(self) -> None:
        await self.table(
            ("announce_size no", [HELLO], b"250-SIZE\r\n"),
            ("announce_size no\nmax_message_size 1K", [HELLO, MAIL + b" SIZE=1025"], b"552 5.3.4"),
        )

    async def test_hide_keywords(self) -> None:
        """hideSTARTTLS, hidePIPELINING, hide8BITMIME, hideSMTPUTF8, hideENHANCEDSTATUSCODES, hideDSN, hideREQUIRETLS."""
        kept = "target.queue kept {\n target maildir /nowhere\n}"
        every = (b"STARTTLS", b"PIPELINING", b"8BITMIME", b"SMTPUTF8", b"ENHANCEDSTATUSCODES", b"DSN", b"REQUIRETLS")
        for hidden in (None, *every):
            hide = f"hide {hidden.decode()}" if hidden else ""
            await self.listen("tls self_signed", "reports &kept", hide, outside=kept)
            client = await self.client()
            clear = await client.command(HELLO)
            if hidden != b"STARTTLS":
                self.assertEqual((await client.secure(TrustingClient()))[:3], b"220")
                secured = await client.command(HELLO)
            else:
                secured = b""
                self.assertEqual((await client.command(b"STARTTLS"))[:3], b"220")  # still accepted
            announced = {line[4:].split(b" ")[0] for line in (clear + b"\r\n" + secured).split(b"\r\n")}
            missing = {word for word in every if word not in announced}
            unseen = {b"REQUIRETLS"} if not secured else set()  # it is announced within TLS alone
            with_it = {b"SMTPUTF8"} if hidden == b"8BITMIME" else set()  # which it must not be announced without (RFC 6531 3.1)
            self.assertEqual(missing - unseen, {hidden, *with_it} - {None})
        await self.table(
            ("hide 8BITMIME", [HELLO, MAIL + b" BODY=8BITMIME"], b"250 2.1.0"),
            ("hide SMTPUTF8", [HELLO, MAIL + b" SMTPUTF8"], b"250 2.1.0"),
            ("hide ENHANCEDSTATUSCODES", [HELLO, MAIL], b"250 Sender"),
        )

    async def test_disabled_commands(self) -> None:
        await self.table(
            ("disable_commands VRFY", [HELLO, b"VRFY a"], b"502 5.5.1"),
            (f"disable_commands AUTH\n{IN_CLEAR}", [HELLO, PLAIN], b"502 5.5.1"),
        )
        await self.listen("disable_commands AUTH", IN_CLEAR)
        self.assertNotIn(b"AUTH", await self.hear(HELLO))

    async def test_lmtp(self) -> None:
        await self.listen(kind="lmtp")
        self.assertEqual((await self.hear(HELLO))[:9], b"500 5.5.1")
        self.assertEqual((await self.hear(b"HELO client.test"))[:9], b"500 5.5.1")
        client = await self.client()
        replies = await client.deliver(b"a@client.test", [b"b@mx.test"] * 3, message("l"), hello=b"LHLO client.test")
        self.assertEqual([reply[:3] for reply in replies[-3:]], [b"250"] * 3)

    async def test_helo_response(self) -> None:
        await self.table(('helo_response "%s salutes %s"', [HELLO], b"250-mx.feature.test salutes client.test\r\n"))

    async def test_lenient_address_parsing(self) -> None:
        await self.table(
            ("", [HELLO, b"MAIL FROM: a@client.test"], b"501 5.1.7"),
            ("strict_addresses no", [HELLO, b"MAIL FROM: a@client.test"], b"250 2.1.0"),
            ("strict_addresses no", [HELLO, b"MAIL FROM:<a\x01@client.test>"], b"501 5.1.7"),
            ("strict_addresses no", [HELLO, MAIL + b" SMTPUTF8", "RCPT TO:<b\u200b@mx.test>".encode()], b"501 5.1.3"),
        )

    async def test_max_command_length(self) -> None:
        await self.table(
            ("max_command_length 512", [HELLO, b"NOOP " + b"x" * 500], b"250 2.0.0"),
            ("max_command_length 512", [HELLO, b"NOOP " + b"x" * 600], b"500 5.5.2"),
            (IN_CLEAR, [HELLO, b"AUTH PLAIN " + b"x" * 13000], b"500 5.5.6"),
        )
        await self.listen("max_command_length 512")
        client = await self.client(HELLO)
        client.send(b"x" * 4096)
        self.assertEqual((await client.reply())[:9], b"421 4.7.0")
        await client.wait_closed()

    async def test_http_and_early_talkers(self) -> None:
        await self.listen()
        self.assertEqual((await self.hear(b"GET / HTTP/1.1"))[:9], b"421 4.7.0")
        for directives, expected in (
            ("greeting_delay 500ms", b"421 4.7.0"),
            ("greeting_delay 200ms\nearly_talker ignore", b"220 "),
        ):
            await self.listen(directives)
            early = await self.connect()
            early.send(HELLO + b"\r\n")
            self.assertEqual((await early.reply())[: len(expected)], expected)
        self.assertIn(b"250-mx.feature.test", await early.reply())


class Secure(FeatureCase):
    async def test_secure(self) -> None:
        await self.listen("tls self_signed", scheme="tls")
        client = await self.client(scheme="tls")
        reply = await client.command(HELLO)
        self.assertNotIn(b"STARTTLS", reply)
        self.assertEqual((await self.message(client))[:3], b"250")

    async def test_needs_upgrade(self) -> None:
        await self.listen("tls self_signed", "tls_start yes")
        client = await self.client(scheme="tls")
        self.assertEqual((await self.message(client, b""))[:3], b"503")  # no hello yet: it is the session we talk to
        await self.listen("tls self_signed", "tls_start yes", "proxy_protocol {\n trust 127.0.0.0/8\n}")
        client = await self.connect()
        client.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 4321 25\r\n")
        client.start_tls(TrustingClient())
        self.assertEqual((await client.reply())[:3], b"220")

    async def test_key_cert_ca(self) -> None:
        mine = leaf("mx.feature.test")
        partner = leaf("partner.test")
        files = f"tls file {mine.chain_path} {mine.key_path}"
        await self.listen(files)
        client = await self.client(HELLO)
        await client.secure(TrustingClient())
        await client.command(HELLO)
        shown = client.transport.getPeerCertificate()  # type: ignore[union-attr]
        self.assertIn("mx.feature.test", str(shown.to_cryptography().extensions))
        await self.listen(f"{files} {{\n client_ca {authority().path}\n client_auth required\n}}", scheme="tls")
        with self.assertRaises(ConnectionEnded):
            await self.client(HELLO, scheme="tls")

        def show(context: Any) -> None:
            context.use_certificate_chain_file(partner.chain_path)
            context.use_privatekey_file(partner.key_path)

        self.assertEqual((await (await self.client(scheme="tls", adjust=show)).command(HELLO))[:3], b"250")

    async def names_shown(self, sni: str, scheme: str) -> str:
        client = await self.client(scheme=scheme, sni=sni)
        if scheme == "tcp":
            await client.command(HELLO)
            await client.secure(TrustingClient(sni))
        await client.command(HELLO)
        return str(client.transport.getPeerCertificate().to_cryptography().extensions)  # type: ignore[union-attr]

    async def test_sni_options(self) -> None:
        one, two, wild = leaf("one.test"), leaf("two.test"), leaf("*.wild.test")
        sni = "".join(
            f" sni {name} {{\n  file {pair.chain_path} {pair.key_path}\n }}\n"
            for name, pair in (("two.test", two), ("*.wild.test", wild))
        )
        for scheme in ("tcp", "tls"):
            await self.listen(f"tls file {one.chain_path} {one.key_path} {{\n{sni}}}", scheme=scheme)
            for name, expected in (("two.test", "two.test"), ("a.wild.test", "*.wild.test"), ("else.test", "one.test")):
                self.assertIn(expected, await self.names_shown(name, scheme))

    async def test_sni_callback(self) -> None:
        one, two = leaf("one.test"), leaf("two.test")
        table = f"table.static certificates {{\n entry two.test {two.chain_path} {two.key_path}\n}}"
        for scheme in ("tcp", "tls"):
            await self.listen(
                f"tls file {one.chain_path} {one.key_path} {{\n sni_lookup &certificates\n}}", scheme=scheme, outside=table
            )
            for name, expected in (("two.test", "two.test"), ("else.test", "one.test")):
                self.assertIn(expected, await self.names_shown(name, scheme))

    async def test_update_secure_context(self) -> None:
        one, two = leaf("one.test"), leaf("two.test")
        running = await self.listen(f"tls file {one.chain_path} {one.key_path}", scheme="tls")
        before = await self.client(HELLO, scheme="tls")
        text = running.path.read_text().replace(one.chain_path, two.chain_path).replace(one.key_path, two.key_path)
        await running.reload(text)
        self.assertIn("two.test", await self.names_shown("", "tls"))
        self.assertEqual((await self.message(before))[:3], b"250")


class Bounds(FeatureCase):
    async def test_max_clients(self) -> None:
        await self.listen("max_connections 2\nreserved_connections 0")
        first = await self.client(HELLO)
        await self.client(HELLO)
        third = await self.connect()
        self.assertEqual((await third.reply())[:9], b"421 4.7.0")
        await third.wait_closed()
        await first.quit()
        self.assertEqual((await self.message(await self.client(HELLO)))[:3], b"250")

    async def test_socket_timeout(self) -> None:
        await self.listen("read_timeout 1s")
        idle = await self.client(HELLO)
        self.assertEqual((await idle.reply())[:9], b"421 4.4.2")
        await idle.wait_closed()
        await self.listen("tls self_signed", "handshake_timeout 1s", scheme="tls")
        silent = await self.connect()
        await silent.wait_closed()

    async def test_close_timeout(self) -> None:
        running = await self.listen("shutdown_timeout 10s")
        idle, busy = await self.client(HELLO), await self.client(HELLO, MAIL, RCPT, b"DATA")
        stopping = spawn(running.stop())
        self.running = None
        self.assertEqual((await idle.reply())[:9], b"421 4.3.2")
        busy.send(message("m") + b".\r\n")
        self.assertEqual((await busy.reply())[:3], b"250")
        await stopping

    async def test_ignored_hosts(self) -> None:
        for directive, lines in (("", 1), ("quiet_hosts 127.0.0.0/8", 0)):
            running = await self.listen(directive)
            client = await self.client(HELLO)
            await client.quit()
            await spawn(self.finish())
            self.assertEqual(len(running.logged("session.close")), lines)


class Login(FeatureCase):
    async def test_allow_insecure_auth(self) -> None:
        await self.table(
            (f"tls self_signed\n{LAB}", [HELLO, PLAIN], b"538 5.7.11"),
            (f"tls self_signed\n{IN_CLEAR}", [HELLO, PLAIN], b"235 2.7.0"),
        )

    async def test_auth_optional(self) -> None:
        await self.table(
            (IN_CLEAR, [HELLO, MAIL], b"250 2.1.0"),
            (f"auth_required yes\n{IN_CLEAR}", [HELLO, MAIL], b"530 5.7.0"),
            (f"auth_required yes\n{IN_CLEAR}", [HELLO, PLAIN, MAIL], b"250 2.1.0"),
        )
        await self.listen(IN_CLEAR, kind="submission")
        self.assertIn(b"530 5.7.0", await self.hear(HELLO, MAIL))

    async def test_auth_required_message(self) -> None:
        await self.table(
            (f'auth_required_message "Who are you?"\nauth_required yes\n{IN_CLEAR}', [HELLO, MAIL], b"530 5.7.0 Who are you?")
        )

    async def test_max_allowed_unauthenticated_commands(self) -> None:
        required = f"auth_required yes\n{IN_CLEAR}"
        await self.table(
            (f"max_unauthenticated_commands 2\n{required}", [HELLO, b"NOOP"], b"250 2.0.0"),
            (f"max_unauthenticated_commands 2\n{required}", [HELLO, b"NOOP", b"NOOP"], b"421 4.7.0"),
            (f"max_unauthenticated_commands off\n{required}", [HELLO, *[b"NOOP"] * 30], b"250 2.0.0"),
            (f"max_auth_failures 2\n{IN_CLEAR}", [HELLO, WRONG, WRONG], b"421 4.7.0"),
        )

    async def test_auth_methods(self) -> None:
        await self.table(
            (IN_CLEAR, [HELLO], b"AUTH SCRAM-SHA-256 OAUTHBEARER XOAUTH2 CRAM-MD5 PLAIN LOGIN\r\n"),
            (f"auth_mechanisms LOGIN\n{IN_CLEAR}", [HELLO], b"AUTH LOGIN\r\n"),
            (f"auth_mechanisms LOGIN\n{IN_CLEAR}", [HELLO, PLAIN], b"504 5.5.4"),
        )


class Clients(FeatureCase):
    async def test_use_proxy(self) -> None:
        running = await self.listen("proxy_protocol {\n trust 127.0.0.0/8\n}", "early_talker ignore")
        client = await self.connect()
        client.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 4321 25\r\n")
        await client.reply()
        await client.command(HELLO)
        await client.quit()
        bad = await self.connect()
        bad.send(b"PROXY NONSENSE\r\n")
        await bad.wait_closed()
        self.assertEqual(bytes(bad.received), b"")
        await self.finish()
        self.assertIn("client=192.0.2.7", running.logged("session.close")[0])
        self.assertEqual(len(running.logged("proxy.refused")), 1)
        running = await self.listen("proxy_protocol {\n trust 192.0.2.0/24\n}")
        stranger = await self.connect()
        stranger.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 4321 25\r\n")
        await stranger.wait_closed()
        self.assertEqual(bytes(stranger.received), b"")

    async def test_use_xclient(self) -> None:
        running = await self.listen("xclient {\n trust 127.0.0.0/8\n}")
        client = await self.client()
        self.assertIn(b"XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT", await client.command(HELLO))
        self.assertEqual((await client.command(b"XCLIENT NAME=c.test ADDR=192.0.2.7 BOGUS=1"))[:3], b"501")
        self.assertEqual((await client.command(b"XCLIENT NAME=c.test ADDR=192.0.2.7"))[:3], b"220")
        self.assertEqual((await client.command(MAIL))[:3], b"503")  # reset: hello again
        await client.quit()
        await self.finish()
        self.assertIn("client=192.0.2.7", running.logged("session.close")[0])
        await self.listen("xclient {\n trust 192.0.2.0/24\n}")
        self.assertNotIn(b"XCLIENT", await self.hear(HELLO))
        self.assertIn(b"550 5.7.0", await self.hear(HELLO, b"XCLIENT ADDR=192.0.2.7"))

    async def test_use_xforward(self) -> None:
        running = await self.listen("xforward {\n trust 127.0.0.0/8\n}")
        client = await self.client()
        self.assertIn(b"XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE", await client.command(HELLO))
        self.assertEqual((await client.command(b"XFORWARD NAME=c.test ADDR=192.0.2.7"))[:3], b"250")
        self.assertEqual((await self.message(client))[:3], b"250")
        self.assertIn("addr=192.0.2.7", running.logged("message.xforward")[0])
        await self.listen("xforward {\n trust 192.0.2.0/24\n}")
        self.assertIn(b"550 5.7.0", await self.hear(HELLO, b"XFORWARD ADDR=192.0.2.7"))

    async def test_disable_reverse_lookup(self) -> None:
        self.names()
        for word, expected in (("no", b"unknown"), ("yes", b"ptr.test"), ("verify", b"unknown")):
            self.assertIn(b"(" + expected + b" [192.0.2.7])", await self.received(f"reverse_lookup {word}"))

    async def test_disable_reverse_lookup_that_takes_too_long(self) -> None:
        self.names().script("7.2.0.192.in-addr.arpa", "PTR", Action.SILENCE)
        began = self.reactor.seconds()
        found = await self.received("reverse_lookup yes\nreverse_lookup_timeout 300ms")
        self.assertIn(b"(unknown [192.0.2.7])", found)
        self.assertLess(self.reactor.seconds() - began, 2.0)

    async def test_resolver(self) -> None:
        names = self.names()
        self.names()  # which the gateway would ask
        own = f"resolver {{\n servers 127.0.0.1:{names.port}\n timeout 2s\n cache 1M\n}}"
        self.assertIn(b"(ptr.test [192.0.2.7])", await self.received(f"reverse_lookup yes\n{own}"))
        self.assertEqual(names.asked("7.2.0.192.in-addr.arpa"), 1)

    def names(self) -> NameServer:
        """It says that 192.0.2.7 is ptr.test, and not the reverse."""
        names = NameServer(self.reactor)
        self.addCleanup(lambda: spawn(names.stop()))
        names.add("7.2.0.192.in-addr.arpa", "PTR", "ptr.test.")
        self.adapters = replace(self.adapters, resolver=names.resolver(Random(1)))
        return names

    async def received(self, directive: str) -> bytes:
        """The Received field of a message from 192.0.2.7."""
        hop = NextHop().listen(self.reactor)
        self.addCleanup(lambda: spawn(hop.close()))
        await self.listen(directive, "proxy_protocol {\n trust 127.0.0.0/8\n}", route=f"deliver_to smtp {hop.endpoint}")
        client = await self.connect()
        client.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 4321 25\r\n")
        await client.reply()
        await client.command(HELLO)
        self.assertEqual((await self.message(client))[:3], b"250")
        return b" ".join(hop.transactions[0].content.partition(b"\r\nX-Token")[0].split())


class Hooks(FeatureCase):
    async def test_on_connect_secure_auth_mail_from_rcpt_to_data_close(self) -> None:
        notes = install(self)
        await self.listen("tls self_signed", LAB, "check {\n scripted {\n }\n}")
        client = await self.client(HELLO)
        await client.secure(TrustingClient())
        await client.say(HELLO, PLAIN)
        self.assertEqual((await self.message(client))[:3], b"250")
        await client.quit()
        await self.finish()
        asked = [stage for stage, _ in notes]
        self.assertEqual(asked, ["open", "connection", "tls", "auth", "sender", "rcpt", "body", "close", "close"])


class Rows(TestCase):
    def test_every_setting_that_comes_from_there_is_used_here(self) -> None:
        text = Path(__file__).read_text()
        there = {name for name, directive in EsmtpListener.directives.items() if directive.origin == "smtp-server"}
        self.assertGreater(len(there), 20)
        self.assertEqual({name for name in there if f"{name} " not in text and f"{name}\\n" not in text}, set())
