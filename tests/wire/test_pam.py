"""AUTH judged by PAM, over sockets: a gateway process, the library, and modules that answer, refuse, fail, wait and hang."""

from __future__ import annotations

import smtplib
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from mailgate.clients.pam import MAX_RESPONSE
from tests.modules.support import errors
from tests.support.invariants import check_log
from tests.support.pam import CODES, SERVICE, Services
from tests.support.ports import free_port
from tests.support.process import GatewayProcess

REPLIES = {"yes": (235, b"2.7.0"), "no": (535, b"5.7.8"), "trouble": (454, b"4.7.0")}
CONFIG = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls off
table.static names {{
    entry ann@x.test ann
    entry ann
    entry mallory
}}
submission tcp://127.0.0.1:{port} {{
    insecure_auth yes
    auth_normalize lower
    auth_map &names
    auth pam {{
        service {service}
        directory {directory}
{lines}
    }}
    discard
}}
"""


class PamLoginTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.services = Services()
        self.addCleanup(self.services.close)
        directory = tempfile.TemporaryDirectory(prefix="mailgate-test-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.port = free_port()

    def start(self, *lines: str) -> GatewayProcess:
        config = self.home / "mailgate.conf"
        text = CONFIG.format(
            home=self.home, port=self.port, service=SERVICE, directory=self.services.home, lines="\n".join(lines)
        )
        config.write_text(text)
        self.gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(self.gateway.kill)
        return self.gateway

    def log_in(self, user: str = "ann", password: str = "secret", method: str = "PLAIN", source: str = "127.0.0.1") -> Any:
        with smtplib.SMTP("127.0.0.1", self.port, timeout=30, source_address=(source, 0)) as client:
            client.ehlo()
            client.user, client.password = user, password
            try:
                code, text = client.auth(method, getattr(client, f"auth_{method.lower()}"))
            except smtplib.SMTPAuthenticationError as error:
                code, text = error.smtp_code, error.smtp_error
            return code, bytes(text[:5])

    def finish(self) -> str:
        log = self.gateway.stop()
        check_log(log)
        self.assertNotIn("secret", log)
        return log

    def test_every_code(self) -> None:
        self.start("cache 0")
        for number, (code, meaning) in enumerate(CODES.items()):
            for step in ("auth", "account"):
                self.services.answer(**{step: code})
                source = f"127.0.0.{number + 10}"  # so that none of them has guessed too often
                self.assertEqual(self.log_in(source=source), REPLIES[meaning], (step, code))
        log = self.finish()
        self.assertIn("auth.denied", log)
        self.assertIn("reason=acct_expired", log)
        self.assertIn("cannot retrieve authentication info (9)", log)

    def test_who_logs_in(self) -> None:
        self.services.scripted()
        self.start("cache 0")
        for user, password, method, meaning in (
            ("ann", "secret", "PLAIN", "yes"),
            ("ann", "secret", "LOGIN", "yes"),
            ("Ann@X.test", "secret", "PLAIN", "yes"),
            ("ann", "wrong", "LOGIN", "no"),
            ("nobody", "secret", "PLAIN", "no"),
            ("ann", "s" * (MAX_RESPONSE + 1), "PLAIN", "no"),
        ):
            self.assertEqual(self.log_in(user, password, method), REPLIES[meaning], (user, method))
        asked = [line.split(" ")[1:4] for line in self.services.asked]
        self.assertEqual(asked, [[user, "127.0.0.1", word] for user, word in (
            ("ann", "secret"), ("ann", "secret"), ("ann", "secret"), ("ann", "wrong"), ("nobody", "secret"),
        )])  # fmt: skip
        logins = [line for line in self.finish().splitlines() if "auth.ok" in line]
        self.assertEqual([" user=ann " in line for line in logins], [True] * 3)

    def test_an_empty_password_is_nobodys_and_nobody_is_asked(self) -> None:
        self.services.answer()  # yes to everything
        self.start()
        for user, password, method in (("ann", "", "PLAIN"), ("ann", "", "LOGIN"), ("", "secret", "PLAIN")):
            self.assertIn(self.log_in(user, password, method)[0], (501, 535), (user, method))
        self.finish()

    def test_a_login_is_known_for_a_while_from_there(self) -> None:
        self.services.scripted()
        self.start("cache 10m")
        for source, password, asked in (
            ("127.0.0.1", "secret", 1),
            ("127.0.0.1", "secret", 1),
            ("127.0.0.2", "secret", 2),
            ("127.0.0.1", "wrong", 3),
            ("127.0.0.1", "wrong", 4),
            ("127.0.0.1", "secret", 4),
        ):
            expected = REPLIES["yes" if password == "secret" else "no"]
            self.assertEqual(self.log_in(password=password, source=source), expected)
            self.assertEqual(len(self.services.asked), asked, (source, password))
        self.finish()

    @pytest.mark.slow
    def test_a_pause_after_a_failure_holds_up_nobody_else(self) -> None:
        self.services.scripted(delay=3)
        self.start("threads 1")
        with ThreadPoolExecutor(4) as pool:
            begin = time.monotonic()
            wrong = [pool.submit(self.log_in, password="wrong") for _ in range(3)]
            while len(self.services.asked) < 3:
                time.sleep(0.01)
            self.assertEqual(self.log_in(), REPLIES["yes"])
            self.assertFalse(any(one.done() for one in wrong), "the pauses are over before another login was answered")
            self.assertEqual([one.result() for one in wrong], [REPLIES["no"]] * 3)
        self.assertGreater(time.monotonic() - begin, 2)
        self.finish()

    @pytest.mark.slow
    def test_modules_that_hang(self) -> None:
        self.services.scripted()
        self.start("threads 2", "timeout 1s")
        with ThreadPoolExecutor(2) as pool:
            slow = [pool.submit(self.log_in, password="slow") for _ in range(2)]
            self.assertEqual([one.result() for one in slow], [REPLIES["trouble"]] * 2)
        self.services.let_go()
        self.assertEqual(self.log_in(), REPLIES["yes"])
        log = self.finish()
        self.assertIn("no answer in time", log)

    @pytest.mark.slow
    def test_a_module_that_hangs_does_not_hold_up_the_end(self) -> None:
        self.services.scripted()
        self.start("timeout 1s")
        self.assertEqual(self.log_in(password="slow"), REPLIES["trouble"])
        self.gateway.stop()

    def test_mistakes(self) -> None:
        for lines, expected in (
            ("service ../passwd", ["E0848 4"]),
            ("service Mail", ["E0848 4"]),
            (f"service {SERVICE}\ndirectory {self.services.home}", []),
            (f"service absent\ndirectory {self.services.home}", ["E0848 4"]),
        ):
            text = f"submission tcp://127.0.0.1:25 {{\ninsecure_auth yes\nauth pam {{\n{lines}\n}}\ntls off\ndiscard\n}}"
            self.assertEqual(errors(text), expected, lines)
