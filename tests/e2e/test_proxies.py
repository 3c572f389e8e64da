"""Real proxies in front of the gateway: HAProxy with the PROXY protocol, swaks with PROXY and XCLIENT, Postfix with XFORWARD.

What shows that the gateway knows the client is its own Received field: proxies come from 127.0.0.1, clients from elsewhere.
"""

from __future__ import annotations

import os
import re
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
from tests.support.relays import HaProxy, Postfix
from tests.support.servers import tool

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MESSAGE = b"From: a@x.test\r\nTo: b@y.test\r\nSubject: probe\r\n\r\nhello\r\n"
CLIENT = "127.0.0.9"

CONFIG = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls file {chain} {key}
local_domains y.test

target.smtp relay {{
    targets {relay}
}}

smtp tcp://127.0.0.1:{proxied} tls://127.0.0.1:{proxied_tls} {{
    proxy_protocol {{
        trust 127.0.0.1
    }}
    relay_from {client}
    deliver_to &relay
}}
smtp tcp://127.0.0.1:{terminated} {{
    proxy_protocol {{
        trust 127.0.0.1
        tls accept
    }}
    relay_from {client}
    deliver_to &relay
}}
smtp tcp://127.0.0.1:{speaking} {{
    xclient {{
        trust 127.0.0.1
    }}
    xforward {{
        trust 127.0.0.1
    }}
    deliver_to &relay
}}
"""


class _Behind(TestCase):
    timeout = 120

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.relay = NextHop().listen(reactor)
        self.addCleanup(self.relay.close)
        directory = tempfile.TemporaryDirectory(prefix="mailgate-e2e-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        names = ("proxied", "proxied_tls", "terminated", "speaking")
        self.port = dict(zip(names, free_ports(len(names)), strict=True))
        self.certificate = leaf("localhost", "127.0.0.1")
        config = self.home / "mailgate.conf"
        config.write_text(
            CONFIG.format(
                home=self.home,
                chain=self.certificate.chain_path,
                key=self.certificate.key_path,
                relay=self.relay.endpoint,
                client=CLIENT,
                **self.port,
            )
        )
        self.gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(self.stop_gateway)

    async def stop_gateway(self) -> None:
        check_log(await self.gateway.stop_beside())

    def trace(self) -> str:
        """The gateway's own Received field of the one message that has arrived, on one line."""
        self.assertEqual(1, len(self.relay.transactions), self.gateway.log[-2000:])
        field = self.relay.transactions[0].content.decode().partition("\r\n\tfor <")[0]
        return re.sub(r"\r\n\t", " ", field)


class HaProxyTests(_Behind):
    async def proxy(self, server: str, bind: str = "") -> int:
        """HAProxy in front of one of our ports; returns the port for clients."""
        plain, front = free_ports(2)
        sections = (
            f"frontend ready\n    bind 127.0.0.1:{plain}\n    default_backend plain\n"
            f"backend plain\n    server one 127.0.0.1:{self.port['proxied']} send-proxy-v2 check check-send-proxy inter 100ms\n"
            f"frontend front\n    bind 127.0.0.1:{front} {bind}\n    default_backend gateway\n"
            f"backend gateway\n    server one {server}\n"
        )
        proxy = await deferToThread(HaProxy, sections, plain)
        self.addCleanup(proxy.stop)
        return front

    async def send(self, port: int, *, implicit: bool = False, starttls: bool = False) -> None:
        context = ssl.create_default_context(cafile=authority().path)

        def talk() -> None:
            source = (CLIENT, 0)
            if implicit:
                client: smtplib.SMTP = smtplib.SMTP_SSL("127.0.0.1", port, timeout=20, source_address=source, context=context)
            else:
                client = smtplib.SMTP("127.0.0.1", port, timeout=20, source_address=source)
            with client:
                if starttls:
                    client.starttls(context=context)
                # The recipient is outside of local_domains: only the client's own address lets it pass.
                client.sendmail("a@x.test", ["b@elsewhere.test"], MESSAGE)

        await deferToThread(talk)

    async def test_version_2_with_a_checksum(self) -> None:
        server = f"127.0.0.1:{self.port['proxied']} send-proxy-v2 proxy-v2-options crc32c,unique-id"
        await self.send(await self.proxy(server))
        self.assertIn(f"[{CLIENT}]) by gateway.test with ESMTP id", self.trace())

    async def test_version_1(self) -> None:
        await self.send(await self.proxy(f"127.0.0.1:{self.port['proxied']} send-proxy"))
        self.assertIn(f"[{CLIENT}]) by gateway.test with ESMTP id", self.trace())

    async def test_starttls_behind(self) -> None:
        await self.send(await self.proxy(f"127.0.0.1:{self.port['proxied']} send-proxy-v2"), starttls=True)
        self.assertIn(f"[{CLIENT}]) by gateway.test with ESMTPS (TLS1.3", self.trace())

    async def test_implicit_tls_behind(self) -> None:
        await self.send(await self.proxy(f"127.0.0.1:{self.port['proxied_tls']} send-proxy-v2"), implicit=True)
        self.assertIn(f"[{CLIENT}]) by gateway.test with ESMTPS (TLS1.3", self.trace())

    async def test_tls_terminated_in_front(self) -> None:
        both = self.home / "both.pem"
        both.write_bytes(self.certificate.chain + self.certificate.key)
        server = f"127.0.0.1:{self.port['terminated']} send-proxy-v2-ssl-cn proxy-v2-options ssl,ssl-cipher,authority"
        await self.send(await self.proxy(server, f"ssl crt {both}"), implicit=True)
        self.assertIn(f"[{CLIENT}]) by gateway.test with ESMTPS (TLS1.3 TLS_AES_", self.trace())

    async def test_health_checks_are_served(self) -> None:
        """They come as LOCAL: greeted, and not taken for the client's whose header they do not have."""
        status = self.home / "status.sock"
        plain = free_ports(1)[0]
        sections = (
            f"frontend ready\n    bind 127.0.0.1:{plain}\n    default_backend gateway\n"
            "backend gateway\n    option tcp-check\n    tcp-check expect rstring ^220\n"
            f"    server one 127.0.0.1:{self.port['proxied']} send-proxy-v2 check check-send-proxy inter 100ms rise 2 fall 1\n"
        )
        with_status = f"global\n    stats socket {status}\n" + sections
        proxy = await deferToThread(HaProxy, with_status, plain)
        self.addCleanup(proxy.stop)
        line = await deferToThread(_server_line, status)
        self.assertEqual("UP", line["status"], line)
        self.assertEqual("L7OK", line["check_status"], line)


