"""The example on a simulated network, with mailgate.testing: a whole gateway, and clients that speak to it."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailgate.testing.client import RawClient, connect
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.network import SimulatedReactor, adapters_for

CONFIGURATION = """\
hostname mx.test
auth.shared devices printer scanner {
    password s3cret
}
smtp tcp://127.0.0.1:25 {
    tls off
    auth &devices
    insecure_auth yes
    reverse_lookup no
    check {
        trap trap@example.org {
            time 10m
        }
    }
    modify {
        replace_rcpt plus
    }
    deliver_to journal journal.jsonl
}
"""


class ExampleTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.reactor = SimulatedReactor(seed=1)
        self.gateway = WholeGateway(CONFIGURATION, adapters_for(self.reactor), directory.name)
        self.reactor.run(self.gateway.start())
        self.addCleanup(lambda: self.reactor.run(self.gateway.stop(), limit=600))

    def open(self, source: str) -> tuple[RawClient, bytes]:
        client = self.reactor.run(connect(self.reactor, "tcp://127.0.0.1:25", source=source))
        return client, self.reactor.run(client.reply())

    def client(self, source: str = "192.0.2.1") -> RawClient:
        client, greeting = self.open(source)
        self.assertEqual(greeting[:4], b"220 ", greeting)
        self.say(client, b"EHLO client.test")
        return client

    def say(self, client: RawClient, *lines: bytes) -> list[bytes]:
        return self.reactor.run(client.say(*lines))

    def test_a_message_is_a_line_in_the_journal(self) -> None:
        replies = self.reactor.run(self.client().deliver(b"a@client.test", [b"ann+x@example.org"], b"Subject: x\r\n\r\nx\r\n"))
        self.assertEqual(replies[-1][:3], b"250", replies)
        (line,) = (self.directory / "journal.jsonl").read_text().splitlines()
        self.assertEqual(json.loads(line)["to"], ["ann@example.org"])

    def test_who_steps_into_a_trap_is_refused_for_a_while(self) -> None:
        client = self.client()
        replies = self.say(client, b"MAIL FROM:<a@client.test>", b"RCPT TO:<Trap@Example.org>", b"RSET")
        self.assertEqual(replies[1], b"554 5.7.1 You have written to a trap")
        replies = self.say(client, b"MAIL FROM:<b@client.test>", b"RCPT TO:<ann@example.org>")
        self.assertEqual(replies[1][:3], b"554", "the connection is remembered")
        self.assertEqual(self.open("192.0.2.1")[1], b"554 5.7.1 You have written to a trap")
        self.assertEqual(self.open("192.0.2.2")[1][:3], b"220")
        self.reactor.advance(600)
        self.assertEqual(self.open("192.0.2.1")[1][:3], b"220")

    def test_a_device_logs_in(self) -> None:
        client = self.client()
        for password, expected in [(b"wrong", b"535"), (b"s3cret", b"235")]:
            response = base64.b64encode(b"\0printer\0" + password)
            self.assertEqual(self.say(client, b"AUTH PLAIN " + response)[0][:3], expected)
