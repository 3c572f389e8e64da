"""Damaged dialogues over real sockets against a gateway in a process of its own, next hop included: no traceback, nothing left
open, and what arrives was meant."""

from __future__ import annotations

import select
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from mailgate.testing.nexthop import NextHop
from tests.smtp.mutator import cuts, dialogue
from tests.support.invariants import BARE, check_log, open_descriptors
from tests.support.ports import free_ports
from tests.support.process import GatewayProcess

pytestmark = pytest.mark.slow

INPUTS = 3000
CONFIG = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls self_signed
target.smtp next {{
    targets {hop}
    tls disabled
}}
smtp tcp://127.0.0.1:{smtp} {{
    early_talker ignore
    xclient {{
        trust 127.0.0.1
    }}
    xforward {{
        trust 127.0.0.1
    }}
    read_timeout 5s
    deliver_to &next
}}
lmtp tcp://127.0.0.1:{lmtp} {{
    read_timeout 5s
    on_split allow
    deliver_to &next
}}
smtp tcp://127.0.0.1:{proxied} {{
    proxy_protocol {{
        trust 127.0.0.1
        required no
    }}
    early_talker ignore
    read_timeout 5s
    deliver_to &next
}}
"""


class FuzzTests(TestCase):
    timeout = 300

    async def test_a_few_thousand(self) -> None:
        from twisted.internet import reactor

        hop = NextHop().listen(reactor)
        self.addCleanup(hop.close)
        directory = tempfile.TemporaryDirectory(prefix="mailgate-fuzz-")
        self.addCleanup(directory.cleanup)
        ports = dict(zip(("smtp", "lmtp", "proxied"), free_ports(3), strict=True))
        config = Path(directory.name) / "mailgate.conf"
        config.write_text(CONFIG.format(home=directory.name, hop=hop.endpoint, **ports))
        gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(gateway.kill)
        base = open_descriptors(gateway.pid)
        numbers = list(ports.values())
        await deferToThread(lambda: [_converse(numbers[seed % len(numbers)], seed) for seed in range(INPUTS)])
        said: Any = await deferToThread(_clean_message, ports["smtp"])
        self.assertEqual(b"250", said[:3], gateway.log[-2000:])
        # Not `check_hop`: clients hang up within content, and then the next hop is left within it, too.
        self.assertEqual([], [kept.content for kept in hop.transactions if BARE.search(kept.content)])
        self.assertGreater(len(hop.transactions), 50)
        self.assertLess(open_descriptors(gateway.pid), base + 40)
        check_log(await gateway.stop_beside())


def _converse(port: int, seed: int) -> None:
    """Say it, hear what there is to hear, hang up, and read until the gateway closes too."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        try:
            for piece in cuts(dialogue(seed), seed):
                client.sendall(piece)
            while select.select([client], [], [], 0.008)[0]:
                if not client.recv(65536):
                    return
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        except ConnectionError:
            pass


def _clean_message(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client, client.makefile("rb") as lines:
        lines.readline()
        for line in (b"EHLO x.test", b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>", b"DATA", b"Subject: x\r\n\r\nhello\r\n."):
            client.sendall(line + b"\r\n")
            reply = lines.readline()
            while reply[3:4] == b"-":
                reply = lines.readline()
        return reply