def _server_line(path: Path) -> dict[str, str]:
    """What HAProxy says about its server once it has been checked a few times."""
    import socket
    import time

    end = time.monotonic() + 20
    while True:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(path))
            control.sendall(b"show stat\n")
            text = b"".join(iter(lambda: control.recv(65536), b"")).decode()
        names, *rows = (row.split(",") for row in text.splitlines() if row)
        line = next(dict(zip(names, row, strict=False)) for row in rows if row[1] == "one")
        checked = line["check_status"] not in ("", "INI") and "*" not in line["check_status"]
        if checked or time.monotonic() > end:
            return line
        time.sleep(0.1)


class SwaksTests(_Behind):
    async def swaks(self, port: str, *options: str) -> str:
        command = [tool("swaks", "swaks"), "--server", f"127.0.0.1:{self.port[port]}", "--helo", "swaks.test", *options]
        command += ["--from", "a@x.test", "--to", "b@y.test", "--body", "hello"]
        out, err, status = await getProcessOutputAndValue(command[0], command[1:], env=dict(os.environ), reactor=self.reactor)
        text = (out + err).decode(errors="replace")
        self.assertEqual(0, status, f"{text}\n{self.gateway.log[-2000:]}")
        return text

    PROXY = (
        *("--proxy-family", "TCP4", "--proxy-source", "192.0.2.7", "--proxy-source-port", "4000"),
        *("--proxy-dest", "192.0.2.1", "--proxy-dest-port", "25"),
    )

    async def test_proxy_version_1(self) -> None:
        await self.swaks("proxied", "--proxy-version", "1", *self.PROXY)
        self.assertIn("[192.0.2.7]) by gateway.test", self.trace())

    async def test_proxy_version_2(self) -> None:
        family = ["AF_INET" if word == "TCP4" else word for word in self.PROXY]
        await self.swaks("proxied", "--proxy-version", "2", *family)
        self.assertIn("[192.0.2.7]) by gateway.test", self.trace())

    async def test_proxy_then_starttls(self) -> None:
        await self.swaks("proxied", "--proxy-version", "1", *self.PROXY, "-tls")
        self.assertIn("[192.0.2.7]) by gateway.test with ESMTPS", self.trace())

    async def test_xclient(self) -> None:
        identity = ("--xclient-addr", "192.0.2.7", "--xclient-name", "client.test", "--xclient-helo", "helo.test")
        said = await self.swaks("speaking", *identity)
        self.assertIn("XCLIENT ", said)
        self.assertIn("from helo.test (client.test [192.0.2.7]) by gateway.test", self.trace())

    async def test_xclient_in_two_commands_after_starttls(self) -> None:
        identity = ("--xclient-login", "alice", "--xclient-delim", "--xclient-addr", "IPV6:2001:db8::7")
        await self.swaks("speaking", "-tls", *identity)
        self.assertIn("[IPv6:2001:db8::7]) by gateway.test with ESMTPSA", self.trace())


class PostfixTests(_Behind):
    async def test_xforward_from_its_smtp_client(self) -> None:
        postfix = await deferToThread(Postfix, self.port["speaking"], "smtp_send_xforward_command = yes\n")
        self.addCleanup(postfix.stop)

        def talk() -> None:
            source = (CLIENT, 0)
            with smtplib.SMTP("127.0.0.1", postfix.port, "origin.test", timeout=20, source_address=source) as client:
                client.sendmail("a@x.test", ["b@y.test"], MESSAGE)

        await deferToThread(talk)
        await deferToThread(postfix.wait_for_line, "status=sent")
        self.assertTrue(await deferToThread(self.gateway.wait_for_line, "message.xforward"))
        (line,) = [line for line in self.gateway.log.splitlines() if "message.xforward" in line]
        for field in (f"addr={CLIENT}", "helo=origin.test", "proto=ESMTP", "source=REMOTE"):
            self.assertIn(field, line)
        self.assertIn("[127.0.0.1]) by gateway.test", self.trace())
