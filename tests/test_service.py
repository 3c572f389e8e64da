"""The gateway as twistd runs it: start, refusals to start, signals, privileges, .tac."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.ports import free_port
from tests.support.process import GatewayProcess, twistd

ROOT = Path(__file__).parent.parent
CLEAN = (0, -signal.SIGTERM)
"""twistd ends itself by the signal that stopped it, after everything is down."""


class TwistdTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-service-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.directory.chmod(0o755)
        self.port = free_port()

    def write(self, text: str) -> Path:
        path = self.directory / "gate.conf"
        path.write_text(text.replace("@port@", str(self.port)))
        return path

    def working(self) -> Path:
        return self.write(
            "hostname gate.example\nstate_dir ./state\ntls off\n"
            "smtp tcp://127.0.0.1:@port@ {\n    shutdown_timeout 5s\n    deliver_to maildir ./mail\n}\n"
        )

    def started(self, config: Path, *options: str) -> GatewayProcess:
        process = GatewayProcess(config, *options)
        self.addCleanup(process.kill)
        return process.wait_until_ready()

    def twistd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [twistd(), "-n", "--pidfile=", *arguments],
            capture_output=True,
            text=True,
            cwd=self.directory,
            timeout=60,
            check=False,
        )

    def test_mail_is_carried_and_sigterm_ends_it(self) -> None:
        process = self.started(self.working())
        with smtplib.SMTP("127.0.0.1", self.port, timeout=20) as client:
            client.sendmail("a@x.test", ["b@y.test"], b"Subject: x\r\n\r\nhello\r\n")
        log = process.stop()
        self.assertIn("message.done", log)
        self.assertIn("gateway.stop", log)
        self.assertEqual(len(list((self.directory / "mail" / "new").iterdir())), 1)

    def test_sigterm_drains_an_idle_client_hears_421(self) -> None:
        process = self.started(self.working())
        client = smtplib.SMTP("127.0.0.1", self.port, timeout=20)
        self.addCleanup(client.close)
        client.ehlo("me.test")
        process.signal(signal.SIGTERM)
        self.assertEqual(client.getreply()[0], 421)
        self.assertIn(process.wait(), CLEAN)

    def test_sigterm_lets_a_running_transaction_finish(self) -> None:
        process = self.started(self.working())
        client = smtplib.SMTP("127.0.0.1", self.port, timeout=20)
        self.addCleanup(client.close)
        client.ehlo("me.test")
        client.mail("a@x.test")
        client.rcpt("b@y.test")
        self.assertEqual(client.docmd("DATA")[0], 354)
        process.signal(signal.SIGTERM)
        self.assertTrue(process.wait_for_line("gateway.stop"))
        client.send(b"Subject: late\r\n\r\nstill in time\r\n.\r\n")
        self.assertEqual(client.getreply()[0], 250)
        self.assertEqual(client.getreply()[0], 421)
        self.assertIn(process.wait(), CLEAN)

    def test_sighup_reloads(self) -> None:
        process = self.started(self.working())
        process.signal(signal.SIGHUP)
        self.assertTrue(process.wait_for_line("gateway.reload"))
        with smtplib.SMTP("127.0.0.1", self.port, timeout=20) as client:
            self.assertEqual(client.noop()[0], 250)

    def test_errors_in_the_file_stop_the_start(self) -> None:
        config = self.write(
            "hostname gate.example\nsmtp tcp://127.0.0.1:@port@ {\n    tls off\n    deliver_too maildir ./mail\n}\nsmpt x\n"
        )
        ended = self.twistd("mailgate", "-c", str(config))
        self.assertEqual(ended.returncode, 1)
        self.assertIn("gate.conf:4:5", ended.stderr)
        self.assertIn("gate.conf:6:1", ended.stderr)
        self.assertNotIn("Traceback", ended.stderr)

    def test_a_file_that_was_cut_off_before_its_listeners_stops_the_start(self) -> None:
        config = self.write("hostname gate.example\ntarget.maildir mail ./mail\n")
        for workers in ("1", "2"):
            ended = self.twistd("mailgate", "-c", str(config), "--workers", workers)
            self.assertEqual(ended.returncode, 1, ended.stderr)
            self.assertIn("nothing to do: no smtp, submission or lmtp block, and no queue", ended.stderr)
            self.assertNotIn("Traceback", ended.stderr)

    def test_an_unreadable_file_is_status_2(self) -> None:
        ended = self.twistd("mailgate", "-c", str(self.directory / "absent.conf"))
        self.assertEqual(ended.returncode, 2)
        self.assertIn("absent.conf", ended.stderr)

    def test_a_port_in_use_stops_the_start_and_names_the_line(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", self.port))
            taken.listen()
            ended = self.twistd("mailgate", "-c", str(self.working()))
        self.assertEqual(ended.returncode, 1)
        output = ended.stdout + ended.stderr
        self.assertIn("gate.conf:4", output)
        self.assertIn(f"127.0.0.1:{self.port}", output)
        self.assertNotIn("Traceback", output)

    def test_a_module_that_can_not_start_ends_it_with_status_1(self) -> None:
        config = self.write(
            "hostname gate.example\ntls off\nsmtp tcp://127.0.0.1:@port@ {\n    deliver_to maildir /proc/mail\n}\n"
        )
        ended = self.twistd("mailgate", "-c", str(config))
        self.assertEqual(ended.returncode, 1)
        self.assertIn("could not start", ended.stdout)

    def test_workers_are_a_number_or_auto(self) -> None:
        for words in (["mailgate", "--workers", "0"], ["mailgate", "--workers", "many"], ["mailgate", "--workers", "65"]):
            ended = self.twistd(*words, "-c", str(self.working()))
            self.assertNotEqual(ended.returncode, 0)
            self.assertIn("--workers is auto, or a number up to 64", ended.stderr + ended.stdout)
        ended = self.twistd("--chroot", "/tmp", "mailgate", "-c", str(self.working()), "--workers", "2")
        self.assertNotEqual(ended.returncode, 0)
        self.assertIn("--chroot", ended.stderr + ended.stdout)

    def test_debug_shows_sessions(self) -> None:
        process = self.started(self.working(), "--debug")
        smtplib.SMTP("127.0.0.1", self.port, timeout=20).quit()
        self.assertTrue(process.wait_for_line("session.close"))

    def test_logfile_of_twistd_is_honoured(self) -> None:
        log = self.directory / "gate.log"
        command = [twistd(), "-n", "--pidfile=", f"--logfile={log}", "mailgate", "-c", str(self.working())]
        with subprocess.Popen(command, cwd=self.directory, stdout=subprocess.DEVNULL) as process:
            self.addCleanup(process.kill)
            client = connect(self.port, process)
            client.close()
            process.terminate()
            self.assertIn(process.wait(30), CLEAN)
        self.assertIn("gateway.start", log.read_text())

    def test_a_tac_file_runs_the_same_gateway(self) -> None:
        environment = {**os.environ, "MAILGATE_CONFIG": str(self.working())}
        command = [twistd(), "--pidfile=", "-ny", str(ROOT / "etc" / "mailgate.tac")]
        with subprocess.Popen(command, cwd=self.directory, env=environment, stdout=subprocess.PIPE, text=True) as process:
            self.addCleanup(process.kill)
            client = connect(self.port, process)
            self.assertEqual(client.noop()[0], 250)
            client.close()
            process.terminate()
            output, _ = process.communicate(timeout=30)
        self.assertIn(process.returncode, CLEAN)
        self.assertIn("gateway.start", output)

    def test_privileges_are_dropped_after_binding(self) -> None:
        if os.getuid() != 0:
            self.skipTest("only root can drop privileges")
        config = self.working()
        mail = self.directory / "mail"
        mail.mkdir()
        os.chown(mail, 65534, 65534)
        command = [twistd(), "-n", "--pidfile=", "--uid=65534", "--gid=65534", "mailgate", "-c", str(config)]
        with subprocess.Popen(command, cwd=self.directory, stdout=subprocess.DEVNULL) as process:
            self.addCleanup(process.kill)
            client = connect(self.port, process)
            client.sendmail("a@x.test", ["b@y.test"], b"Subject: x\r\n\r\nhello\r\n")
            client.close()
            owners = {path.stat().st_uid for path in (mail / "new").iterdir()}
            status = Path(f"/proc/{process.pid}/status").read_text() if sys.platform == "linux" else "Uid:\t65534"
            process.terminate()
            process.wait(30)
        self.assertEqual(owners, {65534})
        self.assertIn("Uid:\t65534", status)


def connect(port: int, process: subprocess.Popen[Any]) -> smtplib.SMTP:
    """A client as soon as the port accepts; the process ending is the other way out."""
    for _ in range(600):
        try:
            return smtplib.SMTP("127.0.0.1", port, timeout=20)
        except ConnectionRefusedError:
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"it ended with status {process.returncode}") from None
    raise AssertionError("it does not listen")
