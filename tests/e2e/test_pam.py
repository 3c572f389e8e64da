"""The machine's own users by Debian's pam_unix: made for each test and removed. Needs root, as pam_unix does."""

from __future__ import annotations

import os
import smtplib
import subprocess
import tempfile
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

from mailgate.passwords.system_crypt import crypt
from tests.support.invariants import check_log
from tests.support.pam import needs_pam
from tests.support.ports import free_port
from tests.support.process import GatewayProcess
from tests.support.servers import needs_root, tool

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PASSWORD = "of a person"
SERVICE = """\
auth required pam_unix.so
account required pam_unix.so
"""
CONFIG = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls off
submission tcp://127.0.0.1:{port} {{
    insecure_auth yes
    auth pam {{
        service {service}
        cache 0
    }}
    discard
}}
"""


class PamUnixTests(SynchronousTestCase):
    def setUp(self) -> None:
        needs_root("pam_unix")
        needs_pam()
        self.user = f"mgtest{os.getpid()}"
        hashed = crypt(PASSWORD, "$6$rounds=1000$saltsalt$")
        self.run_tool("useradd", "--no-create-home", "--no-user-group", "--shell", "/bin/false", "-p", hashed, self.user)
        self.addCleanup(self.run_tool, "userdel", "--force", self.user)
        service = Path("/etc/pam.d", f"mailgate-test-{os.getpid()}")
        service.write_text(SERVICE)
        self.addCleanup(service.unlink)
        directory = tempfile.TemporaryDirectory(prefix="mailgate-e2e-")
        self.addCleanup(directory.cleanup)
        self.port = free_port()
        config = Path(directory.name) / "mailgate.conf"
        config.write_text(CONFIG.format(home=directory.name, port=self.port, service=service.name))
        self.gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(self.gateway.kill)

    def run_tool(self, name: str, *arguments: str) -> None:
        subprocess.run([tool(name, "passwd"), *arguments], check=True, capture_output=True)

    def log_in(self, password: str = PASSWORD, user: str = "") -> int:
        with smtplib.SMTP("127.0.0.1", self.port, timeout=30) as client:
            client.ehlo()
            client.user, client.password = user or self.user, password
            try:
                return client.auth("PLAIN", client.auth_plain)[0]
            except smtplib.SMTPAuthenticationError as error:
                return error.smtp_code

    def test_passwords(self) -> None:
        self.assertEqual(self.log_in(), 235)
        self.assertEqual(self.log_in("wrong"), 535)
        self.assertEqual(self.log_in(user="nobody-of-that-name"), 535)
        self.assertEqual(self.log_in(), 235)
        log = self.gateway.stop()
        check_log(log)
        self.assertNotIn(PASSWORD, log)

    def test_accounts_that_may_not_log_in(self) -> None:
        for what, arguments, password, denied in (
            ("expired", ("usermod", "--expiredate", "2020-01-01"), PASSWORD, True),
            ("not any more", ("usermod", "--expiredate", ""), PASSWORD, None),
            ("a password that must be changed", ("chage", "--lastday", "0"), PASSWORD, True),
            ("it was", ("chage", "--lastday", "2020-01-01"), PASSWORD, None),
            ("locked", ("usermod", "--lock"), PASSWORD, False),
            ("without a password", ("passwd", "--delete"), "any", False),
        ):
            self.run_tool(*arguments, self.user)
            before = self.gateway.log.count("auth.denied")
            self.assertEqual(self.log_in(password), 235 if denied is None else 535, what)
            self.assertEqual(self.gateway.log.count("auth.denied") - before, int(bool(denied)), what)
        self.gateway.stop()
