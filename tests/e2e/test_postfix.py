"""Postfix's load generator through the gateway into Postfix's sink: nothing lost, nothing doubled."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.support.invariants import check_log, open_descriptors
from tests.support.ports import free_ports
from tests.support.process import GatewayProcess
from tests.support.servers import SmtpSink, tool

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CONFIG = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls off
target.smtp sink {{
    targets tcp://127.0.0.1:{sink}
}}
target.lmtp store {{
    targets tcp://127.0.0.1:{sink}
}}
smtp tcp://127.0.0.1:{smtp} {{
    deliver_to &sink
}}
lmtp tcp://127.0.0.1:{lmtp} {{
    deliver_to &store
}}
"""
RECIPIENT = re.compile(rb"^X-Rcpt-Args: <([^>]*)>", re.MULTILINE)


class PostfixTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-e2e-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)

    def through(self, sink: SmtpSink, *options: str, lmtp: bool = False) -> None:
        """Run smtp-source with these options through a gateway."""
        self.addCleanup(sink.stop)
        program = tool("smtp-source", "postfix")
        ports = dict(zip(("smtp", "lmtp"), free_ports(2), strict=True))
        config = self.home / "mailgate.conf"
        config.write_text(CONFIG.format(home=self.home, sink=sink.port, **ports))
        gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(gateway.kill)
        before = open_descriptors(gateway.pid)
        port = ports["lmtp" if lmtp else "smtp"]
        command = [program, *options, "-M", "source.test", "-f", "a@x.test", "-t", "r@y.test", f"inet:127.0.0.1:{port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, 0, f"{done.stderr}\n{gateway.log[-3000:]}")
        pooled = 20 + 5
        self.assertLessEqual(open_descriptors(gateway.pid), before + pooled)
        check_log(gateway.stop())

    def recipients(self, messages: list[bytes]) -> Counter[bytes]:
        return Counter(recipient for message in messages for recipient in RECIPIENT.findall(message))

    def test_every_message_arrives_once(self) -> None:
        sink = SmtpSink()
        self.through(sink, "-s", "10", "-m", "200", "-l", "5000", "-N", "-d")
        messages = sink.wait_for(200)
        self.assertEqual(len(messages), 200)
        self.assertEqual(set(self.recipients(messages).values()), {1})
        for message in messages:
            self.assertEqual(message.count(b"by gateway.test"), 1)

    def test_one_message_per_connection(self) -> None:
        sink = SmtpSink()
        self.through(sink, "-s", "10", "-m", "200", "-l", "100", "-N")
        self.assertEqual(len(sink.wait_for(200)), 200)

    def test_ten_recipients(self) -> None:
        sink = SmtpSink()
        self.through(sink, "-s", "5", "-m", "50", "-r", "10", "-d")
        self.assertEqual(sum(self.recipients(sink.wait_for(50)).values()), 500)

    def test_large_messages(self) -> None:
        sink = SmtpSink()
        self.through(sink, "-s", "3", "-m", "6", "-l", str(10 << 20), "-d")
        messages = sink.wait_for(6)
        self.assertEqual([len(message) > 10_000_000 for message in messages], [True] * 6)  # kept with LF

    def test_lmtp_to_lmtp(self) -> None:
        sink = SmtpSink("-L")
        self.through(sink, "-L", "-s", "10", "-m", "100", "-l", "5000", "-r", "2", "-d", lmtp=True)
        self.assertEqual(sum(self.recipients(sink.wait_for(100)).values()), 200)
