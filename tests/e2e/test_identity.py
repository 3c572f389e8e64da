"""For whom we speak, told to Postfix: XCLIENT, XFORWARD and the PROXY protocol of targets.

Postfix writes into its Received field and its log whom it takes its client for; behind it stands a sink that keeps the message.
"""

from __future__ import annotations

import smtplib
import tempfile
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.support.invariants import check_log
from tests.support.ports import free_ports
from tests.support.process import GatewayProcess
from tests.support.relays import Postfix
from tests.support.servers import SmtpSink

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CONFIG = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls off
local_domains y.test
target.smtp postfix {{
    targets tcp://127.0.0.1:{postfix}
    {target}
}}
smtp tcp://127.0.0.1:{port} {{
    xclient {{
        trust 127.0.0.1
    }}
    deliver_to &postfix
}}
"""

XCLIENT = "smtpd_authorized_xclient_hosts = 127.0.0.0/8\n"


class PostfixTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-e2e-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.sink = SmtpSink()
        self.addCleanup(self.sink.stop)

    def through(self, target: str, main: str = "", smtpd: str = "", clients: tuple[str, ...] = ("192.0.2.7",)) -> list[str]:
        """Send a message for each client through gateway and Postfix; returns the heads of what came out."""
        postfix = Postfix(self.sink.port, main, smtpd)
        self.addCleanup(postfix.stop)
        self.postfix = postfix
        (port,) = free_ports(1)
        config = self.home / "mailgate.conf"
        config.write_text(CONFIG.format(home=self.home, postfix=postfix.port, port=port, target=target))
        gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(gateway.kill)
        for client in clients:
            with smtplib.SMTP("127.0.0.1", port, "visitor.test", timeout=30) as sender:
                code, said = sender.docmd("XCLIENT", f"ADDR={client} NAME=client.test LOGIN=alice")
                self.assertEqual(220, code, said)
                sender.sendmail("a@x.test", ["b@y.test"], "Subject: probe\r\n\r\nhello\r\n")
        heads = [message.decode().partition("Subject:")[0] for message in self.sink.wait_for(len(clients))]
        self.assertEqual(len(clients), len(heads), f"{gateway.log}\n{postfix.log}")
        check_log(gateway.stop())
        return [" ".join(head.split()) for head in heads]

    def test_xclient(self) -> None:
        target = "xclient {\naddr client_ip\nname client_name\nhelo helo\nport client_port\ndestaddr local_ip\n}"
        heads = self.through(target, XCLIENT + "inet_protocols = all\n", clients=("192.0.2.7", "IPV6:2001:db8::7", "192.0.2.7"))
        self.assertEqual(2, sum("(client.test [192.0.2.7])" in head for head in heads), heads)
        self.assertEqual(1, sum("(client.test [IPv6:2001:db8::7])" in head for head in heads), heads)

    def test_login(self) -> None:
        (head,) = self.through(
            "xclient {\naddr client_ip\nlogin auth_user\n}", XCLIENT + "smtpd_sasl_authenticated_header = yes\n"
        )
        self.assertIn("(Authenticated sender: alice)", head)

    def test_xforward(self) -> None:
        target = "xforward {\naddr client_ip\nname client_name\nhelo helo\nproto protocol\nident message_id\nsource REMOTE\n}"
        (head,) = self.through(target, "smtpd_authorized_xforward_hosts = 127.0.0.0/8\n")
        self.assertIn("(unknown [127.0.0.1])", head)
        line = self.postfix.wait_for_line("orig_client=")
        self.assertIn("orig_client=client.test[192.0.2.7]", line)

    def test_proxy_protocol(self) -> None:
        for version in ("v1", "v2"):
            (head,) = self.through(f"proxy_protocol {version}", smtpd="-o smtpd_upstream_proxy_protocol=haproxy")[-1:]
            self.assertIn("[192.0.2.7])", head)
            for path in self.sink._mails.iterdir():
                path.unlink()
