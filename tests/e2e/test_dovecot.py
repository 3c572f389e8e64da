"""Dovecot's LMTP as the store, on a unix socket: what a client sent lies in the Maildir octet for octet."""

from __future__ import annotations

import smtplib
import tempfile
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.support.invariants import check_log
from tests.support.ports import free_ports
from tests.support.process import GatewayProcess
from tests.support.servers import DOVECOT_PASSWORD, Dovecot

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CONFIG = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls off
target.lmtp store {{
    targets tcp://127.0.0.1:{dead} unix://{socket}
}}
smtp tcp://127.0.0.1:{smtp} {{
    deliver_to &store
}}
submission tcp://127.0.0.1:{submission} {{
    insecure_auth yes
    auth dovecot unix://{logins}
    deliver_to &store
}}
lmtp tcp://127.0.0.1:{lmtp} {{
    deliver_to &store
}}
"""
MESSAGE = (
    b"From: a@x.test\r\nSubject: =?utf-8?q?dots?=\r\nX-Long: " + b"y" * 900 + b"\r\n\r\n"
    b".dot\r\n..\r\n...\r\n\r\n  spaces  \r\n\ttab\t\r\n" + bytes(range(0x80, 0x100)) + b"\r\n" + b"z" * 998 + b"\r\n\r\n"
)


class DovecotTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.dovecot = Dovecot()
        self.addCleanup(self.dovecot.stop)
        directory = tempfile.TemporaryDirectory(prefix="mailgate-e2e-")
        self.addCleanup(directory.cleanup)
        dead, self.smtp, self.lmtp, self.submission = free_ports(4)
        config = Path(directory.name) / "mailgate.conf"
        config.write_text(
            CONFIG.format(
                home=directory.name,
                dead=dead,
                socket=self.dovecot.socket,
                logins=self.dovecot.logins,
                smtp=self.smtp,
                lmtp=self.lmtp,
                submission=self.submission,
            )
        )
        self.gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(lambda: check_log(self.gateway.stop()))

    def assert_delivered(self, user: str, *messages: bytes) -> None:
        """What lies there ends with what was sent; above it stand the fields of Dovecot's and one Received of ours."""
        delivered = self.dovecot.delivered(user)
        self.assertEqual(len(delivered), len(messages), self.dovecot.log)
        for lies, sent in zip(delivered, messages, strict=True):
            self.assertEqual(lies[-len(sent) :], sent)
            self.assertEqual(lies[: -len(sent)].count(b"by gateway.test"), 1)

    def test_smtp_in_octet_for_octet(self) -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=20) as client:
            client.sendmail("a@x.test", ["alice@y.test"], MESSAGE, mail_options=["BODY=8BITMIME"])
        self.assert_delivered("alice", MESSAGE)

    def test_lmtp_in_several_recipients(self) -> None:
        client = smtplib.LMTP("127.0.0.1", self.lmtp, timeout=20)
        refused = client.sendmail("a@x.test", ["alice@y.test", "mallory@y.test", "bob@y.test"], MESSAGE)
        client.quit()
        self.assertEqual({recipient: code for recipient, (code, _text) in refused.items()}, {"mallory@y.test": 550})
        self.assert_delivered("alice", MESSAGE)
        self.assert_delivered("bob", MESSAGE)

    def test_an_unknown_recipient_hears_the_stores_own_answer(self) -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=20) as client:
            client.ehlo()
            client.mail("a@x.test")
            code, text = client.rcpt("mallory@y.test")
        self.assertEqual((code, text[:5]), (550, b"5.1.1"))
        self.assertIn(b"exist", text)

    def test_several_messages_on_one_connection(self) -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=20) as client:
            for _ in range(5):
                client.sendmail("a@x.test", ["bob@y.test"], MESSAGE, mail_options=["BODY=8BITMIME"])
        self.assert_delivered("bob", *[MESSAGE] * 5)
        self.assertEqual(self.gateway.log.count("endpoint.down"), 1)

    def test_logins_are_judged_by_dovecot(self) -> None:
        for user, password, code in (
            ("alice", DOVECOT_PASSWORD, 235),
            ("alice@y.test", DOVECOT_PASSWORD, 235),
            ("alice", "wrong", 535),
            ("mallory", DOVECOT_PASSWORD, 535),
        ):
            with smtplib.SMTP("127.0.0.1", self.submission, timeout=20) as client:
                client.ehlo()
                client.user, client.password = user, password
                try:
                    said = client.auth("PLAIN", client.auth_plain)[0]
                except smtplib.SMTPAuthenticationError as error:
                    said = error.smtp_code
                self.assertEqual(said, code, (user, password, self.dovecot.log))
                if said == 235:
                    client.sendmail("alice@y.test", ["bob@y.test"], MESSAGE, mail_options=["BODY=8BITMIME"])
        self.assertEqual(len(self.dovecot.delivered("bob")), 2)
        accepted = [line for line in self.gateway.log.splitlines() if "auth.ok" in line]
        self.assertEqual([" user=alice " in line for line in accepted], [True, True])  # the name is Dovecot's
